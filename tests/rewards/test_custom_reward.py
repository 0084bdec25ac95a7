import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gspo.groups import Group, Outcome
from gspo.rewards.base import RewardError
from gspo.rewards.custom import CustomScorer, load_function

Make = Callable[..., Any]


def outcomes(path: Path, group: Group, timeout: float = 5.0, **kwargs: Any) -> list[Outcome]:
    scorer = CustomScorer(load_function(str(path), "compute_score", kwargs), kwargs, timeout)
    try:
        futures = [scorer.submit(group.prompt, response) for response in group.responses]
        return [future.result() for future in futures]
    finally:
        scorer.close()


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_verls_arguments_arrive(keyword: str, write_module: Make, make_group: Make) -> None:
    path = write_module(
        f"{keyword} compute_score(data_source, solution_str, ground_truth, extra_info, scale):\n"
        "    return {'score': scale * (solution_str == ground_truth), 'n': extra_info['n'], 'src': data_source == 's'}"
    )
    group = make_group("a", "b", data_source="s", ground_truth="a", extra_info={"n": 4})
    assert outcomes(path, group, scale=2) == [
        Outcome(2.0, {"n": 4.0, "src": 1.0}),
        Outcome(0.0, {"n": 4.0, "src": 1.0}),
    ]


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndef compute_score(**_): time.sleep(0.2); return 1",
        "import asyncio\nasync def compute_score(**_): await asyncio.sleep(0.2); return 1",
    ],
)
def test_calls_run_at_the_same_time(source: str, write_module: Make, make_group: Make) -> None:
    start = time.monotonic()
    assert outcomes(write_module(source), make_group(*"x" * 40)) == [Outcome(1.0)] * 40
    assert time.monotonic() - start < 3  # one after the other they take 8 s


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndef compute_score(solution_str, **_): time.sleep(2 * (solution_str == 'slow')); return 1",
        "from asyncio import sleep\n"
        "async def compute_score(solution_str, **_): await sleep(2 * (solution_str == 'slow')); return 1",
    ],
)
def test_a_slow_call_is_an_error_of_its_own(source: str, write_module: Make, make_group: Make) -> None:
    first, slow, last = outcomes(write_module(source), make_group("a", "slow", "b"), timeout=0.5)
    assert (first, last) == (Outcome(1.0), Outcome(1.0))
    assert slow.error is not None
    assert "timed out after 0.5 s" in slow.error


def test_a_coroutine_that_blocks_the_loop_is_reported_and_later_calls_work(
    write_module: Make, make_group: Make
) -> None:
    path = write_module(
        "import time\nasync def compute_score(solution_str, **_): time.sleep(3 * (solution_str == 'x')); return 1"
    )
    scorer = CustomScorer(load_function(str(path), "compute_score", {}), {}, 0.2)
    group = make_group("x", "a")
    assert scorer.submit(group.prompt, group.responses[0]).result() == Outcome(
        error="timed out after 0.2 s and blocked the event loop: await what takes long, or make it a plain def"
    )
    assert scorer.submit(group.prompt, group.responses[1]).result() == Outcome(1.0)
    scorer.close()


@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("return {}['k']", "KeyError: 'k' (mine.py, line 2)"),
        ("raise TimeoutError('its own')", "TimeoutError: its own (mine.py, line 2)"),
        ("return None", "returned None: return a number, or a dict with `score`"),
    ],
)
def test_failures_name_the_line(keyword: str, line: str, error: str, write_module: Make, make_group: Make) -> None:
    path = write_module(f"{keyword} compute_score(**_):\n    {line}\n")
    assert outcomes(path, make_group("a")) == [Outcome(error=error)]


def test_an_exit_is_an_error(write_module: Make, make_group: Make) -> None:
    path = write_module("def compute_score(**_):\n    raise SystemExit('bye')\n")
    assert outcomes(path, make_group("a")) == [Outcome(error="SystemExit: bye (mine.py, line 2)")]


def load_error(path: Path | str, name: str = "compute_score", **kwargs: Any) -> str:
    with pytest.raises(RewardError) as caught:
        load_function(str(path), name, kwargs)
    return str(caught.value)


def test_files_that_cannot_be_used(write_module: Make, tmp_path: Path) -> None:
    assert load_error("no.py") == (
        "custom_reward_function.path=no.py is not a file: name the Python file of your function"
    )
    assert load_error(write_module("", "a.txt")) == (
        f"custom_reward_function.path={tmp_path}/a.txt is not a Python file: it must end in .py"
    )
    path = write_module("x = 1\nx.y\n")
    assert (
        load_error(path) == f"{path} does not run: AttributeError: 'int' object has no attribute 'y' (mine.py, line 2)"
    )
    path = write_module("from math import sin\ndef score(): ...\ndef other(): ...\n", "two.py")
    assert load_error(path) == (
        f"{path} has no function 'compute_score'; its functions: score, other: set custom_reward_function.name"
    )
    path = write_module("def compute_score(text): ...\n", "args.py")
    message = load_error(path)
    assert all(part in message for part in (str(path), "compute_score", "solution_str", "'text'", "**kwargs"))
    path = write_module("def compute_score(**_): ...\n", "any.py")
    message = load_error(path, ground_truth=1)
    assert all(part in message for part in ("custom_reward_function", "'ground_truth'", "remove it"))
