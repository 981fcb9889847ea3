"""The model of a run as one object, also while its weights are sharded over the processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from gritlm.lm.gritlm import GritLM
from gritlm.train.model.build import TrainingParts
from gritlm.train.run import checkpoint, parallel


@contextmanager
def whole_model(parts: TrainingParts, module: Any) -> Iterator[GritLM | None]:
    """Provide the model to evaluate; all processes enter the context.

    Sharded weights are gathered in the main memory of the main process, written to a temporary
    folder and loaded again, so it needs memory for the whole model once more.

    Args:
        parts: model, tokenizer and settings.
        module: the trained module, possibly wrapped by DDP or FSDP2.

    Yields:
        The model in the main process; None in the others.
    """
    sharded = parallel.is_sharded(module)
    state = checkpoint.whole_weights(module)
    trainee = parts.trainee
    if not parallel.is_main():
        yield None
    elif not sharded:
        yield GritLM.around(
            trainee.causal,
            parts.tokenizer,
            parts.settings,
            trainee.projection,
            senses=trainee.senses,
        )
    else:
        with TemporaryDirectory() as folder:
            checkpoint.write_model(Path(folder), parts, state)
            yield GritLM(folder, device=str(trainee.device), dtype=_dtype(parts))


def write_merged(folder: Path, parts: TrainingParts, state: Mapping[str, Tensor]) -> None:
    """Write full weights with the adapter of a sharded run merged, in the main process.

    Args:
        folder: existing folder to write to.
        parts: model, tokenizer and settings.
        state: gathered weights of the trainee.
    """
    with TemporaryDirectory() as adapter:
        checkpoint.write_model(Path(adapter), parts, state)
        GritLM(adapter, device="cpu", dtype=_dtype(parts)).save_pretrained(folder)


def _dtype(parts: TrainingParts) -> str:
    """Return the data type of the base's weights."""
    weight = parts.trainee.decoder.get_input_embeddings().weight
    return str(weight.dtype).removeprefix("torch.")
