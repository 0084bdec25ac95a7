"""Estimators of the divergence from a reference policy, and controllers of its coefficient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gspo.algorithms.settings import read_setting

__all__ = ["AdaptiveKLController", "FixedKLController", "get_kl_controller", "kl_penalty"]

# k3 grows like exp(-d): a token that the policy has all but given up would weigh as much as the rest of the batch.
_MAX_LOG_RATIO = 20.0
_MAX_K3 = 10.0
# The most that one update reacts to (arXiv 1909.08593, section 2.2).
_MAX_PROPORTIONAL_ERROR = 0.2

_ESTIMATORS = ["kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3"]


def kl_penalty(logprob: Tensor, ref_logprob: Tensor, kl_penalty: str) -> Tensor:
    """Estimates KL(pi || pi_ref) at each token sampled from pi; d = log pi - log pi_ref.

        kl, k1          d
        abs             |d|
        mse, k2         d^2 / 2
        low_var_kl, k3  exp(-d) + d - 1, with d clamped to +-20 and the estimate to +-10

    (J. Schulman, "Approximating KL divergence", 2020.) The gradient of k1 and k3 is not in expectation the gradient of
    the KL; that of k2 is. A "+" behind a name gives its value with the gradient of k2.

    Args:
        logprob: any shape, with gradient.
        ref_logprob: the same shape.
        kl_penalty: the estimator's name.

    Raises:
        ValueError: unknown estimator.
    """
    name = kl_penalty.removesuffix("+")
    if name not in _ESTIMATORS:
        known = f"one of {_ESTIMATORS}, or one of them with a '+' behind it"
        raise ValueError(f"unknown KL estimator {kl_penalty!r}; choose {known}")
    difference = logprob - ref_logprob
    squared = 0.5 * difference.square()
    if name in ("mse", "k2"):
        return squared
    if name in ("kl", "k1"):
        value = difference
    elif name == "abs":
        value = difference.abs()
    else:
        log_ratio = (-difference).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
        value = (log_ratio.exp() - log_ratio - 1).clamp(-_MAX_K3, _MAX_K3)
    return squared - squared.detach() + value.detach() if kl_penalty.endswith("+") else value


class AdaptiveKLController:
    """Moves the coefficient so that the KL stays near a target (arXiv 1909.08593, section 2.2).

    Attributes:
        value: the coefficient.
        target: the KL to hold, in nats a token.
        horizon: samples over which an error is worked off.
    """

    def __init__(self, init_kl_coef: float, target_kl: float, horizon: float) -> None:
        if target_kl <= 0 or horizon <= 0:
            raise ValueError(f"target_kl and horizon must be larger than 0. Got {target_kl} and {horizon}")
        self.value = init_kl_coef
        self.target = target_kl
        self.horizon = horizon

    def update(self, current_kl: float, n_steps: int) -> None:
        """Takes in the KL of `n_steps` further samples."""
        error = current_kl / self.target - 1
        error = min(max(error, -_MAX_PROPORTIONAL_ERROR), _MAX_PROPORTIONAL_ERROR)
        self.value *= 1 + error * n_steps / self.horizon

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint holds: the coefficient. Target and horizon are the configuration's."""
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Takes up the coefficient of a checkpoint."""
        self.value = float(state["value"])


class FixedKLController:
    """A coefficient that stays what it is: the configuration's, also after a resume.

    Attributes:
        value: the coefficient.
    """

    def __init__(self, kl_coef: float) -> None:
        self.value = kl_coef

    def update(self, current_kl: float, n_steps: int) -> None:
        """Nothing to adapt."""

    def state_dict(self) -> dict[str, float]:
        """Nothing to hold."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Nothing to take up."""


def get_kl_controller(kl_ctrl: Any) -> AdaptiveKLController | FixedKLController:
    """The controller that `algorithm.kl_ctrl` describes: `type`, `kl_coef` and, if adaptive, `target_kl`, `horizon`.

    Raises:
        ValueError: unknown type, or a horizon or target that is not positive.
    """
    kind, coefficient = read_setting(kl_ctrl, "type"), float(read_setting(kl_ctrl, "kl_coef", 0.0))
    if kind == "fixed":
        return FixedKLController(kl_coef=coefficient)
    if kind == "adaptive":
        target, horizon = (float(read_setting(kl_ctrl, name, 0.0)) for name in ("target_kl", "horizon"))
        return AdaptiveKLController(init_kl_coef=coefficient, target_kl=target, horizon=horizon)
    raise ValueError(f"algorithm.kl_ctrl.type is {kind!r}; set it to 'fixed' or 'adaptive'")
