"""Texts and their token ids: checks of texts, and tokenisation by segments with exact spans."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gritlm.errors import InputError
from gritlm.prompts import Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from gritlm.lm.media.senses import MediaTokens


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt, with spans.

    Attributes:
        ids: the token ids; negative ones are placeholders of ``media``.
        pooled: half-open span of the positions that are pooled.
        trained: half-open spans of the positions in the loss.
        media: images and sounds of the prompt.
    """

    ids: list[int]
    pooled: tuple[int, int] = (0, 0)
    trained: tuple[tuple[int, int], ...] = ()
    media: tuple[MediaTokens, ...] = ()

    @property
    def readable_ids(self) -> list[int]:
        """The token ids, with an id of the vocabulary for each placeholder."""
        known = {number: each.placeholder for each in self.media for number in each.placeholders}
        return [known.get(number, number) for number in self.ids]


@dataclass(frozen=True)
class EmbeddingFrame:
    """Tokens before and after each text to embed.

    Attributes:
        head: token ids before a text: BOS and header.
        tail: token ids after a text.
        pooled_from: index of the first pooled token.
        first: whether a text begins the sequence, without a header before it.
    """

    head: tuple[int, ...]
    tail: tuple[int, ...]
    pooled_from: int
    first: bool


class SegmentTokenizer:
    """A tokenizer of segments, in which special tokens inside of a text are plain characters.

    It uses a private copy of the Rust tokenizer and never changes its state, so it is safe to call
    from several threads. The original tokenizer is not changed.

    Attributes:
        prefix: ids that the tokenizer adds before a sequence (BOS, or empty).
        suffix: ids that it adds after a sequence (EOS, or empty).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._lock = threading.Lock()
        self._literal = _private_copy(tokenizer, literal=True)
        self._markup = _private_copy(tokenizer, literal=False)
        self.prefix, self.suffix = self._specials()
        self._anchor = self._find_anchor()
        self._special_texts = frozenset(filter(None, special_tokens(tokenizer)))
        self._special_starts = {text[0] for text in self._special_texts}

    def __reduce__(self) -> tuple[type[SegmentTokenizer], tuple[PreTrainedTokenizerBase]]:
        """Return how another process makes the same tokenizer."""
        return SegmentTokenizer, (self.tokenizer,)

    def has_special(self, text: str) -> bool:
        """Return whether a text has a special token in it, which markup would turn into one."""
        if not any(start in text for start in self._special_starts):
            return False
        return any(special in text for special in self._special_texts)

    def pieces(self, texts: Sequence[str], *, first: bool) -> list[list[int]]:
        """Return the token ids of each text.

        SentencePiece models of the Llama family add a space before a string. A text inside of a
        sequence must not get it: it is tokenised after an anchor, whose ids are removed.

        Args:
            texts: the texts.
            first: whether each text begins a sequence.
        """
        if first or not self._anchor:
            return self._encode(list(texts))
        found = self._encode(["\n" + t for t in texts])
        size = len(self._anchor)
        return [
            ids[size:] if ids[:size] == self._anchor else self._behind_letter(text)
            for ids, text in zip(found, texts, strict=True)
        ]

    def _behind_letter(self, text: str) -> list[int]:
        """Return the ids of a text whose first newline would merge with the anchor."""
        letter, whole = self._encode(["a", "a" + text])
        return whole[len(letter) :] if whole[: len(letter)] == letter else self._encode([text])[0]

    def markup(self, text: str) -> list[int]:
        """Return the ids of markup, in which special tokens are special tokens."""
        if self._markup is not None:
            # As a batch: for a single text, the Rust tokenizer would block all other threads.
            return list(self._markup.encode_batch_fast([text], add_special_tokens=False)[0].ids)
        with self._lock:
            return list(self.tokenizer.encode(text, add_special_tokens=False))

    def for_chat(self, segments: Sequence[Segment], *, start: bool = True) -> Prompt:
        """Return the prompt of a conversation, with the spans in the loss.

        Args:
            segments: the segments of the conversation.
            start: False continues a sequence, without BOS and leading space.
        """
        ids = list(self.prefix) if start else []
        trained = []
        first = start
        for segment in segments:
            begin = len(ids)
            if segment.text:
                ids += self.pieces([segment.text], first=first)[0]
                first = False
            if segment.end and self.tokenizer.eos_token_id is not None:
                ids.append(self.tokenizer.eos_token_id)
            if segment.trained:
                trained.append((begin, len(ids)))
        return Prompt(ids, trained=tuple(trained))

    def for_embedding(
        self,
        texts: Sequence[str],
        *,
        max_length: int,
        instruction: str = "",
        end: str = "",
        embed_instruction: bool = False,
        specials: bool = True,
    ) -> tuple[list[Prompt], int]:
        """Return the prompts of texts to embed, and the number of truncated texts.

        The header is attended to but not pooled. Without a header, all tokens are pooled, with the
        BOS, as in the reference.

        Args:
            texts: the texts.
            max_length: maximum number of tokens of a prompt, with header and special tokens.
            instruction: the formatted header, from :func:`gritlm.gritlm_instruction`.
            end: string after every text; a single token if the vocabulary has it.
            embed_instruction: whether to pool the header too.
            specials: whether to add the tokenizer's BOS (and its EOS, if it has one).

        Raises:
            InputError: for an empty text, or a header that leaves no tokens for a text.
        """
        frame = self.embedding_frame(
            instruction=instruction,
            end=end,
            embed_instruction=embed_instruction,
            specials=specials,
        )
        room = max_length - len(frame.head) - len(frame.tail)
        if texts and room < 1:
            raise InputError(
                f"text 0 of {len(texts)} has no room: the instruction takes {len(frame.head)} "
                f"tokens and max_length is {max_length}; shorten it or raise max_length"
            )
        prompts = []
        cut = 0
        for index, ids in enumerate(self.pieces(texts, first=frame.first)):
            if not ids:
                raise InputError(f"text {index} of {len(texts)} is empty; expected some text")
            cut += len(ids) > room
            whole = [*frame.head, *ids[:room], *frame.tail]
            prompts.append(Prompt(whole, pooled=(frame.pooled_from, len(whole))))
        return prompts, cut

    def embedding_frame(
        self, *, instruction: str, end: str, embed_instruction: bool, specials: bool
    ) -> EmbeddingFrame:
        """Return the tokens around each text to embed; the arguments are those of
        :meth:`for_embedding`."""
        head = list(self.prefix) if specials else []
        head += self.pieces([instruction], first=True)[0] if instruction else []
        tail = self._ending(end) + (list(self.suffix) if specials else [])
        pooled_from = len(head) if instruction and not embed_instruction else 0
        return EmbeddingFrame(tuple(head), tuple(tail), pooled_from, not instruction)

    def _ending(self, end: str) -> list[int]:
        if not end:
            return []
        known = self.tokenizer.get_vocab().get(end)
        return self.pieces([end], first=False)[0] if known is None else [known]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if self._literal is not None:
            found = self._literal.encode_batch_fast(texts, add_special_tokens=False)
            return [encoding.ids for encoding in found]
        with self._lock:
            return [
                self.tokenizer.encode(t, add_special_tokens=False, split_special_tokens=True)
                for t in texts
            ]

    def _specials(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        whole = list(self.tokenizer("a")["input_ids"])
        bare = list(self.tokenizer("a", add_special_tokens=False)["input_ids"])
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return tuple(whole[:start]), tuple(whole[start + len(bare) :])
        return (), ()

    def _find_anchor(self) -> list[int]:
        """Return the ids of a newline if the first text of a sequence is tokenised differently."""
        newline, alone, inside = self._encode(["\n", "a", "\na"])
        cut = inside[len(newline) :]
        return newline if inside[: len(newline)] == newline and cut != alone else []


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the ids of all special tokens by their text, also of those without a role as BOS."""
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    added = tokenizer.added_tokens_decoder.items()
    return {**dict(named), **{token.content: number for number, token in added if token.special}}


