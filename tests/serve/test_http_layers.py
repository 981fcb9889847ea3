"""What surrounds every request: keys, hosts, bodies, headers, ids, logs, metrics, health."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gritlm.errors import InputError, ModelError
from gritlm.lm.sampling import SamplingParams
from gritlm.serve import app, health
from gritlm.serve.api import operations
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.engine.requests import GenerateRequest, OutputDelta
from gritlm.serve.engine.sequence import GeneratedSequence
from gritlm.serve.health import HealthCheck
from gritlm.serve.http import logging as logs
from gritlm.serve.http.access_log import endpoint_of
from gritlm.serve.server import bind
from tests.serve.conftest import Served

USER = [{"role": "user", "content": "Hello"}]
JSON = {"Content-Type": "application/json"}
CHAT = {"messages": USER, "max_tokens": 2, "temperature": 0}


def all_routes(served: Served) -> Iterator[tuple[str, str]]:
    """Method and path of every route of the application, wherever it is nested."""
    todo = list(served.server.config.app.routes)
    while todo:
        route = todo.pop()
        path = getattr(route, "path", None)
        for method in getattr(route, "methods", None) or ():
            yield method, re.sub(r"\{[^}]*\}", "x", path)
        todo.extend(getattr(route, "routes", None) or ())
        todo.extend(getattr(getattr(route, "original_router", None), "routes", None) or ())


@pytest.fixture(scope="module")
def locked(grit) -> Iterator[Served]:
    from tests.serve.conftest import served

    with served(grit, ServerConfig(port=0, api_keys=("first-key", "second-key"))) as found:
        yield found


def test_every_route_but_those_listed_needs_the_key(locked: Served):
    walked, open_paths = set(), app.open_paths(locked.service.settings)
    with httpx.Client(base_url=locked.url) as bare:
        for method, path in all_routes(locked):
            walked.add(path)
            status = bare.request(method, path).status_code
            assert (status == 401) == (path not in open_paths), (method, path, status)
    schema = locked.http.get("/openapi.json").json()
    assert {re.sub(r"\{[^}]*\}", "x", path) for path in schema["paths"]} <= walked
    assert {"/", "/metrics", "/openapi.json", "/v1/chat/completions"} <= walked


@pytest.mark.parametrize(
    "given",
    [
        "",
        "first-key",
        "Bearer",
        "Bearer wrong",
        "Bearer first-ke",
        "Basic first-key",
        "Bearer first-key second-key",
        "Bearer \u00e9",
    ],
)
def test_another_key_is_refused(locked: Served, given: str):
    with httpx.Client(base_url=locked.url) as bare:
        found = bare.get("/v1/models", headers={"Authorization": given.encode("utf-8")})
    assert found.status_code == 401
    assert found.json()["error"]["code"] == "invalid_api_key"
    assert found.headers["www-authenticate"] == "Bearer"


def test_each_key_opens(locked: Served):
    for key in ("first-key", "second-key"):
        with openai.OpenAI(base_url=f"{locked.url}/v1", api_key=key, max_retries=0) as client:
            assert client.models.list().data
    with (
        openai.OpenAI(base_url=f"{locked.url}/v1", api_key="no", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_a_path_that_nobody_knows_needs_the_key_too(locked: Served):
    with httpx.Client(base_url=locked.url) as bare:
        for path in ("/nothing", "/health/", "/HEALTH", "/v1/models/../../health/x"):
            assert bare.get(path).status_code == 401, path
        assert bare.options("/v1/models").status_code == 401


def test_metrics_can_be_open(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0, api_keys=("key",), open_metrics=True))
    with httpx.Client(base_url=served.url) as bare:
        assert bare.get("/metrics").status_code == 200
        assert bare.get("/v1/models").status_code == 401


def test_on_loopback_only_its_own_names_are_answered(live: Served):
    for host, status in (
        ("localhost", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("", 421),
    ):
        assert live.http.get("/v1/models", headers={"Host": host}).status_code == status, host


def test_a_name_that_is_allowed_is_answered(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0, allowed_hosts=("models.example",)))
    assert served.http.get("/health", headers={"Host": "models.example"}).status_code == 200
    assert served.http.get("/health").status_code == 421


def test_other_origins_may_only_ask_when_they_are_named(live: Served, serve):
    ask = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in live.http.options("/v1/models", headers=ask).headers
    served = serve(ServerConfig(port=0, cors_origins=("https://app.example",), api_keys=("key",)))
    found = httpx.options(f"{served.url}/v1/chat/completions", headers=ask)
    assert found.status_code == 200
    assert found.headers["access-control-allow-origin"] == "https://app.example"
    ask["Origin"] = "https://evil.example"
    found = httpx.options(f"{served.url}/v1/chat/completions", headers=ask)
    assert "access-control-allow-origin" not in found.headers


def test_pages_of_other_origins_may_not_write(live: Served, serve: Callable[..., Served]):
    """A browser sends what a page asks for, and lets it read the answer or not."""
    body = {"input": "a"}
    for origin, status in (
        ("https://evil.example", 403),
        ("null", 403),
        ("http://127.0.0.1:1", 403),
        (live.url, 200),
    ):
        found = live.http.post("/v1/embeddings", json=body, headers={"Origin": origin})
        assert found.status_code == status, origin
    found = live.http.delete("/v1/rag/documents/x", headers={"Origin": "https://evil.example"})
    assert found.json()["error"]["code"] == "unknown_origin"
    served = serve(ServerConfig(port=0, cors_origins=("https://app.example",)))
    for origin, status in (("https://app.example", 200), ("https://evil.example", 403)):
        found = served.http.post("/v1/embeddings", json=body, headers={"Origin": origin})
        assert found.status_code == status, origin


def test_the_page_may_only_load_what_is_the_servers_own(live: Served):
    for path in ("/", "/v1/models", "/nothing", "/health"):
        headers = live.http.get(path).headers
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'"
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    assert "text/html" in live.http.get("/").headers["content-type"]
    assert live.http.get("/v1/models").headers["cache-control"] == "no-store"


def test_a_body_that_is_too_large_is_refused_unread(live: Served):
    large = {"input": "x" * (2**20)}
    found = live.http.post("/v1/embeddings", json=large)
    assert found.status_code == 413
    assert "1,048,576 bytes" in found.json()["error"]["message"]
    pieces = (b"x" * 2**16 for _ in range(2**8))  # of unknown length, 16 MiB
    assert live.http.post("/v1/embeddings", content=pieces, headers=JSON).status_code == 413
    with pytest.raises(openai.APIStatusError) as caught:
        live.openai.embeddings.create(model="tiny", input=["x" * 2**20])
    assert caught.value.status_code == 413


def raw(served: Served) -> socket.socket:
    address = urlsplit(served.url)
    return socket.create_connection((address.hostname, address.port), timeout=10)


def test_a_body_that_comes_too_slowly_is_not_waited_for(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0, body_timeout_s=0.2))
    with raw(served) as slow:
        slow.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
            b"Content-Type: application/json\r\n\r\n{"
        )
        assert served.http.get("/health").status_code == 200
        assert slow.recv(64).startswith(b"HTTP/1.1 408 ")


def test_a_request_id_comes_back_and_stands_in_the_log(live: Served, caplog):
    caplog.set_level(logging.INFO, "gritlm.serve.access")
    found = live.http.get("/v1/models", headers={"X-Request-ID": "mine-1"})
    assert found.headers["x-request-id"] == "mine-1"
    made = live.http.get("/v1/models", headers={"X-Request-ID": "two words"})
    assert re.fullmatch(r"req-[0-9a-f]{32}", made.headers["x-request-id"])
    with live.http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as stream:
        assert stream.read().endswith(b"data: [DONE]\n\n")
    live.http.get("/v1/models")  # its line comes behind that of the stream
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("GET /v1/models 200 ") for line in lines)
    assert any(line.startswith("POST /v1/chat/completions 200 ") for line in lines)


def test_log_lines_are_json_without_what_was_said(live: Served, tmp_path):
    path = tmp_path / "log"
    with path.open("w") as file:
        logs.configure(json=True, stream=file)
        body = {"messages": [{"role": "user", "content": "swordfish"}], "max_tokens": 1}
        headers = {"X-Request-ID": "id-7", "Authorization": "Bearer swordfish"}
        live.http.post("/v1/chat/completions?a=%0aswordfish", json=body, headers=headers)
        live.http.get("/no%0athing", headers=headers)
        live.http.get("/health/live")  # the lines of both are written before it is answered
        logs.configure(json=True, stream=StringIO())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    chat, other = [line for line in lines if line.get("request_id") == "id-7"]
    assert (chat["request_id"], chat["status"], chat["method"]) == ("id-7", 200, "POST")
    assert chat["path"] == "/v1/chat/completions"
    assert other["path"] == "/no%0athing"
    assert "swordfish" not in path.read_text()


def test_a_long_path_is_cut_in_the_log(live: Served, caplog):
    caplog.set_level(logging.INFO, "gritlm.serve.access")
    live.http.get("/" + "x" * 30_000)
    live.http.get("/v1/models")  # its line comes behind
    (record,) = [each for each in caplog.records if "xxx" in each.getMessage()]
    assert len(record.getMessage()) < 300
    assert len(record.fields["path"]) < 300


@pytest.mark.parametrize("key", ["", " ", "k\u00e9y", "a\nb", "tab\there", " key", "key "])
def test_a_key_that_no_header_holds_is_refused(key: str):
    with pytest.raises(InputError, match="API key 2 of 2") as caught:
        ServerConfig(api_keys=("first", key))
    assert key.strip() == "" or key.strip() not in str(caught.value).replace("API key", "")


def test_a_key_may_have_a_space(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0, api_keys=("open sesame",)))
    assert served.http.get("/v1/models").status_code == 200
    for part in ("open", "sesame"):
        headers = {"Authorization": f"Bearer {part}"}
        assert httpx.get(f"{served.url}/v1/models", headers=headers).status_code == 401


def values(served: Served) -> dict[str, float]:
    """Samples by name, summed over their labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(served.http.get("/metrics").text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def test_metrics_count_tokens_and_times(serve: Callable[..., Served]):
    served = serve()
    served.http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 5}).raise_for_status()
    served.http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 5}).raise_for_status()
    read = served.http.post("/v1/embeddings", json={"input": ["a", "b"]}).json()["usage"]
    prompt = served.http.post("/tokenize", json={"messages": USER}).json()["count"]
    found = values(served)
    assert found["gritlm_generation_tokens_total"] == 10
    assert found["gritlm_prompt_tokens_total"] == 2 * prompt + read["prompt_tokens"]
    assert found["gritlm_prompt_tokens_cached_total"] == prompt - 1
    assert found["gritlm_time_to_first_token_seconds_count"] == 2
    assert found["gritlm_inter_token_latency_seconds_count"] == 8
    assert found["gritlm_e2e_request_latency_seconds_count"] == 3
    assert found["gritlm_request_queue_time_seconds_count"] == 3
    assert found["gritlm_http_requests_total"] >= 4
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert found[f"gritlm_{name}"] == 0


