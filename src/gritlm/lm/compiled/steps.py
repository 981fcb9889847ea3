"""Compiled steps of decoding for a model, by several threads; needs numba.

Shapes: R rows, D hidden size, E head dimension, V vocabulary, L layers, S outputs of a layer.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gritlm import runtime
from gritlm.lm.quantization.layers import QuantizedLinear
from gritlm.lm.quantization.matrices import Int8Weight

log = logging.getLogger(__name__)

# Most rows of a step: for more, products of matrices are faster. Quantised layers have others.
_ROWS = {torch.float32: 4, torch.bfloat16: 4, torch.int8: 8}
_LANES = 16  # every size has to be a multiple of it
_FAMILIES = ("Llama", "Mistral")
_STORED = {torch.float32: np.float32, torch.bfloat16: np.uint16, torch.int8: np.int8}
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")


class CompiledStep:
    """Steps of a causal model whose weights are read where they are.

    Args:
        model: the model, which :func:`takes` accepts.

    Attributes:
        rows: most rows of a step.
    """

    def __init__(self, model: Any) -> None:
        from gritlm.lm.compiled.step_kernel import StepModel, StepRows, StepWork, step

        self._kernel = step
        self._rows = StepRows
        self._work = StepWork
        decoder = model.base_model
        config = decoder.config
        tables = [_matrices(layer) for layer in decoder.layers]
        head = _matrix(model.lm_head)
        norms = [decoder.norm.weight.detach()]
        addresses = []
        for layer, table in zip(decoder.layers, tables, strict=True):
            norms += [layer.input_layernorm.weight, layer.post_attention_layernorm.weight]
            (q, k, v, out, gate, up, down) = (values.data_ptr() for values, _ in table)
            first, second = (norm.data_ptr() for norm in norms[-2:])
            addresses.append([first, q, k, v, out, second, gate, up, down])
        self.rows = _ROWS[head[0].dtype]
        self._held = (tables, head, norms)  # the addresses are theirs
        self._embedding = decoder.embed_tokens.weight.detach()
        self._rotary = decoder.rotary_emb
        self._heads = config.num_attention_heads * decoder.layers[0].self_attn.head_dim
        self._inner = config.intermediate_size
        self._model = StepModel(
            weight=np.empty(0, _STORED[head[0].dtype]),
            plain=np.empty(0, _STORED[norms[0].dtype]),
            table_LC=np.array(addresses, np.int64),
            scale_LS=np.stack([np.concatenate([scale for _, scale in table]) for table in tables]),
            norm=norms[0].data_ptr(),
            head=head[0].data_ptr(),
            head_scale_V=head[1],
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            epsilon=np.float32(decoder.norm.variance_epsilon),
        )

    def logits(
        self,
        ids_R: Tensor,
        position_R: Tensor,
        cache: Sequence[Any],
        sequence_R: Sequence[int],
        place_R: Sequence[int],
        *,
        keep: int,
    ) -> Tensor:
        """Return the logits (keep, V) of the last rows; keys and values are written to the cache.

        Args:
            ids_R: token ids.
            position_R: their positions.
            cache: layers with the keys and values of all sequences, contiguous.
            sequence_R: index of the sequence of each row in the cache.
            place_R: index of each token in its sequence; rows attend to what is before.
            keep: number of last rows with logits.
        """
        x_RD = torch.nn.functional.embedding(ids_R, self._embedding).float()
        cos, sin = self._rotary(torch.empty(0), position_R[None])
        pairs = [(each.keys.data_ptr(), each.values.data_ptr()) for each in cache]
        logits = torch.empty(keep, len(self._model.head_scale_V))
        rows = self._rows(
            x_RD=x_RD.numpy(),
            cos_RE=cos[0].float().contiguous().numpy(),
            sin_RE=sin[0].float().contiguous().numpy(),
            cache_L2=np.array(pairs, np.int64),
            capacity=cache[0].keys.shape[2],
            sequence_R=np.array(sequence_R, np.int64),
            place_R=np.array(place_R, np.int64),
            logits_RV=logits.numpy(),
        )
        threads = torch.get_num_threads()
        work = self._memory(len(ids_R), x_RD.shape[1], max(place_R) + 1, threads)
        _run(self._kernel, (self._model, rows, work), threads)
        return logits.to(self._embedding.dtype)

    def _memory(self, rows: int, hidden: int, held: int, threads: int) -> Any:
        others = self._model.scale_LS.shape[1] - 2 * hidden - 2 * self._inner
        sizes = {"qkv": others, "mixed": self._heads, "gate": self._inner, "up": self._inner}
        return self._work(
            **{name: np.empty((rows, size), np.float32) for name, size in sizes.items()},
            normed_WRD=np.empty((threads, rows, hidden), np.float32),
            rounded_W=np.empty((threads, rows * max(hidden, self._inner, self._heads)), np.uint16),
            score_WT=np.empty((threads, held + _LANES), np.float32),
            counter=np.zeros(1, np.int64),
        )


def compiled_step(model: Any) -> CompiledStep | None:
    """Return the compiled steps of a model; None where they cannot be made."""
    if not takes(model):
        return None
    try:
        from numba.core import config

        setattr(config, "CACHE_DIR", str(_cache_dir()))  # noqa: B010 - untyped
        step = CompiledStep(model)
        step.logits(*_trial(model), keep=1)
        return step
    except Exception as error:  # a broken installation of numba may raise anything
        log.warning("steps of decoding are not compiled, numba cannot be used: %s", error)
        return None


def _trial(model: Any) -> tuple[Any, ...]:
    """Return the arguments of a step of one token, by which the code is compiled."""
    config = model.base_model.config
    heads = config.num_key_value_heads
    size = model.base_model.layers[0].self_attn.head_dim
    zero = torch.zeros(1, dtype=torch.long)
    empty = torch.zeros(1, heads, 1, size, dtype=model.dtype)
    layers = [SimpleNamespace(keys=empty, values=empty)] * config.num_hidden_layers
    return zero, zero, layers, [0], [0]


def _cache_dir() -> Path:
    """Return the folder of the machine code of these sources.

    numba compares the time of a file alone, not that of the files it imports.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    return runtime.cache_dir() / "compiled" / digest


