from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import gspo.rewards
from gspo.groups import Outcome
from gspo.rewards.base import to_outcome

BEYOND = "returned {}, beyond float32 (at most 3.4e+38): a reward must be a finite number"


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (0.5, Outcome(0.5)),
        (True, Outcome(1.0)),
        (np.float32(0.25), Outcome(0.25)),
        (np.bool_(False), Outcome(0.0)),
        (np.array(0.5), Outcome(0.5)),
        (np.array(2, dtype=object), Outcome(2.0)),
        (torch.tensor(0.5, requires_grad=True), Outcome(0.5)),
        (torch.tensor(True), Outcome(1.0)),
        ({"score": torch.tensor(1), "acc": np.array(True), "n": np.float16(2)}, Outcome(1.0, {"acc": 1.0, "n": 2.0})),
        (Fraction(1, 4), Outcome(0.25)),
        (3.4028234663852886e38, Outcome(3.4028234663852886e38)),
        ({"score": 1, "acc": True, "n": np.int64(3), "pred": "x"}, Outcome(1.0, {"acc": 1.0, "n": 3.0}, "x")),
        ({"score": 0, "pred": 72}, Outcome(0.0, answer="72")),
        ({"score": 0, "pred": ""}, Outcome(0.0, answer="")),
        ({"score": 0, "pred": None}, Outcome(0.0)),
        ({"abstained": "why", "n": 1}, Outcome(abstained="why", extras={"n": 1.0})),
        (Outcome(2.0), Outcome(2.0)),
        (Outcome(2.0, {"n": 1.0}, "x"), Outcome(2.0, {"n": 1.0}, "x")),
        ({"abstained": "why", "pred": "x"}, Outcome(abstained="why")),
        ({"score": float("nan"), "pred": "x"}, Outcome(error="returned nan: a reward must be a finite number")),
        (Outcome(error="e"), Outcome(error="e")),
        (None, Outcome(error="returned None: return a number, or a dict with `score`")),
        ("1", Outcome(error="returned a str: return a number, or a dict with `score`")),
        (1e308, Outcome(error=BEYOND.format("1e+308"))),
        (
            np.float64(-1e39),
            Outcome(error=BEYOND.format("-1e+39")),
        ),
        (10**400, Outcome(error="returned inf: a reward must be a finite number")),
        (np.array([1.0]), Outcome(error="returned a ndarray: return a number, or a dict with `score`")),
        (torch.ones(1), Outcome(error="returned a Tensor: return a number, or a dict with `score`")),
        (np.array("1"), Outcome(error="returned a ndarray: return a number, or a dict with `score`")),
        (np.complex64(1), Outcome(error="returned a complex64: return a number, or a dict with `score`")),
        ([1.0], Outcome(error="returned a list: return a number, or a dict with `score`")),
        ({"acc": 1}, Outcome(error="returned a dict without `score` (its keys: acc)")),
        ({}, Outcome(error="returned a dict without `score` (its keys: none)")),
        ({"score": None}, Outcome(error="returned a dict whose `score` is a NoneType: it must be a number")),
        (float("nan"), Outcome(error="returned nan: a reward must be a finite number")),
        ({"score": float("-inf")}, Outcome(error="returned -inf: a reward must be a finite number")),
        (Outcome(float("inf")), Outcome(error="returned inf: a reward must be a finite number")),
        ({"score": 1, "n": float("nan")}, Outcome(error="returned n=nan: what is logged must be a finite number")),
    ],
)
def test_what_a_function_returns(result: Any, outcome: Outcome) -> None:
    assert to_outcome(result) == outcome


def test_public_names_are_loaded_when_used() -> None:
    for name in gspo.rewards.__all__:
        assert getattr(gspo.rewards, name).__name__ == name
    with pytest.raises(AttributeError, match=r"^module 'gspo\.rewards' has no attribute 'nothing'$"):
        _ = gspo.rewards.nothing
