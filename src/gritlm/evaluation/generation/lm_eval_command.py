"""lm-eval's own command line, with gritlm as one of its models.

lm-eval has a table of its models and finds no others by itself (no entry points), so the model is
registered in the process that runs the command line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import get_model, model_registry

from gritlm.errors import UnknownArgumentError, did_you_mean
from gritlm.evaluation.generation.harness import GritLMHarness
from gritlm.lm.gritlm import GritLM

log = logging.getLogger(__name__)

NAME = "gritlm"
_ARGUMENTS = ("pretrained", "adapter", "dtype", "device", "batch_size", "max_batch_size")


class LmEvalGritLM(GritLMHarness):
    """The model ``gritlm`` of lm-eval.

    Args:
        pretrained: folder or hub id, ``default`` or ``base``.
        adapter: folder or hub id of a LoRA adapter.
        dtype: data type of the weights; None for the fastest on this machine.
        device: device of the model; None for the best one available.
        batch_size: ignored, and reported: batches are bounded by tokens and by memory.
        max_batch_size: ignored like ``batch_size``.
        others: unknown arguments, which are refused.

    Raises:
        UnknownArgumentError: for another argument.
    """

    def __init__(
        self,
        pretrained: str = "default",
        *,
        adapter: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        **others: Any,
    ) -> None:
        for name in others:
            raise UnknownArgumentError(
                f"--model_args has the unknown name {name!r}{did_you_mean(name, _ARGUMENTS)}"
            )
        if batch_size not in (None, 1, "1", "auto") or max_batch_size is not None:
            log.warning("the batch size is ignored: batches are bounded by tokens and memory")
        model = GritLM(pretrained, mode="generative", adapter=adapter, dtype=dtype, device=device)
        super().__init__(model, progress=True)


def register() -> None:
    """Make ``gritlm`` a model of lm-eval in this process."""
    if NAME not in model_registry:
        get_model("dummy")  # lm-eval registers its own models first
        model_registry.register(NAME, target=LmEvalGritLM)


def main(arguments: Sequence[str]) -> None:
    """Run lm-eval's command line.

    Args:
        arguments: its arguments: ``run --model gritlm --model_args pretrained=... --tasks ...``.
    """
    register()
    with patch.object(sys, "argv", ["lm-eval", *arguments]):
        cli_evaluate()
