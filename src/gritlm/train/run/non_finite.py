"""Losses that are no numbers: the run stops, and the batch is written down."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from gritlm.errors import TrainingError
from gritlm.train.data.loader import Batch
from gritlm.train.run import collectives


def write_down(
    output: Path, step: int, batch: Batch, values: Mapping[str, float], tokenizer: Any
) -> NoReturn:
    """Write what this process read in the step, and stop; no weight has been changed by it.

    Raises:
        TrainingError: naming the values and the file.
    """
    path = output / f"trouble-{step:06d}-{collectives.rank()}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in _rows(batch, tokenizer)), "utf-8")
    said = ", ".join(f"{name} {value}" for name, value in values.items())
    raise TrainingError(
        f"step {step} gave numbers that are none ({said}); what was read is in {path}. Lower "
        "learning_rate, or go on from a checkpoint before it"
    )


def _rows(batch: Batch, tokenizer: Any) -> Iterator[dict[str, Any]]:
    if batch.embedding is not None:
        sides = {"query": batch.embedding.queries, "passage": batch.embedding.passages}
        for kind, prompts in sides.items():
            for prompt in prompts:
                yield {"kind": kind, "text": tokenizer.decode(prompt.ids), "pooled": prompt.pooled}
    for sample in batch.samples:
        yield {
            "kind": "sample",
            "text": tokenizer.decode(sample.ids),
            "trained": sample.trained,
        }
