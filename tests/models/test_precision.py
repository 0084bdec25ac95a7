"""Products in bfloat16 over float32 weights, against the same model in float32."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from models_helpers import FAMILIES, random_groups, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from gspo.groups import GroupBatch
from gspo.models import Compute, Policy, Scorer, load_model, prepare_model, token_log_probs, verify_packed_forward
from gspo.models.logits import OutputHead
from gspo.models.precision import copies_held, mixed_precision, products_of

# bfloat16 keeps 8 bits: one rounding is up to 2^-9 of a number, and a pass through two layers makes some tens of them.
_NATS = 0.05
_GRADIENT = 0.05
_MIXED = Compute(torch.bfloat16)


def pair(family: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A model to run in mixed precision, and the same to run in float32."""
    model = tiny_model(family, torch.float32, scale=2.0)
    return copy.deepcopy(model), model


def batch() -> GroupBatch:
    return GroupBatch.from_groups(random_groups(1), scored=False)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_log_probs_and_gradients_are_those_of_float32_within_rounding(family: str, checkpointing: bool) -> None:
    mixed, plain = pair(family)
    if checkpointing:
        enable = getattr(mixed, "activation_checkpointing_enable", None) or mixed.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        mixed.train()
    policies = Policy(mixed, compute=_MIXED), Policy(plain)
    values = [policy.log_probs(batch(), 0.7, with_entropy=True) for policy in policies]
    for ours, theirs in zip(*values, strict=True):
        assert ours.dtype == torch.float32
        assert 0 < float((ours - theirs).detach().abs().max()) < _NATS
    for log_probs, entropy in values:
        (log_probs.square().sum() + entropy.sum()).backward()
    for (name, ours), theirs in zip(mixed.named_parameters(), plain.parameters(), strict=True):
        assert ours.dtype == ours.grad.dtype == torch.float32
        assert float((ours.grad - theirs.grad).norm()) < _GRADIENT * float(theirs.grad.norm()) + 1e-6, name


def test_without_it_nothing_is_cast() -> None:
    assert Policy(tiny_model("qwen3", torch.float32)).product_dtype == torch.float32
    with products_of(None, torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")


def test_a_scorer_computes_so() -> None:
    mixed, plain = pair("llama")
    torch.manual_seed(0)
    ours = Scorer(mixed, head_std=0.5, compute=_MIXED).scores(batch())
    torch.manual_seed(0)
    theirs = Scorer(plain, head_std=0.5).scores(batch())
    assert ours.dtype == torch.float32
    assert 0 < float((ours - theirs).detach().abs().max()) < 0.02 * float(theirs.detach().abs().max())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("softcap", "multiplier"), [(None, 1.0), (5.0, 0.5)])
def test_the_heads_sums_are_in_float32(
    bias: bool, softcap: float | None, multiplier: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the same factors in bfloat16, everything else in float64: sums and softmax are not rounded to 16 bits."""
    monkeypatch.setattr("gspo.models.logits._CHUNK_BYTES", 1)
    monkeypatch.setattr("gspo.models.logits._MIN_CHUNK_ROWS", 5)
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(*shape, generator=generator).requires_grad_() for shape in ((13, 16), (29, 16)))
    offset = torch.randn(29, generator=generator).requires_grad_() if bias else None
    targets = torch.randint(29, (13,), generator=generator)
    leaves: list[Tensor] = [tensor for tensor in (hidden, weight, offset) if tensor is not None]

    half = torch.bfloat16
    logits = (hidden.to(half).double() @ weight.to(half).double().T + (0.0 if offset is None else offset)) * multiplier
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    expected = (logits / 0.7).log_softmax(-1)[torch.arange(13), targets]

    head = OutputHead(weight, offset, softcap, multiplier, products=half)
    ours, _ = token_log_probs(head, hidden, targets, 0.7)
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad(ours.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        assert mine.dtype == torch.float32
        assert float((mine - theirs).norm()) < 0.01 * float(theirs.norm())


def test_a_pass_that_is_held_casts_each_weight_once() -> None:
    mixed, _ = pair("llama")
    policy = Policy(mixed, compute=_MIXED)
    weight = mixed.model.layers[0].mlp.up_proj.weight
    with torch.no_grad(), copies_held(torch.device("cpu")):
        before = policy.log_probs(batch())[0]
        weight.data.zero_()
        held = policy.log_probs(batch())[0]
    assert torch.equal(before, held)
    with torch.no_grad():
        assert not torch.equal(policy.log_probs(batch())[0], before)


@pytest.mark.parametrize("family", FAMILIES)
def test_verify_accepts_it(family: str) -> None:
    mixed, _ = pair(family)
    assert 1e-5 < verify_packed_forward(Policy(mixed, compute=_MIXED)) < 0.1


def test_what_the_setting_means(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_bfloat16 in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has_bfloat16, **_: has)
        assert mixed_precision(None, torch.float32, "cuda") is has_bfloat16
        assert not mixed_precision(None, torch.bfloat16, "cuda")
        assert not mixed_precision(None, torch.float32, "cpu")
        assert not mixed_precision(False, torch.float32, "cuda")
        assert mixed_precision(True, torch.float32, "cpu")
    with pytest.raises(ValueError, match=r"which this GPU does not have: set .*mixed_precision=false"):
        mixed_precision(True, torch.float32, "cuda")
    with pytest.raises(ValueError, match=r"and these are bfloat16: set actor_rollout_ref\.model\.dtype=float32"):
        mixed_precision(True, torch.bfloat16, "cpu")


def test_a_model_is_prepared_for_it_with_weights_in_float32(tiny_model_folder: Path) -> None:
    model = load_model(str(tiny_model_folder))
    compute = prepare_model(model, mixed_precision=True)
    assert compute.products == torch.bfloat16
    assert Policy(model, compute=compute).product_dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert prepare_model(model).products is None