def _private_copy(tokenizer: PreTrainedTokenizerBase, *, literal: bool) -> Any:
    """Return a private copy of the Rust tokenizer; None for a tokenizer written in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        return None
    twin = _assembled(backend)
    if twin is None:
        from tokenizers import Tokenizer

        twin = Tokenizer.from_str(backend.to_str())
        twin.no_truncation()
        twin.no_padding()
    twin.encode_special_tokens = literal
    return twin


def _assembled(backend: Any) -> Any | None:
    """Return a copy of a Rust tokenizer that shares its parts, made much faster than by its text.

    Returns:
        The copy, without truncation and padding; None if its added tokens would get other ids.
    """
    from tokenizers import Tokenizer

    twin = Tokenizer(backend.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        found = getattr(backend, part)
        if found is not None:
            setattr(twin, part, found)
    added = backend.get_added_tokens_decoder()
    for number in sorted(added):
        add = twin.add_special_tokens if added[number].special else twin.add_tokens
        add([added[number]])
    same = {number: _signature(token) for number, token in added.items()} == {
        number: _signature(token) for number, token in twin.get_added_tokens_decoder().items()
    }
    return twin if same else None


def _signature(token: Any) -> tuple[object, ...]:
    """Return the properties of an added token; the tokens themselves compare by content alone."""
    names = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return tuple(getattr(token, name) for name in names)


def as_texts(sentences: Any) -> list[str]:
    """Return a text, or a sequence of texts, as a list.

    Args:
        sentences: a text, or any iterable of texts.

    Raises:
        InputError: for an item that is not a string, with its index and value.
    """
    if isinstance(sentences, str):
        return [sentences]
    if isinstance(sentences, Mapping | bytes) or not hasattr(sentences, "__iter__"):
        raise InputError(
            f"sentences is {type(sentences).__name__}; expected a text or a list of texts "
            "(encode_corpus takes dicts with title and text)"
        )
    many = list(sentences)
    for index, text in enumerate(many):
        if not isinstance(text, str):
            raise InputError(
                f"text {index} of {len(many)} is {text!r} ({type(text).__name__}); expected str"
            )
        require_text(text, f"text {index} of {len(many)}")
    return many


def require_text(text: str, name: str) -> None:
    """Refuse lone surrogates, which come from wrongly decoded files.

    Args:
        text: the text to check.
        name: name of the text, for the message.

    Raises:
        InputError: for a lone surrogate, with its position.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} has a lone surrogate at character {error.start}; decode its source with the "
            "right encoding, or with errors='replace'"
        ) from None


