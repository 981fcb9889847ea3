"""Arguments of a decoder for texts with media tokens: embeddings with features in place, positions.

Shapes: T tokens of all texts, M placeholders of an image or a sound, P placeholders of all, D
hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gritlm.errors import InputError
from gritlm.lm.media.senses import MediaPass, MediaTokens, Senses


@dataclass(frozen=True, eq=False)
class DecoderInputs:
    """Arguments of a pass of the decoder.

    Attributes:
        arguments: embeddings, positions and further arguments, by name.
        after: position after each text.
    """

    arguments: dict[str, Any]
    after: list[int]


@dataclass(frozen=True)
class _Placed:
    """A placeholder: index of the token, of its image or sound, and of its feature."""

    token: int
    item: int
    feature: int


def decoder_inputs(
    decoder: Any,
    senses: Senses | None,
    ids_T: Tensor,
    lengths: Sequence[int],
    media: Sequence[MediaTokens],
    *,
    held: tuple[int, int] = (0, 0),
    causal: bool,
) -> DecoderInputs:
    """Return the arguments of a decoder for concatenated texts with media tokens.

    Args:
        decoder: the decoder.
        senses: towers of the model.
        ids_T: token ids of the texts; negative ids are placeholders of ``media``.
        lengths: number of tokens of each text.
        media: images and sounds of the texts, in any order.
        held: number of cached tokens before the (only) text, and the position after them.
        causal: whether a token attends to earlier tokens only, else to its whole text.

    Raises:
        InputError: for a placeholder of an image or a sound that is not in ``media``, or a model
            that reads text only.
    """
    if senses is None:
        raise InputError("the prompt has an image or a sound, and this model reads text only")
    items = _distinct(media)
    placed = _placed(ids_T.tolist(), items)
    table = decoder.get_input_embeddings()
    at_P = torch.tensor([each.token for each in placed], dtype=torch.long, device=ids_T.device)
    known_T = ids_T.index_put((at_P,), _known(placed, items, len(table.weight)).to(ids_T))
    embedding_TD = table(known_T)
    deep: tuple[Tensor, ...] = ()
    if placed:
        state_PD, deep = _features(senses, placed, items)
        place_P = at_P.to(embedding_TD.device)
        embedding_TD = embedding_TD.index_put((place_P,), state_PD.to(embedding_TD))
    item_T = torch.full_like(ids_T, -1)
    item_T[at_P] = torch.tensor([each.item for each in placed], dtype=torch.long).to(ids_T)
    run = MediaPass(known_T, tuple(lengths), item_T, deep, held[0], causal)
    position_ids, after = _positions(lengths, placed, items, start=held[1])
    arguments = {
        "inputs_embeds": embedding_TD[None],
        "position_ids": position_ids.to(ids_T.device),
        **senses.decoder_options(run),
    }
    return DecoderInputs(arguments, after)


def _features(
    senses: Senses, placed: Sequence[_Placed], items: Sequence[MediaTokens]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the states (P, D) of all placeholders, and those of the first layers."""
    found = {index: senses.features(items[index]) for index in {each.item for each in placed}}
    starts = {}
    count = 0
    for index, features in found.items():
        starts[index] = count
        count += len(features.states_MD)
    row_P = torch.tensor([starts[each.item] + each.feature for each in placed])

    def rows(states: Sequence[Tensor]) -> Tensor:
        joined = torch.cat([*states])
        return joined[row_P.to(joined.device)]

    layers = zip(*(features.deep for features in found.values()), strict=True)
    deep = tuple(rows(states) for states in layers)
    return rows([features.states_MD for features in found.values()]), deep


def _distinct(media: Sequence[MediaTokens]) -> list[MediaTokens]:
    """Return the images and sounds without repetitions: the features of each are computed once."""
    return list({each.placeholders: each for each in media}.values())


def _placed(ids: Sequence[int], items: Sequence[MediaTokens]) -> list[_Placed]:
    homes = {
        number: (item, feature)
        for item, each in enumerate(items)
        for feature, number in enumerate(each.placeholders)
    }
    found = []
    for token, number in enumerate(ids):
        if number >= 0:
            continue
        if number not in homes:
            raise InputError(
                f"token {token} is part of an image or a sound that was not passed with the "
                "prompt; pass the prompt's media too"
            )
        found.append(_Placed(token, *homes[number]))
    return found


def _known(placed: Sequence[_Placed], items: Sequence[MediaTokens], rows: int) -> Tensor:
    """Return a token id of the vocabulary (P,) for each placeholder."""
    numbers = [items[each.item].placeholder for each in placed]
    known = [number if number < rows else 0 for number in numbers]  # without an embedding
    return torch.tensor(known, dtype=torch.long)


def _positions(
    lengths: Sequence[int], placed: Sequence[_Placed], items: Sequence[MediaTokens], *, start: int
) -> tuple[Tensor, list[int]]:
    """Return the positions, (1, T) or (3, 1, T), and the position after each text."""
    if all(items[each.item].offsets_3M is None for each in placed):
        rows = [torch.arange(start, start + size) for size in lengths]
        return torch.cat(rows)[None], [start + size for size in lengths]
    columns = []
    after = []
    first = 0
    for size in lengths:
        inside = [each for each in placed if first <= each.token < first + size]
        position = start
        for column_3N, taken in _runs(size, first, inside, items):
            columns.append(column_3N + position)
            position += taken
        after.append(position)
        first += size
    return torch.cat(columns, dim=1)[:, None], after


def _runs(
    size: int, first: int, placed: Sequence[_Placed], items: Sequence[MediaTokens]
) -> Iterator[tuple[Tensor, int]]:
    """Yield the positions of runs of tokens of a text, each from 0, and the positions it takes."""
    token = first
    at = 0
    while at < len(placed):
        item = items[placed[at].item]
        if item.offsets_3M is None:
            at += 1
            continue
        yield _consecutive(placed[at].token - token)
        count = item.offsets_3M.shape[1]
        run = placed[at : at + count]
        if [each.feature for each in run] != list(range(count)):
            raise InputError(
                f"an image of {count} tokens is cut in its middle; its positions have three "
                "dimensions, so keep it whole"
            )
        yield item.offsets_3M, item.extent
        token = placed[at].token + count
        at += count
    yield _consecutive(first + size - token)


def _consecutive(count: int) -> tuple[Tensor, int]:
    return torch.arange(count).expand(3, -1), count
