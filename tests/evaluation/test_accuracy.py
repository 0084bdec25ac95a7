"""Summaries of scored groups against plain loops over the responses."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from gspo.algorithms.stats import Stat
from gspo.evaluation.accuracy import Difference, SourceResult, answer_groups, compare, summarize, validation_metrics
from gspo.evaluation.statistics import bootstrap_interval, wilson_interval
from gspo.groups import Group, Outcome, Prompt, Response
from gspo.models.scratch import character_tokenizer
from gspo.rewards import RewardManager
from gspo.rollout import SamplingParams, ScriptedEngine

ABSTAINED, ERROR = Outcome(abstained="why"), Outcome(error="what")


def group(uid: str, source: str, outcomes: Sequence[Outcome], texts: Sequence[str] = (), length: int = 1) -> Group:
    """A prompt whose responses have these outcomes; the response with number i has `length + i` tokens."""
    texts = texts or ["text"] * len(outcomes)
    responses = [
        Response([1] * (length + i), [0.0] * (length + i), text, "stop" if i % 2 else "length", outcome=outcome)
        for i, (text, outcome) in enumerate(zip(texts, outcomes, strict=True))
    ]
    return Group(Prompt(uid, (1,), "q", source), responses)


def judged(correct: float, answer: str | None = None, score: float | None = None) -> Outcome:
    return Outcome(correct if score is None else score, {"acc": float(correct)}, answer)


def random_groups(source: str, num_prompts: int, n: int, seed: int) -> list[Group]:
    """Answers out of four, "a" being right; some responses have no answer, some no judgement."""
    draw = random.Random(seed)
    groups = []
    for number in range(num_prompts):
        outcomes = []
        for index in range(n):
            answer = draw.choice(["a", "a", "b", "c", None])
            scored = judged(answer == "a", answer, score=draw.random())
            # The first five of each prompt are always judged, so that k = 1, 2, 4 can be told for every prompt.
            outcomes.append(scored if index < 5 else draw.choice([scored, scored, ABSTAINED, ERROR]))
        groups.append(group(f"{source}:{number}", source, outcomes, length=draw.randint(1, 9)))
    return groups


def pass_by_enumeration(right: Sequence[bool], k: int) -> float:
    draws = list(itertools.combinations(right, k))
    return sum(any(draw) for draw in draws) / len(draws)


def majority(answers: Sequence[str | None], right: str, k: int) -> float:
    votes = Counter(answer for answer in answers[:k] if answer is not None).most_common()
    tied = [answer for answer, count in votes if count == votes[0][1]]
    return (right in tied) / len(tied) if tied else 0.0


@pytest.mark.parametrize(("n", "ks"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8])])
def test_two_sources_against_plain_loops(n: int, ks: list[int]) -> None:
    groups = random_groups("b", 12, n, seed=n) + random_groups("a", 7, n, seed=10 + n)
    random.Random(0).shuffle(groups)
    results = summarize(groups)
    assert [result.data_source for result in results] == ["a", "b"]
    for result in results:
        mine = [g for g in groups if g.prompt.data_source == result.data_source]
        responses = [r for g in mine for r in g.responses]
        kept = [[r.outcome for r in g.responses if r.outcome and r.outcome.value is not None] for g in mine]
        accuracies = [sum(o.extras["acc"] for o in part) / len(part) for part in kept]
        right = [[o.extras["acc"] == 1 for o in part] for part in kept]
        answers = [[o.answer for o in part] for part in kept]
        count = len(mine)
        assert (result.num_prompts, result.n, result.is_accuracy) == (count, n, True)
        assert result.accuracy == pytest.approx(sum(accuracies) / count, abs=1e-12)
        assert result.score == pytest.approx(sum(sum(o.value or 0 for o in p) / len(p) for p in kept) / count)
        assert result.length == pytest.approx(sum(len(r) for r in responses) / len(responses))
        assert result.truncated == sum(r.finish_reason == "length" for r in responses) / len(responses)
        assert result.unjudged == pytest.approx(1 - sum(map(len, kept)) / len(responses), abs=1e-12)
        assert list(result.pass_at) == list(result.maj_at) == ks
        for k in ks:
            enough = [number for number, part in enumerate(right) if len(part) >= k]
            if not enough:
                assert math.isnan(result.pass_at[k])
                assert math.isnan(result.maj_at[k])
                continue
            oracle = sum(pass_by_enumeration(right[number], k) for number in enough) / len(enough)
            assert result.pass_at[k] == pytest.approx(oracle, abs=1e-12)
            oracle = sum(majority(answers[number], "a", k) for number in enough) / len(enough)
            assert result.maj_at[k] == pytest.approx(oracle, abs=1e-12)


def test_intervals() -> None:
    def interval(*parts: Sequence[Outcome]) -> tuple[float, float]:
        (result,) = summarize([group(f"s:{i}", "s", part) for i, part in enumerate(parts)])
        return result.interval

    yes, no = judged(1), judged(0)
    assert interval([yes], [no], [yes]) == wilson_interval(2, 3)
    # Prompts that are all right or all wrong are trials, however many responses they have.
    assert interval([yes, yes], [no, no]) == wilson_interval(1, 2)
    assert interval([no] * 4, [no] * 4) == wilson_interval(0, 2)
    assert interval([yes, no], [no, no], [yes, yes]) == bootstrap_interval([0.5, 0.0, 1.0])
    assert interval([Outcome(1.0)], [Outcome(0.0)], [Outcome(1.0)]) == bootstrap_interval([1.0, 0.0, 1.0])
    assert all(map(math.isnan, interval([yes, no])))
    assert all(map(math.isnan, interval([yes, no], [no, yes])))
    assert all(map(math.isnan, interval([ABSTAINED])))


def test_scores_that_are_no_accuracy() -> None:
    scored = group("s:0", "s", [Outcome(0.2), Outcome(0.6)])
    other = group("s:1", "s", [Outcome(3.0), Outcome(-1.0)])
    (result,) = summarize([scored, other])
    assert result == SourceResult(
        data_source="s",
        num_prompts=2,
        n=2,
        accuracy=0.7,
        interval=bootstrap_interval([0.4, 1.0]),
        is_accuracy=False,
        pass_at={},
        maj_at={},
        score=0.7,
        length=1.5,
        truncated=0.5,
        unjudged=0.0,
    )


def test_a_response_of_which_nothing_is_said_is_not_correct() -> None:
    scored = group("s:0", "s", [Outcome(0.2), Outcome(0.6)])
    half = group("s:1", "s", [judged(1, score=3.0), Outcome(-1.0)])
    (result,) = summarize([scored, half])
    assert (result.is_accuracy, result.accuracy, result.score) == (True, 0.25, 0.7)
    assert result.pass_at == {1: 0.25, 2: 0.5}


@pytest.mark.parametrize("accurate", [True, False])
def test_names_do_not_depend_on_what_was_judged(accurate: bool) -> None:
    yes, plain = judged(1, "a"), Outcome(0.5)
    kinds = [[yes, yes, plain, ABSTAINED], [yes, ERROR, ABSTAINED, ERROR], [plain] * 4, [ERROR] * 4]
    if not accurate:
        kinds = [[plain, plain, ERROR, ABSTAINED], [plain] * 4, [ERROR] * 4]
    known = {"s"} if accurate else ()
    names_of = [set(validation_metrics(summarize([group("s:0", "s", part)], known))) for part in kinds]
    assert all(found == names_of[0] for found in names_of)
    assert ("val-core/s/acc/pass@4" in names_of[0]) == accurate


def test_a_prompt_without_a_judgement_takes_no_part() -> None:
    right, none = group("s:0", "s", [judged(1)]), group("s:1", "s", [ERROR], length=3)
    (result,) = summarize([right, none])
    assert (result.num_prompts, result.accuracy, result.pass_at, result.length) == (1, 1.0, {1: 1.0}, 2.0)
    assert result.unjudged == 0.5
    (result,) = summarize([none])
    assert (result.num_prompts, result.pass_at, result.unjudged) == (0, {}, 1.0)
    assert math.isnan(result.accuracy)
    assert math.isnan(result.score)
    assert summarize([]) == []


@pytest.mark.parametrize(
    ("answers", "texts", "expected"),
    [
        # Wrong responses agree on their answer, though their texts differ.
        (["1", "2", "2"], ["a", "b", "c"], 0.0),
        # Where the scorer reads answers, a response without one does not vote, however often its text comes.
        (["1", None, None], ["a", "b", "b"], 1.0),
        (["1", "", " "], ["a", "b", "b"], 1.0),
        # Where it never does, the texts vote; an empty one does not.
        ([None, None, None], [" a", "b", "b "], 0.0),
        ([None, None, None], ["a", "a", "b"], 0.5),
        ([None, None, None], ["a", "", " "], 1.0),
    ],
)
def test_what_votes(answers: list[str | None], texts: list[str], expected: float) -> None:
    outcomes = [judged(index == 0, answer) for index, answer in enumerate(answers)]
    (result,) = summarize([group("s:0", "s", outcomes, texts)])
    assert result.maj_at == {1: 1.0, 2: result.maj_at[2], 3: expected}


def test_validation_metrics_have_verls_names() -> None:
    accurate = [
        group("m:0", "math", [judged(1, "1"), judged(0, "2"), judged(1, "1"), judged(1, "1")]),
        group("m:1", "math", [judged(0, "3"), judged(0, "4"), judged(0, "3"), judged(1, "5")]),
    ]
    scored = [group("e/x:0", "essay/x", [Outcome(0.5)])]
    failed = [group("f:0", "fail", [ERROR], length=4)]
    assert validation_metrics(summarize(accurate + scored + failed)) == {
        "val-core/math/acc/mean@4": 0.5,
        "val-core/math/acc/pass@2": 0.75,
        "val-core/math/acc/pass@4": 1.0,
        "val-core/math/acc/maj@2/mean": 0.25,
        "val-core/math/acc/maj@4/mean": 0.5,
        "val-aux/math/score/mean@4": 0.5,
        "val-aux/math/response_length/mean": 2.5,
        "val-aux/math/response_length/clip_ratio": 0.5,
        "val-aux/math/unjudged": 0.0,
        "val-core/essay/x/reward/mean@1": 0.5,
        "val-aux/essay/x/score/mean@1": 0.5,
        "val-aux/essay/x/response_length/mean": 1.0,
        "val-aux/essay/x/response_length/clip_ratio": 1.0,
        "val-aux/essay/x/unjudged": 0.0,
        "val-core/fail/reward/mean@1": pytest.approx(math.nan, nan_ok=True),
        "val-aux/fail/score/mean@1": pytest.approx(math.nan, nan_ok=True),
        "val-aux/fail/response_length/mean": 4.0,
        "val-aux/fail/response_length/clip_ratio": 1.0,
        "val-aux/fail/unjudged": 1.0,
    }


def test_models_are_compared_prompt_by_prompt() -> None:
    yes, no = judged(1), judged(0)
    mine = [
        group("s:0", "s", [yes, yes]),
        group("s:1", "s", [yes, ABSTAINED]),
        group("s:2", "s", [no, no]),
        group("s:3", "s", [ERROR, ERROR]),
        group("t:0", "t", [Outcome(0.7)]),
        group("u:0", "u", [yes]),
    ]
    others = [
        group("t:0", "t", [Outcome(0.2)]),
        group("s:3", "s", [yes]),
        group("s:2", "s", [no, yes]),
        group("s:1", "s", [no]),
        group("s:0", "s", [yes, no]),
        group("s:9", "s", [yes]),
    ]
    first, second, third = compare(mine, others)
    assert first == Difference("s", 3, 1 / 3, bootstrap_interval([0.5, 1.0, -0.5]))
    assert (second.data_source, second.num_prompts, second.difference) == ("t", 1, pytest.approx(0.5))
    assert all(map(math.isnan, second.interval))
    assert (third.data_source, third.num_prompts) == ("u", 0)
    assert math.isnan(third.difference)


class CountingRewards(RewardManager):
    """Scores every response 1 and notes the batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def score(self, groups: Sequence[Group]) -> dict[str, Stat]:
        self.batches.append([group.prompt.uid for group in groups])
        for response in (response for group in groups for response in group.responses):
            response.outcome = Outcome(1.0)
        return {}


