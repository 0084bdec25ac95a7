"""An optimizer's state by parameter name, bit for bit, as tensors and JSON.

`torch.optim.Optimizer.state_dict` numbers the parameters, so a model whose parameters come in another order would take
another parameter's moments without a word; and its `load_state_dict` casts every moment to the parameter's type, which
would round float32 moments of a bfloat16 model. Here both are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gspo.checkpoint.files import CheckpointError

__all__ = ["load_optimizer", "optimizer_to_tensors"]


def _names(optimizer: Optimizer, named_parameters: Iterable[tuple[str, Tensor]]) -> list[list[str]]:
    """The names of each parameter group's parameters, in the optimizer's order."""
    name_of: dict[int, str] = {}
    for name, parameter in named_parameters:
        name_of.setdefault(id(parameter), name)
    groups = []
    for number, group in enumerate(optimizer.param_groups):
        nameless = [tuple(parameter.shape) for parameter in group["params"] if id(parameter) not in name_of]
        if nameless:
            raise CheckpointError(
                f"parameter group {number} of the optimizer has parameters of shapes {nameless} without a name; "
                "pass the named_parameters() of the model that it optimises"
            )
        groups.append([name_of[id(parameter)] for parameter in group["params"]])
    return groups


def optimizer_to_tensors(
    optimizer: Optimizer, named_parameters: Iterable[tuple[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimizer (AdamW, or any whose state is numbers and moments of the parameter's shape) by name.

    Returns:
        Tensors named "<state>/<parameter>" ("exp_avg/model.norm.weight"), not copied; and JSON with the optimizer's
        class, each group's names and options, and the state that is not a tensor.

    Raises:
        CheckpointError: a parameter of the optimizer is not among `named_parameters`.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    groups = []
    for number, (group, names) in enumerate(
        zip(optimizer.param_groups, _names(optimizer, named_parameters), strict=True)
    ):
        options = {}
        for key, value in group.items():
            if isinstance(value, Tensor):  # a learning rate as a tensor
                tensors[f"param_groups/{number}.{key}"] = value
            elif key not in ("params", "param_names"):
                options[key] = list(value) if isinstance(value, tuple) else value
        groups.append({"names": names, "options": options})
        for name, parameter in zip(names, group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                (tensors if isinstance(value, Tensor) else values)[f"{key}/{name}"] = value
    return tensors, {"class": type(optimizer).__name__, "groups": groups, "values": values}


def load_optimizer(
    optimizer: Optimizer,
    named_parameters: Iterable[tuple[str, Tensor]],
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> None:
    """Gives an optimizer the state and the options that `optimizer_to_tensors` took, matched by parameter name.

    State is copied in its own type, to its parameter's device (step counts stay on the CPU, where AdamW wants them
    unless it is fused or capturable). A parameter that had no state has none afterwards.

    Raises:
        CheckpointError: another class of optimizer, other parameters, another grouping of them, or a moment of
            another shape than its parameter. The optimizer is then unchanged.
    """
    if state["class"] != type(optimizer).__name__:
        raise CheckpointError(
            f"the checkpoint has the state of {state['class']} and this run uses {type(optimizer).__name__}; "
            "set the optimizer it was trained with"
        )
    groups = _names(optimizer, named_parameters)
    saved_groups = state["groups"]
    _check_groups([group["names"] for group in saved_groups], groups)
    parameters = {
        name: (parameter, group)
        for names, group in zip(groups, optimizer.param_groups, strict=True)
        for name, parameter in zip(names, group["params"], strict=True)
    }
    new_state: dict[Tensor, dict[str, Any]] = {}
    for full_name, value in [*tensors.items(), *state["values"].items()]:
        key, name = full_name.split("/", maxsplit=1)
        if key == "param_groups":
            continue
        parameter, group = parameters[name]
        if isinstance(value, Tensor):
            if value.dim() and value.shape != parameter.shape:
                raise CheckpointError(
                    f"{key} of {name} has shape {tuple(value.shape)} in the checkpoint and the parameter has "
                    f"{tuple(parameter.shape)}; resume with the model it was trained with"
                )
            on_cpu = key == "step" and not (group.get("fused") or group.get("capturable"))
            # A clone: the checkpoint's tensors may be views of a mapped file.
            value = value.to("cpu" if on_cpu else parameter.device, copy=True)
        new_state.setdefault(parameter, {})[key] = value
    optimizer.state.clear()
    optimizer.state.update(new_state)
    for number, (group, saved) in enumerate(zip(optimizer.param_groups, saved_groups, strict=True)):
        for key, value in saved["options"].items():
            group[key] = tuple(value) if isinstance(value, list) else value
        for key in [key for key in group if f"param_groups/{number}.{key}" in tensors]:
            current, value = group[key], tensors[f"param_groups/{number}.{key}"]
            device = current.device if isinstance(current, Tensor) else torch.device("cpu")
            group[key] = value.to(device, copy=True)


def _check_groups(saved: list[list[str]], current: list[list[str]]) -> None:
    saved_names, names = {name for group in saved for name in group}, {name for group in current for name in group}
    if saved_names != names:
        raise CheckpointError(
            f"the optimizer state is of other parameters: missing in the checkpoint {sorted(names - saved_names)[:5]}, "
            f"unknown to the model {sorted(saved_names - names)[:5]} (five of each at most); "
            "resume with the model it was trained with"
        )
    if [set(group) for group in saved] != [set(group) for group in current]:
        raise CheckpointError(
            f"the checkpoint groups the parameters by {[len(group) for group in saved]} and this run by "
            f"{[len(group) for group in current]}; keep the weight decay and learning rate groups of the first run"
        )
