from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gspo.groups import Group, Prompt, Response


@pytest.fixture
def make_group() -> Callable[..., Group]:
    """A prompt with responses of these texts, one token for each letter."""

    def make(*texts: str, data_source: str = "openai/gsm8k", ground_truth: Any = "72", **prompt: Any) -> Group:
        asked = Prompt("f:0", (1,), "q", data_source, ground_truth, **prompt)
        return Group(asked, [Response([1] * len(text), [0.0] * len(text), text, "stop") for text in texts])

    return make


@pytest.fixture
def write_module(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "mine.py") -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The clock of a comparison may strike within a callback of Python's own, which reports it; it strikes again."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
