"""gritlm's side of the training benchmark: a trainer as in ``gritlm train``, and its batches.

Texts are natural: titles are questions, and passages (of mixed length) answer them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import mixed_texts, passages_with_titles

from gritlm.train.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    SourceConfig,
    TrainConfig,
    TrainingConfig,
)
from gritlm.train.data.loader import Batch
from gritlm.train.trainer import Trainer

TEMPERATURE = 0.05

Step = Callable[[], float]
Row = Mapping[str, Any]


def pairs(count: int) -> list[Row]:
    """Questions (titles), each with a passage; no two are the same.

    Else we would leave the equal passage out as a false negative, and the others would not.
    """
    titles = [passage["title"] for passage in passages_with_titles()]
    texts: dict[str, None] = {}
    for n, text in enumerate(mixed_texts(count)):
        texts[f"{n}: {text}" if text in texts else text] = None
    return [{"query": numbered(titles, n), "pos": [text]} for n, text in enumerate(texts)]


def chats(count: int) -> list[Row]:
    """Conversations of one turn: a title, and the passage on it."""
    passages = passages_with_titles()
    titles = [passage["title"] for passage in passages]
    return [
        {
            "messages": [
                {"role": "user", "content": numbered(titles, n)},
                {"role": "assistant", "content": passages[n % len(passages)]["text"]},
            ]
        }
        for n in range(count)
    ]


def numbered(titles: Sequence[str], n: int) -> str:
    """Return a title; a repeated title has the number of its repetition, so that texts differ."""
    again = n // len(titles)
    return titles[n % len(titles)] + (f", part {again + 1}" if again else "")


def trainer(
    folder: Path,
    model: str | None,
    *,
    pairs: Sequence[Row],
    chats: Sequence[Row] = (),
    length: int,
    row: int,
    budget: int,
    bf16: bool | None = None,
) -> Trainer:
    """Return a trainer whose first batch holds all the rows; gradients are allocated and zero.

    Args:
        length: maximum number of tokens of a text to embed.
        row: maximum number of tokens of a chat, and of a packed row.
        budget: maximum number of tokens whose graphs are in memory.
        bf16: autocast to bfloat16; missing: if the hardware supports it.
    """
    folder.mkdir(parents=True)
    run = TrainConfig(
        TrainingConfig(
            str(folder / "out"),
            mode="unified" if chats else "embedding",
            max_steps=1,
            per_device_train_batch_size=len(pairs),
            per_device_generative_bs=max(1, len(chats)),
            token_budget=budget,
            bf16=bf16,
        ),
        DataConfig(
            embedding=(_source(folder / "pairs.jsonl", pairs),),
            generative=(_source(folder / "chats.jsonl", chats),) if chats else (),
            query_max_len=length,
            passage_max_len=length,
            generative_max_len=row,
        ),
        ModelConfig(base=model),
        LossConfig(temperature=TEMPERATURE),
    )
    made = Trainer(run, progress=False)
    made.metrics.close()
    made.parts.trainee.train()
    with_gradients(made.parts.trainee)
    return made


def with_gradients(module: torch.nn.Module) -> None:
    """Allocate gradients of zeros, so that no step pays for it."""
    for parameter in module.parameters():
        parameter.grad = torch.empty_like(parameter).zero_()  # zeros_like() takes no memory yet


def step(trainer: Trainer, batch: Batch) -> Step:
    """Return a function that adds the gradients of a step and returns the loss."""
    return lambda: trainer.backward(batch)["loss"]


def sizes(trainer: Trainer) -> tuple[int, int]:
    """Return the number of parameters of the decoder without embeddings, and of the LM head."""
    decoder = trainer.parts.trainee.decoder
    causal = trainer.parts.trainee.causal
    body = sum(p.numel() for p in decoder.parameters())
    return (
        body - decoder.get_input_embeddings().weight.numel(),
        causal.get_output_embeddings().weight.numel(),
    )


def _source(path: Path, rows: Sequence[Row]) -> SourceConfig:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return SourceConfig(str(path))
