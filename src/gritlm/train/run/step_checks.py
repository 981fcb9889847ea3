"""Checks of a step that stop a run: a trained parameter without gradient, a non-finite loss."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from gritlm.errors import TrainingError
from gritlm.train.data.loader import Batch
from gritlm.train.run import collectives

# An expert with modules of its own gets no gradient in a step that routes no token to it.
_EXPERT = re.compile(r"(^|\.)experts\.\d+\.")
_SHOWN = 3


def require_gradients(module: nn.Module, step: int) -> None:
    """Raise an error if a trained parameter has no gradient after the backward passes of a step.

    A gradient of zeros counts: that of LoRA's A is zero as long as B is zero.

    Args:
        module: module that is trained.
        step: number of the step, for the message.

    Raises:
        TrainingError: the message names the parameters; this step has changed no weight.
    """
    missing = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.grad is None and not may_lack_gradient(name)
    ]
    if collectives.most(len(missing)):
        names = ", ".join(missing[:_SHOWN]) or "see the log of the other processes"
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise TrainingError(
            f"step {step}: no gradient reached {names}{more}, so they would not be trained; "
            "name them in [model] freeze, or take their modules out of the adapter"
        )


def may_lack_gradient(name: str) -> bool:
    """Return whether a trained parameter may have no gradient in a step."""
    return _EXPERT.search(name) is not None


def stop_at_non_finite_loss(
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
                yield {
                    "kind": side,
                    "text": tokenizer.decode(prompt.readable_ids),
                    "pooled": prompt.pooled,
                }
    for sample in batch.samples:
        yield {
            "kind": "sample",
            "text": tokenizer.decode(sample.readable_ids),
            "trained": sample.trained,
        }
