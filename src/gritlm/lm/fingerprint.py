"""Fingerprint of a decoder's weights, by which KV blocks of other weights are refused."""

from __future__ import annotations

import hashlib
from itertools import chain

import torch
from torch import nn

from gritlm.lm.adapters.plain import merged_parameters


def fingerprint(decoder: nn.Module) -> str:
    """Return a hash of name, shape, dtype and up to 64 values of every parameter.

    Of a parameter that processes share, it covers the part of this process: its KV blocks have the
    heads of this process only.
    """
    digest = hashlib.blake2b(digest_size=8)
    whole_numbers = ((n, b) for n, b in decoder.named_buffers() if b.dtype == torch.int8)
    for name, parameter in chain(merged_parameters(decoder), whole_numbers):
        tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        flat = tensor.detach().flatten()
        step = max(1, flat.numel() // 64)
        values = flat[::step][:64].to("cpu", torch.float32) if flat.device.type != "meta" else None
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(b"" if values is None else values.numpy().tobytes())
    return digest.hexdigest()
