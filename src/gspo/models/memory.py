"""How the process's allocator treats the memory of freed tensors, on a CPU."""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["keep_freed_memory"]

# mallopt's parameters (malloc.h)
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_PAD_BYTES = 64 * 2**20

# Set by a user, these say what the allocator should do; then it is left alone.
_VARIABLES = (
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "GLIBC_TUNABLES",
)


def keep_freed_memory() -> bool:
    """Lets glibc keep what tensors free for the next ones, instead of handing it back to the kernel.

    A training step frees and takes the same large tensors over and over. glibc maps each of them anew, and the kernel
    clears every page of it at first touch, which takes several times as long as the arithmetic of an elementwise
    operation. The peak of the memory is the same; it stays with the process between steps.

    Returns:
        whether it was set: on Linux with glibc, where no environment variable says otherwise.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _VARIABLES):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _PAD_BYTES))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
