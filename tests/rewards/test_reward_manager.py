import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from messages import names

from gspo.algorithms.stats import to_floats
from gspo.config.schema_data import CustomRewardConfig, OverlongBufferConfig, RewardConfig, RewardFunctionConfig
from gspo.groups import Group, Outcome, Prompt
from gspo.rewards import RewardError, RewardManager
from gspo.rewards.combine import SteadyNames
from gspo.shell import gspo_command

Make = Callable[..., Any]


@pytest.fixture
def make_manager() -> Iterator[Callable[..., RewardManager]]:
    made: list[RewardManager] = []

    def make(
        *functions: dict[str, Any], path: Path | None = None, limit: int | None = None, **config: Any
    ) -> RewardManager:
        named = [RewardFunctionConfig(**function) for function in functions]
        custom = CustomRewardConfig(path=None if path is None else str(path))
        made.append(RewardManager(RewardConfig(functions=named, **config), custom, max_response_length=limit))
        return made[-1]

    yield make
    for manager in made:
        manager.close()


def outcomes(group: Group) -> list[Outcome | None]:
    return [response.outcome for response in group.responses]


def test_gsm8k_by_data_source(make_manager: Make, make_group: Make) -> None:
    group = make_group("#### 72", "#### 7")
    other = make_group("72", ground_truth="?")
    stats = make_manager().score([group, other])
    assert outcomes(group) == [Outcome(1.0, {"acc": 1.0}, "72"), Outcome(0.0, {"acc": 0.0}, "7")]
    assert outcomes(other) == [Outcome(abstained="the ground truth '?' is not a number")]
    assert to_floats(stats) == {
        "reward/gsm8k/mean": 0.5,
        "reward/acc": 0.5,
        "reward/abstained": pytest.approx(1 / 3),
        "reward/errors": 0.0,
    }


@pytest.mark.parametrize(
    ("source", "function"),
    [
        ("openai/gsm8k", "gsm8k"),
        ("gsm8k", "gsm8k"),
        ("reasoning_gym/chain_sum", "gym"),
        ("DigitalLearningGmbH/MATH-lighteval", "math"),
        ("lighteval/MATH", "math"),
        ("HuggingFaceH4/MATH-500", "math"),
        ("math_dapo", "math"),
        ("aime2025", "math"),
    ],
)
def test_functions_of_known_sources(source: str, function: str, make_manager: Make, make_group: Make) -> None:
    group = make_group("72", data_source=source)
    assert [part.name for part in make_manager()._parts(group.prompt)] == [function]


def test_math_by_data_source(make_manager: Make, make_group: Make) -> None:
    group = make_group("\\boxed{72}", "\\boxed{71}", data_source="HuggingFaceH4/MATH-500", ground_truth=72)
    assert to_floats(make_manager().score([group])) == {
        "reward/math/mean": 0.5,
        "reward/acc": 0.5,
        "reward/abstained": 0.0,
        "reward/errors": 0.0,
    }
    assert outcomes(group) == [Outcome(1.0, {"acc": 1.0}, "72"), Outcome(0.0, {"acc": 0.0}, "71")]


def test_the_answer_is_the_first_that_a_part_read(make_manager: Make, make_group: Make, write_module: Make) -> None:
    path = write_module("def compute_score(**_): return {'score': 1, 'pred': 'mine'}")
    group = make_group("72", "#### 72")
    make_manager({"name": "gsm8k", "kwargs": {"strict": True}}, {"name": "custom"}, path=path).score([group])
    assert [outcome.answer for outcome in outcomes(group) if outcome] == ["mine", "72"]


def test_an_unknown_source(make_manager: Make, make_group: Make) -> None:
    with pytest.raises(RewardError) as caught:
        make_manager().score([make_group("a", data_source="mine")])
    known = "gsm8k, math, gym, format, overlong"
    assert names(caught, "data_source='mine'", "reward.functions=[{name: math}]", known, "custom_reward_function.path")


