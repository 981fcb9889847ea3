"""A cluster of two nodes: replicas on both, a node that dies, a command that dies."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.scale.conftest import MEMORY, SRC
from tests.scale.serving.conftest import serving
from tests.scale.serving.test_served import wait_for

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
DOCUMENTS = "/v1/rag/documents"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster whose first node has a CPU."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(SRC), before))))
    monkeypatch.setenv("RAY_SERVE_USE_GRPC_BY_DEFAULT", "1")
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": MEMORY}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


def stream(http: httpx.Client, text: str, tokens: int) -> tuple[str, str]:
    """The text of a stream, and its end: ``[DONE]`` or the code of its error event."""
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "stream": True}
    written = []
    with http.stream("POST", CHAT, json={**body, "max_tokens": tokens, "ignore_eos": True}) as got:
        for line in got.iter_lines():
            if line == "data: [DONE]":
                return "".join(written), "[DONE]"
            if line:
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    return "".join(written), event["error"]["code"]
                written.append(event["choices"][0]["delta"].get("content") or "")
    return "".join(written), "nothing"


def running(http: httpx.Client) -> list[float]:
    lines = http.get("/metrics").raise_for_status().text.splitlines()
    named = "gritlm_num_requests_running{"
    return [float(line.split()[-1]) for line in lines if line.startswith(named)]


def test_streams_of_a_node_that_dies_end_and_documents_stay(cluster, model, variables, tmp_path):
    second = cluster.add_node(num_cpus=1, object_store_memory=MEMORY, node_ip_address="127.0.0.2")
    more = ("--address", cluster.address, "--replicas", "2", "--store", str(tmp_path / "store"))
    # The nodes take the mode of authentication of this process.
    with_token = {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}
    variables = variables | with_token
    prompts = [f"Tell me about {number} cats" for number in range(4)]
    ends: dict[str, tuple[str, str]] = {}
    with (
        serving(model, variables, tmp_path / "log", *more) as command,
        httpx.Client(base_url=command.url, timeout=60) as http,
    ):
        expected = {text: stream(http, text, 400)[0] for text in prompts}
        document = {"id": "kept", "text": "Water boils at 100 degrees."}
        http.post(DOCUMENTS, json={"documents": [document]}).raise_for_status()
        clients = [
            threading.Thread(target=lambda text=text: ends.update({text: stream(http, text, 400)}))
            for text in prompts
        ]
        for client in clients:
            client.start()
        wait_for(lambda: min(running(http)) > 0)
        cluster.remove_node(second, allow_graceful=False)
        for client in clients:
            client.join(60)
        codes = [code for _, code in ends.values()]
        assert sorted(set(codes)) == ["[DONE]", "replica_gone"]
        for text, (written, code) in ends.items():
            if code == "[DONE]":
                assert written == expected[text]
            assert expected[text].startswith(written)
        for text in prompts:
            assert stream(http, text, 8)[1] == "[DONE]"
        assert [each["id"] for each in http.get(DOCUMENTS).json()["data"]] == ["kept"]
        # the command is killed: the cluster serves on, and the same command takes over
        command.process.kill()
        command.process.wait()
        assert stream(http, prompts[0], 400)[0] == expected[prompts[0]]
        port = command.url.rpartition(":")[2]
        with serving(model, variables, tmp_path / "again", *more, "--port", port) as again:
            assert again.url == command.url
            assert stream(http, prompts[1], 400)[0] == expected[prompts[1]]
            again.end()
        with pytest.raises(httpx.ConnectError):
            http.get("/health")
