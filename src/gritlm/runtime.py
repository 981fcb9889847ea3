"""The machine: device, number format and the reason for it, cache folder, files written whole.

torch is imported inside the functions, so that the CLI starts without it.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from gritlm.errors import InputError

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")
_TEMPORARY = ".tmp"


@dataclass(frozen=True)
class DeviceChoice:
    """A number format and why it was chosen."""

    dtype: torch.dtype
    reason: str


def bound_kernel_caches() -> None:
    """For a process that reads texts of every length; before anything is multiplied.

    torch and oneDNN keep what they made for each shape, a thousand shapes each: some hundreds of
    MB in a server. What the user has set stays.
    """
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")


def give_back_memory() -> None:
    """For a process that reads texts of every length: free memory goes back to the system.

    Tensors of ever other sizes leave the heap of glibc in pieces, which it keeps. Of no effect with
    another C library or allocator.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
        if trim is not None:
            trim(0)


def in_a_thread_of_its_own(run: Callable[[], _T]) -> _T:
    """What ``run`` gives, and no threads of OpenMP left behind by it.

    OpenMP keeps a team of threads for every thread that has multiplied. With two teams there are
    more threads than cores, and all of them wait by sleeping: a step of the server took 60 ms
    instead of 35 (docs/log.md). A thread that has ended has no team.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(run).result()


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, else the first of CUDA, MPS and CPU that is there.

    Raises:
        InputError: when the device asked for does not exist on this machine.
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
    """bfloat16 where the hardware multiplies it natively, else float32 (float16 on MPS).

    Emulated bfloat16 on a CPU is slower than float32, so it is never chosen there.
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
    """Whether this CPU has bfloat16 dot products (AVX-512 BF16, AMX, or Arm BF16)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    words = set(flags.split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def cache_dir() -> Path:
    """Folder for downloaded and converted models.

    ``GRITLM_CACHE`` if set, else ``$XDG_CACHE_HOME/gritlm``, else ``~/.cache/gritlm``.

    Raises:
        InputError: where the variable is empty.
    """
    if (folder := os.environ.get("GRITLM_CACHE")) is not None:
        if not folder.strip():
            raise InputError("GRITLM_CACHE is set but empty; name a folder, or unset it")
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "gritlm"


def private_folder(path: Path) -> None:
    """Make a folder that this user alone may enter; one that is there stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)


def file_mode(folder: Path) -> int:
    """Return the mode of new files of a folder: its own, without the right to run them."""
    return folder.stat().st_mode & 0o666


def sync(path: Path) -> None:
    """Make a file durable, or the names of new, renamed and removed files of a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends well.

    On any error, and on ctrl-C, it is removed and what was at ``path`` stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}{_TEMPORARY}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(name: str, *, of: Collection[str]) -> bool:
    """Whether a file's name is one that :func:`replacing` gives, for a file of these names."""
    known = re.fullmatch(rf"\.(.+)\.[0-9a-f]{{32}}{re.escape(_TEMPORARY)}", name)
    return known is not None and known[1] in of
