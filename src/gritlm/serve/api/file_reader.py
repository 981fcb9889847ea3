"""HTML and PDF files, read by a process of their own for each request: a hostile file can make a
parser take minutes, or all memory there is. A few requests are read at a time."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import TextIO

from gritlm.errors import InputError
from gritlm.rag.ingest.readers import FileContent, read

KINDS = (".html", ".htm", ".xhtml", ".pdf")
SECONDS = 60.0  # for all files of a request
_BYTES = 768 * 2**20  # of memory for each of as many processes as requests are read at a time


class FileReader:
    """Starts a process for the files of a request; from any thread, closed from any."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def contents(self, files: Sequence[tuple[str, str]]) -> list[FileContent | str]:
        """Return the contents of files, or why they cannot be read.

        Args:
            files: endings of their names, and their bytes in base64.
        """
        if not files:
            return []
        why = "the process that read it broke down"
        with _started() as process:
            self._add(process)
            try:
                told, _ = process.communicate("".join(map(_line, files)), timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                told, _ = process.communicate()
                why = f"it was not read within {SECONDS:g} seconds"
            finally:
                with self._lock:
                    self._processes.discard(process)
        found = [_parsed(line) for line in told.splitlines(keepends=True) if line.endswith("\n")]
        return found + [why] * (len(files) - len(found))

    def close(self) -> None:
        """End the processes: files that are being read are not read to their end."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()

    def _add(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._processes.add(process)
            if self._closed:
                process.kill()


def _started() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        text=True,
        encoding="utf-8",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("GRITLM_")},
        start_new_session=True,  # ctrl-C is for the server, which ends what it has taken
    )


def main(given: TextIO, told: TextIO) -> None:
    """Answer each line of JSON with one; run by the other process."""
    _limit()
    for line in given:
        ending, data = json.loads(line)
        try:
            answer = asdict(read(ending, base64.b64decode(data, validate=True)))
        except (InputError, ValueError) as error:
            answer = {"error": str(error)}
        except (MemoryError, RecursionError):
            answer = {"error": "reading it takes too much memory"}
        told.write(json.dumps(answer) + "\n")
        told.flush()


def _limit() -> None:
    """Make this process end by itself, even when the server was killed."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS) + 1, int(SECONDS) + 1))


def _line(file: tuple[str, str]) -> str:
    return json.dumps(file) + "\n"


def _parsed(line: str) -> FileContent | str:
    answer = json.loads(line)
    return str(answer["error"]) if "error" in answer else FileContent(**answer)


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