@pytest.mark.parametrize(
    ("batch_size", "batches"),
    [(None, [["f:0", "f:1", "f:2"]]), (2, [["f:0", "f:1"], ["f:2"]]), (5, [["f:0", "f:1", "f:2"]])],
)
def test_answers_come_in_batches(batch_size: int | None, batches: list[list[str]]) -> None:
    tokenizer = character_tokenizer("abc")
    steps = []

    def script(prompt: Prompt, index: int, step: int) -> list[int]:
        steps.append(step)
        return [4 + int(prompt.uid[-1])] * (index + 1)

    prompts = [Prompt(f"f:{number}", (4,), "a", "s") for number in range(3)]
    rewards, finished = CountingRewards(), list[int]()
    groups = answer_groups(
        ScriptedEngine(script, tokenizer),
        rewards,
        prompts,
        SamplingParams(5),
        n=2,
        batch_size=batch_size,
        on_ended=finished.append,
    )
    assert [[r.text for r in g.responses] for g in groups] == [["a", "aa"], ["b", "bb"], ["c", "cc"]]
    assert all(r.reward == 1.0 for g in groups for r in g.responses)
    assert rewards.batches == batches
    assert finished == [2, 2, 2]  # the responses of each prompt
    assert set(steps) == {0}  # the same random draws whenever it is asked
    assert answer_groups(ScriptedEngine(script, tokenizer), rewards, [], SamplingParams(5)) == []
