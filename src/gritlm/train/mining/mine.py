"""Training rows -> the same rows with hard negatives, found by the model that is trained.

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
from gritlm.lm.pooling import normalise
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
    """The rows as records in FlagEmbedding's form, their negatives filled up from all passages.

    Instructions are used as in training. A passage equal or nearly equal to a positive of the
    query, to one of the same query in another row, or to the query itself never becomes its
    negative. The negatives a row has come first and all stay.

    Args:
        corpus: passages to choose from beside those of the rows.
        progress: see ``show_progress_bar`` of :meth:`gritlm.GritLM.encode`.

    Raises:
        InputError: when there are no rows.
    """
    rows = list(rows)
    if not rows:
        raise InputError("there are no rows to mine negatives for")
    pool = _pool(rows, corpus or ())
    place = {name: index for index, name in enumerate(pool)}
    queries = {key(row.query.text): row.query for row in rows}
    answers = {name: {place[name]} if name in place else set() for name in queries}
    for row in rows:
        answers[key(row.query.text)] |= _places(row.positives, place)
    query_QD = _vectors(model, [*queries.values()], settings.query_max_len, progress)
    passage_PD = _vectors(model, [*pool.values()], settings.passage_max_len, progress)
    numbers = {name: number for number, name in enumerate(queries)}
    names = [key(row.query.text) for row in rows]
    found = choose(
        query_QD[[numbers[name] for name in names]],
        passage_PD,
        [answers[name] for name in names],
        settings,
        kept=[_places(row.negatives, place) for row in rows],
    )
    passages = [*pool.values()]
    for row, indices in zip(rows, found, strict=True):
        yield record(row, [passages[index] for index in indices])


def record(row: EmbeddingExample, negatives: Sequence[InstructedText] = ()) -> dict[str, Any]:
    """A row as FlagEmbedding and GritLM write it: ``[instruction, text]``, or the text alone."""
    return {
        "query": _written(row.query),
        "pos": [_written(text) for text in row.positives],
        "neg": [_written(text) for text in (*row.negatives, *negatives)],
    }


def _written(text: InstructedText) -> str | list[str]:
    return [text.instruction, text.text] if text.instruction else text.text


def _pool(
    rows: Sequence[EmbeddingExample], corpus: Sequence[InstructedText]
) -> dict[int, InstructedText]:
    """All passages by their key; of nearly equal ones the first."""
    own = (text for row in rows for text in (*row.positives, *row.negatives))
    pool: dict[int, InstructedText] = {}
    for text in chain(own, corpus):
        pool.setdefault(key(text.text), text)
    return pool


def _places(texts: Sequence[InstructedText], place: Mapping[int, int]) -> set[int]:
    return {place[key(text.text)] for text in texts}


def _vectors(
    model: GritLM, texts: Sequence[InstructedText], length: int | None, progress: bool | None
) -> Tensor:
    """Vectors of length 1 (N, D), each text read behind its own instruction."""
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
