"""An application on a cluster: the API of ``gritlm serve``, and replicas that end while it runs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from gritlm.scale.serving import ModelSource
from tests import tiny
from tests.scale.serving.conftest import Deployed

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


def chat(text: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 8, **more}


def events(deployed: Deployed, body: dict[str, Any]) -> list[str]:
    """The events of a stream, however it ends."""
    with deployed.http.stream("POST", CHAT, json={**body, "stream": True}) as response:
        response.raise_for_status()
        return [line for line in response.iter_lines() if line]


def wait_for(found: Callable[[], Any], seconds: float = 30) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := found():
            return value
        time.sleep(0.1)
    raise TimeoutError(found)


def test_the_api_is_that_of_serve(deployed):
    http = deployed.http
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/health/live").json() == {"status": "alive"}
    assert http.get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert http.get("/openapi.json").json()["info"]["title"] == "gritlm"
    assert http.get("/").headers["content-type"].startswith("text/html")
    assert http.get("/nothing").status_code == 404
    whole = http.post(CHAT, json=chat("Where do cats sleep?"), headers={"x-request-id": "mine"})
    assert whole.headers["x-request-id"] == "mine"
    text = whole.json()["choices"][0]["message"]["content"]
    lines = events(deployed, chat("Where do cats sleep?"))
    assert lines[-1] == "data: [DONE]"
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == text
    vectors = http.post("/v1/embeddings", json={"model": "tiny", "input": ["a", "b"]}).json()
    assert len(vectors["data"]) == 2


def test_keys_and_sizes_are_checked_before_the_body_is_read(deployed):
    http = deployed.http
    refused = http.post(CHAT, json=chat("x"), headers={"Authorization": "Bearer wrong"})
    assert refused.status_code == 401
    assert refused.headers["x-request-id"]
    assert http.get("/health", headers={"Authorization": ""}).status_code == 200
    assert http.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    large = http.post(CHAT, json=chat("x" * 9 * 2**20))
    assert large.status_code == 413


def test_a_conversation_returns_to_the_replica_that_holds_its_state(deployed):
    for number in range(10):
        first = {"role": "user", "content": f"Tell me about the number {number} and the park."}
        opening = {"model": "tiny", "messages": [first], "temperature": 0, "max_tokens": 8}
        answer = deployed.http.post(CHAT, json=opening).raise_for_status().json()
        said = answer["choices"][0]["message"]["content"]
        turns = [
            first,
            {"role": "assistant", "content": said},
            {"role": "user", "content": "Go on"},
        ]
        again = deployed.http.post(CHAT, json={**opening, "messages": turns}).json()
        cached = again["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached >= answer["usage"]["prompt_tokens"]
    hits = deployed.counts("prompt_tokens_cached", CHAT)
    assert len(hits) == 2
    assert min(hits.values()) > 0  # the conversations are spread


def test_documents_go_to_the_one_writer_and_every_replica_finds_them(deployed):
    http = deployed.http
    for number in range(4):
        document = {"id": f"d{number}", "text": f"Water number {number} boils at 100 degrees."}
        added = http.post("/v1/rag/documents", json={"documents": [document]})
        assert added.status_code == 200, added.text
    for _ in range(6):
        listed = http.get("/v1/rag/documents").raise_for_status().json()
        assert [each["id"] for each in listed["data"]] == ["d0", "d1", "d2", "d3"]
    assert http.delete("/v1/rag/documents/d3").status_code == 200
    body = {"question": "When does water boil?", "mode": "doc", "top_k": 1, "max_tokens": 4}
    assert http.post("/v1/rag/answer", json=body).raise_for_status().json()["sources"]


def test_requests_of_a_store_go_to_the_replica_that_holds_its_blocks(deployed):
    endpoint = "/v1/rag/answer"
    body = {"question": "When does water boil?", "mode": "doc", "top_k": 1, "max_tokens": 2}
    before = deployed.counts("http_requests", endpoint)
    hits = deployed.counts("prompt_tokens_cached", endpoint)
    for _ in range(6):
        deployed.http.post(endpoint, json=body).raise_for_status()
    after = deployed.counts("http_requests", endpoint)
    (home,) = (name for name, count in after.items() if count != before.get(name, 0))
    assert after[home] - before.get(home, 0) == 6
    cached = deployed.counts("prompt_tokens_cached", endpoint)
    assert cached[home] > hits.get(home, 0)
    assert {name: count for name, count in cached.items() if name != home and count} == {}


def test_other_requests_go_to_the_replica_that_is_idle(deployed):
    done = threading.Event()

    def talk() -> None:
        while not done.is_set():
            body = chat("One conversation", max_tokens=100, ignore_eos=True)
            deployed.http.post(CHAT, json=body).raise_for_status()

    before = {path: deployed.counts("http_requests", path) for path in (CHAT, EMBEDDINGS)}
    clients = [threading.Thread(target=talk) for _ in range(3)]
    for client in clients:
        client.start()
    wait_for(lambda: sum(deployed.running().values()) >= 2)
    for number in range(5):
        asked = {"model": "tiny", "input": f"text {number}"}
        deployed.http.post(EMBEDDINGS, json=asked).raise_for_status()
    done.set()
    for client in clients:
        client.join()
    after = {path: deployed.counts("http_requests", path) for path in (CHAT, EMBEDDINGS)}
    (busy,) = (name for name, n in after[CHAT].items() if n != before[CHAT].get(name, 0))
    (idle,) = (name for name in deployed.running() if name != busy)
    assert after[EMBEDDINGS].get(busy, 0) == before[EMBEDDINGS].get(busy, 0)
    assert after[EMBEDDINGS][idle] == before[EMBEDDINGS].get(idle, 0) + 5


def test_metrics_have_every_replica(deployed):
    assert len(deployed.running()) == 2


def test_a_client_that_leaves_frees_its_slot(deployed):
    body = chat("Cats", max_tokens=400, stream=True, ignore_eos=True)
    with deployed.http.stream("POST", CHAT, json=body) as response:
        next(response.iter_lines())
    wait_for(lambda: 'status="499"' in deployed.http.get("/metrics").text)
    wait_for(lambda: sum(deployed.running().values()) == 0)


def test_a_killed_replica_ends_its_stream_with_an_error_event(deployed):
    lines: list[str] = []
    body = chat("Dogs", max_tokens=400, ignore_eos=True)
    client = threading.Thread(target=lambda: lines.extend(events(deployed, body)))
    client.start()
    busy = wait_for(lambda: [name for name, count in deployed.running().items() if count])
    deployed.kill(busy[0])
    client.join(30)
    assert json.loads(lines[-1][6:])["error"]["code"] == "replica_gone"
    for number in range(6):  # the other replica answers, and what was stored is there
        assert deployed.http.post(CHAT, json=chat(f"Again {number}")).status_code == 200
    document = {"id": "after", "text": "Cats sleep most of the day."}
    added = deployed.http.post("/v1/rag/documents", json={"documents": [document]})
    assert added.status_code == 200, added.text
    listed = deployed.http.get("/v1/rag/documents").json()
    assert [each["id"] for each in listed["data"]] == ["after", "d0", "d1", "d2"]


def test_a_killed_controller_is_not_noticed(deployed):
    import ray

    controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    lines: list[str] = []
    body = chat("Dogs", max_tokens=300, ignore_eos=True)
    client = threading.Thread(target=lambda: lines.extend(events(deployed, body)))
    client.start()
    ray.kill(controller, no_restart=False)
    client.join(30)
    assert lines[-1] == "data: [DONE]"
    assert deployed.http.post(CHAT, json=chat("x")).status_code == 200


def test_other_weights_are_rolled_out_without_an_error(deployed, without_store, tmp_path_factory):
    other = tiny.folder(tmp_path_factory.mktemp("other"), seed=1, max_position_embeddings=512)
    source = ModelSource(str(other), device="cpu", dtype="float32")
    statuses: list[int] = []
    texts: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            found = deployed.http.post(CHAT, json=chat("Where do cats sleep?"))
            statuses.append(found.status_code)
            texts.append(
                found.text if found.is_error else found.json()["choices"][0]["message"]["content"]
            )

    client = threading.Thread(target=ask)
    client.start()
    deployed.deploy(without_store(source))
    before = len(texts)
    wait_for(lambda: len(texts) > before + 3)
    done.set()
    client.join()
    assert set(statuses) == {200}, [text for text in texts if "error" in text][:2]
    assert texts[0] != texts[-1]
