"""Chunked log-probabilities against a full softmax, values and gradients, with every option of the head."""

from __future__ import annotations

import pytest
import torch

from gspo.models import token_log_probs as public
from gspo.models.logits import OutputHead, token_log_probs


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("multiplier", [1.0, 0.25])
@pytest.mark.parametrize("vocabulary", [None, 23])
def test_equals_full_softmax(
    temperature: float,
    softcap: float | None,
    bias: bool,
    multiplier: float,
    vocabulary: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gspo.models.logits._CHUNK_BYTES", 1)
    monkeypatch.setattr("gspo.models.logits._MIN_CHUNK_ROWS", 5)  # 13 rows: two whole chunks and a rest
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    hidden, weight = draw(13, 7).requires_grad_(), (2 * draw(29, 7)).requires_grad_()
    offset = draw(29).requires_grad_() if bias else None
    targets = torch.randint(vocabulary or 29, (13,), generator=generator)
    leaves = [t for t in (hidden, weight, offset) if t is not None]

    logits = (hidden @ weight.T + (offset if bias else 0.0)) * multiplier
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits[:, :vocabulary]
    log_p = (logits / temperature).log_softmax(-1)
    expected = log_p[torch.arange(13), targets]
    expected_entropy = -(log_p.exp() * log_p).sum(-1)

    head = OutputHead(weight, offset, softcap, multiplier, vocabulary=vocabulary)
    torch.testing.assert_close(head.logits(hidden.detach()), logits.detach(), atol=1e-12, rtol=1e-12)
    ours, entropy = token_log_probs(head, hidden, targets, temperature, with_entropy=True)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(entropy, expected_entropy, atol=1e-12, rtol=1e-12)
    g1, g2 = draw(13), draw(13)
    for mine, theirs in zip(
        torch.autograd.grad((ours * g1 + entropy * g2).sum(), leaves),
        torch.autograd.grad((expected * g1 + expected_entropy * g2).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-11)


def test_without_entropy_the_log_probs_are_the_same_and_the_entropy_is_zero() -> None:
    hidden, weight = torch.randn(4, 3), torch.randn(9, 3)
    targets = torch.tensor([0, 8, 4, 4])
    plain, zero = token_log_probs(OutputHead(weight), hidden, targets)
    both, _ = token_log_probs(OutputHead(weight), hidden, targets, with_entropy=True)
    assert torch.equal(plain, both)
    assert torch.equal(zero, torch.zeros(4))


def test_no_tokens_give_no_values_and_zero_gradients() -> None:
    hidden, weight = torch.randn(0, 3, requires_grad=True), torch.randn(9, 3, requires_grad=True)
    log_probs, _ = public(OutputHead(weight), hidden, torch.zeros(0, dtype=torch.long))
    (gradient,) = torch.autograd.grad(log_probs.sum(), weight)
    assert log_probs.numel() == 0
    assert not gradient.any()
