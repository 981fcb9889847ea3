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
from contextlib import suppress
from dataclasses import replace
from typing import IO, Any, TextIO

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
_MEDIA_BYTES = 512 * 2**20  # of all images and sounds of a request, pages too
_MOST_OUTPUT = 2**30  # bytes of all contents of a request, images and sounds in base64
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
        self._processes: set[subprocess.Popen[bytes]] = set()
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
        seconds, _ = _limits(self._name, has_media=False)
        with _start(self._name, self._media_options({ending for ending, _ in files})) as process:
            self._add(process)
            try:
                contents, reason = _exchange(process, files, seconds)
            finally:
                with self._lock:
                    self._processes.discard(process)
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

    def _add(self, process: subprocess.Popen[bytes]) -> None:
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


def _start(reader: ReaderName, media: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, reader, media],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("GRITLM_")},
        start_new_session=True,  # ctrl-C reaches the server alone, which finishes its requests
    )


def _exchange(
    process: subprocess.Popen[bytes], files: Sequence[tuple[str, str]], seconds: float
) -> tuple[list[FileContent | str], str]:
    """Return the contents that a process returned, and the reason why there are no more.

    The process is killed when its time is over, or its output is too long for this process.
    """
    assert process.stdin is not None, "it has a pipe"
    assert process.stdout is not None, "it has a pipe"
    reasons = []

    def kill(reason: str) -> None:
        reasons.append(reason)
        process.kill()

    late = f"it was not read within {seconds:g} seconds"
    timer = threading.Timer(seconds, kill, [late])
    timer.daemon = True
    writer = threading.Thread(target=_send, args=(process.stdin, files), daemon=True)
    timer.start()
    writer.start()
    contents = []
    left = _MOST_OUTPUT
    try:
        while (line := process.stdout.readline(left + 1)).endswith(b"\n") and len(line) <= left:
            left -= len(line)
            contents.append(_parse(line))
        if len(line) > left:
            kill(
                f"the files up to it have more than {_MOST_OUTPUT:,} bytes of content; send fewer "
                "files in a request, or smaller ones"
            )
        writer.join()
    finally:
        timer.cancel()
        process.kill()
    return contents, reasons[0] if reasons else "the process that read it broke down"


def _send(pipe: IO[bytes], files: Sequence[tuple[str, str]]) -> None:
    """Write files to a process, which may end before it has read them all."""
    with suppress(OSError), pipe:
        for file in files:
            pipe.write(_line(file).encode())


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
    left = _MEDIA_BYTES
    for line in source:
        ending, data = json.loads(line)
        try:
            found = _read(reader, options, ending, base64.b64decode(data, validate=True), left)
            size = sum(len(piece.data) for piece in found.media)
            if size > left:
                raise InputError(
                    f"its images and sounds have {size:,} bytes, the files of a request at most "
                    f"{_MEDIA_BYTES:,}; split it, or send fewer files in a request"
                )
            left -= size
            content = found.as_json()
        except (InputError, DownloadError, MissingExtraError, ValueError) as error:
            content = {"error": str(error)}
        except (MemoryError, RecursionError):
            content = {"error": "reading it takes too much memory"}
        sink.write(json.dumps(content) + "\n")
        sink.flush()


def _read(
    reader: str, media: Mapping[str, Any], ending: str, data: bytes, most_bytes: int
) -> FileContent:
    if reader == "docling" and ending in docling_files.ENDINGS:
        return docling_files.read(ending, data)
    if reader in PAGE_READERS and ending == ".pdf":
        content = FileContent("") if reader == "pages" else readers.pdf_if_any(data)
        return replace(content, media=tuple(pdf_pages.render(data, most_bytes=most_bytes)))
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


def _parse(line: bytes) -> FileContent | str:
    content = json.loads(line)
    return str(content["error"]) if "error" in content else FileContent.from_json(content)


if __name__ == "__main__":
    main(sys.stdin, sys.stdout, *sys.argv[1:])
