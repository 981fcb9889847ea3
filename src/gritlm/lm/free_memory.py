"""Free memory of the machine."""

from __future__ import annotations


def free_memory() -> int:
    """Return the bytes of main memory that are free, or can be freed without swapping."""
    import psutil  # missing where only the GPU is used

    return int(psutil.virtual_memory().available)
