"""Documents of files, folders and rows, read one at a time; skipped sources are reported."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gritlm.errors import InputError, MissingExtraError
from gritlm.lm.media.files import LOCAL, kind_of_path
from gritlm.rag.ingest import docling_files, readers, records, rows
from gritlm.rag.ingest.document_ids import check_document_id
from gritlm.rag.ingest.file_content import FileContent
from gritlm.rag.ingest.file_ids import DocumentIds
from gritlm.rag.ingest.file_reader import FileReader
from gritlm.rag.ingest.folders import files
from gritlm.rag.ingest.metadata import encodable, normalise_metadata
from gritlm.rag.ingest.skips import LONGEST, SkippedSource, TakesSkipped
from gritlm.rag.media import media_files
from gritlm.rag.media.media_reading import PAGE_READERS, MediaReading
from gritlm.rag.types import Document, MediaKind

MAX_BYTES = 50_000_000
TEXTS = MediaReading((), LOCAL, seconds=30.0)
_EXAMPLES: dict[MediaKind, str] = {"image": "SmolVLM or Qwen2.5-VL", "sound": "Qwen2-Audio"}
Source = str | Path | Mapping[str, Any] | Document


@dataclass(frozen=True)
class _Reading:
    """Options of :func:`documents`, and the receivers of its reports."""

    skipped: TakesSkipped
    names: DocumentIds
    whole: set[str]
    max_bytes: int
    text_field: str | None
    media: MediaReading

    @property
    def by_docling(self) -> bool:
        """Whether PDF files and scans are read by docling."""
        return self.media.reader == "docling"

    def skip(self, place: str, reason: object) -> None:
        self.skipped.append(SkippedSource(place, str(reason)[:LONGEST]))


def documents(
    sources: Iterable[Source],
    *,
    skipped: TakesSkipped,
    names: DocumentIds | None = None,
    whole: set[str] | None = None,
    max_bytes: int = MAX_BYTES,
    text_field: str | None = None,
    reading: MediaReading = TEXTS,
) -> Iterator[Document]:
    """Yield the documents of all sources lazily.

    A folder is read recursively, sorted by name, without hidden files and folders. The id of a file
    is its path, starting with the name of the folder passed as the source (``notes/a.md``), or of
    its own folder if the file itself was passed. A second folder of the same name gets a longer
    name (``home/notes/a.md``), see :class:`gritlm.rag.ingest.file_ids.DocumentIds`. The id of a row
    in a file (``.jsonl .json .csv .tsv``) is ``path#id``; without an id, a hash of its content
    takes its place.

    Args:
        sources: files, folders, rows ``{id?, title?, text, metadata?}``, or documents.
        skipped: receives sources and rows that cannot be read, are empty, have more than
            ``max_bytes`` bytes, an unknown format or a duplicate id; and links to folders, which
            are not followed.
        names: names of folders added before; new folders are added to it.
        whole: receives the ids of row files of which every row was read.
        max_bytes: most bytes of a file, or of a row in JSON Lines.
        text_field: name of the text in rows; None for ``text``, ``page_content``, ``contents`` or
            ``content``.
        reading: reader of files, and options for images and sounds.

    Raises:
        InputError: if a path does not exist or a source has another type; raised before anything
            is read if ``sources`` is a sequence.
    """
    if isinstance(sources, str | Path | Mapping | Document):
        raise InputError(f"sources is one {type(sources).__name__}; expected a list of them")
    if isinstance(sources, Sequence):
        for source in sources:
            _check(source)
    whole = set() if whole is None else whole
    options = _Reading(skipped, names or DocumentIds(), whole, max_bytes, text_field, reading)
    return _once(sources, options)


def _once(sources: Iterable[Source], reading: _Reading) -> Iterator[Document]:
    seen: dict[str, str] = {}
    given: dict[str, int] = {}  # which source a document of a file came from
    for number, source in enumerate(sources):
        _check(source)
        is_path = isinstance(source, str | Path)
        for place, document in _read(source, f"sources[{number}]", reading):
            if is_path and given.setdefault(document.id, number) != number:
                continue  # the same file, given twice
            if document.id in seen:
                first = seen[document.id]
                reading.skip(place, f"its id {document.id!r} is that of {first}")
            else:
                seen[document.id] = place
                yield document


def _check(source: object) -> None:
    if isinstance(source, str | Path):
        if not _exists(Path(source)):
            hint = "; hand in text as {'text': ...}" if isinstance(source, str) else ""
            raise InputError(f"{_short(str(source))!r} is no file or folder{hint}")
    elif not isinstance(source, Mapping | Document):
        raise InputError(
            f"a source is {type(source).__name__}; expected a path, a dict or a Document"
        )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False


def _read(source: Source, name: str, reading: _Reading) -> Iterator[tuple[str, Document]]:
    """Yield location and document of each document in a source."""
    if isinstance(source, str | Path):
        for path, known_as in _named(Path(source), reading):
            yield from _file(path, known_as, reading)
        return
    try:
        if isinstance(source, Mapping):
            document = rows.document(source, text_field=reading.text_field)
        else:
            document = _whole(source)
        if len(document.text.encode()) > reading.max_bytes:
            raise InputError(_too_large(reading.max_bytes))
        yield name, document
    except InputError as error:
        reading.skip(name, error)


def _whole(document: Document) -> Document:
    if not document.id or not (document.text.strip() or document.media):
        raise InputError("empty: a document needs an id and text")
    if not all(map(encodable, (document.id, document.title, document.text))):
        raise InputError("it holds half a surrogate pair; expected whole Unicode text")
    check_document_id(document.id)
    metadata = normalise_metadata(document.metadata)
    return document if metadata == document.metadata else replace(document, metadata=metadata)


def _named(path: Path, reading: _Reading) -> Iterator[tuple[Path, str]]:
    """Yield files and their ids, which do not depend on the working directory."""
    folder = path if path.is_dir() else path.parent
    real = folder.resolve()
    for file in files(path, reading.skipped):
        reading.names.add(real)
        yield file, reading.names.of(real / file.relative_to(folder))


def _file(path: Path, known_as: str, reading: _Reading) -> Iterator[tuple[str, Document]]:
    try:
        if not encodable(known_as):
            raise InputError("its name is no whole Unicode text; rename it")
        check_document_id(known_as)
        if not path.is_file():
            raise InputError("no regular file")
        if records.is_rows(path):
            yield from _rows(path, known_as, reading)
        else:
            yield str(path), _document(path, known_as, reading)
    except OSError as error:
        reading.skip(str(path), f"unreadable: {error.strerror or error}")
    except InputError as error:
        reading.skip(str(path), error)


def _document(path: Path, known_as: str, reading: _Reading) -> Document:
    ending = path.suffix.lower()
    by_docling = reading.by_docling and ending in docling_files.ENDINGS
    kind = None if by_docling else kind_of_path(path)
    if not by_docling and kind is None and ending not in readers.READERS:
        known = ", ".join([*readers.READERS, *records.KINDS])
        raise InputError(f"{ending or 'no ending'}: not a kind that is read; known: {known}")
    media = reading.media
    if kind is not None and kind not in media.kinds:
        raise InputError(
            f"{ending}: this model reads {' and '.join(['text', *sorted(media.kinds)])} only; load "
            f"a model that reads {kind}s, such as {_EXAMPLES[kind]}"
        )
    most = reading.max_bytes if kind is None else media.rules.most_bytes
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise InputError(_too_large(most))
    content = _content(ending, data, reading, kind)
    return Document(
        known_as,
        content.text,
        content.title,
        content.metadata,
        markdown=content.markdown,
        media=content.media,
        pages=content.pages,
    )


def _content(ending: str, data: bytes, reading: _Reading, kind: MediaKind | None) -> FileContent:
    media = reading.media
    if reading.by_docling and ending in docling_files.ENDINGS:
        return _read_in_process(FileReader("docling"), ending, data)
    if kind is not None:
        try:
            pieces = media_files.read(kind, data, media.rules, seconds=media.seconds)
        except MissingExtraError as error:
            raise InputError(str(error)) from None
        return FileContent("", media=tuple(pieces))
    if ending == ".pdf" and media.reader in PAGE_READERS:
        return _read_in_process(FileReader(media.reader), ending, data)
    return readers.read(ending, data)


def _read_in_process(reader: FileReader, ending: str, data: bytes) -> FileContent:
    (content,) = reader.contents([(ending, base64.b64encode(data).decode())])
    if isinstance(content, str):
        raise InputError(content)
    return content


def _rows(path: Path, known_as: str, reading: _Reading) -> Iterator[tuple[str, Document]]:
    found = False
    all_read = True
    with path.open("rb") as file:
        for place, row in records.records(path.suffix.lower(), file, max_bytes=reading.max_bytes):
            found = True
            try:
                if not isinstance(row, dict):
                    raise row()
                document = rows.document(row, prefix=f"{known_as}#", text_field=reading.text_field)
            except InputError as error:
                reading.skip(f"{path}{place}", error)
                all_read = False
                continue
            yield f"{path}{place}", document
    if not found:
        raise InputError("empty")
    if all_read:
        reading.whole.add(known_as)


def _too_large(max_bytes: int) -> str:
    return f"larger than {max_bytes:,} bytes; cut it, or allow more"


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."
