"""Date, command, library versions and machine of an evaluation."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gritlm import __version__

LIBRARIES = ("torch", "transformers", "mteb", "lm-eval", "sentence-transformers")


def about(command: str = "") -> dict[str, Any]:
    """Return the date, the command, the versions and the machine of this process.

    Args:
        command: command line of the evaluation.
    """
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    versions = {name: library_version(name) for name in LIBRARIES}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": {
            "gritlm": __version__,
            **{name: found for name, found in versions.items() if found},
            "python": platform.python_version(),
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": _cores(),
            "threads": torch.get_num_threads(),
            "memory_gib": _memory(),
            **({"gpu": ", ".join(gpus)} if gpus else {}),
        },
    }


def library_version(name: str) -> str:
    """Return the version of an installed library; empty if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def _cores() -> int:
    """Return the number of cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> float | None:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return round(total / 2**30, 1)