def test_a_prompt_with_several_answers_is_counted_once(serve: Callable[..., Served]):
    served = serve()
    body = CHAT | {"n": 3}
    usage = served.http.post("/v1/chat/completions", json=body).json()["usage"]
    body = {"prompt": ["a b", "c d"], "n": 2, "max_tokens": 1}
    more = served.http.post("/v1/completions", json=body).json()["usage"]
    found = values(served)
    assert found["gritlm_prompt_tokens_total"] == usage["prompt_tokens"] + more["prompt_tokens"]


def test_times_are_those_of_the_model_however_late_a_client_reads(serve: Callable[..., Served]):
    served = serve()

    async def measured() -> None:
        calls = served.service.new_group("/v1/chat/completions")
        with served.service.scheduler.reserve() as place, calls:
            calls.submit(place, [GenerateRequest((5, 6), SamplingParams(2))])
            await asyncio.sleep(0.5)
            async for _ in calls.events():
                continue

    asyncio.run(measured())
    found = values(served)
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time"):
        assert found[f"gritlm_{name}_seconds_count"] == 1
        assert found[f"gritlm_{name}_seconds_sum"] < 0.4


def test_pieces_of_a_whole_answer_do_not_wake_the_event_loop_one_by_one(serve):
    served = serve()

    async def asked(*, whole: bool) -> tuple[str, int, int]:
        """Text, pieces, and how often the loop was woken."""
        calls, loop = served.service.new_group("/v1/chat/completions"), Mock()
        loop.call_soon_threadsafe = Mock(wraps=calls._loop.call_soon_threadsafe)
        calls._loop = loop
        if whole:
            calls.wait_for_all()
        with served.service.scheduler.reserve() as place, calls:
            calls.submit(place, [GenerateRequest((5, 6), SamplingParams(40))])
            deltas = [event async for _, event in calls.events() if isinstance(event, OutputDelta)]
        woken = loop.call_soon_threadsafe.call_count
        return "".join(delta.text for delta in deltas), len(deltas), woken

    text, pieces, woken = asyncio.run(asked(whole=False))
    assert woken > pieces > 20
    again, as_many, fewer = asyncio.run(asked(whole=True))
    assert (again, as_many) == (text, pieces)
    assert fewer < pieces / 2


