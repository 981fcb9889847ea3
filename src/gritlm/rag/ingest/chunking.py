"""Chunking of documents into passages, at headings, paragraphs and sentences."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

from blake3 import blake3
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from gritlm.errors import InputError
from gritlm.rag.index.passage_rows import passage_id
from gritlm.rag.media.media_passages import media_passages, piece_hashes
from gritlm.rag.types import Document, Passage, Value, with_page

VERSION = 1  # version of the chunking rules
ENDS_VERSION = 1  # version of the rules for the ends of Chinese and Japanese sentences
FEWEST = 16  # least tokens of text in a passage: one character may take four
TITLE_SHARE = 4  # a title takes at most 1/TITLE_SHARE of a passage
LONGEST = 12  # most characters per token: longer texts count as too long without tokenizing
# Ends of Chinese and Japanese sentences that the splitter does not know, and the brackets that it
# takes for the end of the sentence before them.
PAUSE = re.compile(r"(?<=[\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff])(?:；|…+)")
OPENING = re.compile(r"(?<=[。！？])[「『（【《〈“‘]")
WINDOW = 16_000  # characters per call of the splitter, whose time grows with their square

Chunks = list[tuple[int, str]]  # offset and text of each chunk
Counter = Callable[[list[str]], list[int]]


def cut(document: Document, *, tokens: Counter, max_tokens: int, overlap: int = 0) -> list[Passage]:
    """Return the passages of a document in order; together they hold all text but white space.

    Those of images and sounds come first.

    Args:
        document: document to cut.
        tokens: returns the token counts of texts, special tokens such as BOS included.
        max_tokens: most tokens of a passage as embedded, its title included. A title of more than
            a quarter of it is shortened.
        overlap: most tokens that a passage repeats of the passage before.

    Raises:
        InputError: if ``max_tokens`` leaves too little room for text, or ``overlap`` is more than
            half of that room.
    """
    around = tokens(["a"])[0]
    check(around, max_tokens=max_tokens, overlap=overlap)
    share = around + (max_tokens - around) // TITLE_SHARE
    title = _shorten_title(" ".join(document.title.split()), tokens, share)
    fixed = tokens([title])[0] if title else 0

    @lru_cache(maxsize=4096)
    def size(text: str) -> int:
        """Return the number of tokens that a text adds to its title."""
        if len(text) > LONGEST * max_tokens:
            return len(text)
        return max(tokens([f"{title} {text}".strip()])[0] - fixed, 0)

    kind = MarkdownSplitter if document.markdown else TextSplitter
    room = max_tokens - fixed

    def split(text: str) -> Chunks:
        # If a word is longer than a passage, the splitter exceeds its limit slightly.
        for limit in range(room, room // 2, -1):
            splitter = kind.from_callback(size, limit, min(overlap, limit // 2))
            found = splitter.chunk_indices(_with_sentence_ends(text))
            chunks = [(start, text[start : start + len(chunk)]) for start, chunk in found]
            if all(size(chunk) <= room for _, chunk in chunks):
                return chunks
        raise InputError(f"document {document.id!r} cannot be cut at max_tokens={max_tokens}")

    stretch = max(WINDOW, 2 * LONGEST * max_tokens)
    seen = media_passages(document, title)
    return seen + [
        _passage(document, title, number, start, text)
        for number, (start, text) in enumerate(_chunks(document.text, split, stretch), len(seen))
    ]


def content_hash(document: Document, *, max_tokens: int, overlap: int = 0) -> str:
    """Return a hash, 32 characters, of everything that the passages of a document depend on.

    A document with another hash must be indexed again. A rule that does not change the passages of
    a document is not in its hash, nor is the page of a text of one page: what an older version
    indexed stays.
    """
    text = document.text
    parts = [
        VERSION,
        document.title,
        text,
        dict(document.metadata),
        document.markdown,
        max_tokens,
        overlap,
        *piece_hashes(document),  # of text alone: the hash that older versions computed
        *([f"sentence ends {ENDS_VERSION}"] if _with_sentence_ends(text) != text else []),
        *(document.pages if len(document.pages) > 1 else ()),
    ]
    return blake3(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _chunks(text: str, split: Callable[[str], Chunks], stretch: int) -> Iterator[tuple[int, str]]:
    """Yield offsets and texts of the chunks, splitting ``stretch`` characters at a time.

    The last chunk of a stretch ends where the stretch ends, so it is cut again in the next one.
    """
    begin = 0
    while begin < len(text):
        end = begin + stretch
        chunks = split(text[begin:end])
        cut_again = end < len(text) and len(chunks) > 1
        yield from ((begin + start, chunk) for start, chunk in chunks[: -1 if cut_again else None])
        begin += chunks[-1][0] if cut_again else stretch


def _with_sentence_ends(text: str) -> str:
    """Return a text of the same length in which the splitter finds sentences of all languages."""
    paused = PAUSE.sub(lambda end: "。" * len(end[0]), text)
    return OPENING.sub("一", paused)


def _passage(document: Document, title: str, number: int, start: int, text: str) -> Passage:
    passage = Passage(
        id="",
        document_id=document.id,
        title=title,
        text=text,
        number=number,
        start=start,
        end=start + len(text),
        metadata=_with_page(document, start),
    )
    return replace(passage, id=passage_id(document.id, passage.embedded, number))


def _with_page(document: Document, start: int) -> Mapping[str, Value]:
    """Return the metadata of a passage, with the page on which it begins, where it is known."""
    page = bisect_right(document.pages, start) if document.pages else None
    return with_page(document.metadata, page)


def _shorten_title(title: str, tokens: Counter, most: int) -> str:
    """Return the words of a title that fit into ``most`` tokens, or else its characters."""
    title = title[: LONGEST * most]
    while title and tokens([title])[0] > most:
        shorter = title.rpartition(" ")[0]
        title = shorter or title[: len(title) // 2]
    return title


def check(around: int, *, max_tokens: int, overlap: int) -> None:
    """Refuse sizes that cannot be used for chunking.

    Args:
        around: tokens of a one-letter text, special tokens included.
        max_tokens: most tokens of a passage.
        overlap: most tokens that a passage repeats of the passage before.

    Raises:
        InputError: if ``max_tokens`` leaves too little room for text, or ``overlap`` is more than
            half of that room.
    """
    room = max_tokens - around
    if room < FEWEST:
        raise InputError(f"max_tokens={max_tokens}; a passage needs at least {FEWEST + around}")
    if not 0 <= overlap <= room // 2:
        raise InputError(
            f"overlap={overlap} with max_tokens={max_tokens}; expected 0 to {room // 2}"
        )
