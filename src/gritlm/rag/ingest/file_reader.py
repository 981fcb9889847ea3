"""Reader of HTML, PDF, Office and EPUB files and of scans, in a process for each request.

A hostile file can make a parser run for minutes or take all memory; the process has limits on both.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TextIO

from gritlm.errors import DownloadError, InputError, MissingExtraError, choice
from gritlm.rag.ingest import docling_files, readers
from gritlm.rag.ingest.file_content import FileContent
from gritlm.rag.types import READER_NAMES, ReaderName
from gritlm.runtime import limit_process

KINDS = (".html", ".htm", ".xhtml", ".pdf", ".docx", ".pptx", ".xlsx", ".epub")
SECONDS = 60.0  # for all files of a request
_BYTES = 768 * 2**20  # memory of one process; a few run at a time
# docling loads models of some hundred megabytes, and recognises a page in seconds.
DOCLING_SECONDS = 600.0
_DOCLING_BYTES = 16 * 2**30  # of addresses, of which PyTorch reserves many


def require_reader(name: str) -> None:
    """Require that a reader exists and is installed.

    Raises:
        InputError: for an unknown name.
        MissingExtraError: naming the extra that brings it.
    """
    choice(name, READER_NAMES, name="reader")
    if name == "docling":
        docling_files.require()


class FileReader:
    """Reader of the files of a request in a process of its own; safe in several threads.

    Args:
        name: ``docling`` reads PDF files and images by docling.
    """

    def __init__(self, name: ReaderName = "standard") -> None:
        require_reader(name)
        self._name = name
        self._processes: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """Endings of the files that are read in a process."""
        return (*KINDS, *docling_files.ENDINGS) if self._name == "docling" else KINDS

    def contents(self, files: Sequence[tuple[str, str]]) -> list[FileContent | str]:
        """Return the contents of files, or the reasons why they cannot be read.

        Args:
            files: the ending of each file's name, and its bytes in base64.
        """
        if not files:
            return []
        reason = "the process that read it broke down"
        seconds = SECONDS if self._name == "standard" else DOCLING_SECONDS
        with _start(self._name) as process:
            self._add(process)
            try:
                output, _ = process.communicate("".join(map(_line, files)), timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                reason = f"it was not read within {seconds:g} seconds"
            finally:
                with self._lock:
                    self._processes.discard(process)
        contents = [
            _parse(line) for line in output.splitlines(keepends=True) if line.endswith("\n")
        ]
        return contents + [reason] * (len(files) - len(contents))

    def close(self) -> None:
        """Kill the processes, with the files that they are reading."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()

    def _add(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._processes.add(process)
            if self._closed:
                process.kill()


def _start(reader: ReaderName) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, reader],
        text=True,
        encoding="utf-8",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("GRITLM_")},
        start_new_session=True,  # ctrl-C reaches the server alone, which finishes its requests
    )


def main(source: TextIO, sink: TextIO, reader: str = "standard") -> None:
    """Read a file from each line of JSON and write its content as a line of JSON.

    This runs in the other process.

    Args:
        source: lines with the ending and the base64 of a file.
        sink: takes the lines of the result.
        reader: name of the reader.
    """
    by_docling = reader == "docling"
    # CPU time too, so that this process ends even after the server was killed.
    limit_process(
        _DOCLING_BYTES if by_docling else _BYTES, DOCLING_SECONDS if by_docling else SECONDS
    )
    for line in source:
        ending, data = json.loads(line)
        try:
            read = _read_by(docling=by_docling and ending in docling_files.ENDINGS)
            content = asdict(read(ending, base64.b64decode(data, validate=True)))
        except (InputError, DownloadError, MissingExtraError, ValueError) as error:
            content = {"error": str(error)}
        except (MemoryError, RecursionError):
            content = {"error": "reading it takes too much memory"}
        sink.write(json.dumps(content) + "\n")
        sink.flush()


def _read_by(*, docling: bool) -> Callable[[str, bytes], FileContent]:
    return docling_files.read if docling else readers.read


def _line(file: tuple[str, str]) -> str:
    return json.dumps(file) + "\n"


def _parse(line: str) -> FileContent | str:
    content = json.loads(line)
    return str(content["error"]) if "error" in content else FileContent(**content)


if __name__ == "__main__":
    main(sys.stdin, sys.stdout, *sys.argv[1:])
