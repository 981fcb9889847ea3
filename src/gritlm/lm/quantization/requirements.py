"""Formats of quantised weights, what each needs, and how it is loaded.

int8 and int4 on a CPU are gritlm's own layers. On a GPU, transformers quantises while it loads, by
bitsandbytes (int8, nf4) or its own kernels (fp8).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch

from gritlm.distribution import install_hint
from gritlm.errors import InputError, MissingExtraError, ModelError

FORMATS = ("int8", "int4", "nf4", "fp8")
_ON_CPU = ("int8", "int4")
_ON_GPU = ("int8", "nf4", "fp8")
_CPU_DTYPES = (torch.bfloat16, torch.float32)
_FP8_CAPABILITY = (8, 9)  # of Ada and Hopper, the first GPUs that multiply fp8


def require(
    quantization: str, target: torch.device, options: Mapping[str, Any], *, adapter: str | None
) -> None:
    """Refuse a format that this machine lacks, or that the other options exclude.

    Args:
        quantization: the format.
        target: device of the model.
        options: options of ``from_pretrained``.
        adapter: adapter that is merged when loading; None without one.

    Raises:
        InputError: for options that do not go together.
        ModelError: for a format that this machine lacks.
        MissingExtraError: when bitsandbytes is needed and not installed.
    """
    asked = f"quantization={quantization!r}"
    if options.get("quantization_config") is not None:
        raise InputError(f"{asked} and quantization_config: give one of the two")
    if target.type == "cpu":
        _require_cpu(quantization, asked, options)
    elif target.type == "cuda":
        _require_gpu(quantization, asked, target)
        if adapter is not None:
            raise InputError(
                f"{asked} on a GPU and an adapter ({adapter}): transformers quantises before an "
                "adapter could be merged; write the merged folder with gritlm export, and load that"
            )
    else:
        raise ModelError(f"{asked}: no format runs on {target.type}; take device='cpu'")


def require_dtype(quantization: str, dtype: Any) -> None:
    """Refuse a dtype that the layers of the CPU do not take.

    Raises:
        InputError: for another dtype than bfloat16 and float32.
    """
    if dtype not in _CPU_DTYPES:
        name = str(dtype).removeprefix("torch.")
        raise InputError(
            f"quantization={quantization!r} and dtype={name!r}: quantised layers on a CPU take "
            "bfloat16 and float32"
        )


def require_unquantized(config: Any, quantization: str, source: str) -> None:
    """Refuse to quantise a checkpoint that is quantised already.

    Raises:
        InputError: for such a checkpoint.
    """
    found = getattr(config, "quantization_config", None)
    if found is not None:
        method = found.get("quant_method") if isinstance(found, dict) else found
        raise InputError(
            f"{source}: its weights are quantised already ({str(method)[:40]}); leave "
            f"quantization={quantization!r} out"
        )


def loading_options(
    quantization: str, target: torch.device, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options of ``from_pretrained`` for a format; none for the layers of the CPU."""
    if target.type == "cpu":
        return {}
    from transformers import BitsAndBytesConfig, FineGrainedFP8Config

    device_map = options.get("device_map") or {"": target}
    if quantization == "fp8":
        config: Any = FineGrainedFP8Config()
    elif quantization == "nf4":
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    else:
        config = BitsAndBytesConfig(load_in_8bit=True)
    return {"quantization_config": config, "device_map": device_map}


def _require_cpu(quantization: str, asked: str, options: Mapping[str, Any]) -> None:
    if quantization not in _ON_CPU:
        needs = "and bitsandbytes" if quantization == "nf4" else "of compute capability 8.9"
        raise ModelError(
            f"{asked} needs a CUDA GPU {needs}, and the device is a CPU; take int8 or int4"
        )
    if options.get("device_map") is not None:
        raise InputError(
            f"{asked} and device_map={str(options['device_map'])[:60]!r}: on a CPU there is one "
            "device; leave device_map out"
        )


def _require_gpu(quantization: str, asked: str, target: torch.device) -> None:
    if quantization not in _ON_GPU:
        raise ModelError(f"{asked} runs on a CPU only; on a GPU take nf4, or pass device='cpu'")
    if quantization == "fp8":
        found = torch.cuda.get_device_capability(target)
        if found < _FP8_CAPABILITY:
            raise ModelError(
                f"{asked} needs a GPU of compute capability 8.9 or higher, this one has "
                f"{found[0]}.{found[1]}; take int8 or nf4"
            )
    elif find_spec("bitsandbytes") is None:
        raise MissingExtraError(f"{asked} on a GPU needs bitsandbytes: {install_hint('gpu')}")
