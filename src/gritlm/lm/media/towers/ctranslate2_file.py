"""Reader of CTranslate2's model files (model.bin), in which Whisper's weights are packaged."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from gritlm.errors import ModelError

# CTranslate2's DataType, in its order: float32, int8, int16, int32, float16.
_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
_VERSION = 6


def read_weights(path: Path, *, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a model file whose names begin with a prefix, without the prefix.

    Args:
        path: the file.
        prefix: beginning of the names, such as ``encoder/``.

    Raises:
        ModelError: for a file of another version, of another kind, or that ends too early.
    """
    found = {}
    try:
        with path.open("rb") as file:
            version = _number(file, "I")
            if version != _VERSION:
                raise ModelError(f"{path}: CTranslate2 format {version}; expected {_VERSION}")
            _text(file)  # name of the specification
            _number(file, "I")  # revision of the specification
            for _ in range(_number(file, "I")):
                name = _text(file)
                tensor = _tensor(file)
                if name.startswith(prefix):
                    found[name.removeprefix(prefix)] = tensor
    except (struct.error, UnicodeDecodeError, IndexError, ValueError) as error:
        raise ModelError(
            f"{path}: not a whole CTranslate2 model ({error}); fetch it again"
        ) from None
    return found


def _number(file: BinaryIO, form: str) -> int:
    packed = file.read(struct.calcsize(f"<{form}"))
    return int(struct.unpack(f"<{form}", packed)[0])


def _text(file: BinaryIO) -> str:
    return file.read(_number(file, "H"))[:-1].decode()


def _tensor(file: BinaryIO) -> Tensor:
    shape = [_number(file, "I") for _ in range(_number(file, "B"))]
    dtype = _DTYPES[_number(file, "B")]
    values = np.frombuffer(file.read(_number(file, "I")), dtype=dtype)
    return torch.from_numpy(values.reshape(shape).copy())
