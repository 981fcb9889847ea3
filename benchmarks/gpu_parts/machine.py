"""The machine of the GPU benchmark, and the models of its parts."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch
from tests import tiny
from transformers import AutoModelForCausalLM, MistralConfig

from benchmarks.gpu_parts.reporting import SkippedError
from gritlm import GritLM
from gritlm.errors import GritLMError
from gritlm.lm.hub.model_config import ModelSettings

T = TypeVar("T")
VOCABULARY = 32_000
LONGEST = 40_960  # tokens of a prompt: a document of 32k, a question and an answer


@dataclass(frozen=True)
class Machine:
    """Where a part runs.

    Attributes:
        folder: folder for models and runs.
        rehearse: whether tiny shapes on the CPU stand for the real ones.
        seconds: time of the part.
        started: begin of the part, by ``time.monotonic``.
    """

    folder: Path
    rehearse: bool
    seconds: float = 60.0
    started: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.rehearse else torch.bfloat16

    @property
    def left(self) -> float:
        """Seconds of the part that are left."""
        return self.seconds - (time.monotonic() - self.started)

    def pick(self, real: T, rehearsed: T) -> T:
        """Return the value for a GPU, or the one of a rehearsal."""
        return rehearsed if self.rehearse else real

    def require_time(self, seconds: float) -> None:
        """Skip a check that would not fit.

        Raises:
            SkippedError: with the seconds that are left.
        """
        needed = self.pick(seconds, 0.0)
        if self.left < needed:
            raise SkippedError(f"{self.left:.0f} s are left, it takes some {needed:.0f} s")

    def synchronize(self) -> None:
        """Wait until the device has done all work."""
        if not self.rehearse:
            torch.cuda.synchronize()

    def seconds_of(self, run: Callable[[], object], *, repeats: int, warmups: int = 1) -> float:
        """Return the median of the seconds that a call takes, after some calls without a clock."""
        taken = []
        for turn in range(warmups + repeats):
            self.synchronize()
            start = time.perf_counter()
            run()
            self.synchronize()
            if turn >= warmups:
                taken.append(time.perf_counter() - start)
        return sorted(taken)[len(taken) // 2]


def release() -> None:
    """Give memory of deleted models back to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def mistral(machine: Machine, layers: int) -> MistralConfig:
    """Return the configuration of Mistral-7B with fewer layers and no window."""
    common = {
        "num_hidden_layers": layers,
        "max_position_embeddings": LONGEST,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    real = {
        "vocab_size": VOCABULARY,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    }
    rehearsed = {
        "vocab_size": 400,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return MistralConfig(**common | machine.pick(real, rehearsed))


def in_memory(machine: Machine, layers: int) -> GritLM:
    """Return a model of Mistral-7B's shape with random weights; no file is written."""
    torch.manual_seed(0)
    with torch.device(machine.device):
        model = AutoModelForCausalLM.from_config(mistral(machine, layers), dtype=machine.dtype)
    settings = ModelSettings(template="tokenizer", max_length=512)
    return GritLM.around(model.eval(), tiny.tokenizer(), settings)


def folder_of(machine: Machine, layers: int) -> Path:
    """Return the folder of such a model, written at the first call."""
    place = machine.folder / f"mistral-{layers}"
    if not place.exists():
        model = in_memory(machine, layers)
        unfinished = place.with_suffix(".unfinished")
        model.model.save_pretrained(unfinished)
        model.tokenizer.save_pretrained(unfinished)
        model.settings.save(unfinished)
        unfinished.rename(place)
    return place


def wide_folder(machine: Machine) -> Path:
    """Return the folder of a tiny model with heads of 64, which every flash kernel takes."""
    place = machine.folder / "wide"
    if not place.exists():
        tiny.folder(place, hidden_size=256, num_attention_heads=4, head_dim=64)
    return place


def default_model(machine: Machine, **options: object) -> GritLM:
    """Return the default model.

    Raises:
        SkippedError: where its files are not in the cache.
    """
    from gritlm.lm.hub import default_model as files

    if not files.is_cached():
        raise SkippedError("the default model is not in the cache; run gritlm pull")
    return GritLM(device=machine.device, **options)


@lru_cache
def measured_tflops(device: str, dtype: torch.dtype, size: int) -> float:
    """Return the TFLOP/s of square matrix products of a device, measured now."""
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    rounds = 20
    for turn in range(2):
        start = time.perf_counter()
        for _ in range(rounds):
            one @ other
        if device == "cuda":
            torch.cuda.synchronize()
        taken = time.perf_counter() - start
        if turn:
            break
    return rounds * 2 * size**3 / taken / 1e12


def utilisation(machine: Machine, flops_a_second: float) -> str:
    """Return the share of the peak of the device, by its data sheet and as measured now."""
    from benchmarks.common import peak_tflops

    size = machine.pick(8192, 256)
    measured = measured_tflops(machine.device, machine.dtype, size)
    shares = [f"{flops_a_second / measured / 1e12:.1%} of {measured:.3g} TFLOP/s measured"]
    if peak := peak_tflops():
        shares.insert(0, f"{flops_a_second / peak / 1e12:.1%} of {peak:g} TFLOP/s by data sheet")
    return ", ".join(shares)


def body_parameters(model: GritLM) -> int:
    """Return the number of parameters of the decoder without its embeddings."""
    decoder = model.lm.decoder
    every = sum(parameter.numel() for parameter in decoder.parameters())
    return every - decoder.get_input_embeddings().weight.numel()


def explained(error: GritLMError) -> SkippedError:
    """Return the reason of a library that is missing, as a skipped check."""
    return SkippedError(str(error).splitlines()[0])
