import enum

import pytest

from gspo.algorithms import (
    AdvantageEstimator,
    compute_gae_advantage_return,
    compute_policy_loss_vanilla,
    get_adv_estimator_fn,
    get_policy_loss_fn,
    register_adv_est,
    register_policy_loss,
    registry,
)
from gspo.methods import ADVANTAGES, LOSSES


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch):
    for name in ("ADV_ESTIMATOR_REGISTRY", "POLICY_LOSS_REGISTRY"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


def first():
    return 1


def second():
    return 2


def test_every_name_of_the_package_is_registered():
    assert set(registry.POLICY_LOSS_REGISTRY) == {name for row in LOSSES.values() for name in (row.name, *row.aliases)}
    assert set(registry.ADV_ESTIMATOR_REGISTRY) == set(ADVANTAGES) == {member.value for member in AdvantageEstimator}
    assert get_policy_loss_fn("ppo") is get_policy_loss_fn("vanilla") is compute_policy_loss_vanilla
    assert get_adv_estimator_fn("gae") is get_adv_estimator_fn(AdvantageEstimator.GAE) is compute_gae_advantage_return


def test_registering_returns_the_function_and_the_same_twice_is_no_conflict():
    for register, get in ((register_policy_loss, get_policy_loss_fn), (register_adv_est, get_adv_estimator_fn)):
        assert register("mine")(first) is first
        register("mine")(first)
        register("alias")(first)
        assert get("mine") is get("alias") is first


def test_an_enum_registers_its_value():
    member = enum.Enum("Own", {"ONE": "one"}).ONE
    register_adv_est(member)(first)
    assert get_adv_estimator_fn("one") is get_adv_estimator_fn(member) is first


def test_a_name_for_two_functions_is_an_error():
    register_adv_est("mine")(first)
    with pytest.raises(ValueError, match=r"^advantage estimator 'mine' has already been registered: .*first.* vs"):
        register_adv_est("mine")(second)
    with pytest.raises(ValueError, match=r"^policy loss 'gspo' has already been registered: .*; choose another name$"):
        register_policy_loss("gspo")(second)
    assert get_adv_estimator_fn("mine") is first


def test_an_unknown_name_lists_the_known_ones(monkeypatch):
    monkeypatch.setattr(registry, "ADV_ESTIMATOR_REGISTRY", {"b": first, "a": second})
    monkeypatch.setattr(registry, "POLICY_LOSS_REGISTRY", {"b": first, "a": second})
    with pytest.raises(ValueError, match=r"^Unknown advantage estimator simply: GAE\. Known: \['a', 'b'\]$"):
        get_adv_estimator_fn("GAE")
    with pytest.raises(ValueError, match=r"^Unsupported loss mode: x\. Supported modes are: \['a', 'b'\]$"):
        get_policy_loss_fn("x")
