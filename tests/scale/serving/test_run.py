"""``gritlm serve --ray``: a Ray of its own, limits, draining at SIGTERM, errors in one line."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.scale.serving.conftest import serving

pytestmark = pytest.mark.slow

BODY = {"messages": [{"role": "user", "content": "Cats"}], "temperature": 0, "max_tokens": 450}


def processes(root: int, name: str) -> list[psutil.Process]:
    """The processes of a Ray whose title has a name."""
    children = psutil.Process(root).children(recursive=True)
    return [each for each in children if name in " ".join(each.cmdline())]


def test_a_server_in_replicas_from_start_to_end(model, variables, tmp_path):
    with serving(model, variables, tmp_path / "log", "--max-connections", "3") as command:
        chats = f"{command.url}/v1/chat/completions"
        address = urlsplit(command.url)
        with httpx.Client(timeout=60) as http:
            # limits on connections are those of gritlm serve
            idle = [socket.create_connection((address.hostname, address.port)) for _ in range(3)]
            assert http.get(f"{command.url}/health").status_code == 503
            for each in idle:
                each.close()
            # a gateway that dies is replaced, on the same port
            (gateway,) = processes(command.process.pid, "ServeReplica:gritlm:Gateway")
            gateway.kill()
            wait_until_healthy(command.url)
            # SIGTERM: the running stream ends, a new request is refused meanwhile
            lines: list[str] = []

            def stream() -> None:
                asked = {**BODY, "stream": True, "ignore_eos": True}
                with httpx.stream("POST", chats, json=asked, timeout=60) as response:
                    lines.extend(line for line in response.iter_lines() if line)

            client = threading.Thread(target=stream)
            client.start()
            time.sleep(0.2)
            command.process.terminate()
            refused: set[str] = set()
            while client.is_alive():
                answer = http.post(f"{command.url}/v1/embeddings", json={"input": "a"})
                if answer.status_code != 200:
                    refused.add(answer.json()["error"]["code"])
                    break
            client.join(60)
        assert lines[-1] == "data: [DONE]"
        assert refused == {"draining"}
        assert command.process.wait(60) == 0, command.log.read_text()


def wait_until_healthy(url: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise TimeoutError(url)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["nothing", "--ray"], "nothing: there is no such folder"),
        (["MODEL", "--replicas", "2"], "--replicas 2 needs --ray"),
        (["MODEL", "--ray", "--replicas", "9999"], "9999 replicas need 9999 CPUs"),
    ],
)
def test_an_error_is_one_line(model, variables, tmp_path, more, message):
    named = {"MODEL": str(model), "nothing": str(tmp_path / "nothing")}
    command = [sys.executable, "-m", "gritlm", "serve", *(named.get(each, each) for each in more)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
