"""Device and dtype selection, memory settings, cache folder and permissions of files.

torch is imported inside the functions, so that the CLI starts without it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gritlm.errors import InputError

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")


@dataclass(frozen=True)
class DeviceChoice:
    """A dtype and the reason for it."""

    dtype: torch.dtype
    reason: str


def bound_kernel_caches() -> None:
    """Limit the kernel caches of torch and oneDNN to 64 shapes each.

    By default each keeps kernels for about a thousand shapes, some hundreds of MB in a server that
    reads texts of every length. Call this before the first matrix product. Variables that the user
    has set are kept.
    """
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")


def give_back_memory() -> None:
    """Return free heap memory to the system, in a process that reads texts of every length.

    Tensors of many sizes fragment the heap of glibc, which keeps the fragments. There is no effect
    with another C library or allocator.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # in glibc only
        if trim is not None:
            trim(0)


def limit_process(memory: int, seconds: float) -> None:
    """Limit the memory and the CPU time of this process, which ends beyond them.

    There is no effect on Windows.

    Args:
        memory: most bytes of its addresses.
        seconds: most seconds of CPU time.
    """
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))


def in_a_thread_of_its_own(run: Callable[[], _T]) -> _T:
    """Return the result of ``run``, called in a new thread that leaves no OpenMP threads behind.

    OpenMP keeps a team of threads for every thread that has computed a matrix product. With two
    teams there are more threads than cores, and waiting threads sleep instead of spinning: a step
    of the server took 60 ms instead of 35 ms (docs/log.md). The team ends with its thread.

    Args:
        run: function without arguments.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(run).result()


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return ``device``, or by default the first available of CUDA, MPS and CPU.

    Args:
        device: device or its name; None selects one.

    Raises:
        InputError: for an unknown device, or one that this machine does not have.
    """
    import torch

    if device is None:
        return torch.device(_best_device())
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device={device!r} is no device: {error}") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device={str(device)!r}: this torch sees no CUDA device; use device='cpu'"
        )
    return found


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_dtype(device: torch.device) -> DeviceChoice:
    """Return the fastest dtype of a device, with the reason.

    It is bfloat16 if the hardware multiplies it natively. Otherwise it is float16 on a GPU and on
    MPS, and float32 on a CPU, where emulated bfloat16 is slower than float32.
    """
    import torch

    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return DeviceChoice(torch.bfloat16, "this GPU multiplies bfloat16 natively")
        return DeviceChoice(torch.float16, "this GPU has no native bfloat16")
    if device.type == "mps":
        return DeviceChoice(torch.float16, "the precision MPS is fastest in")
    if cpu_has_bfloat16():
        return DeviceChoice(
            torch.bfloat16, "this CPU multiplies bfloat16 natively (avx512_bf16 or amx)"
        )
    return DeviceChoice(torch.float32, "this CPU has no native bfloat16")


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU has bfloat16 dot products (AVX-512 BF16, AMX, or Arm BF16)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    words = set(flags.split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def cache_dir() -> Path:
    """Return the folder for downloaded and converted models.

    It is ``$GRITLM_CACHE`` if set, else ``$XDG_CACHE_HOME/gritlm``, else ``~/.cache/gritlm``.

    Raises:
        InputError: for an empty ``GRITLM_CACHE``.
    """
    if (folder := os.environ.get("GRITLM_CACHE")) is not None:
        if not folder.strip():
            raise InputError("GRITLM_CACHE is set but empty; name a folder, or unset it")
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "gritlm"


def private_folder(path: Path) -> None:
    """Create a folder that only this user can access; an existing folder is not changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)


def file_mode(folder: Path) -> int:
    """Return the permissions for new files of a folder: its own, without execution."""
    return folder.stat().st_mode & 0o666
