"""Names and sizes of the tensors in weight files, read from the headers of the files."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

from gritlm.errors import ModelError


def sizes(weights: Sequence[Path]) -> list[tuple[str, int]]:
    """Return name and number of elements of each tensor in some safetensors files.

    Raises:
        ModelError: if a file is damaged or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    found = []
    for path in weights:
        try:
            with safe_open(path, framework="numpy") as file:
                names = file.keys()
                found += [(name, prod(file.get_slice(name).get_shape())) for name in names]
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{path}: truncated or damaged ({error}); get the model again"
            ) from None
    return found
