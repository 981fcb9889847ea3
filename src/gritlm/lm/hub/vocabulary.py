"""Consistency of token ids between tokenizer, embeddings and adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gritlm.errors import ModelError
from gritlm.lm.hub.model_config import read_object
from gritlm.lm.hub.model_scan import scanned_once
from gritlm.lm.hub.quiet import quiet

with scanned_once():
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_TEMPLATE_FILE = "chat_template.jinja"
_TOKENIZER_CONFIG = "tokenizer_config.json"

Shapes = Mapping[str, tuple[int, ...]]


def with_adapter(
    base: PreTrainedTokenizerBase, adapter: str, config: Any
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of an adapter, else that of the base with the adapter's template.

    Args:
        base: tokenizer of the base model.
        adapter: folder or hub id.
        config: configuration of the base model.

    Raises:
        ModelError: for an adapter tokenizer with other ids for tokens of the base.
    """
    own = _own_tokenizer(adapter, config)
    if own is None:
        base.chat_template = _own_template(adapter) or base.chat_template
        return base
    _require_same_ids(base, own, adapter)
    own.chat_template = own.chat_template or base.chat_template
    return own


def require_embeddings(tokenizer: PreTrainedTokenizerBase, model: Any, source: str) -> None:
    """Refuse a tokenizer with ids that have no embedding.

    Special tokens may have none: texts never contain them, and some published models have such
    tokens.

    Args:
        tokenizer: the tokenizer.
        model: the model.
        source: folder or hub id, for the message.

    Raises:
        ModelError: for a token without an embedding.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    special = set(tokenizer.all_special_tokens)
    special |= {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    used = {tokenizer.bos_token, tokenizer.eos_token}
    for token, number in tokenizer.get_vocab().items():
        if number >= rows and (token not in special or token in used):
            raise ModelError(
                f"{source}: the tokenizer's token {token!r} has the id {number}, the model has "
                f"{rows} embeddings; use the tokenizer that the weights were saved with"
            )
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token


def resize(model: Any, shapes: Shapes, config: Mapping[str, Any], adapter: str) -> bool:
    """Resize the embeddings of a model to the number that an adapter expects.

    Args:
        model: the base model.
        shapes: shape of each tensor of the adapter, by name.
        config: configuration of the adapter.
        adapter: folder or hub id, for messages.

    Returns:
        Whether the number of embeddings changed.

    Raises:
        ModelError: for an adapter that adds tokens without their embeddings.
    """
    layers = model.get_input_embeddings(), model.get_output_embeddings()
    first, last = (_Brought.find(model, layer, shapes, config) for layer in layers)
    has = layers[0].weight.shape[0]
    sizes = first.sizes | last.sizes
    if len(sizes) > 1:
        several = " and ".join(map(str, sorted(sizes)))
        raise ModelError(f"{adapter}: its embeddings have {several} rows; expected one number")
    trained = max(first.trained | last.trained, default=-1) + 1
    wanted = sizes.pop() if sizes else max(has, trained)
    added = range(has, wanted)
    tied = layers[0].weight is layers[1].weight
    if not (first.covers(added) and (tied or last.covers(added))):
        raise ModelError(
            f"{adapter}: made for {wanted} tokens, the base has {has} embeddings, and the adapter "
            "does not bring those of the added tokens; save it again with peft's "
            "save_embedding_layers=True"
        )
    if wanted != has:
        # transformers replaces the data of the parameter, which other models may share.
        layers[0].weight = nn.Parameter(layers[0].weight.detach(), requires_grad=False)
        model.resize_token_embeddings(wanted, mean_resizing=False)
    return wanted != has


@dataclass(frozen=True)
class _Brought:
    """The rows of an embedding layer in an adapter.

    Attributes:
        sizes: numbers of rows in the tensors of the adapter for this layer.
        is_whole: whether the adapter has all rows.
        trained: ids of single rows in the adapter.
    """

    sizes: set[int]
    is_whole: bool
    trained: set[int]

    @classmethod
    def find(cls, model: Any, layer: Any, shapes: Shapes, config: Mapping[str, Any]) -> _Brought:
        name = next(name for name, module in model.named_modules() if module is layer)
        sizes = set()
        is_whole = False
        for key, shape in shapes.items():
            kind = key.removeprefix(f"{name}.")
            if kind == key or len(shape) != 2:
                continue
            if kind == "lora_embedding_A":
                sizes.add(shape[1])
            elif kind == "lora_B.weight":
                sizes.add(shape[0])
            elif kind.endswith("weight") and not kind.startswith("lora_"):
                sizes.add(shape[0])
                is_whole = True
        is_input = layer is model.get_input_embeddings()
        return cls(sizes, is_whole, _trained_rows(name, config, is_input))

    def covers(self, rows: range) -> bool:
        few = len(rows) <= len(self.trained)
        return self.is_whole or (few and self.trained.issuperset(rows))


def _own_tokenizer(adapter: str, config: Any) -> PreTrainedTokenizerBase | None:
    if not any(_find(adapter, name) for name in _TOKENIZER_FILES):
        return None
    with quiet():
        return AutoTokenizer.from_pretrained(adapter, config=config, trust_remote_code=False)


def _own_template(adapter: str) -> str | None:
    if path := _find(adapter, _TEMPLATE_FILE):
        return path.read_text(encoding="utf-8")
    path = _find(adapter, _TOKENIZER_CONFIG)
    template = read_object(path).get("chat_template") if path else None
    return template if isinstance(template, str) else None


def _find(adapter: str, name: str) -> Path | None:
    """Return the path of a file of an adapter; None if the adapter does not have it."""
    folder = Path(adapter)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from transformers.utils.hub import cached_file

    found = cached_file(adapter, name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def _require_same_ids(
    base: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase, adapter: str
) -> None:
    """Refuse other ids for tokens of the base; its added tokens may be renamed."""
    ids = base.get_vocab()
    own_ids = own.get_vocab()
    renamed = set(ids) - set(own_ids) - set(base.get_added_vocab())
    moved = [t for t, number in own_ids.items() if ids.get(t, number) != number]
    taken = set(own_ids.values())
    replaced = [t for t in sorted(renamed, key=ids.__getitem__) if ids[t] in taken]
    if moved:
        token = min(moved, key=own_ids.__getitem__)
        raise ModelError(
            f"{adapter}: its tokenizer gives {token!r} the id {own_ids[token]}, the base's "
            f"{ids[token]}; load the adapter with its own base, or remove its tokenizer files"
        )
    if replaced:
        number = ids[replaced[0]]
        raise ModelError(
            f"{adapter}: the id {number} is {own.convert_ids_to_tokens(number)!r} in its "
            f"tokenizer and {replaced[0]!r} in the base's; load the adapter with its own base, or "
            "remove its tokenizer files"
        )


def _trained_rows(name: str, config: Mapping[str, Any], is_input: bool) -> set[int]:
    """Return the ids of single rows in an adapter; a list is for the input embeddings."""
    found = config.get("trainable_token_indices") or config.get("token_indices")
    if isinstance(found, dict):
        found = next((ids for key, ids in found.items() if name.endswith(key)), None)
    elif not is_input:
        found = None
    return {number for number in found or [] if isinstance(number, int)}
