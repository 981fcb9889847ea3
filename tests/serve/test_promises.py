"""Under load, when clients leave, and when the server has to: what was promised holds."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import openai
import pytest

from gritlm import GritLM
from gritlm.prompts import gritlm_instruction
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.engine.requests import ModelJob
from tests.serve.conftest import LENGTH, TEXTS, Served

CHAT = "/v1/chat/completions"
LONG = {
    "messages": [{"role": "user", "content": "Hello"}],
    "temperature": 0,
    "max_tokens": 440,
}  # 319 of them
SHORT = LONG | {"max_tokens": 3}
SOON_S = 5.0  # far more than is needed, for machines that do something else


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.002)


def stats(served: Served) -> Any:
    return served.service.scheduler.stats()


@contextmanager
def streaming(served: Served, **change: object) -> Iterator[Iterator[str]]:
    """Lines of a long answer, of which the first have come."""
    with served.http.stream("POST", CHAT, json=LONG | {"stream": True} | change) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        next(lines)
        yield lines


@contextmanager
def posted(served: Served, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A request whose answer nobody has read yet."""
    address, content = urlsplit(served.url), json.dumps(body).encode()
    with socket.create_connection((address.hostname, address.port), timeout=SOON_S) as made:
        made.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        yield made


def test_a_client_that_leaves_a_stream_frees_its_slot(live: Served):
    before = stats(live).steps
    with streaming(live):
        assert stats(live).running == 1
    wait_until(lambda: stats(live).running == 0)
    assert stats(live).steps - before < 160


def test_a_client_that_leaves_before_its_answer_frees_its_slot(live: Served):
    before = stats(live).steps
    with posted(live, CHAT, LONG):
        wait_until(lambda: stats(live).running == 1)
    wait_until(lambda: stats(live).running == 0)
    assert stats(live).steps - before < 160


def test_a_client_that_leaves_its_texts_is_not_worked_for(live: Served):
    texts = ["Cats sleep most of the day. " * 8] * 2000
    with posted(live, "/v1/embeddings", {"input": texts}):
        wait_until(lambda: stats(live).running == 1)
    left = time.monotonic()
    wait_until(lambda: stats(live).running == 0 and stats(live).waiting == 0)
    assert time.monotonic() - left < 1
    assert live.http.post(CHAT, json=SHORT).status_code == 200


def test_one_client_that_leaves_does_not_change_what_others_get(live: Served, oracle: GritLM):
    with ThreadPoolExecutor(2) as pool, streaming(live):
        answers = [
            pool.submit(live.http.post, CHAT, json=LONG | {"max_tokens": 40}) for _ in range(2)
        ]
        wait_until(lambda: stats(live).running == 3)
    wanted = oracle.chat("Hello", max_new_tokens=40)
    for answer in answers:
        assert answer.result().json()["choices"][0]["message"]["content"] == wanted


def test_a_client_that_does_not_read_holds_nobody_up(live: Served):
    with posted(live, CHAT, LONG | {"stream": True, "logprobs": True, "top_logprobs": 20}) as slow:
        slow.recv(1)
        assert live.http.post(CHAT, json=SHORT).status_code == 200
        wait_until(lambda: stats(live).running == 0)  # its slot is free though it reads nothing
        assert live.http.post(CHAT, json=SHORT).status_code == 200


def test_more_than_may_wait_is_refused_with_a_time(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0), Limits(max_num_seqs=1, max_waiting=1))
    with streaming(served), ThreadPoolExecutor(1) as pool:
        waits = pool.submit(served.http.post, CHAT, json=SHORT)
        wait_until(lambda: stats(served).waiting == 1)
        refused = served.http.post(CHAT, json=SHORT)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(refused.headers["retry-after"]) >= 1
        with pytest.raises(openai.RateLimitError):
            served.openai.embeddings.create(model="gritlm", input="a")
        assert served.http.get("/health").status_code == 200  # full is not ill
    assert waits.result().status_code == 200
    assert served.http.post(CHAT, json=SHORT).status_code == 200


