"""flex_attention's mask against the masked attention of each group, which the tests of `Policy` hold to an oracle.

Everything runs in its plain form on a CPU; the compiled kernel needs a GPU.
"""

from __future__ import annotations

import copy
import random
from functools import cache, partial

import pytest
import torch
import torch._dynamo
from models_helpers import random_groups, tiny_model
from torch import Tensor

from gspo.groups import GroupBatch
from gspo.models import Compute, PackedAttention, Policy, flex_attention, pack, prefix_attention, verify_packed_forward
from gspo.models.flex_attention import FlexAttention, serves_flex_attention

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    # What torch does as it traces.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated"),
]

_HEADS, _KV_HEADS, _SIZE = 4, 2, 8


@pytest.fixture
def gradients_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """flex_attention has a plain backward pass on a CPU, and refuses to begin it there."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)


def attention(seed: int, num_groups: int) -> tuple[PackedAttention, list[Tensor]]:
    """A packed row, and its queries, keys and values. (heads, tokens, size)"""
    row = pack(random_groups(seed, num_groups))
    generator = torch.Generator().manual_seed(seed)
    shapes = [(heads, row.num_tokens, _SIZE) for heads in (_HEADS, _KV_HEADS, _KV_HEADS)]
    qkv = [torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in shapes]
    return PackedAttention(row.spans, row.position_ids), qkv


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (5, None), (None, 3.0), (4, 2.0)])
@pytest.mark.parametrize(("seed", "num_groups"), [(0, 3), (2, 5)])
@pytest.mark.usefixtures("gradients_on_a_cpu")
def test_values_and_gradients(seed: int, num_groups: int, window: int | None, softcap: float | None) -> None:
    context, qkv = attention(seed, num_groups)
    flex = FlexAttention(context.spans, context.position_ids)
    ours = flex.attend(*qkv, 0.7, window, softcap)
    expected = context._masked(*qkv, 0.7, window, softcap)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-12)
    upstream = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    for mine, theirs in zip(
        torch.autograd.grad(ours, qkv, upstream), torch.autograd.grad(expected, qkv, upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-11)


def test_a_mask_is_made_once_for_each_window() -> None:
    context, qkv = attention(0, 2)
    flex = FlexAttention(context.spans, context.position_ids)
    for window in (None, 5, None, 5):
        flex.attend(*[tensor.detach() for tensor in qkv], 0.7, window, None)
    assert sorted(flex._masks, key=str) == [5, None]


@pytest.mark.usefixtures("gradients_on_a_cpu")
def test_a_model_runs_on_it_where_it_serves_and_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer of Gemma 2 has a soft cap, so that none takes a CPU's own way."""
    served: list[Tensor] = []
    monkeypatch.setattr(prefix_attention, "serves_flex_attention", lambda query: served.append(query) or True)
    model = tiny_model("gemma2", torch.float32)
    masked, flexed = copy.deepcopy(model), model
    batch = GroupBatch.from_groups(random_groups(1), scored=False)
    log_probs = [policy.log_probs(batch)[0] for policy in (Policy(flexed, compute=Compute(flex=True)), Policy(masked))]
    assert len(served) == model.config.num_hidden_layers
    torch.testing.assert_close(*log_probs, atol=1e-5, rtol=1e-5)
    for values in log_probs:
        values.square().sum().backward()
    for ours, theirs in zip(flexed.parameters(), masked.parameters(), strict=True):
        scale = float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4 * max(scale, 1e-3), rtol=1e-4)


def test_loading_compares_its_values_with_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_attention, "serves_flex_attention", lambda _: True)
    model = tiny_model("gemma2", torch.float32)
    policy = Policy(model, compute=Compute(flex=True))
    assert verify_packed_forward(policy) < 1e-4
    monkeypatch.setattr(FlexAttention, "attend", lambda _, q, *__: torch.zeros_like(q))
    with pytest.raises(ValueError, match="log-probabilities from packed groups differ"):
        verify_packed_forward(policy)


def test_it_serves_no_tensor_on_a_cpu() -> None:
    assert not serves_flex_attention(torch.zeros(1, dtype=torch.bfloat16))


def test_who_sees_whom() -> None:
    """Token by token: the own response and the group's prompt, up to oneself, within the window."""
    groups = random_groups(random.Random(3).randrange(100), 3)
    row = pack(groups)
    owners = [
        (number, segment)
        for number, span in enumerate(row.spans)
        for segment, length in enumerate((span.prompt_length, *span.response_lengths))
        for _ in range(length)
    ]
    position = row.position_ids[0].tolist()
    sees = FlexAttention(row.spans, row.position_ids)._sees(4)
    none = torch.tensor(0)
    for i, (group, segment) in enumerate(owners):
        for j, (other, theirs) in enumerate(owners):
            expected = group == other and theirs in (0, segment) and 0 <= position[i] - position[j] < 4
            assert bool(sees(none, none, torch.tensor(i), torch.tensor(j))) is expected


@pytest.mark.slow
@pytest.mark.usefixtures("gradients_on_a_cpu")
def test_compiled_once_it_serves_rows_of_any_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for a GPU, with gradients, down to where kernels would be made."""
    compiled = cache(partial(torch.compile, dynamic=True, fullgraph=True, backend="aot_eager"))
    monkeypatch.setattr(flex_attention, "_compiled", lambda function, _: compiled(function))
    graphs = []
    for seed, num_groups in ((0, 3), (2, 5)):
        context, qkv = attention(seed, num_groups)
        flex = FlexAttention(context.spans, context.position_ids)
        ours, expected = (attend(*qkv, 0.7, 4, 2.0) for attend in (flex.attend, context._masked))
        with torch.inference_mode():
            sampled = FlexAttention(context.spans, context.position_ids).attend(*qkv, 0.7, 4, 2.0)
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(sampled, expected.detach(), atol=1e-12, rtol=1e-12)
        for mine, theirs in zip(
            torch.autograd.grad(ours.sum(), qkv), torch.autograd.grad(expected.sum(), qkv), strict=True
        ):
            torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-11)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[-1]
