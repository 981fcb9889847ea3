"""Mining of hard negatives for embedding examples with the model itself.

Shapes: Q queries, P passages, N texts, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from gritlm import GritLM, gritlm_instruction
from gritlm.errors import InputError
from gritlm.lm.vectors import normalise
from gritlm.train.data.collate import key
from gritlm.train.data.examples import EmbeddingExample, InstructedText
from gritlm.train.mining.negatives import MiningConfig, choose


def mine_rows(
    model: GritLM,
    rows: Sequence[EmbeddingExample],
    settings: MiningConfig,
    *,
    corpus: Sequence[InstructedText] | None = None,
    progress: bool | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows as records in FlagEmbedding's form, with mined negatives.

    Instructions are used as in training. A passage (nearly) equal to the query, or to a positive of
    the query in any row, is never a negative. Existing negatives stay, and come first.

    Args:
        model: model that embeds queries and passages.
        rows: the examples.
        settings: selection of negatives.
        corpus: more passages to choose from, in addition to those of the rows.
        progress: see ``show_progress_bar`` of :meth:`gritlm.GritLM.encode`.

    Raises:
        InputError: there are no rows, or one has an image or a sound.
    """
    rows = list(rows)
    if not rows:
        raise InputError("there are no rows to mine negatives for")
    _require_texts(rows)
    pool = _pool(rows, corpus or ())
    index_of = {name: index for index, name in enumerate(pool)}
    queries = {key(row.query.text): row.query for row in rows}
    answers = {name: {index_of[name]} if name in index_of else set() for name in queries}
    for row in rows:
        answers[key(row.query.text)] |= _indices(row.positives, index_of)
    query_QD = _embed(model, [*queries.values()], settings.query_max_len, progress)
    passage_PD = _embed(model, [*pool.values()], settings.passage_max_len, progress)
    query_index = {name: number for number, name in enumerate(queries)}
    query_keys = [key(row.query.text) for row in rows]
    found = choose(
        query_QD[[query_index[name] for name in query_keys]],
        passage_PD,
        [answers[name] for name in query_keys],
        settings,
        kept=[_indices(row.negatives, index_of) for row in rows],
    )
    passages = [*pool.values()]
    for row, indices in zip(rows, found, strict=True):
        yield record(row, [passages[index] for index in indices])


def _require_texts(rows: Sequence[EmbeddingExample]) -> None:
    """Raise an error for a row with images or sounds."""
    for number, row in enumerate(rows, start=1):
        if any(each.parts for each in (row.query, *row.positives, *row.negatives)):
            raise InputError(
                f"row {number} has an image or a sound, and negatives are mined for texts only; "
                "leave it out"
            )


def record(row: EmbeddingExample, negatives: Sequence[InstructedText] = ()) -> dict[str, Any]:
    """Return a record of FlagEmbedding and GritLM; a text may be ``[instruction, text]``.

    Args:
        row: the example.
        negatives: negatives to add to those of the row.
    """
    return {
        "query": _value(row.query),
        "pos": [_value(text) for text in row.positives],
        "neg": [_value(text) for text in (*row.negatives, *negatives)],
    }


def _value(text: InstructedText) -> str | list[str]:
    return [text.instruction, text.text] if text.instruction else text.text


def _pool(
    rows: Sequence[EmbeddingExample], corpus: Sequence[InstructedText]
) -> dict[int, InstructedText]:
    """Return all passages by key; only the first of nearly equal ones."""
    own = (text for row in rows for text in (*row.positives, *row.negatives))
    pool: dict[int, InstructedText] = {}
    for text in chain(own, corpus):
        pool.setdefault(key(text.text), text)
    return pool


def _indices(texts: Sequence[InstructedText], index_of: Mapping[int, int]) -> set[int]:
    return {index_of[key(text.text)] for text in texts}


def _embed(
    model: GritLM, texts: Sequence[InstructedText], length: int | None, progress: bool | None
) -> Tensor:
    """Return normalized vectors (N, D) of texts with their instructions."""
    vector_ND = torch.empty(len(texts), model.embedding_dimension, device=model.device)
    for instruction in dict.fromkeys(text.instruction for text in texts):
        chosen = [i for i, text in enumerate(texts) if text.instruction == instruction]
        vector_ND[chosen] = model.encode(
            [texts[i].text for i in chosen],
            instruction=gritlm_instruction(instruction),
            max_length=length,
            convert_to_tensor=True,
            show_progress_bar=progress,
        )
    return normalise(vector_ND)
