"""The packed shared-prefix forward against the model's own forward of every sequence on its own, gradients included."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
import torch
from models_helpers import FAMILIES, random_groups, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from gspo.groups import Group, GroupBatch, Outcome, Prompt, Response
from gspo.models import Policy, load_model, micro_batches, prefix_attention, prepare_model, verify_packed_forward

# Decoders compute norms and rotary angles in float32 whatever their dtype, so this is float32 rounding.
_TOLERANCE = 2e-5


def scored(groups: list[Group]) -> GroupBatch:
    for group in groups:
        for response in group.responses:
            response.outcome = Outcome(1.0)
    return GroupBatch.from_groups(groups)


def padded_log_probs(model: PreTrainedModel, groups: list[Group], temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies as any peer computes them: prompt and response padded to the longest."""
    pairs = [(list(g.prompt.token_ids), r.token_ids) for g in groups for r in g.responses]
    longest = max(len(p) + len(r) for p, r in pairs)
    width = max(1, max(len(r) for _, r in pairs))
    ids = torch.tensor([p + r + [0] * (longest - len(p) - len(r)) for p, r in pairs])
    logits = model(input_ids=ids, use_cache=False).logits / temperature  # causal: no token sees the padding behind it
    log_p = logits.log_softmax(-1)
    entropies = -(log_p.exp() * log_p).sum(-1)
    log_prob_rows, entropy_rows = [], []
    for row, (prompt, response) in enumerate(pairs):
        where = torch.arange(len(prompt) - 1, len(prompt) - 1 + len(response))
        picked = log_p[row, where].gather(1, torch.tensor(response, dtype=torch.long)[:, None])[:, 0]
        padding = picked.new_zeros(width - len(response))
        log_prob_rows.append(torch.cat([picked, padding]))
        entropy_rows.append(torch.cat([entropies[row, where], padding]))
    return torch.stack(log_prob_rows), torch.stack(entropy_rows)


def gradients(model: PreTrainedModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = _TOLERANCE) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = max(1e-3, float(expected.abs().max()))
        assert float((ours[name] - expected).abs().max()) / scale < tolerance, name


