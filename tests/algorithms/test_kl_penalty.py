import math
from types import SimpleNamespace

import pytest
import torch

from gspo.algorithms import AdaptiveKLController, FixedKLController, get_kl_controller, kl_penalty

FORMULAS = {
    "k1": lambda d: d,
    "abs": lambda d: abs(d),
    "k2": lambda d: d * d / 2,
    "k3": lambda d: math.exp(-d) + d - 1,
}
SLOPES = {
    "k1": lambda _: 1.0,
    "abs": lambda d: math.copysign(1.0, d),
    "k2": lambda d: d,
    "k3": lambda d: 1 - math.exp(-d),
}
ALIASES = {"k1": "kl", "k2": "mse", "k3": "low_var_kl"}
DIFFERENCES = [-1.5, -0.1, 0.2, 2.0]


@pytest.mark.parametrize("name", sorted(FORMULAS))
@pytest.mark.parametrize("suffix", ["", "+"])
def test_estimators_and_their_slopes(name, suffix):
    reference = torch.tensor([-1.0, -2.0, -0.5, -3.0], dtype=torch.float64)
    for spelling in {name, ALIASES.get(name, name)}:
        log_prob = (reference + torch.tensor(DIFFERENCES, dtype=torch.float64)).requires_grad_()
        value = kl_penalty(log_prob, reference, spelling + suffix)
        assert value.tolist() == pytest.approx([FORMULAS[name](d) for d in DIFFERENCES])
        slope = SLOPES["k2"] if suffix else SLOPES[name]
        (gradient,) = torch.autograd.grad(value.sum(), log_prob)
        assert gradient.tolist() == pytest.approx([slope(d) for d in DIFFERENCES])


def test_k3_is_bounded():
    log_prob = torch.tensor([-50.0, -1e9, 0.0])
    assert kl_penalty(log_prob, torch.zeros(3), "k3").tolist() == [10, 10, 0]
    assert kl_penalty(torch.zeros(1), torch.tensor([-50.0]), "k3").tolist() == [10]


def test_k3_over_all_tokens_is_the_divergence():
    policy, reference = (torch.tensor(p, dtype=torch.float64) for p in ([0.5, 0.3, 0.2], [0.2, 0.2, 0.6]))
    divergence = (policy * (policy / reference).log()).sum()
    for name in ("k1", "k3"):
        torch.testing.assert_close((policy * kl_penalty(policy.log(), reference.log(), name)).sum(), divergence)


@pytest.mark.parametrize("name", ["full", "k4", "k3++", ""])
def test_an_unknown_estimator_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"^unknown KL estimator '.*'; choose one of \['kl', 'k1', .* '\+' behind it$"):
        kl_penalty(torch.zeros(1), torch.zeros(1), name)


def test_the_adaptive_controller_moves_towards_its_target_and_resumes():
    controller = get_kl_controller(SimpleNamespace(type="adaptive", kl_coef=0.1, target_kl=0.05, horizon=1000))
    assert isinstance(controller, AdaptiveKLController)
    controller.update(current_kl=0.055, n_steps=100)  # 10 % above the target
    assert controller.value == pytest.approx(0.1 * (1 + 0.1 * 100 / 1000))
    controller.update(current_kl=9.0, n_steps=100)  # reacts to 20 % at most
    assert controller.value == pytest.approx(0.101 * 1.02)
    controller.update(current_kl=0.0, n_steps=50)
    assert controller.value == pytest.approx(0.101 * 1.02 * 0.99)
    other = AdaptiveKLController(0.7, target_kl=0.05, horizon=1000)
    other.load_state_dict(controller.state_dict())
    assert other.value == controller.value


def test_the_fixed_controller_keeps_the_configured_value():
    controller = get_kl_controller({"type": "fixed", "kl_coef": 0.3})
    assert isinstance(controller, FixedKLController)
    controller.update(current_kl=9.0, n_steps=100)
    controller.load_state_dict(FixedKLController(0.9).state_dict())
    assert controller.value == 0.3


def test_controller_errors():
    with pytest.raises(ValueError, match=r"^algorithm\.kl_ctrl\.type is 'pid'; set it to 'fixed' or 'adaptive'$"):
        get_kl_controller(SimpleNamespace(type="pid", kl_coef=0.1))
    with pytest.raises(ValueError, match=r"^target_kl and horizon must be larger than 0\. Got 0\.1 and 0\.0$"):
        get_kl_controller(SimpleNamespace(type="adaptive", kl_coef=0.1, target_kl=0.1, horizon=0))