def takes(model: Any) -> bool:
    """Return whether the steps of a model, which the lean pass knows, can be compiled here."""
    decoder = model.base_model
    family = type(decoder).__name__.removesuffix("Model")
    if family not in _FAMILIES or model is decoder or sys.platform == "win32":
        return False
    if any(each.device.type != "cpu" for each in model.parameters()):
        return False
    if not has_numba():
        return False
    linears = [each for each in model.modules() if isinstance(each, (nn.Linear, QuantizedLinear))]
    config = decoder.config
    head_size = decoder.layers[0].self_attn.head_dim
    return (
        getattr(config, "sliding_window", None) is None
        and not any(
            size % _LANES
            for size in (
                config.hidden_size,
                config.intermediate_size,
                head_size,
                model.lm_head.out_features,
            )
        )
        and all(_is_plain(each) for each in linears)
        and len({type(each) for each in linears}) == 1
    )


def has_numba() -> bool:
    """Return whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def _is_plain(linear: Any) -> bool:
    """Return whether a layer is a matrix that the step reads."""
    if getattr(linear, "bias", None) is not None:
        return False
    if isinstance(linear, QuantizedLinear):
        return linear.joint.bias is None and isinstance(linear.joint.weight, Int8Weight)
    return linear.weight.dtype in _STORED and linear.weight.is_contiguous()


def _matrices(layer: Any) -> list[tuple[Tensor, Any]]:
    """Return the matrices of a layer and their scales, in the order of the step."""
    linears = [getattr(layer.self_attn, name) for name in _ATTENTION]
    linears += [getattr(layer.mlp, name) for name in _MLP]
    return [_matrix(linear) for linear in linears]


def _matrix(linear: Any) -> tuple[Tensor, Any]:
    """Return the values of a matrix and the scale of each output."""
    if isinstance(linear, QuantizedLinear):
        return linear.get_buffer("values"), linear.scales.detach().float().numpy()
    values: Tensor = linear.weight.detach()
    return values, np.ones(len(values), np.float32)


_lock = threading.Lock()  # threads that wait for each other serve one step at a time
_helpers: dict[int, list[SimpleQueue[Any]]] = {}  # by process: a fork has none of the threads


def _run(kernel: Any, arguments: tuple[Any, ...], threads: int) -> None:
    """Call a kernel in several threads, of which the caller is one."""
    if threads == 1:
        kernel(*arguments, 0, 1)
        return
    with _lock:
        helpers = _helpers.setdefault(os.getpid(), [])
        while len(helpers) < threads - 1:
            requests: SimpleQueue[Any] = SimpleQueue()
            threading.Thread(target=_help, args=(requests,), daemon=True).start()
            helpers.append(requests)
        for number in range(1, threads):
            helpers[number - 1].put((kernel, (*arguments, number, threads)))
        kernel(*arguments, 0, threads)


def _help(requests: SimpleQueue[Any]) -> None:
    while True:
        kernel, arguments = requests.get()
        kernel(*arguments)
