import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from messages import names

from gspo.groups import Group, Outcome
from gspo.rewards.base import RewardError
from gspo.rewards.custom import MAX_CALLS, FileScorer, InlineScorer
from gspo.rewards.loading import load_function
from gspo.rewards.workers import WorkerPool

Make = Callable[..., Any]


def file_scorer(path: Path, timeout: float = 5.0, max_memory_gb: float = 4.0, **kwargs: Any) -> FileScorer:
    pool = WorkerPool(2, timeout, max_memory_gb=max_memory_gb, most=MAX_CALLS, quiet=False)
    return FileScorer(str(path), "compute_score", kwargs, pool)


def inline_scorer(path: Path, timeout: float = 5.0, **kwargs: Any) -> InlineScorer:
    function = load_function(str(path), "compute_score", kwargs, like_a_script=False)
    return InlineScorer(function, "compute_score", kwargs, timeout)


def outcomes(make: Make, path: Path, group: Group, *settings: float, **kwargs: Any) -> list[Outcome]:
    scorer = make(path, *settings, **kwargs)
    try:
        futures = [scorer.submit(group.prompt, response) for response in group.responses]
        return [future.result() for future in futures]
    finally:
        scorer.close()


both = pytest.mark.parametrize("make", [file_scorer, inline_scorer], ids=["process", "inline"])


@both
@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_verls_arguments_arrive(keyword: str, make: Make, write_module: Make, make_group: Make) -> None:
    path = write_module(
        f"{keyword} compute_score(data_source, solution_str, ground_truth, extra_info, scale):\n"
        "    return {'score': scale * (solution_str == ground_truth), 'n': extra_info['n'], 'src': data_source == 's'}"
    )
    group = make_group("a", "b", data_source="s", ground_truth="a", extra_info={"n": 4})
    assert outcomes(make, path, group, scale=2) == [
        Outcome(2.0, {"n": 4.0, "src": 1.0}),
        Outcome(0.0, {"n": 4.0, "src": 1.0}),
    ]


WAITS = {
    "def": "import time\ndef compute_score(solution_str, **_): time.sleep({}); return 1",
    "async def": "from asyncio import sleep\nasync def compute_score(solution_str, **_): await sleep({}); return 1",
}


@both
@pytest.mark.parametrize("keyword", WAITS)
def test_calls_that_wait_run_at_the_same_time(keyword: str, make: Make, write_module: Make, make_group: Make) -> None:
    path, group = write_module(WAITS[keyword].format(0.2)), make_group(*"x" * 40)
    start = time.monotonic()
    assert outcomes(make, path, group) == [Outcome(1.0)] * 40
    assert time.monotonic() - start < 7  # one after the other they take 8 s


@both
def test_the_limit_of_calls_that_compute_does_not_count_their_queue(
    make: Make, write_module: Make, make_group: Make
) -> None:
    """24 times 0.1 s of work are more than the limit, on two processors too."""
    path = write_module(
        "import time\n"
        "def compute_score(**_):\n"
        "    start = time.thread_time()\n"
        "    while time.thread_time() - start < 0.1: pass\n"
        "    return 1\n"
    )
    assert outcomes(make, path, make_group(*"x" * 24), 1.0) == [Outcome(1.0)] * 24


@both
@pytest.mark.parametrize("keyword", WAITS)
def test_a_slow_call_is_an_error_of_its_own(keyword: str, make: Make, write_module: Make, make_group: Make) -> None:
    path = write_module(WAITS[keyword].format("2 * (solution_str == 'slow')"))
    first, slow, last = outcomes(make, path, make_group("a", "slow", "b"), 0.5)
    assert (first, last) == (Outcome(1.0), Outcome(1.0))
    assert names(slow.error, "compute_score", "timed out after 0.5 s", "reward.timeout")


HOLDS_THE_LOCK = {
    "a pattern": "import re\n{} compute_score(solution_str, **_):\n"
    "    return bool(re.match('(a|aa)+$', 'a' * 60 + '!' if solution_str == 'slow' else 'a'))",
    "a power": "{} compute_score(solution_str, **_):\n    return 9 ** (9 ** (9 if solution_str == 'slow' else 1)) % 2",
    "a loop": "{} compute_score(solution_str, **_):\n    while solution_str == 'slow': pass\n    return 1",
}


@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize("what", HOLDS_THE_LOCK)
def test_a_call_that_never_yields_is_stopped(what: str, keyword: str, write_module: Make, make_group: Make) -> None:
    path = write_module(HOLDS_THE_LOCK[what].format(keyword))
    start = time.monotonic()
    *sound, slow = outcomes(file_scorer, path, make_group(*"abcdef", "slow"), 0.5)
    assert sound == [Outcome(1.0)] * 6
    assert names(slow.error, "compute_score", "timed out after 0.5 s", "reward.timeout")
    assert time.monotonic() - start < 8


