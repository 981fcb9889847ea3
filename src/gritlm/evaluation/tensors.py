"""What files of weights hold, read from their headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

from gritlm.errors import ModelError


def sizes(weights: Sequence[Path]) -> list[tuple[str, int]]:
    """Name and size of each tensor in some files.

    Raises:
        ModelError: for a file that is damaged.
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
