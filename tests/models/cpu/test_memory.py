"""The allocator keeps freed tensors: checked by page faults, in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from gspo.models.cpu import memory

# The file alone, without the package around it: a process that starts in a second, not in five.
LOAD = f"""
import runpy
keep_freed_memory = runpy.run_path({str(Path(memory.__file__))!r})["keep_freed_memory"]
"""

SCRIPT = """
import resource, sys, torch
if sys.argv[1] == "keep":
    assert keep_freed_memory()
a = torch.ones(12_000_000)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        b = a * 2.0
        del b
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", LOAD + SCRIPT, how], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_a_freed_tensor_is_used_again_without_a_page_fault() -> None:
    usual = faults("leave")
    if usual == 0:
        pytest.skip("this kernel counts no page faults")
    assert faults("keep") < usual / 20


HUGE = """
import torch
assert keep_freed_memory()
a = torch.ones(50_000_000)
heap = open("/proc/self/smaps").read().split("[heap]")[1:]
print(sum(int(line.split()[1]) for part in heap for line in part.splitlines()[:25] if line.startswith("AnonHugePages")))
"""


def test_large_tensors_lie_on_huge_pages_where_the_kernel_gives_them() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if platform.libc_ver()[0] != "glibc" or not setting.is_file() or "[never]" in setting.read_text():
        pytest.skip("no huge pages on this machine")
    done = subprocess.run([sys.executable, "-c", LOAD + HUGE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100_000  # of 200 MB, in kB


def test_what_the_environment_says_of_the_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not memory.keep_freed_memory()