def test_paths_of_clients_do_not_become_metrics(live: Served):
    for number in range(5):
        live.http.get(f"/made-up/{number}")
    text = live.http.get("/metrics").text
    assert "made-up" not in text
    assert 'endpoint="other"' in text


def test_refused_requests_are_counted_under_their_paths(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0, max_body_bytes=100))
    served.http.get("/")
    served.http.post("/v1/embeddings", json={"input": "x" * 100})
    served.http.get("/v1/models", headers={"Host": "evil.example"})
    served.http.get("/v1/models/other")
    text = served.http.get("/metrics").text
    for labels in (
        'endpoint="/",status="200"',
        'endpoint="/v1/embeddings",status="413"',
        'endpoint="/v1/models",status="421"',
        'endpoint="/v1/models/{name}",status="404"',
    ):
        assert f"gritlm_http_requests_total{{{labels}}}" in text
    assert 'endpoint="other"' not in text


def test_every_route_is_counted_under_a_name_of_its_own(live: Served):
    page = operations.page()
    for _, path in all_routes(live):
        assert endpoint_of(path, page=page) != "other", path


def test_health_tells_whether_the_model_answers(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
):
    served = serve(ServerConfig(port=0, health_timeout_s=0.2), Limits(max_num_seqs=1))
    assert served.http.get("/health").json() == {"status": "ok"}
    hangs = threading.Event()
    monkeypatch.setattr(HealthCheck, "_read_one", lambda *_: hangs.wait(10))
    monkeypatch.setattr(health, "_KEPT_S", 0.0)
    found = served.http.get("/health")
    assert found.status_code == 503
    assert found.json()["error"]["code"] == "unhealthy"
    assert served.http.get("/health/live").json() == {"status": "alive"}
    hangs.set()
    assert served.http.get("/health").status_code == 200


