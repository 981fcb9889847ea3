"""The server of the screenshots: ``gritlm serve`` with the example passages in a new store."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from docs.screenshots.questions import CORPUS

START_S = 300.0
REQUEST_S = 600.0  # one CPU core that others use too embeds the passages in minutes
_ADDRESS = re.compile(r" serves \S.* at (http://\S+)")


class StartError(Exception):
    """The server did not start."""


@contextmanager
def running_server(folder: Path, *options: str) -> Iterator[str]:
    """Run the server on a free port, and add the example passages to its store.

    Args:
        folder: folder for the store and the log of the server.
        options: further options of ``gritlm serve``.

    Yields:
        The address of the server.

    Raises:
        StartError: the server ended, or did not print its address; the message has its log.
    """
    log = folder / "serve.log"
    command = [sys.executable, "-m", "gritlm", "serve", "--port", "0"]
    with log.open("w", encoding="utf-8") as written:
        process = subprocess.Popen(
            [*command, "--store", str(folder / "store"), *options], stdout=written, stderr=written
        )
    try:
        address = _address(process, log)
        upload(address, CORPUS.name, CORPUS.read_bytes())
        yield address
    finally:
        process.terminate()
        process.wait()


def upload(address: str, name: str, data: bytes) -> None:
    """Add a file to the store of a server."""
    file = {"name": name, "data": base64.b64encode(data).decode()}
    url = f"{address}/v1/rag/documents"
    httpx.post(url, json={"files": [file]}, timeout=REQUEST_S).raise_for_status()


def remove(address: str, name: str) -> None:
    """Delete a file from the store of a server, where it is in the store."""
    done = httpx.delete(f"{address}/v1/rag/documents/{name}", timeout=REQUEST_S)
    if done.status_code != httpx.codes.NOT_FOUND:
        done.raise_for_status()


def answer_once(address: str) -> None:
    """Ask a question, since the time of the first answer includes the reuse check."""
    url = f"{address}/v1/rag/answer"
    body = {"question": "What is a fever?", "max_tokens": 8}
    httpx.post(url, json=body, timeout=REQUEST_S).raise_for_status()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for the line with the address."""
    waited = 0.0
    while waited < START_S:
        found = _ADDRESS.search(log.read_text(encoding="utf-8"))
        if found:
            return found[1]
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            waited += 0.5
            continue
        break
    state = f"ended with status {process.poll()}" if process.poll() is not None else "is silent"
    raise StartError(f"gritlm serve {state}; its log:\n{log.read_text(encoding='utf-8')}")