def test_a_weighted_sum(make_manager: Make, make_group: Make) -> None:
    group = make_group("#### 72", "<b>72")
    pattern = {"name": "format", "weight": 0.5, "kwargs": {"pattern": "<b>.*"}}
    stats = make_manager(
        {"name": "gsm8k", "weight": 2.0, "kwargs": {"strict": True}}, {"name": "gsm8k"}, pattern
    ).score([group])
    assert outcomes(group) == [
        Outcome(3.0, {"acc": 1.0, "gsm8k_2/acc": 1.0}, "72"),
        Outcome(1.5, {"acc": 0.0, "gsm8k_2/acc": 1.0}, "72"),
    ]
    assert to_floats(stats) == {
        "reward/gsm8k/mean": 0.5,
        "reward/gsm8k_2/mean": 1.0,
        "reward/format/mean": 0.5,
        "reward/acc": 0.5,
        "reward/gsm8k_2/acc": 1.0,
        "reward/abstained": 0.0,
        "reward/errors": 0.0,
    }


def test_a_sum_is_never_partial(make_manager: Make, make_group: Make, write_module: Make) -> None:
    path = write_module("def compute_score(solution_str, **_): return {'fail': None}.get(solution_str, 1)")
    manager = make_manager({"name": "gsm8k"}, {"name": "custom"}, path=path)
    group, other = make_group("72", "fail", ground_truth="?"), make_group("fail", "72")
    stats = manager.score([group, other])
    none = "custom: compute_score: returned None: return a number, or a dict with `score`"
    assert outcomes(group) == [Outcome(abstained="gsm8k: the ground truth '?' is not a number"), Outcome(error=none)]
    assert outcomes(other) == [Outcome(error=none), Outcome(2.0, {"acc": 1.0}, "72")]
    assert float(stats["reward/errors"]) == 0.5
    assert float(stats["reward/abstained"]) == 0.25
    assert manager.first_error == f"f:0, response 1: {none}"


def test_a_sum_beyond_float32_is_an_error(make_manager: Make, make_group: Make, write_module: Make) -> None:
    path = write_module("def compute_score(solution_str, **_): return float(solution_str)")
    group = make_group("3e38", "1e38")
    make_manager({"name": "custom", "weight": 2.0}, path=path).score([group])
    large, small = outcomes(group)
    assert large is not None
    assert names(large.error, "6e+38", "float32")
    assert small == Outcome(2e38)


def test_a_file_can_be_called_in_this_process_which_is_said(make_group: Make, write_module: Make) -> None:
    path = write_module("import os\ndef compute_score(**_): return os.getpid()")
    group = make_group("a")
    for inline in (True, False):
        with RewardManager(RewardConfig(), CustomRewardConfig(path=str(path), inline=inline)) as manager:
            manager.score([group])
            said = manager.notices
        (outcome,) = outcomes(group)
        assert outcome is not None
        assert (outcome.value == os.getpid()) == inline
        assert not said or names(said[0], "compute_score", "reward.timeout=10", "lock")
        assert bool(said) == inline


def test_the_overlong_buffer_is_added(make_manager: Make, make_group: Make) -> None:
    buffer = OverlongBufferConfig(enable=True, len=4, penalty_factor=0.5)
    group = make_group("#### 72", "#### 72...")
    stats = make_manager(limit=10, overlong_buffer=buffer).score([group])
    assert outcomes(group) == [Outcome(1.0 - 0.125, {"acc": 1.0}, "72"), Outcome(0.5, {"acc": 1.0}, "72")]
    assert float(stats["reward/overlong_buffer/mean"]) == (-0.125 - 0.5) / 2
    with pytest.raises(
        RewardError, match=r"^reward\.overlong_buffer needs data\.max_response_length, the length that it"
    ):
        make_manager(overlong_buffer=buffer)


def test_a_hanging_pattern_is_one_responses_error(make_manager: Make, make_group: Make) -> None:
    group = make_group("a" * 40 + "!", "aa")
    stats = make_manager({"name": "format", "kwargs": {"pattern": "(a|aa)+"}}, timeout=1).score([group])
    assert outcomes(group) == [Outcome(error="timed out after 1 s (reward.timeout)"), Outcome(1.0)]
    assert float(stats["reward/errors"]) == 0.5


