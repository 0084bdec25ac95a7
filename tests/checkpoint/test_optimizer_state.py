"""The optimizer's state and the random states: after a resume the same bits as never stopped."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gspo.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_optimizer,
    optimizer_to_tensors,
    rng_state,
    save_checkpoint,
    set_rng_state,
)


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return tensor.dtype, tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return {name: bits(tensor) for name, tensor in left.items()} == {
        name: bits(tensor) for name, tensor in right.items()
    }


# Optimizer


class Net(nn.Module):
    """Two layers whose parameters can be registered in either order."""

    def __init__(self, order: tuple[str, str] = ("first", "second"), dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        for name in order:
            self.add_module(name, nn.Linear(4, 4, dtype=dtype))
        self.unused = nn.Parameter(torch.zeros(2, dtype=dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.get_submodule("second")(torch.tanh(self.get_submodule("first")(inputs)))


def adamw(model: nn.Module, lr: float = 0.01, **options: Any) -> torch.optim.AdamW:
    named = list(model.named_parameters())
    decayed = [parameter for name, parameter in named if not name.endswith("bias")]
    others = [parameter for name, parameter in named if name.endswith("bias")]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), **options)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(inputs.to(next(model.parameters()).dtype)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}], ids=["plain", "amsgrad"])
def test_resumed_training_has_the_same_bits(tmp_path: Path, dtype: torch.dtype, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Net(dtype=dtype)
    optimizer = adamw(model, **options)
    train(model, optimizer, range(3))
    optimizer.param_groups[0]["lr"] = 0.007
    optim_tensors, optim_state = optimizer_to_tensors(optimizer, model.named_parameters())
    tensors = {"actor": model.state_dict(), "actor_optim": optim_tensors}
    loaded = load_checkpoint(save_checkpoint(tmp_path, 3, tensors=tensors, state={"optim": optim_state}))

    other = Net(order=("second", "first"), dtype=dtype)  # the same parameters in another order
    other.load_state_dict(loaded.tensors["actor"])
    resumed = adamw(other, lr=1.0, **options)
    load_optimizer(resumed, other.named_parameters(), loaded.tensors["actor_optim"], loaded.state["optim"])
    assert [group["lr"] for group in resumed.param_groups] == [0.007, 0.01]
    assert resumed.param_groups[0]["betas"] == (0.9, 0.95)
    assert other.unused not in resumed.state

    train(model, optimizer, range(3, 6))
    train(other, resumed, range(3, 6))
    assert same_bits(dict(model.named_parameters()), dict(other.named_parameters()))
    expected, _ = optimizer_to_tensors(optimizer, model.named_parameters())
    assert same_bits(optimizer_to_tensors(resumed, other.named_parameters())[0], expected)


def test_float32_moments_of_a_bfloat16_model_are_not_rounded() -> None:
    parameter = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([parameter])
    moment = torch.tensor([1 / 3, 1e-30, 7.0])
    optimizer.state[parameter] = {"step": torch.tensor(2.0), "exp_avg": moment, "exp_avg_sq": moment * 2}
    tensors, state = optimizer_to_tensors(optimizer, [("w", parameter)])
    fresh = torch.optim.AdamW([parameter])
    load_optimizer(fresh, [("w", parameter)], tensors, state)
    assert fresh.state[parameter]["exp_avg"].dtype is torch.float32
    assert torch.equal(fresh.state[parameter]["exp_avg"], moment)
    assert fresh.state[parameter]["exp_avg"] is not moment


def test_a_learning_rate_tensor_and_plain_numbers_come_back() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=torch.tensor(0.1))
    optimizer.state[parameter] = {"step": 4, "exp_avg": torch.ones(3)}
    tensors, state = optimizer_to_tensors(optimizer, [("w", parameter)])
    assert set(tensors) == {"param_groups/0.lr", "exp_avg/w"}
    assert state["values"] == {"step/w": 4}
    fresh = torch.optim.AdamW([parameter], lr=torch.tensor(0.5))
    load_optimizer(fresh, [("w", parameter)], tensors, json.loads(json.dumps(state)))
    assert fresh.param_groups[0]["lr"].item() == pytest.approx(0.1)
    assert fresh.state[parameter]["step"] == 4


def test_a_parameter_without_a_name_is_refused() -> None:
    model = Net()
    message = (
        "parameter group 0 of the optimizer has parameters of shapes [(2,)] without a name; "
        "pass the named_parameters() of the model that it optimises"
    )
    with pytest.raises(CheckpointError, match=exactly(message)):
        optimizer_to_tensors(adamw(model), [pair for pair in model.named_parameters() if pair[0] != "unused"])


def refusal(change: str) -> tuple[Net, torch.optim.Optimizer, dict[str, Tensor], dict[str, Any]]:
    model = Net()
    optimizer = adamw(model)
    train(model, optimizer, range(1))
    tensors, state = optimizer_to_tensors(optimizer, model.named_parameters())
    if change == "class":
        state["class"] = "Adafactor"
    elif change == "names":
        state["groups"][1]["names"][0] = "third.bias"
    elif change == "groups":
        state["groups"][1]["names"].append(state["groups"][0]["names"].pop())
    else:
        tensors["exp_avg/first.bias"] = torch.zeros(5)
    return model, adamw(model), tensors, state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "class",
            "the checkpoint has the state of Adafactor and this run uses AdamW; set the optimizer it was trained with",
        ),
        (
            "names",
            "the optimizer state is of other parameters: missing in the checkpoint ['first.bias'], "
            "unknown to the model ['third.bias'] (five of each at most); resume with the model it was trained with",
        ),
        (
            "groups",
            "the checkpoint groups the parameters by [2, 3] and this run by [3, 2]; "
            "keep the weight decay and learning rate groups of the first run",
        ),
        (
            "shape",
            "exp_avg of first.bias has shape (5,) in the checkpoint and the parameter has (4,); "
            "resume with the model it was trained with",
        ),
    ],
)
def test_another_optimizer_is_refused_and_nothing_changes(change: str, message: str) -> None:
    model, fresh, tensors, state = refusal(change)
    with pytest.raises(CheckpointError, match=exactly(message)):
        load_optimizer(fresh, model.named_parameters(), tensors, state)
    assert fresh.state == {}


# Random states


def draws() -> tuple[list[float], list[float], list[float]]:
    # An odd number of normal draws leaves a cached one in Python's and NumPy's generators.
    return (
        torch.randn(5).tolist(),
        [np.random.normal() for _ in range(3)],
        [random.gauss(0, 1) for _ in range(3)],
    )


def test_random_draws_go_on_as_if_never_interrupted(tmp_path: Path) -> None:
    before, before_state = rng_state()
    try:
        draws()
        tensors, state = rng_state()
        path = save_checkpoint(tmp_path, 1, tensors={"rng": tensors}, state={"rng": state})
        expected = draws()
        assert draws() != expected
        loaded = load_checkpoint(path)
        assert set_rng_state(loaded.tensors["rng"], loaded.state["rng"]) == []
        assert draws() == expected
    finally:
        set_rng_state(before, before_state)


def test_other_cuda_devices_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, state = rng_state()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    warnings = set_rng_state(tensors, state | {"num_cuda_devices": 2})
    assert warnings == ["the checkpoint has random states of 2 CUDA devices and 0 are here: draws on them differ"]