def document_texts(corpus: Any) -> str | list[str]:
    """Return documents as texts, with title and text joined by a space.

    Args:
        corpus: texts, or dicts with ``text`` and, optionally, ``title``. A single dict gives a
            single text, unless its values are lists, as in BEIR.

    Raises:
        InputError: for a document without a text, with its index.
    """
    if isinstance(corpus, str):
        return corpus
    if isinstance(corpus, Mapping):
        if isinstance(corpus.get("text"), list):
            return document_texts(_rows(corpus))
        return _document(corpus, 0)
    if not hasattr(corpus, "__iter__"):
        return as_texts(corpus)
    return [_document(d, i) if isinstance(d, Mapping) else d for i, d in enumerate(corpus)]


def _rows(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return a corpus of columns, ``{"title": [...], "text": [...]}`` as in BEIR, as rows."""
    titles = columns.get("title") or [None] * len(columns["text"])
    if len(titles) != len(columns["text"]):
        raise InputError(f"corpus has {len(titles)} titles and {len(columns['text'])} texts")
    return [{"title": title, "text": t} for title, t in zip(titles, columns["text"], strict=True)]


def _document(document: Mapping[str, Any], index: int) -> str:
    if not isinstance(document.get("text"), str):
        keys = ", ".join(map(str, document)) or "no key"
        raise InputError(f"document {index} has no 'text' that is a text; it has {keys}")
    if not isinstance(document.get("title"), str | None):
        raise InputError(f"document {index} has the title {document['title']!r}; expected a text")
    return f"{document.get('title') or ''} {document['text']}".strip()
