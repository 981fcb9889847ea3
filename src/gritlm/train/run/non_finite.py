"""Stop of a run at a non-finite loss, with the batch written to a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from gritlm.errors import TrainingError
from gritlm.train.data.loader import Batch
from gritlm.train.run import collectives


def stop(
    output: Path, step: int, batch: Batch, values: Mapping[str, float], tokenizer: Any
) -> NoReturn:
    """Write the batch of this process to a file and stop; the step has changed no weight.

    Args:
        output: folder of the run.
        step: number of the step.
        batch: batch of this process.
        values: metrics of the step, at least one of them non-finite in some process.
        tokenizer: tokenizer that decodes the batch.

    Raises:
        TrainingError: always; the message has the values and the file.
    """
    path = output / f"trouble-{step:06d}-{collectives.rank()}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in _rows(batch, tokenizer)), "utf-8")
    shown = ", ".join(f"{name} {value}" for name, value in values.items())
    raise TrainingError(
        f"step {step} gave a non-finite loss ({shown}); its batch is in {path}. Lower "
        "learning_rate, or resume from an earlier checkpoint"
    )


def _rows(batch: Batch, tokenizer: Any) -> Iterator[dict[str, Any]]:
    if batch.embedding is not None:
        sides = {"query": batch.embedding.queries, "passage": batch.embedding.passages}
        for side, prompts in sides.items():
            for prompt in prompts:
                yield {"kind": side, "text": tokenizer.decode(prompt.ids), "pooled": prompt.pooled}
    for sample in batch.samples:
        yield {
            "kind": "sample",
            "text": tokenizer.decode(sample.ids),
            "trained": sample.trained,
        }
