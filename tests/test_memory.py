"""Memory that is free goes back to the system."""

from __future__ import annotations

import ctypes
import platform

import psutil
import pytest

from gritlm.runtime import give_back_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps what is freed")
def test_what_is_free_in_the_heap_goes_back():
    libc, process, size = ctypes.CDLL(None), psutil.Process(), 64 * 1024
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [libc.malloc(size) for _ in range(4000)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    held = process.memory_info().rss
    for block in blocks[:-1]:  # the last one keeps the heap from shrinking by itself
        libc.free(block)
    give_back_memory()
    assert held - process.memory_info().rss > len(blocks) * size / 2
    libc.free(blocks[-1])
