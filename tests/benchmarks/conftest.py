"""The scripts of benchmarks/ as modules, and workloads small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def tiny() -> Any:
    """A workload of 2 prompts x 3 responses on a model of 2 layers."""
    from workloads import Workload

    return Workload(
        "tiny", hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=48, vocab_size=64,
        tied=False, num_prompts=2, n=3, prompt_lengths=(3, 6), max_tokens=7, end_rate=0.25, mini_batches=2,
    )  # fmt: skip
