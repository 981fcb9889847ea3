"""Vocabulary of a byte-level tokenizer in the form of llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gguf
from transformers import PreTrainedTokenizerBase

from gritlm.errors import ModelError
from gritlm.prompts import EMBED

# llama.cpp knows how texts are split into words by these names.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BY_PATTERN = {_WORDS % "{1,3}": "llama-bpe", _WORDS % "": "qwen2"}


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a model with their types, in the form of llama.cpp.

    Attributes:
        pre: name of the way to split texts into words.
        tokens: texts of the tokens, by id.
        types: types of the tokens, by id.
        merges: merges of the byte-pair encoding, the first ones first.
        special: ids of the special tokens by name: ``bos``, ``eos``, ``pad``, ``unk``.
        adds_bos: whether chats begin with BOS, which llama.cpp then adds to all texts.
        chat_template: template of chats; empty for none.
    """

    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    special: Mapping[str, int]
    adds_bos: bool
    chat_template: str


def vocabulary_of(
    tokenizer: PreTrainedTokenizerBase, size: int, *, begins_with_bos: bool, instead: str
) -> Vocabulary:
    """Return the vocabulary of a tokenizer.

    Args:
        tokenizer: the tokenizer.
        size: number of rows of the embedding matrix; ids without a token get a placeholder.
        begins_with_bos: whether chats begin with BOS.
        instead: advice for tokenizers that are not supported.

    Raises:
        ModelError: for another kind of tokenizer than byte-level BPE with a known way to split.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    settings = json.loads(backend.to_str()) if backend is not None else {}
    model = settings.get("model", {})
    pre = _splitting(settings)
    if model.get("type") != "BPE" or pre is None:
        raise ModelError(
            f"GGUF of the tokenizer {type(tokenizer).__name__} is not written here, only of "
            f"byte-level BPE of the GPT-2, SmolLM, Llama 3 and Qwen 2 kinds; {instead}"
        )
    known = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    kinds = gguf.TokenType
    tokens, types = [], []
    for number in range(max(size, len(known))):
        tokens.append(known.get(number, f"[PAD{number}]"))
        if number not in known:
            types.append(kinds.UNUSED)
        elif number not in added:
            types.append(kinds.NORMAL)
        else:
            types.append(kinds.CONTROL if added[number].special else kinds.USER_DEFINED)
    template = tokenizer.chat_template
    return Vocabulary(
        pre=pre,
        tokens=tuple(tokens),
        types=tuple(map(int, types)),
        merges=tuple(_merge(each) for each in model["merges"]),
        special=dict(_special(tokenizer)),
        adds_bos=begins_with_bos,
        chat_template=template if isinstance(template, str) else "",
    )


def _special(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, int]]:
    for name in ("bos", "eos", "pad", "unk"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            yield name, int(number)


def _merge(pair: str | list[str]) -> str:
    return pair if isinstance(pair, str) else " ".join(pair)


def _splitting(settings: Mapping[str, Any]) -> str | None:
    """Return llama.cpp's name of a pre-tokenizer; None for one that it may not have."""
    steps = [step for step in _steps(settings.get("pre_tokenizer")) if not _is_own(step)]
    kinds = [step["type"] for step in steps]
    if not steps or kinds[-1] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        return _BY_PATTERN.get(steps[0]["pattern"].get("Regex", ""))
    return None


def _steps(pre: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of a pre-tokenizer, those of sequences one by one."""
    if pre is None:
        return
    if pre["type"] != "Sequence":
        yield pre
        return
    for step in pre["pretokenizers"]:
        yield from _steps(step)


def _is_own(step: Mapping[str, Any]) -> bool:
    """Return whether a step is the cut after the marker of texts to embed."""
    return step["type"] == "Split" and step["pattern"] == {"String": EMBED}
