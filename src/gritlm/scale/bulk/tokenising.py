"""Tokenising of parts on CPUs: rows to token ids, which are sent to the devices."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gritlm.errors import InputError, one_line
from gritlm.lm.tokens import Prompt, SegmentTokenizer, require_text
from gritlm.scale.bulk.part_rows import PartRows, RejectedRow, read_part
from gritlm.scale.bulk.parts import InputFile, Part, PartOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNBOUNDED = 2**31


@dataclass(frozen=True)
class TokenOptions:
    """Conversion of texts to tokens.

    Attributes:
        max_length: maximum tokens of a text with its header.
        truncate: whether longer texts are cut; if not, they are rejected.
        instruction: the formatted header.
    """

    max_length: int
    truncate: bool = True
    instruction: str = ""


@dataclass(frozen=True)
class TokenisedPart:
    """Token ids of a part.

    Attributes:
        number: number of the part.
        ids: ids of the rows.
        tokens: token ids of all rows, one behind the other.
        lengths: tokens of each row.
        pooled_from: first position of every row that is pooled.
        cut: number of rows that were truncated.
        rejected: rows that cannot be embedded.
    """

    number: int
    ids: list[str]
    tokens: np.ndarray
    lengths: list[int]
    pooled_from: int
    cut: int
    rejected: list[RejectedRow]

    def prompts(self) -> list[Prompt]:
        """Return the rows as prompts of the encoder."""
        ends = np.cumsum(self.lengths).tolist()
        return [
            Prompt(self.tokens[end - size : end].tolist(), pooled=(self.pooled_from, size))
            for end, size in zip(ends, self.lengths, strict=True)
        ]


class PartTokeniser:
    """Reads parts and tokenises their rows, in a process on a CPU.

    Args:
        source: checkpoint folder or hub id with the tokenizer.
        adapter: adapter whose tokenizer replaces it; None without one.
        options: conversion of texts to tokens.
    """

    def __init__(self, source: str, adapter: str | None, options: TokenOptions) -> None:
        from gritlm.lm.hub.load import load_tokenizer

        tokenizer, self._settings = load_tokenizer(source, adapter=adapter)
        self._tokens = SegmentTokenizer(tokenizer)
        self._options = options

    def tokenise(self, number: int, rows: PartRows) -> TokenisedPart:
        """Return the token ids of the rows of a part, without those that cannot be embedded.

        Args:
            number: number of the part.
            rows: the rows.
        """
        rejected = list(rows.rejected)
        ids: list[str] = []
        prompts: list[Prompt] = []
        for key, found in zip(rows.ids, self._prompts(rows.texts), strict=True):
            if isinstance(found, str):
                rejected.append(RejectedRow(key, found))
            else:
                ids.append(key)
                prompts.append(found)
        longest = self._options.max_length
        lengths = [min(len(prompt.ids), longest) for prompt in prompts]
        flat = [i for prompt in prompts for i in prompt.ids]
        return TokenisedPart(
            number,
            ids,
            np.asarray(flat, dtype=np.int32),
            lengths,
            prompts[0].pooled[0] if prompts else 0,
            self._cut,
            rejected,
        )

    def _prompts(self, texts: Sequence[str]) -> list[Prompt | str]:
        """Return the prompt of each text, or the reason why it has none."""
        self._cut = 0
        try:
            for text in texts:
                require_text(text, "the text")
            found: list[Prompt | str] = list(self._all(texts))
        except InputError:
            found = [self._one(text) for text in texts]
        limit = self._options.max_length
        return [
            f"the text has {len(each.ids)} tokens, more than {limit}"
            if isinstance(each, Prompt) and len(each.ids) > limit
            else each
            for each in found
        ]

    def _all(self, texts: Sequence[str]) -> list[Prompt]:
        prompts, cut = self._tokens.for_embedding(
            texts,
            max_length=self._options.max_length if self._options.truncate else _UNBOUNDED,
            instruction=self._options.instruction,
            end=self._settings.embed_eos,
        )
        self._cut += cut
        return prompts

    def _one(self, text: str) -> Prompt | str:
        try:
            require_text(text, "the text")
            return self._all([text])[0]
        except InputError as error:
            return one_line(error, limit=200)


class TokenisingWorker:
    """The actor of Ray Data that reads and tokenises one part a call.

    Args:
        options: size of the parts and the columns that are read.
        tokeniser: arguments of :class:`PartTokeniser`.
    """

    def __init__(self, options: PartOptions, tokeniser: Mapping[str, Any]) -> None:
        self._options = options
        self._tokeniser = PartTokeniser(**tokeniser)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the tokenised parts of a batch of parts."""
        done = [self._part(*pickle.loads(content)) for content in batch["content"]]
        return {"part": batch["part"], "content": as_column([pickle.dumps(each) for each in done])}

    def _part(self, part: Part, file: InputFile) -> TokenisedPart:
        return self._tokeniser.tokenise(part.number, read_part(part, file, self._options))


def as_column(values: list[bytes]) -> Any:
    """Return byte strings as a column of a batch of Ray Data.

    Args:
        values: the byte strings of the rows.
    """
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
