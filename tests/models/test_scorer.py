"""Values and scores over packed groups against the decoder's own forward of every padded sequence."""

from __future__ import annotations

import copy

import pytest
import torch
from models_helpers import FAMILIES, random_groups, tiny_model
from torch import Tensor, nn

from gspo.groups import Group, GroupBatch, Outcome, Prompt, Response
from gspo.models import Scorer, micro_batches, pack

# Decoders compute norms and rotary angles in float32 whatever their dtype, so this is float32 rounding.
_TOLERANCE = 2e-5


def scored(groups: list[Group]) -> GroupBatch:
    for group in groups:
        for response in group.responses:
            response.outcome = Outcome(1.0)
    return GroupBatch.from_groups(groups)


def tiny_scorer(family: str) -> Scorer:
    """With a head that is not zero, so that gradients reach the decoder."""
    scorer = Scorer(tiny_model(family))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in scorer.model["head"].parameters():
            parameter.normal_(generator=generator)
    return scorer


def padded_states(model: nn.Module, groups: list[Group]) -> list[tuple[int, int, Tensor]]:
    """(prompt length, response length, values at all positions) of every response, from one padded forward."""
    pairs = [(list(g.prompt.token_ids), r.token_ids) for g in groups for r in g.responses]
    longest = max(len(p) + len(r) for p, r in pairs)
    ids = torch.tensor([p + r + [0] * (longest - len(p) - len(r)) for p, r in pairs])
    hidden = model["decoder"](input_ids=ids, use_cache=False).last_hidden_state
    head = model["head"]
    values = (hidden * head.weight).sum(-1) + head.bias
    return [(len(p), len(r), values[row]) for row, (p, r) in enumerate(pairs)]


def padded_values(model: nn.Module, groups: list[Group]) -> Tensor:
    states = padded_states(model, groups)
    width = max(1, max(length for _, length, _ in states))
    rows = []
    for prompt, length, values in states:
        before = values[prompt - 1 : prompt - 1 + length]
        rows.append(torch.cat([before, before.new_zeros(width - length)]))
    return torch.stack(rows)


def padded_scores(model: nn.Module, groups: list[Group]) -> Tensor:
    return torch.stack([values[prompt + length - 1] for prompt, length, values in padded_states(model, groups)])


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = _TOLERANCE) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = max(1e-3, float(expected.abs().max()))
        assert float((ours[name] - expected).abs().max()) / scale < tolerance, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reading", ["values", "scores"])
def test_packed_equals_padded(family: str, reading: str) -> None:
    scorer = tiny_scorer(family)
    groups = random_groups(1)
    plain = copy.deepcopy(scorer.model)
    plain["decoder"].config._attn_implementation = "eager"

    ours = getattr(scorer, reading)(scored(groups))
    expected = {"values": padded_values, "scores": padded_scores}[reading](plain, groups)
    torch.testing.assert_close(ours, expected, atol=_TOLERANCE, rtol=_TOLERANCE)

    weights = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(0))
    theirs = gradients(plain, (weights * expected).sum())
    assert {"head.weight", "head.bias"} <= theirs.keys()
    assert_same_gradients(gradients(scorer.model, (weights * ours).sum()), theirs)


@pytest.mark.parametrize("reading", ["values", "scores"])
def test_any_micro_batch_split_gives_the_same_gradient(reading: str) -> None:
    scorer = tiny_scorer("qwen3")
    batch = scored(random_groups(2, num_groups=4))
    read = getattr(scorer, reading)
    whole = gradients(scorer.model, read(batch).square().sum())
    for max_tokens, max_responses in [(1, None), (20, None), (10_000, 1)]:
        scorer.model.zero_grad()
        for part in micro_batches(batch, max_tokens, max_responses):
            read(part).square().sum().backward()
        split = {name: p.grad for name, p in scorer.model.named_parameters() if p.grad is not None}
        assert_same_gradients(split, whole, tolerance=1e-6)


def taught(groups: list[Group]) -> list[Group]:
    """Each group with a teacher; the second's is empty."""
    for number, group in enumerate(groups):
        tokens = [(5 * number + i) % 61 for i in range(0 if number == 1 else 3 + number)]
        group.teacher = Response(tokens, [0.0] * len(tokens), "", "stop")
    return groups


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_packed_once_is_a_teacher_on_its_own(family: str) -> None:
    scorer = tiny_scorer(family)
    groups = taught(random_groups(1))
    plain = copy.deepcopy(scorer.model)
    plain["decoder"].config._attn_implementation = "eager"
    batch = scored(groups)
    students, teachers = scorer.compare(batch)
    alone = [Group(group.prompt, [group.teacher]) for group in groups if group.teacher is not None]
    expected = padded_scores(plain, groups), padded_scores(plain, alone)
    torch.testing.assert_close((students, teachers), expected, atol=_TOLERANCE, rtol=_TOLERANCE)
    torch.testing.assert_close(students, scorer.scores(batch), atol=_TOLERANCE, rtol=_TOLERANCE)

    def loss(ours: Tensor, theirs: Tensor) -> Tensor:
        return nn.functional.softplus(ours - theirs[torch.as_tensor(batch.group_index)]).sum()

    found = gradients(scorer.model, loss(students, teachers))
    assert_same_gradients(found, gradients(plain, loss(*expected)), tolerance=5 * _TOLERANCE)


