"""How the process's allocator treats the memory of freed tensors, on a CPU."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

__all__ = ["keep_freed_memory"]

# mallopt's parameters (malloc.h); a threshold of -1 hands nothing back.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_PAD_BYTES = 64 * 2**20

_HUGE_PAGES = 14  # madvise's MADV_HUGEPAGE (mman.h)
_HUGE_PAGE_BYTES = 2 * 2**20

# Set by a user, these say what the allocator should do; then it is left alone.
_VARIABLES = (
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "GLIBC_TUNABLES",
)


def keep_freed_memory() -> bool:
    """Lets glibc keep what tensors free for the next ones, and asks the kernel for huge pages for them.

    A training step frees and takes the same large tensors over and over. glibc maps each of them again, and the kernel
    clears every page of it at first touch, which takes several times as long as the arithmetic of an elementwise
    operation. The peak of the memory is the same; it stays with the process between steps. Weights that are read from
    one end to the other, token after token, are read faster from pages of 2 MB than from pages of 4 KB.

    Returns:
        whether it was set: on Linux with glibc, where no environment variable says otherwise.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _VARIABLES):
        return False
    return _set_up()


@cache
def _set_up() -> bool:
    libc = ctypes.CDLL(None)
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _PAD_BYTES))
    if not all(libc.mallopt(parameter, value) == 1 for parameter, value in settings):
        return False
    _ask_for_huge_pages(libc, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return True


def _ask_for_huge_pages(libc: ctypes.CDLL, room: int) -> None:
    """Marks the heap's next `room` bytes: taken and given back at once, they take addresses and no memory."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = libc.malloc(room)
    if start is None:  # a limit on addresses: the heap grows as it does without
        return
    aligned = -(-start // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
    libc.madvise(aligned, room - (aligned - start), _HUGE_PAGES)
    libc.free(start)
