"""Files, folders and rows to documents, one after the other; skipped ones are reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gritlm.errors import InputError
from gritlm.rag import readers, records, rows
from gritlm.rag.document_ids import check_document_id
from gritlm.rag.metadata import encodable, normalise_metadata
from gritlm.rag.names import Names
from gritlm.rag.passages import Document
from gritlm.rag.skips import LONGEST, Skipped, TakesSkipped
from gritlm.rag.walk import files

MAX_BYTES = 50_000_000
Source = str | Path | Mapping[str, Any] | Document


@dataclass(frozen=True)
class _Reading:
    """The options of :func:`documents`, and its reports."""

    skipped: TakesSkipped
    names: Names
    whole: set[str]
    max_bytes: int
    text_field: str | None

    def skip(self, place: str, reason: object) -> None:
        self.skipped.append(Skipped(place, str(reason)[:LONGEST]))


def documents(
    sources: Iterable[Source],
    *,
    skipped: TakesSkipped,
    names: Names | None = None,
    whole: set[str] | None = None,
    max_bytes: int = MAX_BYTES,
    text_field: str | None = None,
) -> Iterator[Document]:
    """Yield the documents of all sources, read when they are asked for.

    A folder is read with all folders in it, in order of names, without hidden ones. A file is
    known by its path from the folder that was given on, that folder's name included
    (``notes/a.md``), or by its own folder's where it was given alone. Another folder of the same
    name is known by more of its path (``home/notes/a.md``), see :class:`gritlm.rag.names.Names`.
    A row of a file (``.jsonl .json .csv .tsv``) is ``path#id``. A row without id is known by its
    content.

    Args:
        sources: files, folders, rows ``{id?, title?, text, metadata?}``, or documents.
        skipped: takes what cannot be read, is empty, larger than ``max_bytes`` (for rows: each
            of them), of an unknown kind, or has the id of one that came before; and links to
            folders, which are not followed.
        names: of the folders that were given before; takes those that come.
        whole: takes what files of rows are known by of which every row was read.
        text_field: name of the text of rows; None for ``text``, ``page_content``, ``contents`` or
            ``content``.

    Raises:
        InputError: for a path that does not exist, and for a source of another type; before
            anything is read where ``sources`` is a list.
    """
    if isinstance(sources, str | Path | Mapping | Document):
        raise InputError(f"sources is one {type(sources).__name__}; expected a list of them")
    if isinstance(sources, Sequence):
        for source in sources:
            _check(source)
    whole = set() if whole is None else whole
    return _once(sources, _Reading(skipped, names or Names(), whole, max_bytes, text_field))


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
    """Places and documents of one source."""
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
    if not document.id or not document.text.strip():
        raise InputError("empty: a document needs an id and text")
    if not all(map(encodable, (document.id, document.title, document.text))):
        raise InputError("it holds half a surrogate pair; expected whole Unicode text")
    check_document_id(document.id)
    metadata = normalise_metadata(document.metadata)
    return document if metadata == document.metadata else replace(document, metadata=metadata)


def _named(path: Path, reading: _Reading) -> Iterator[tuple[Path, str]]:
    """Files, and what their documents are known by: the same wherever they are looked at from."""
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
            yield str(path), _document(path, known_as, reading.max_bytes)
    except OSError as error:
        reading.skip(str(path), f"unreadable: {error.strerror or error}")
    except InputError as error:
        reading.skip(str(path), error)


def _document(path: Path, known_as: str, max_bytes: int) -> Document:
    ending = path.suffix.lower()
    if ending not in readers.READERS:
        known = ", ".join([*readers.READERS, *records.KINDS])
        raise InputError(f"{ending or 'no ending'}: not a kind that is read; known: {known}")
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InputError(_too_large(max_bytes))
    content = readers.read(ending, data)
    return Document(
        known_as, content.text, content.title, content.metadata, markdown=content.markdown
    )


def _rows(path: Path, known_as: str, reading: _Reading) -> Iterator[tuple[str, Document]]:
    found, all_read = False, True
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
