"""Kills of replicas, nodes, the controller and the command while chats are streamed.

    python -m benchmarks.serving.cluster_kills [--model FOLDER] [--kills 20] [--kill replica node]

``gritlm serve --ray`` runs with two replicas on a cluster of two nodes. Each kill happens in the
middle of four streams. Every stream must have the text of an undisturbed one, or a beginning of it
and an error event; the next chats must succeed, and every document that was acknowledged must be
there. A write that runs on a replica while it is killed may fail: it is not sent twice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from benchmarks.common import table

STREAMS = 4
TOKENS = 300
AFTER = 8  # requests after a kill
STARTS_S = 120.0
MEMORY = 200_000_000
APPLICATION = "gritlm"
CHAT = "/v1/chat/completions"
DOCUMENTS = "/v1/rag/documents"


def main() -> None:
    """Print a table of the outcomes."""
    chosen = _arguments()
    with tempfile.TemporaryDirectory(prefix="kills") as folder:
        trial = Trial(Path(folder), chosen.model, chosen.port)
        rows = []
        for name in chosen.kill:
            rows.append([name, *trial.kills(KILLS[name], chosen.kills)])
            print(rows[-1], flush=True)
        trial.end()
    header = ["killed", "kills", "streams complete", "ended by an error event", "ended otherwise"]
    later = ["later chats right", "writes during the kill acknowledged", "documents lost"]
    print(table([*header, *later], rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kill", nargs="+", choices=list(KILLS), default=list(KILLS))
    parser.add_argument("--port", type=int, default=18231)
    return parser.parse_args()


class Trial:
    """A cluster of two nodes, on which ``gritlm serve --ray`` runs."""

    def __init__(self, folder: Path, model: str | None, port: int) -> None:
        import ray
        from ray.cluster_utils import Cluster

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_SERVE_USE_GRPC_BY_DEFAULT"] = "1"
        self._log = folder / "log"
        self._model = [model] if model else []
        self._port = port
        self._store = folder / "store"
        head = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.add_node()
        ray.init(address=self.cluster.address, namespace="gritlm", log_to_driver=False)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
        self.start()
        self._expected = {text: _stream(self.http, text)[1] for text in _texts()}

    def add_node(self) -> None:
        """Start the second node."""
        self.node = self.cluster.add_node(
            num_cpus=1, object_store_memory=MEMORY, node_ip_address="127.0.0.2"
        )

    def start(self) -> None:
        """Start the command, and wait until it serves."""
        options = ["--ray", "--address", self.cluster.address, "--replicas", "2", "--threads", "1"]
        more = ["--device", "cpu", "--port", str(self._port), "--store", str(self._store)]
        limits = ["--max-num-seqs", str(STREAMS)]
        command = [sys.executable, "-m", "gritlm", "serve", *self._model, *options, *more, *limits]
        with self._log.open("ab") as log:
            self.command = subprocess.Popen(command, stdout=log, stderr=log)
        self.wait_for_replicas()

    def end(self) -> None:
        """End the command and the cluster."""
        import ray

        self.command.terminate()
        self.command.wait(60)
        ray.shutdown()
        self.cluster.shutdown()

    def running(self) -> dict[str, float]:
        """Return the number of running requests of each replica."""
        lines = self.http.get("/metrics").raise_for_status().text.splitlines()
        found = (line for line in lines if line.startswith("gritlm_num_requests_running{"))
        return {line.split('"')[1]: float(line.split()[-1]) for line in found}

    def wait_for_replicas(self) -> None:
        """Wait until both replicas answer.

        Raises:
            TimeoutError: if they do not in time.
        """
        until = time.monotonic() + STARTS_S
        while time.monotonic() < until:
            with suppress(httpx.HTTPError):
                if len(self.running()) == 2:
                    return
            time.sleep(0.3)
        raise TimeoutError(self._log.read_text(errors="replace")[-2000:])

    def kills(self, kill: Callable[[Trial], None], count: int) -> list[str]:
        """Return the counts of some kills as cells of a row."""
        ends: Counter[str] = Counter()
        right = written = lost = 0
        for number in range(count):
            threads = [
                threading.Thread(target=self._count_end, args=(text, ends)) for text in _texts()
            ]
            for thread in threads:
                thread.start()
            time.sleep(0.2 + 0.05 * (number % 8))
            identity = f"{kill.__name__}-{number}"
            before = self._add(f"{identity}-before")
            kill(self)
            after = self._add(identity)
            for thread in threads:
                thread.join()
            for each in range(AFTER):
                right += _stream(self.http, f"after {number} {each}", 4)[0] == "complete"
            written += after
            if self.command.poll() is not None:
                self.start()
            self.wait_for_replicas()
            names = [name for name, ok in ((f"{identity}-before", before), (identity, after)) if ok]
            lost += sum(not self._is_stored(name) for name in names)
        otherwise = sum(ends.values()) - ends["complete"] - ends["error event"]
        unusual = [f"{name}: {n}" for name, n in ends.items() if name not in _RIGHT]
        cells = [count, ends["complete"], ends["error event"], f"{otherwise} {unusual or ''}"]
        later = (f"{right} of {AFTER * count}", f"{written} of {count}", lost)
        return [str(cell).strip() for cell in (*cells, *later)]

    def _add(self, identity: str) -> bool:
        """Add a document, and return whether the server has acknowledged it."""
        document = {"id": identity, "text": f"Water {identity} boils."}
        try:
            return self.http.post(DOCUMENTS, json={"documents": [document]}).status_code == 200
        except httpx.HTTPError:
            return False

    def _is_stored(self, identity: str) -> bool:
        """Return whether the store has a document once."""
        listed = self.http.get(DOCUMENTS, params={"limit": 500}).json()["data"]
        return [each["id"] for each in listed].count(identity) == 1

    def _count_end(self, text: str, ends: Counter[str]) -> None:
        end, written = _stream(self.http, text)
        expected = self._expected[text]
        is_right = written == expected if end == "complete" else expected.startswith(written)
        ends.update([end if is_right else f"wrong text, {end}"])


_RIGHT = ("complete", "error event")


def _texts() -> list[str]:
    return [f"Tell me about {number} cats" for number in range(STREAMS)]


def _stream(http: httpx.Client, text: str, tokens: int = TOKENS) -> tuple[str, str]:
    """Return how a stream ended, and its text."""
    messages = [{"role": "user", "content": text}]
    body: dict[str, Any] = {"messages": messages, "max_tokens": tokens, "temperature": 0}
    written = ""
    try:
        with http.stream("POST", CHAT, json={**body, "stream": True, "ignore_eos": True}) as got:
            for line in got.iter_lines():
                if line == "data: [DONE]":
                    return "complete", written
                if line:
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        is_gone = event["error"]["code"] == "replica_gone"
                        return "error event" if is_gone else event["error"]["code"], written
                    written += event["choices"][0]["delta"].get("content") or ""
    except httpx.HTTPError as error:
        return type(error).__name__, written
    return "no end", written


def _kill_replica(trial: Trial) -> None:
    import ray

    running = trial.running()
    busiest = max(running, key=lambda name: running[name])
    name = f"SERVE_REPLICA::{APPLICATION}#Model#{busiest}"
    ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True)


def _kill_node(trial: Trial) -> None:
    trial.cluster.remove_node(trial.node, allow_graceful=False)
    trial.add_node()


def _kill_controller(trial: Trial) -> None:
    del trial
    import ray

    controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    ray.kill(controller, no_restart=False)


def _kill_command(trial: Trial) -> None:
    trial.command.kill()
    trial.command.wait()


KILLS: dict[str, Callable[[Trial], None]] = {
    "replica": _kill_replica,
    "node": _kill_node,
    "controller": _kill_controller,
    "command": _kill_command,
}


if __name__ == "__main__":
    main()