def test_several_answers_for_which_there_is_no_room_leave_nothing_behind(
    serve: Callable[..., Served],
):
    served = serve(ServerConfig(port=0), Limits(max_num_seqs=1, max_waiting=2))
    refused = served.http.post(CHAT, json=LONG | {"n": 8})
    assert refused.status_code == 400  # never, not only now
    assert "for 8 answers (prompts times n), the server takes at most 2" in refused.text
    with streaming(served), ThreadPoolExecutor(1) as pool:
        waits = pool.submit(served.http.post, CHAT, json=SHORT)
        wait_until(lambda: stats(served).waiting == 1)
        assert served.http.post(CHAT, json=LONG | {"n": 2}).status_code == 429
        assert stats(served).waiting == 1
    assert waits.result().status_code == 200
    wait_until(lambda: stats(served).running == stats(served).waiting == 0)
    assert served.http.post(CHAT, json=SHORT).status_code == 200


def test_a_request_counts_before_it_is_tokenized(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
):
    served = serve(ServerConfig(port=0), Limits(max_num_seqs=1, max_waiting=1))
    go_on, tokenize = threading.Event(), served.service.first.chat_prompts.chat_ids

    def slow(*arguments: Any) -> Any:
        go_on.wait(SOON_S)
        return tokenize(*arguments)

    monkeypatch.setattr(served.service.first.chat_prompts, "chat_ids", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(served.http.post, CHAT, json=SHORT)
        wait_until(lambda: stats(served).waiting == 1)
        assert served.http.post(CHAT, json=SHORT).status_code == 429
        go_on.set()
        assert first.result().status_code == 200
    assert stats(served).waiting == 0


def test_a_refused_request_gives_its_place_back(live: Served):
    for body in ({"input": ""}, {"input": "dog " * 600}, {"input": [999]}):
        assert live.http.post("/v1/embeddings", json=body).status_code == 400
    assert stats(live).waiting == 0


def test_draining_ends_what_was_taken_and_refuses_the_rest(
    serve: Callable[..., Served], oracle: GritLM
):
    served = serve(ServerConfig(port=0, drain_s=30))
    with streaming(served) as lines:
        served.server.drain()
        refused = served.http.post(CHAT, json=SHORT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert refused.headers["retry-after"]
        ready = served.http.get("/health")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "draining")
        assert served.http.get("/health/live").status_code == 200
        last = [line for line in lines if line]
    assert last.pop() == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: "))["choices"][0] for line in last]
    text = "".join(event["delta"].get("content", "") for event in events)
    assert text == oracle.chat("Hello", max_new_tokens=LONG["max_tokens"])
    assert events[-1]["finish_reason"] == "stop"
    wait_until(lambda: not accepts(served))


def test_draining_has_a_deadline_and_tells_who_did_not_make_it(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0, drain_s=0))
    with streaming(served) as lines:
        served.server.drain()
        last = [line for line in lines if line]
    assert json.loads(last[-1].removeprefix("data: "))["error"]["code"] == "interrupted"
    wait_until(lambda: not accepts(served))


def hanging(served: Served) -> threading.Event:
    """The model's thread does not look at its queue until the event is set."""
    reached, go_on = threading.Event(), threading.Event()

    def hang(_: Callable[[], None]) -> None:
        reached.set()
        go_on.wait(30)

    served.service.scheduler.submit(ModelJob(hang), lambda _: None)
    assert reached.wait(SOON_S)
    return go_on


def test_another_signal_leaves_at_once_whatever_the_model_does(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0, drain_s=30))
    go_on = hanging(served)
    with posted(served, CHAT, SHORT):
        wait_until(lambda: served.service.running == 1)
        for _ in range(2):
            served.server.handle_exit(signal.SIGTERM, None)
        wait_until(lambda: not served.thread.is_alive())
    go_on.set()


def test_the_time_to_drain_holds_whatever_the_model_does(serve: Callable[..., Served]):
    served = serve(ServerConfig(port=0, drain_s=0.1))
    go_on = hanging(served)
    with posted(served, CHAT, SHORT) as waits:
        wait_until(lambda: served.service.running == 1)
        served.server.drain()
        wait_until(lambda: not served.thread.is_alive())
        assert b" 503 " in waits.recv(100)
    go_on.set()


