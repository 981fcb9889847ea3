"""Documents to passages: cut by tokens on the borders of headings, paragraphs and sentences."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache

from blake3 import blake3
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from gritlm.errors import InputError
from gritlm.rag.index.checks import passage_id
from gritlm.rag.types import Document, Passage

VERSION = 1  # of the rules by which documents are cut
FEWEST = 16  # tokens there must be room for: one character may be four of them
TITLE_SHARE = 4  # a title takes at most this part of a passage
LONGEST = 12  # characters a token: longer texts are taken for too long without counting
WINDOW = 16_000  # characters that the splitter sees at once: it slows down with their square

Chunks = list[tuple[int, str]]  # where each begins, and its text
Counter = Callable[[list[str]], list[int]]


def cut(document: Document, *, tokens: Counter, max_tokens: int, overlap: int = 0) -> list[Passage]:
    """The passages of a document, in order; together they hold all of it but white space.

    Args:
        tokens: token counts of texts, with all that is put around them (BOS).
        max_tokens: of a passage as it is embedded, its title included. A title of more than a
            quarter of that is shortened.
        overlap: tokens at most that a passage repeats of the one before.

    Raises:
        InputError: for a passage of hardly any tokens, and for an overlap of more than half of it.
    """
    around = tokens(["a"])[0]
    check(around, max_tokens=max_tokens, overlap=overlap)
    share = around + (max_tokens - around) // TITLE_SHARE
    title = _shortened(" ".join(document.title.split()), tokens, share)
    fixed = tokens([title])[0] if title else 0

    @lru_cache(maxsize=4096)
    def size(text: str) -> int:
        """Tokens that the text adds to its title."""
        if len(text) > LONGEST * max_tokens:
            return len(text)
        return max(tokens([f"{title} {text}".strip()])[0] - fixed, 0)

    kind = MarkdownSplitter if document.markdown else TextSplitter
    room = max_tokens - fixed

    def split(text: str) -> Chunks:
        # Where words are longer than a passage, the splitter goes over its limit by a little.
        for limit in range(room, room // 2, -1):
            splitter = kind.from_callback(size, limit, min(overlap, limit // 2))
            chunks = splitter.chunk_indices(text)
            if all(size(chunk) <= room for _, chunk in chunks):
                return chunks
        raise InputError(f"document {document.id!r} cannot be cut at max_tokens={max_tokens}")

    stretch = max(WINDOW, 2 * LONGEST * max_tokens)
    return [
        _passage(document, title, number, start, text)
        for number, (start, text) in enumerate(_chunks(document.text, split, stretch))
    ]


def content_hash(document: Document, *, max_tokens: int, overlap: int = 0) -> str:
    """Of all that its passages depend on, 32 characters: another one means to index it again."""
    about = [
        VERSION,
        document.title,
        document.text,
        dict(document.metadata),
        document.markdown,
        max_tokens,
        overlap,
    ]
    return blake3(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _chunks(text: str, split: Callable[[str], Chunks], stretch: int) -> Iterator[tuple[int, str]]:
    """Starts and texts of the chunks, found in one stretch of the text after the other.

    The last chunk of a stretch ends where the stretch does, so it is cut again with what follows.
    """
    begin = 0
    while begin < len(text):
        end = begin + stretch
        chunks = split(text[begin:end])
        again = end < len(text) and len(chunks) > 1
        yield from ((begin + start, chunk) for start, chunk in chunks[: -1 if again else None])
        begin += chunks[-1][0] if again else stretch


def _passage(document: Document, title: str, number: int, start: int, text: str) -> Passage:
    passage = Passage(
        id="",
        document_id=document.id,
        title=title,
        text=text,
        number=number,
        start=start,
        end=start + len(text),
        metadata=document.metadata,
    )
    return replace(passage, id=passage_id(document.id, passage.embedded, number))


def _shortened(title: str, tokens: Counter, most: int) -> str:
    """As many of its words as fit, else of its characters."""
    title = title[: LONGEST * most]
    while title and tokens([title])[0] > most:
        shorter = title.rpartition(" ")[0]
        title = shorter or title[: len(title) // 2]
    return title


def check(around: int, *, max_tokens: int, overlap: int) -> None:
    """Refuse numbers that make no passages.

    Args:
        around: tokens of a text of one.

    Raises:
        InputError: for a passage of hardly any tokens, and for an overlap of more than half of it.
    """
    room = max_tokens - around
    if room < FEWEST:
        raise InputError(f"max_tokens={max_tokens}; a passage needs at least {FEWEST + around}")
    if not 0 <= overlap <= room // 2:
        raise InputError(
            f"overlap={overlap} with max_tokens={max_tokens}; expected 0 to {room // 2}"
        )
