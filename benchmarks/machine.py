"""What the machine gives right now: its matrix products and its memory bandwidth, in a process of their own.

python benchmarks/machine.py --threads 2
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

__all__ = ["main", "measure_machine", "peak_memory_mb"]

_SIZE = 2048  # of the square matrices
_COPIED = 256 * 2**20  # bytes: more than any last-level cache


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB of 10^6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure_machine(threads: int) -> dict[str, float]:
    """The figures of `main`, measured in a new process, so that its memory is not this one's."""
    command = [sys.executable, str(Path(__file__)), "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def matmul_gflops(size: int = _SIZE, repeats: int = 7) -> float:
    """GFLOP/s of a float32 product of two square matrices, the best of several."""
    left, right, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    return 2 * size**3 / _best(lambda: torch.mm(left, right, out=out), repeats) / 1e9


def onednn_gflops(size: int = _SIZE, repeats: int = 7) -> float:
    """The same by oneDNN, which PyTorch does not take by itself: what the processor can do. 0 where it is missing."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return 0.0
    product = torch.ops.mkldnn._linear_pointwise
    return 2 * size**3 / _best(lambda: product(left, right, None, "none", [], ""), repeats) / 1e9


def copy_gbytes(size: int = _COPIED, repeats: int = 7) -> float:
    """GB/s of a copy, read and written bytes together, the best of several."""
    source, target = torch.ones(size // 4), torch.empty(size // 4)
    return 2 * size / _best(lambda: target.copy_(source), repeats) / 1e9


def _best(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):  # the first is a warm-up
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures as one JSON line."""
    parser = argparse.ArgumentParser(description="Measure matrix products and memory bandwidth.")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    figures = {
        "matmul_gflops": matmul_gflops(),
        "onednn_gflops": onednn_gflops(),
        "copy_gbytes_per_s": copy_gbytes(),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