def test_a_coroutine_that_blocks_the_loop_inline_is_reported_and_later_calls_work(
    write_module: Make, make_group: Make
) -> None:
    path = write_module(WAITS["def"].replace("def", "async def").format("3 * (solution_str == 'x')"))
    scorer = inline_scorer(path, 0.2)
    group = make_group("x", "a")
    blocked = scorer.submit(group.prompt, group.responses[0]).result()
    assert names(blocked.error, "compute_score", "timed out after 0.2 s", "await what takes long")
    assert scorer.submit(group.prompt, group.responses[1]).result() == Outcome(1.0)
    scorer.close()


BAD = {
    "return {}['k']": ["KeyError: 'k'", "(mine.py, line 5)"],
    "raise TimeoutError('its own')": ["TimeoutError: its own", "(mine.py, line 5)"],
    "return None": ["returned None", "return a number"],
    "raise SystemExit('bye')": ["SystemExit: bye", "(mine.py, line 5)"],
    "raise Unspeakable": ["Unspeakable", "its text cannot be read, ZeroDivisionError", "(mine.py, line 5)"],
    "raise ValueError('two\\nlines')": ["ValueError: two lines"],
    "import json; json.loads('{')": ["JSONDecodeError", "(mine.py, line 5)"],
    "return 1e308": ["1e+308", "float32"],
    "return 10 ** 5000": ["inf", "finite"],
    "raise KeyboardInterrupt": ["KeyboardInterrupt"],
}
HEAD = "class Unspeakable(Exception):\n    def __str__(self): return 1 / 0\n"


@both
@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize("line", BAD)
def test_a_failure_names_function_cause_and_line_and_the_others_stay(
    line: str, keyword: str, make: Make, write_module: Make, make_group: Make
) -> None:
    path = write_module(
        f"{HEAD}{keyword} compute_score(solution_str, **_):\n    if solution_str == 'good': return 1\n    {line}\n"
    )
    first, bad, last = outcomes(make, path, make_group("good", "bad", "good"))
    assert (first, last) == (Outcome(1.0), Outcome(1.0))
    assert names(bad.error, "compute_score: ", *BAD[line])


@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("os._exit(0)", "ended by itself with code 0"),
        ("os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("sys.setrecursionlimit(10**8); deep = lambda *_: sorted([1], key=deep); deep()", "deeper than the stack"),
        ("threading.Thread(target=os._exit, args=(3,)).start(); time.sleep(5)", "ended by itself with code 3"),
        ("os.write(1, b'x'); os.closerange(3, 256); time.sleep(5)", "ended"),
        ("return float(len(bytearray(3 << 30)))", "reward.max_memory_gb"),
    ],
)
def test_what_ends_its_process_is_an_error_of_its_call(
    line: str, cause: str, keyword: str, write_module: Make, make_group: Make
) -> None:
    path = write_module(
        "import os, sys, threading, time\n"
        f"{keyword} compute_score(solution_str, **_):\n    if solution_str == 'good': return 1\n    {line}\n"
    )
    *sound, bad = outcomes(file_scorer, path, make_group(*["good"] * 6, "bad"), 5.0, 1.0)
    assert sound == [Outcome(1.0)] * 6
    assert names(bad.error, "compute_score: ", cause)


def test_memory_filled_by_small_objects_is_an_error_too(write_module: Make, make_group: Make) -> None:
    path = write_module(
        "def compute_score(solution_str, **_):\n"
        "    kept = []\n"
        "    while solution_str == 'bad': kept.append(str(len(kept)) * 100)\n"
        "    return 1\n"
    )
    bad, good = outcomes(file_scorer, path, make_group("bad", "good"), 20.0, 0.25)
    assert names(bad.error, "compute_score: ", "MemoryError", "(mine.py, line 3)", "reward.max_memory_gb")
    assert good == Outcome(1.0)


@both
@pytest.mark.parametrize(
    "source",
    [
        "class Judge:\n    async def __call__(self, **_): return 1\ncompute_score = Judge()",
        "from functools import partial\nasync def f(x, **_): return x\ncompute_score = partial(f, 1)",
        "from functools import partial\nclass Judge:\n    async def __call__(self, x, **_): return x\n"
        "compute_score = partial(Judge(), 1)",
        "class Judge:\n    async def judge(self, **_): return 1\ncompute_score = Judge().judge",
        "async def f(): return 1\ndef compute_score(**_): return f()",
        "compute_score = lambda **_: 1",
    ],
)
def test_callables_of_every_form(source: str, make: Make, write_module: Make, make_group: Make) -> None:
    assert outcomes(make, write_module(source), make_group("a", "b")) == [Outcome(1.0)] * 2


@both
def test_what_a_function_changes_is_its_own_copy(make: Make, write_module: Make, make_group: Make) -> None:
    path = write_module(
        "def compute_score(extra_info, ground_truth, words, **_):\n"
        "    size = len(extra_info['seen']) + len(ground_truth) + len(words)\n"
        "    for values in (extra_info['seen'], ground_truth, words): values.append(1)\n"
        "    return size\n"
    )
    group = make_group(*"abcd", ground_truth=[2], extra_info={"seen": [], "pair": (1, 2)})
    assert outcomes(make, path, group, words=["w"]) == [Outcome(2.0)] * 4
    assert group.prompt.extra_info == {"seen": [], "pair": (1, 2)}
    assert group.prompt.ground_truth == [2]


