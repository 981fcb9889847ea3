"""Segments -> token ids with spans, over any tokenizer of transformers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gritlm.errors import InputError
from gritlm.prompts import Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """Token ids of one prompt; spans are half-open token positions into ``ids``."""

    ids: list[int]
    pooled: tuple[int, int] = (0, 0)
    trained: tuple[tuple[int, int], ...] = ()


class SegmentTokenizer:
    """Tokenises segments literally: special tokens spelled inside of a text are plain characters.

    Works on a private copy of the Rust tokenizer and never changes its state, so it may be called
    from several threads; the tokenizer handed in is left as it was.

    Attributes:
        prefix: ids the tokenizer puts before every sequence (BOS, or nothing).
        suffix: ids it puts behind (nothing, or EOS).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._lock = threading.Lock()
        self._literal = _private_copy(tokenizer, literal=True)
        self._markup = _private_copy(tokenizer, literal=False)
        self.prefix, self.suffix = self._specials()
        self._anchor = self._find_anchor()

    def pieces(self, texts: Sequence[str], *, first: bool) -> list[list[int]]:
        """Ids of each text; ``first`` says that it opens its sequence.

        SentencePiece models of the Llama family put a space before the first piece of a string.
        A piece further inside must not get one: it is tokenised behind an anchor that is cut off.
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
        """For a text whose first newline merges with the anchor."""
        letter, whole = self._encode(["a", "a" + text])
        return whole[len(letter) :] if whole[: len(letter)] == letter else self._encode([text])[0]

    def markup(self, text: str) -> list[int]:
        """Ids of template text: special tokens spelled in it are special tokens."""
        if self._markup is not None:
            # As a batch: for a single text the Rust tokenizer would hold up all other threads.
            return list(self._markup.encode_batch_fast([text], add_special_tokens=False)[0].ids)
        with self._lock:
            return list(self.tokenizer.encode(text, add_special_tokens=False))

    def for_chat(self, segments: Sequence[Segment], *, start: bool = True) -> Prompt:
        """One prompt with its trained spans.

        Args:
            start: False continues a sequence: no BOS and no leading space.
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
        """One prompt a text with its pooled span, and how many texts were cut to ``max_length``.

        The header is attended to and not pooled. Without one, all tokens are pooled, BOS too
        (as the reference does).

        Args:
            instruction: the formatted header, from :func:`gritlm.gritlm_instruction`.
            end: string behind every text; one token where the vocabulary has it as such.
            embed_instruction: pool the header too.
            specials: put the tokenizer's own BOS (and EOS, if it adds one) around.

        Raises:
            InputError: naming the text that is empty or that the header leaves no room for.
        """
        head = list(self.prefix) if specials else []
        head += self.pieces([instruction], first=True)[0] if instruction else []
        tail = self._ending(end) + (list(self.suffix) if specials else [])
        room = max_length - len(head) - len(tail)
        if texts and room < 1:
            raise InputError(
                f"text 0 of {len(texts)} has no room: the instruction takes {len(head)} tokens "
                f"and max_length is {max_length}; shorten it or raise max_length"
            )
        pooled_from = len(head) if instruction and not embed_instruction else 0
        prompts = []
        cut = 0
        for index, ids in enumerate(self.pieces(texts, first=not instruction)):
            if not ids:
                raise InputError(f"text {index} of {len(texts)} is empty; expected some text")
            cut += len(ids) > room
            whole = head + ids[:room] + tail
            prompts.append(Prompt(whole, pooled=(pooled_from, len(whole))))
        return prompts, cut

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
        """Ids of a newline, if a leading piece differs from the same piece further inside."""
        newline, alone, inside = self._encode(["\n", "a", "\na"])
        cut = inside[len(newline) :]
        return newline if inside[: len(newline)] == newline and cut != alone else []


def _private_copy(tokenizer: PreTrainedTokenizerBase, *, literal: bool) -> Any:
    """A Rust tokenizer whose state nobody else changes; None for tokenizers written in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        return None
    from tokenizers import Tokenizer

    twin = Tokenizer.from_str(backend.to_str())
    twin.no_truncation()
    twin.no_padding()
    twin.encode_special_tokens = literal
    return twin