def test_many_who_ask_for_health_take_no_place_and_share_one_try(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
):
    served = serve(ServerConfig(port=0), Limits(max_waiting=2))
    tries, go_on = [], threading.Event()

    def slow(*_: object) -> bool:
        tries.append(served.service.scheduler.stats().waiting)
        return go_on.wait(10)

    monkeypatch.setattr(HealthCheck, "_read_one", slow)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(served.http.get, "/health") for _ in range(8)]
        while not tries:
            time.sleep(0.002)
        chat = pool.submit(served.http.post, "/v1/chat/completions", json=CHAT | {"max_tokens": 2})
        go_on.set()
        assert chat.result().status_code == 200
        assert [each.result().status_code for each in asked] == [200] * 8
    assert tries == [0]


def test_what_nobody_expected_is_told_without_details(
    live: Served, monkeypatch: pytest.MonkeyPatch, caplog
):
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(live.service.first.prompts, "embedding_prompts", broken)
    found = live.http.post("/v1/embeddings", json={"input": "a"}, headers={"X-Request-ID": "r1"})
    assert found.status_code == 500
    assert found.json()["error"]["code"] == "internal_error"
    assert "swordfish" not in found.text
    assert "r1" in found.text
    assert "swordfish" in caplog.text
    monkeypatch.undo()
    assert live.http.post("/v1/embeddings", json={"input": "a"}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_of_the_model_is_told_without_details(
    live: Served, monkeypatch: pytest.MonkeyPatch, caplog, stream: bool
):
    def broken(*_: Any) -> None:
        raise ModelError("/srv/models/swordfish is broken")

    monkeypatch.setattr(GeneratedSequence, "draw", broken)
    found = live.http.post(
        "/v1/chat/completions", json=CHAT | {"stream": stream}, headers={"X-Request-ID": "r2"}
    )
    assert "internal_error" in found.text
    assert "r2" in found.text
    assert "swordfish" not in found.text
    assert "swordfish" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 65536},
        {"names": ()},
        {"api_keys": ("",)},
        {"api_keys": ("k\u00e9y",)},
        {"max_body_bytes": 0},
        {"drain_s": -1.0},
        {"threads": 0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(InputError):
        ServerConfig(**wrong)


def test_a_port_that_is_taken_is_told(live: Served):
    port = urlsplit(live.url).port
    with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1 port {port}"):
        bind(ServerConfig(port=port))