def test_values_arrive_with_their_own_types(write_module: Make, make_group: Make) -> None:
    path = write_module("def compute_score(extra_info, **_): return extra_info['pair'] == (1, b'2', {3}, None)")
    group = make_group("a", extra_info={"pair": (1, b"2", {3}, None)})
    assert outcomes(file_scorer, path, group) == [Outcome(1.0)]


def test_a_row_that_no_other_process_can_take_is_an_error(write_module: Make, make_group: Make) -> None:
    path = write_module("def compute_score(extra_info, **_): return 1")
    (outcome,) = outcomes(file_scorer, path, make_group("a", extra_info={"f": lambda: 1}))
    assert names(outcome.error, "compute_score", "row", "custom_reward_function.inline=true")


def test_forks_and_threads_of_a_function(write_module: Make, make_group: Make) -> None:
    """A fork that returns from the function answers nothing, and its parent's answer is the only one."""
    path = write_module(
        "import os, threading, time\n"
        "def compute_score(solution_str, **_):\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    return 5.0 if os.fork() == 0 else int(solution_str)\n"
    )
    group = make_group(*map(str, range(8)))
    assert outcomes(file_scorer, path, group) == [Outcome(float(number)) for number in range(8)]


def test_input_and_output_of_a_function(write_module: Make, make_group: Make, tmp_path: Path) -> None:
    path = write_module(
        "import os\n"
        "def compute_score(solution_str, **_):\n"
        "    print('said', solution_str)\n"
        "    os.system('echo from a child')\n"
        "    return input()\n"
    )
    scorer, group = file_scorer(path), make_group("a", "b")
    scorer.keep_output(tmp_path / "out.txt")
    found = [scorer.submit(group.prompt, response).result() for response in group.responses]
    scorer.close()
    assert all(names(outcome.error, "EOFError") for outcome in found)
    assert (tmp_path / "out.txt").read_text() == "said a\nfrom a child\nsaid b\nfrom a child\n"


def test_no_empty_file_is_left_where_nothing_was_printed(write_module: Make, make_group: Make, tmp_path: Path) -> None:
    scorer, group = file_scorer(write_module("def compute_score(**_): return 1")), make_group("a")
    scorer.keep_output(tmp_path / "out.txt")
    assert scorer.submit(group.prompt, group.responses[0]).result() == Outcome(1.0)
    scorer.close()
    assert not (tmp_path / "out.txt").exists()


@both
@pytest.mark.parametrize("late", [False, True])
def test_the_modules_of_its_folder_can_be_imported(
    late: bool, make: Make, write_module: Make, make_group: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"neighbour_{make.__name__}_{late}"
    write_module("def judge(text): return 0.5", f"{name}.py")
    lines = [f"from {name} import judge", "def compute_score(solution_str, **_):", "    return judge(solution_str)"]
    source = [lines[1], f"    {lines[0]}", lines[2]] if late else lines
    assert outcomes(make, write_module("\n".join(source)), make_group("a")) == [Outcome(0.5)]


def test_a_file_with_the_name_of_an_installed_module_does_not_hide_it(write_module: Make, make_group: Make) -> None:
    path = write_module("from yaml import safe_load\ndef compute_score(**_): return safe_load('1')", "yaml.py")
    assert outcomes(file_scorer, path, make_group("a")) == [Outcome(1.0)]


def test_a_file_that_is_edited_while_the_run_goes_on_changes_nothing(write_module: Make, make_group: Make) -> None:
    source = "import os\ndef compute_score(solution_str, **_): return 1 if solution_str == 'a' else os._exit(1)"
    scorer, group = file_scorer(write_module(source)), make_group("a", "x")
    write_module("def compute_score(**_): return 2")
    found = [scorer.submit(group.prompt, group.responses[number]).result().value for number in (0, 1, 0)]
    scorer.close()
    assert found == [1.0, None, 1.0]


def load_error(path: Path | str, name: str = "compute_score", **kwargs: Any) -> str:
    """What both ways to load it say, which is the same."""
    with pytest.raises(RewardError) as caught:
        load_function(str(path), name, kwargs)
    with pytest.raises(RewardError) as in_process:
        FileScorer(str(path), name, kwargs, WorkerPool(1, 5.0, quiet=False))
    assert str(in_process.value) == str(caught.value)
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


@pytest.mark.parametrize("ends", ["sys.exit(0)", "raise KeyboardInterrupt", "os._exit(0)", "os.abort()"])
def test_a_file_that_ends_its_process_is_an_error(ends: str, write_module: Make) -> None:
    path = write_module(f"import os, sys\ndef compute_score(**_): ...\n{ends}\n")
    with pytest.raises(RewardError) as caught:
        file_scorer(path)
    assert names(caught, path)


def test_an_exit_at_the_end_of_a_file_says_where_it_belongs(write_module: Make) -> None:
    path = write_module("import sys\ndef compute_score(**_): ...\nsys.exit(0)\n")
    message = load_error(path)
    assert names(message, path, "SystemExit: 0", "line 3", '`if __name__ == "__main__":`')