def test_errors_stop_the_run_where_they_are_to(make_manager: Make, make_group: Make, write_module: Make) -> None:
    path = write_module("def compute_score(solution_str, **_): return 1 / len(solution_str)")
    with pytest.raises(RewardError) as caught:
        make_manager(path=path, on_error="raise").score([make_group("a", "")])
    failed = "ZeroDivisionError: division by zero (mine.py, line 1)"
    assert names(caught, "f:0, response 1", failed, "reward.on_error=exclude")
    manager = make_manager(path=path)
    assert float(manager.score([make_group("a", "")])["reward/errors"]) == 0.5
    with pytest.raises(RewardError) as caught:
        manager.score([make_group("", "")])
    assert names(caught, "all 2 responses", "f:0, response 0", failed)


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        (
            {"ground_truth": None},
            "row f:0 has reward_model.ground_truth=None, not a text or a number: correct or remove the row",
        ),
        (
            {"ground_truth": float("nan"), "data_source": "math"},
            "row f:0 has reward_model.ground_truth=nan, not a text or a number: correct or remove the row",
        ),
        (
            {"data_source": "reasoning_gym/chain_sum"},
            "row f:0 has no entry of reasoning-gym (task, task_config, entry) in extra_info: "
            f"write the data with `{gspo_command('data', 'reasoning-gym')}`",
        ),
    ],
)
def test_rows_that_cannot_be_scored(prompt: dict[str, Any], error: str, make_manager: Make, make_group: Make) -> None:
    bad = make_group("72", **prompt)
    make_manager().score([make_group("72"), bad])
    assert outcomes(bad) == [Outcome(error=error)]


def test_ground_truths_that_cannot_be_read_are_counted_before_the_run(make_manager: Make, make_group: Make) -> None:
    sound = make_group().prompt
    rows = [
        sound,
        Prompt("f:1", (1,), "q", "openai/gsm8k", "3 or 4"),
        Prompt("f:2", (1,), "q", "math", "\\frac{1}{"),
        Prompt("f:3", (1,), "q", "math", "3 or 4"),
        Prompt("f:4", (1,), "q", "math", None),
        Prompt("f:5", (1,), "q", "unheard of", ""),
    ]
    (line,) = make_manager().unreadable(rows)
    assert names(line, "2 rows", "f:1", "'3 or 4'", "correct or remove")
    assert make_manager().unreadable([sound]) == []
    (line,) = make_manager({"name": "format"}, {"name": "gsm8k"}).unreadable(rows[2:3])
    assert names(line, "1 row ", "f:2")
    assert make_manager({"name": "format"}).unreadable(rows) == []


def test_figures_have_the_same_names_in_every_batch(make_manager: Make, make_group: Make, write_module: Make) -> None:
    path = write_module("def compute_score(solution_str, **_): return {'score': 1, 'odd': 2} if solution_str else 0")
    manager = make_manager({"name": "gsm8k"}, {"name": "custom"}, path=path)
    judged, abstained = make_group("72"), make_group("", ground_truth="?")
    steady = SteadyNames(manager.figures([judged.prompt]))
    known = ["reward/abstained", "reward/acc", "reward/custom/mean", "reward/errors", "reward/gsm8k/mean"]
    first = steady(manager.score([abstained]))
    assert sorted(first) == known
    assert float(first["reward/acc"]) == 0.0
    assert sorted(steady(manager.score([judged]))) == sorted([*known, "reward/odd"])
    assert sorted(steady(manager.score([abstained]))) == sorted([*known, "reward/odd"])
    assert manager.says_correct(judged.prompt)


