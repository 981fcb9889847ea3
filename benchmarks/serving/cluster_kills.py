"""Kills of replicas and of Ray Serve's controller while chats are streamed.

    python -m benchmarks.serving.cluster_kills [--model FOLDER] [--kills 20]

Each kill happens in the middle of four streams. Every stream must be complete, or end with an error
event; the next requests must succeed, and every stored document must be there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
from benchmarks.common import table

STREAMS = 4
NEXT = 8  # requests after a kill
APPLICATION = "gritlm"
CHAT = "/v1/chat/completions"
DOCUMENTS = "/v1/rag/documents"


def main() -> None:
    """Print a table of the outcomes."""
    chosen = _arguments()
    from gritlm.scale.cluster import connected

    with tempfile.TemporaryDirectory() as store, connected():
        from ray import serve

        from gritlm.scale.serving import ModelSource, Replicas, ServingConfig, build
        from gritlm.serve import Limits

        serve.start(http_options={"host": "127.0.0.1", "port": chosen.port})
        settings = ServingConfig(
            model=ModelSource(chosen.model, device="cpu"),
            limits=Limits(max_num_seqs=STREAMS),
            stores=(f"{store}/documents",),
            replicas=Replicas(least=2, cpus=1),
        )
        serve.run(build(settings), name=APPLICATION, route_prefix="/")
        with httpx.Client(base_url=f"http://127.0.0.1:{chosen.port}", timeout=120) as http:
            sides = {"replica": _kill_replica, "controller": _kill_controller}
            rows = [[name, *_kills(http, kill, chosen.kills)] for name, kill in sides.items()]
        serve.shutdown()
    header = ["killed", "kills", "streams complete", "ended by an error event", "ended otherwise"]
    print(table([*header, "later requests right", "documents lost"], rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--port", type=int, default=18231)
    return parser.parse_args()


def _kills(http: httpx.Client, kill: Callable[[httpx.Client], None], count: int) -> list[str]:
    """Return the counts of some kills as cells of a row."""
    ends: Counter[str] = Counter()
    right = lost = asked = 0
    for number in range(count):
        threads = [
            threading.Thread(target=_count_end, args=(http, f"{number} {n}", ends))
            for n in range(STREAMS)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3 + 0.05 * (number % 8))
        kill(http)
        document = {"id": f"{kill.__name__}-{number}", "text": f"Water {number} boils."}
        added = http.post(DOCUMENTS, json={"documents": [document]})
        for thread in threads:
            thread.join()
        for each in range(NEXT):
            asked += 1
            right += http.post(CHAT, json=_chat(f"after {number} {each}", 4)).status_code == 200
        asked += 1
        right += added.status_code == 200
        if added.status_code == 200:
            listed = http.get(DOCUMENTS, params={"limit": 500}).json()["data"]
            lost += [each["id"] for each in listed].count(document["id"]) != 1
        _wait_for_replicas(http)
    otherwise = sum(ends.values()) - ends["complete"] - ends["error"]
    cells = [count, ends["complete"], ends["error"], otherwise, f"{right} of {asked}", lost]
    return [str(cell) for cell in cells]


def _count_end(http: httpx.Client, text: str, ends: Counter[str]) -> None:
    ends.update([_stream(http, text)])


def _chat(text: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "max_tokens": tokens, "temperature": 0}


def _stream(http: httpx.Client, text: str) -> str:
    """Return how a stream ended: ``complete``, ``error``, or otherwise."""
    last = ""
    body = {**_chat(text, 300), "stream": True, "ignore_eos": True}
    try:
        with http.stream("POST", CHAT, json=body) as response:
            for line in response.iter_lines():
                last = line or last
    except httpx.HTTPError as error:
        return type(error).__name__
    if last == "data: [DONE]":
        return "complete"
    return "error" if "error" in json.loads(last.removeprefix("data: ")) else last


def _running(http: httpx.Client) -> dict[str, float]:
    lines = http.get("/metrics").text.splitlines()
    found = (line for line in lines if line.startswith("gritlm_num_requests_running{"))
    return {line.split('"')[1]: float(line.split()[-1]) for line in found}


def _wait_for_replicas(http: httpx.Client) -> None:
    until = time.monotonic() + 120
    while len(_running(http)) < 2 and time.monotonic() < until:
        time.sleep(0.5)


def _kill_replica(http: httpx.Client) -> None:
    import ray

    running = _running(http)
    busiest = max(running, key=lambda name: running[name])
    name = f"SERVE_REPLICA::{APPLICATION}#Model#{busiest}"
    ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True)


def _kill_controller(http: httpx.Client) -> None:
    del http
    import ray

    controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    ray.kill(controller, no_restart=False)


if __name__ == "__main__":
    main()