def accepts(served: Served) -> bool:
    address = urlsplit(served.url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=1).close()
    except OSError:
        return False
    return True


def test_two_hundred_connections_at_once_are_all_answered(live: Served):
    async def all_at_once() -> list[int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=live.url, limits=limits, timeout=60) as client:
            calls = [client.post("/v1/embeddings", json={"input": f"cat {n}"}) for n in range(200)]
            return [found.status_code for found in await asyncio.gather(*calls)]

    assert asyncio.run(all_at_once()) == [200] * 200


def test_chats_and_texts_at_random_give_what_each_gives_alone(live: Served, oracle: GritLM):
    chance = random.Random(0)
    config = live.service.model.model.config.to_dict()
    words = [word for text in TEXTS.values() for word in text.split()]
    texts = [" ".join(chance.choices(words, k=chance.randrange(1, 60))) for _ in range(60)]
    questions = [" ".join(chance.choices(words, k=chance.randrange(1, 30))) for _ in range(12)]

    def chat(text: str) -> str:
        found = live.http.post(
            CHAT,
            json={
                "messages": [{"role": "user", "content": text}],
                "temperature": 0,
                "max_tokens": 24,
            },
        )
        return found.json()["choices"][0]["message"]["content"]

    def embed(text: str) -> list[float]:
        return live.http.post("/v1/embeddings", json={"input": text}).json()["data"][0]["embedding"]

    jobs: list[tuple[Callable[[str], Any], str]] = [(chat, text) for text in questions]
    jobs += [(embed, text) for text in texts]
    chance.shuffle(jobs)
    with ThreadPoolExecutor(24) as pool:
        found = {job: pool.submit(*job) for job in jobs}
    for text in questions:
        assert found[chat, text].result() == oracle.chat(text, max_new_tokens=24)
    wanted_ND = oracle.encode(texts, instruction=gritlm_instruction())
    vectors_ND = [found[embed, text].result() for text in texts]
    np.testing.assert_allclose(vectors_ND, wanted_ND, atol=1e-5)
    assert live.service.model.model.config.to_dict() == config


def test_long_documents_do_not_hold_up_a_chat(live: Served):
    text = " ".join(f"Fact {n}: {list(TEXTS.values())[n % 3]}" for n in range(400))
    steps, running = [], threading.Event()

    def add() -> None:
        running.set()
        body = {"documents": [{"id": "long", "text": text}]}
        live.http.post("/v1/rag/documents", json=body).raise_for_status()

    with ThreadPoolExecutor(1) as pool:
        added = pool.submit(add)
        running.wait()
        wait_until(lambda: stats(live).running == 1)
        before = stats(live).steps
        chat = SHORT | {"max_tokens": 20, "prompt_lookup_num_tokens": 0}
        assert live.http.post(CHAT, json=chat).status_code == 200
        steps.append(stats(live).steps - before)
        assert not added.done(), "the chat was answered while the document was read"
        added.result()
    assert steps == [19]
    live.http.delete("/v1/rag/documents/long").raise_for_status()


def test_nothing_is_left_behind(serve: Callable[..., Served]):
    served = serve()
    served.http.post(CHAT, json=SHORT).raise_for_status()
    served.server.drain()
    wait_until(lambda: not accepts(served))
    wait_until(
        lambda: (
            not any(
                t.name == "gritlm-model" and t.is_alive() and t is served.service.scheduler._thread
                for t in threading.enumerate()
            )
        )
    )


def test_the_longest_answer_is_bounded_by_the_model(live: Served):
    prompt = live.http.post("/tokenize", json={"messages": LONG["messages"]}).json()["count"]
    body = {"messages": LONG["messages"], "temperature": 0}
    found = live.http.post(CHAT, json=body).json()
    assert found["usage"]["total_tokens"] <= LENGTH
    assert found["usage"]["prompt_tokens"] == prompt
