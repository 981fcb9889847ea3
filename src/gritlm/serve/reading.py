"""HTML and PDF files, read by a process of their own: what is in them can make any parser take
minutes, or all memory there is."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TextIO

from gritlm.errors import InputError
from gritlm.rag.readers import READERS, Content

KINDS = (".html", ".htm", ".pdf")
SECONDS = 60.0  # for all files of a request
_BYTES = 2 * 2**30  # of memory


class Reader:
    """Reads the files of one request at a time; from one thread, closed from any."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def contents(self, files: Sequence[tuple[str, str]]) -> list[Content | str]:
        """What files say, or why it cannot be read.

        Args:
            files: endings of their names, and their bytes in base64.
        """
        if not files:
            return []
        why = "the process that read it broke down"
        with _started() as process:
            self._process = process
            if self._closed:
                process.kill()
            try:
                told, _ = process.communicate("".join(map(_line, files)), timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                told, _ = process.communicate()
                why = f"it was not read within {SECONDS:g} seconds"
        found = [_parsed(line) for line in told.splitlines(keepends=True) if line.endswith("\n")]
        return found + [why] * (len(files) - len(found))

    def close(self) -> None:
        """What is read now is not read to its end."""
        self._closed = True
        if self._process is not None:
            self._process.kill()


def _started() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__], text=True, encoding="utf-8",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("GRITLM_")},
        start_new_session=True,  # ctrl-C is for the server, which ends what it has taken
    )  # fmt: skip


def main(given: TextIO, told: TextIO) -> None:
    """The other process: a line of JSON for each line of JSON."""
    _limit()
    for line in given:
        ending, data = json.loads(line)
        try:
            answer = asdict(READERS[ending](base64.b64decode(data, validate=True)))
        except (InputError, ValueError) as error:
            answer = {"error": str(error)}
        except (MemoryError, RecursionError):
            answer = {"error": "reading it takes too much memory"}
        told.write(json.dumps(answer) + "\n")
        told.flush()


def _limit() -> None:
    """It ends by itself, even when the server was killed and nobody looks after it."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS) + 1, int(SECONDS) + 1))


def _line(file: tuple[str, str]) -> str:
    return json.dumps(file) + "\n"


def _parsed(line: str) -> Content | str:
    answer = json.loads(line)
    return str(answer["error"]) if "error" in answer else Content(**answer)


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