def test_the_teacher_is_in_the_row_once() -> None:
    groups = taught(random_groups(1))
    row = pack(groups, keep_last=True, with_teacher=True)
    assert row.num_tokens == sum(group.num_tokens for group in groups)
    assert row.teacher_ends is not None
    assert row.teacher_ends.tolist() == [
        span.end - 1 if number != 1 else span.start + span.prompt_length - 1 for number, span in enumerate(row.spans)
    ]
    assert pack(groups, keep_last=True).num_tokens == row.num_tokens - sum(
        len(group.teacher) for group in groups if group.teacher is not None
    )
    with pytest.raises(ValueError, match=r"^the group of f:0 has no teacher's response: set Group.teacher first$"):
        pack(random_groups(1), keep_last=True, with_teacher=True)


def test_parts_of_a_group_have_its_teacher_and_its_tokens_count() -> None:
    batch = scored(taught(random_groups(2, num_groups=4)))
    for limit in (1, 25, 40, 10_000):
        parts = list(micro_batches(batch, limit, with_teacher=True))
        assert sum(map(len, parts)) == len(batch)
        for part in parts:
            assert all(group.teacher is not None for group in part.groups)
            tokens = pack(part.groups, keep_last=True, with_teacher=True).num_tokens
            assert tokens <= limit or len(part) == 1
    assert all(group.teacher is None for part in micro_batches(batch, 25) for group in part.groups)


def test_a_random_head_is_drawn_by_the_seed() -> None:
    def head(seed: int) -> Tensor:
        model = tiny_model("llama")
        torch.manual_seed(seed)
        weight: Tensor = Scorer(model, head_std=0.02).model["head"].weight.detach()
        return weight

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))
    assert 0.01 < float(head(1).std()) < 0.03


def test_the_head_starts_at_zero_and_learns_from_the_first_step() -> None:
    scorer = Scorer(tiny_model("llama"))
    batch = scored(random_groups(0))
    values = scorer.values(batch)
    assert values.abs().max() == 0
    found = gradients(scorer.model, ((values - 1) * batch["response_mask"]).square().sum())
    assert found["head.bias"].item() == -2 * batch["response_mask"].sum().item()
    assert all(grad.abs().max() == 0 for name, grad in found.items() if name.startswith("decoder"))


def test_making_a_scorer_draws_no_random_number() -> None:
    model = tiny_model("llama")
    before = torch.get_rng_state()
    Scorer(model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("qwen2", False)])
def test_it_holds_the_decoder_and_the_head_only(family: str, tied: bool) -> None:
    model = tiny_model(family)
    names = {name for name, _ in Scorer(model).model.named_parameters()}
    decoder = {f"decoder.{name}" for name, _ in model.get_decoder().named_parameters()}
    assert names == decoder | {"head.weight", "head.bias"}
    assert ("lm_head.weight" in dict(model.named_parameters())) is not tied


def test_the_head_is_float32_on_a_bfloat16_decoder() -> None:
    scorer = Scorer(tiny_model("llama", torch.bfloat16, scale=1.0))
    assert {p.dtype for p in scorer.model["head"].parameters()} == {torch.float32}
    assert scorer.values(scored(random_groups(0))).dtype == torch.float32


def test_a_value_sees_only_what_comes_before_its_token() -> None:
    scorer = tiny_scorer("llama")

    def values(tokens: list[int]) -> Tensor:
        response = Response(tokens, [0.0] * len(tokens), "", "stop")
        return scorer.values(scored([Group(Prompt("f:0", (1, 2, 3), "", ""), [response])]))[0].detach()

    one, other = values([4, 5, 6, 7]), values([4, 5, 9, 7])
    torch.testing.assert_close(one[:3], other[:3], rtol=0, atol=1e-12)
    assert (one[3] - other[3]).abs() > 1e-3


def test_an_empty_response_is_scored_at_its_prompt() -> None:
    scorer = tiny_scorer("llama")
    prompt = Prompt("f:0", (1, 2, 3), "", "")
    empty, begun = Response([], [], "", "stop"), Response([4, 5], [0.0, 0.0], "", "stop")
    batch = scored([Group(prompt, [empty, begun])])
    scores, values = scorer.scores(batch), scorer.values(batch)
    torch.testing.assert_close(scores[0], values[1, 0], rtol=0, atol=1e-12)
