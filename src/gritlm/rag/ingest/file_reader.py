"""Reader of HTML, PDF, Office and EPUB files, scans, images and sounds, in a process per request.

A hostile file can make a parser run for minutes or take all memory; the process has limits on both.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TextIO

from gritlm.errors import DownloadError, InputError, MissingExtraError, choice, require_libraries
from gritlm.rag.ingest import docling_files, readers
from gritlm.rag.ingest.file_content import FileContent
from gritlm.rag.media import pdf_pages
from gritlm.rag.media.media_reading import PAGE_READERS, MediaReading
from gritlm.rag.types import READER_NAMES, ReaderName
from gritlm.runtime import limit_process

KINDS = (".html", ".htm", ".xhtml", ".pdf", ".docx", ".pptx", ".xlsx", ".epub")
SECONDS = 60.0  # for all files of a request
_BYTES = 768 * 2**20  # memory of one process; a few run at a time
# docling loads models of some hundred megabytes, and recognises a page in seconds.
DOCLING_SECONDS = 600.0
_TORCH_BYTES = 16 * 2**30  # of addresses, of which PyTorch reserves many
PAGES_SECONDS = 300.0
_PAGES_BYTES = 3 * 2**30
_RULES = ("most_bytes", "most_pixels", "longest_sound")  # that hold for one file


def require_reader(name: str) -> None:
    """Require that a reader exists and is installed.

    Raises:
        InputError: for an unknown name.
        MissingExtraError: naming the extra that brings it.
    """
    choice(name, READER_NAMES, name="reader")
    if name == "docling":
        docling_files.require()
    if name in PAGE_READERS:
        require_libraries(("pypdfium2", "PIL"), what=f"the reader {name} needs", extra="pages")


class FileReader:
    """Reader of the files of a request in a process of its own; safe in several threads.

    Args:
        name: ``docling`` reads PDF files and images by docling, ``pages`` reads the pages of PDF
            files as images, ``pages-and-text`` their text too.
        media: options for images and sounds; None reads none.
    """

    def __init__(self, name: ReaderName = "standard", media: MediaReading | None = None) -> None:
        require_reader(name)
        self._name = name
        self._media = media
        self._media_kinds = {} if media is None else media.endings()
        self._processes: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """Endings of the files that are read in a process."""
        by_docling = docling_files.ENDINGS if self._name == "docling" else ()
        return (*KINDS, *by_docling, *self._media_kinds)

    def contents(self, files: Sequence[tuple[str, str]]) -> list[FileContent | str]:
        """Return the contents of files, or the reasons why they cannot be read.

        Args:
            files: the ending of each file's name, and its bytes in base64.
        """
        if not files:
            return []
        reason = "the process that read it broke down"
        seconds, _ = _limits(self._name, has_media=False)
        with _start(self._name, self._media_options({ending for ending, _ in files})) as process:
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

    def _media_options(self, endings: Collection[str]) -> str:
        """Return the options for images and sounds with these endings, as JSON; empty for none."""
        kinds = {name: kind for name, kind in self._media_kinds.items() if name in endings}
        if self._media is None or not kinds:
            return ""
        rules = {name: getattr(self._media.rules, name) for name in _RULES}
        return json.dumps({"kinds": kinds, "rules": rules, "seconds": self._media.seconds})

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


def _limits(reader: str, *, has_media: bool) -> tuple[float, int]:
    """Return the most seconds of a process, and the most bytes of its memory."""
    if reader == "docling":
        return DOCLING_SECONDS, _TORCH_BYTES
    seconds, nbytes = (PAGES_SECONDS, _PAGES_BYTES) if reader in PAGE_READERS else (SECONDS, _BYTES)
    return seconds, _TORCH_BYTES if has_media else nbytes


def _start(reader: ReaderName, media: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, reader, media],
        text=True,
        encoding="utf-8",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("GRITLM_")},
        start_new_session=True,  # ctrl-C reaches the server alone, which finishes its requests
    )


def main(source: TextIO, sink: TextIO, reader: str = "standard", media: str = "") -> None:
    """Read a file from each line of JSON and write its content as a line of JSON.

    This runs in the other process.

    Args:
        source: lines with the ending and the base64 of a file.
        sink: takes the lines of the result.
        reader: name of the reader.
        media: options for images and sounds as JSON; empty where no file is one.
    """
    seconds, nbytes = _limits(reader, has_media=bool(media))
    # CPU time too, so that this process ends even after the server was killed.
    limit_process(nbytes, seconds)
    options = json.loads(media) if media else {"kinds": {}}
    for line in source:
        ending, data = json.loads(line)
        try:
            content = _read(
                reader, options, ending, base64.b64decode(data, validate=True)
            ).as_json()
        except (InputError, DownloadError, MissingExtraError, ValueError) as error:
            content = {"error": str(error)}
        except (MemoryError, RecursionError):
            content = {"error": "reading it takes too much memory"}
        sink.write(json.dumps(content) + "\n")
        sink.flush()


def _read(reader: str, media: Mapping[str, Any], ending: str, data: bytes) -> FileContent:
    if reader == "docling" and ending in docling_files.ENDINGS:
        return docling_files.read(ending, data)
    if reader in PAGE_READERS and ending == ".pdf":
        content = FileContent("") if reader == "pages" else readers.pdf_if_any(data)
        return replace(content, media=tuple(pdf_pages.render(data)))
    if ending in media["kinds"]:
        return _read_media(media, ending, data)
    return readers.read(ending, data)


def _read_media(options: Mapping[str, Any], ending: str, data: bytes) -> FileContent:
    from gritlm.lm.media.files import MediaRules
    from gritlm.rag.media import media_files

    kind = options["kinds"][ending]
    rules = MediaRules(**options["rules"])
    pieces = media_files.read(kind, data, rules, seconds=options["seconds"])
    return FileContent("", media=tuple(pieces))


def _line(file: tuple[str, str]) -> str:
    return json.dumps(file) + "\n"


def _parse(line: str) -> FileContent | str:
    content = json.loads(line)
    return str(content["error"]) if "error" in content else FileContent.from_json(content)


if __name__ == "__main__":
    main(sys.stdin, sys.stdout, *sys.argv[1:])