def test_no_groups(make_manager: Make) -> None:
    assert to_floats(make_manager().score([])) == {"reward/abstained": 0.0, "reward/errors": 0.0}


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (
            [{"name": "mathematics"}],
            "there is no reward function 'mathematics'; There are gsm8k, math,",
        ),
        (
            [{"name": "gsm8k", "kwargs": {"loose": 1}}],
            "the reward 'gsm8k' cannot take kwargs={'loose': 1} (got an unexpected keyword argument 'loose'); "
            "its settings: strict",
        ),
        (
            [{"name": "overlong"}],
            "the reward 'overlong' cannot take kwargs={} (missing a required argument: 'max_length'); "
            "its settings: max_length, buffer, factor",
        ),
        (
            [{"name": "overlong", "kwargs": {"max_length": 4, "buffer": 5}}],
            "the reward `overlong` has buffer=5: set it from 1 to max_length=4",
        ),
        ([{"name": "custom"}], "reward.functions names `custom`: set custom_reward_function.path to its file"),
    ],
)
def test_functions_that_cannot_be_set_up(functions: list[dict[str, Any]], message: str, make_manager: Make) -> None:
    with pytest.raises(RewardError) as caught:
        make_manager(*functions)
    assert message in str(caught.value)


def test_custom_functions_that_cannot_be_set_up(make_manager: Make, write_module: Make) -> None:
    path = write_module("def compute_score(**_): return 1")
    with pytest.raises(RewardError, match=r"^custom_reward_function\.path is set, but reward\.functions does not name"):
        make_manager({"name": "gsm8k"}, path=path)
    with pytest.raises(
        RewardError, match=r"^the reward `custom` takes its settings from custom_reward_function\.reward_kw"
    ):
        make_manager({"name": "custom", "kwargs": {"a": 1}}, path=path)
    with pytest.raises(RewardError, match=r"^the pattern '\(' of the reward `format` cannot be compiled: missing \),"):
        make_manager({"name": "format", "kwargs": {"pattern": "("}})


def test_rows_that_no_function_judges_are_abstained_from_beside_a_discriminator(make_group: Make) -> None:
    groups = [
        make_group("#### 72"),
        make_group("#### 72", data_source="unheard of"),
        make_group("#### 72", ground_truth=None),
    ]
    with RewardManager(RewardConfig(), CustomRewardConfig(), source_optional=True) as manager:
        assert not manager.configured
        stats = manager.score(groups)
    nobody = Outcome(abstained="no reward function judges its row")
    assert [outcomes(group)[0] for group in groups] == [Outcome(1.0, {"acc": 1.0}, "72"), nobody, nobody]
    assert to_floats(stats)["reward/abstained"] == pytest.approx(2 / 3)


def test_what_is_configured_judges_alone_where_the_source_is_not_asked(make_group: Make) -> None:
    buffer = OverlongBufferConfig(enable=True, len=4)
    group = make_group("12345678")
    with RewardManager(RewardConfig(overlong_buffer=buffer), CustomRewardConfig(), max_response_length=10) as manager:
        assert manager.configured
        manager.score([group], by_source=False)
        (outcome,) = outcomes(group)
        assert outcome is not None
        assert (outcome.value, outcome.terms) == (-0.5, {"overlong_buffer": (1.0, -0.5)})
        manager.score([group])
        (outcome,) = outcomes(group)
        assert outcome is not None
        assert outcome.terms == {"gsm8k": (1.0, 0.0), "overlong_buffer": (1.0, -0.5)}


def test_rows_without_a_reward_are_found_before_anything_is_sampled(make_group: Make) -> None:
    prompts = [make_group("1", data_source=source).prompt for source in ("openai/gsm8k", "openai/gsm8k", "unheard of")]
    with RewardManager(RewardConfig(), CustomRewardConfig()) as manager:
        manager.check(prompts[:2])
        with pytest.raises(RewardError, match=f"^{prompts[2].uid}: ") as caught:
            manager.check(prompts)
        assert names(caught, "unheard of", "reward.functions", "custom_reward_function.path")
    with RewardManager(RewardConfig(functions=[RewardFunctionConfig(name="math")]), CustomRewardConfig()) as manager:
        manager.check(prompts)