@pytest.fixture(params=["dense", "flash"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways through short sequences."""
    monkeypatch.setattr(prefix_attention, "serves", lambda _: request.param == "dense")
    return str(request.param)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.usefixtures("kernel")
def test_packed_equals_padded(family: str, seed: int) -> None:
    model = tiny_model(family)
    groups = random_groups(seed)
    batch = scored(groups)
    plain = copy.deepcopy(model)
    plain.config._attn_implementation = "eager"

    log_probs, entropy = Policy(model).log_probs(batch, temperature=0.7, with_entropy=True)
    expected, expected_entropy = padded_log_probs(plain, groups, 0.7)
    torch.testing.assert_close(log_probs, expected, atol=_TOLERANCE, rtol=_TOLERANCE)
    torch.testing.assert_close(entropy, expected_entropy, atol=_TOLERANCE, rtol=_TOLERANCE)

    weights = torch.randn(log_probs.shape, dtype=log_probs.dtype, generator=torch.Generator().manual_seed(seed))
    ours = gradients(model, (weights * log_probs + weights.flip(0) * entropy).sum())
    theirs = gradients(plain, (weights * expected + weights.flip(0) * expected_entropy).sum())
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("kernel")
def test_packed_equals_padded_in_float32(family: str) -> None:
    model = tiny_model(family, torch.float32)
    groups = random_groups(5)
    batch = scored(groups)
    plain = copy.deepcopy(model)
    plain.config._attn_implementation = "eager"
    log_probs, _ = Policy(model).log_probs(batch)
    expected, _ = padded_log_probs(plain, groups, 1.0)
    torch.testing.assert_close(log_probs, expected, atol=1e-4, rtol=1e-4)
    assert_same_gradients(
        gradients(model, log_probs.square().sum()), gradients(plain, expected.square().sum()), tolerance=1e-3
    )


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_moe"])
@pytest.mark.usefixtures("kernel")
def test_any_micro_batch_split_gives_the_same_gradient(family: str) -> None:
    model = tiny_model(family)
    batch = scored(random_groups(2, num_groups=4))
    generator = torch.Generator().manual_seed(0)
    batch["weights"] = torch.randn(batch["response_mask"].shape, dtype=torch.float64, generator=generator)
    policy = Policy(model)
    whole = gradients(model, (policy.log_probs(batch)[0] * batch["weights"]).sum())
    for max_tokens, max_responses in [(1, None), (20, None), (45, 3), (10_000, 1), (10_000, None)]:
        model.zero_grad()
        for part in micro_batches(batch, max_tokens, max_responses):
            (policy.log_probs(part)[0] * part["weights"]).sum().backward()
        split = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert_same_gradients(split, whole, tolerance=1e-6)


def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path) -> None:
    tiny_model("llama", torch.float32).save_pretrained(tmp_path)
    batch = scored(random_groups(3))
    plain, recomputing = load_model(str(tmp_path)), load_model(str(tmp_path))
    for model, on in ((plain, False), (recomputing, True)):
        prepare_model(model, gradient_checkpointing=on)
    assert recomputing.model.layers[0].training
    whole = gradients(plain, Policy(plain).log_probs(batch)[0].sum())
    assert_same_gradients(gradients(recomputing, Policy(recomputing).log_probs(batch)[0].sum()), whole, tolerance=1e-6)


@pytest.mark.usefixtures("kernel")
def test_prompt_order_and_neighbours_do_not_matter() -> None:
    policy = Policy(tiny_model("qwen3"))
    groups = random_groups(4, num_groups=5)
    batch = scored(groups)
    together, _ = policy.log_probs(batch)
    order = list(range(5))
    random.Random(0).shuffle(order)
    shuffled = batch.select(order)
    shuffled["expected"] = torch.cat([together[batch.group_index == number] for number in order])
    torch.testing.assert_close(policy.log_probs(shuffled)[0], shuffled["expected"], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_verify_accepts_known_families(family: str) -> None:
    assert verify_packed_forward(Policy(tiny_model(family, torch.float32))) < 1e-4


def test_verify_refuses_a_head_it_does_not_know() -> None:
    model = tiny_model("llama", torch.float32)
    head = model.lm_head.forward
    model.lm_head.forward = lambda hidden: 1.5 * head(hidden)
    with pytest.raises(
        ValueError, match=r"LlamaForCausalLM: log-probabilities from packed groups differ .* by .* nats"
    ):
        verify_packed_forward(Policy(model))


def test_verify_refuses_weights_that_are_not_finite() -> None:
    model = tiny_model("llama", torch.float32)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        verify_packed_forward(Policy(model))


def test_a_model_without_the_attention_interface_is_refused() -> None:
    model = tiny_model("llama", torch.float32)
    model._supports_attention_backend = False
    with pytest.raises(ValueError, match="does not route its attention"):
        Policy(model)


def test_group_larger_than_the_budget_is_cut_between_responses() -> None:
    groups = [Group(Prompt("f:0", (1, 2, 3), "", ""), [Response([4] * 5, [0.0] * 5, "", "stop") for _ in range(4)])]
    parts = list(micro_batches(scored(groups), max_tokens=13))
    assert [len(part) for part in parts] == [2, 2]
    assert all(part.groups[0].num_tokens <= 13 for part in parts)


def test_parts_are_filled_up_to_the_budget() -> None:
    groups = [Group(Prompt(f"f:{i}", (1, 2), "", ""), [Response([4] * 3, [0.0] * 3, "", "stop")] * 2) for i in range(6)]
    batch = scored(groups)  # 8 tokens and 2 responses a group
    sizes = {
        limits: [len(part) for part in micro_batches(batch, *limits)] for limits in [(48, None), (17, None), (99, 6)]
    }
    assert sizes == {(48, None): [12], (17, None): [4, 4, 4], (99, 6): [6, 6]}
