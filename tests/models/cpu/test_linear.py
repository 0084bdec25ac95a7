"""Linear layers on oneDNN against PyTorch's own in float64: values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gspo.models.cpu.linear import FastLinear, gradient_of_weight, linear, packed_weights, use_fast_linears


def fast(inputs: int, outputs: int, bias: bool) -> FastLinear:
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=bias))
    use_fast_linears(model)
    layer = model[0]
    if type(layer) is nn.Linear:
        pytest.skip("oneDNN is not to be had on this machine")
    assert isinstance(layer, FastLinear)
    return layer


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5, 24), (1, 3, 24), (2, 7, 24)])
def test_values_and_gradients_are_those_of_a_plain_product(shape: tuple[int, ...], bias: bool) -> None:
    layer = fast(24, 40, bias)
    rows = torch.randn(*shape, requires_grad=True)
    upstream = torch.randn(*shape[:-1], 40)
    layer(rows).backward(upstream)

    exact: list[Tensor] = [p.detach().double().requires_grad_() for p in (rows, *layer.parameters())]
    plain = functional.linear(*exact)
    plain.backward(upstream.double())
    torch.testing.assert_close(layer(rows).double(), plain, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip((rows, *layer.parameters()), exact, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=1e-5, rtol=1e-5)


def test_a_strided_input_and_an_expanded_gradient_are_read_right() -> None:
    layer = fast(6, 4, bias=False)
    rows = torch.randn(6, 9).t().requires_grad_()
    layer(rows).sum().backward()
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad, layer.weight.detach().sum(0).expand(9, 6))
    torch.testing.assert_close(layer.weight.grad, rows.detach().sum(0).expand(4, 6))


def test_packed_weights_serve_any_number_of_rows_and_are_gone_afterwards() -> None:
    layer = fast(24, 40, bias=True)
    with packed_weights(layer), torch.no_grad():
        assert layer.packed is not None
        for count in (1, 3, 32, 257):
            rows = torch.randn(count, 24)
            torch.testing.assert_close(layer(rows), functional.linear(rows, layer.weight, layer.bias))
    assert layer.packed is None


def test_training_uses_the_weights_themselves_while_a_packed_copy_is_there() -> None:
    layer = fast(3, 2, bias=False)
    with packed_weights(layer):
        with torch.no_grad():
            layer.weight.mul_(2.0)
        rows = torch.ones(1, 3)
        torch.testing.assert_close(layer(rows).detach(), layer.weight.sum(1)[None])


def test_other_types_and_empty_rows_take_the_usual_way() -> None:
    layer = fast(3, 2, bias=True)
    assert layer(torch.empty(0, 3)).shape == (0, 2)
    layer.double()
    rows = torch.randn(4, 3, dtype=torch.float64)
    assert torch.equal(layer(rows), functional.linear(rows, layer.weight, layer.bias))
    assert linear(rows, layer.weight.detach()).dtype == torch.float64


def test_only_plain_linear_layers_change_and_the_weights_keep_their_names() -> None:
    class Own(nn.Linear):
        pass

    model = nn.ModuleDict({"plain": nn.Linear(2, 2), "own": Own(2, 2)})
    before = list(model.state_dict())
    use_fast_linears(model)
    assert type(model["own"]) is Own
    assert list(model.state_dict()) == before


@pytest.mark.parametrize(("count", "inputs", "outputs"), [(5, 24, 40), (120, 24, 40), (121, 40, 24), (85, 32, 32)])
def test_the_gradient_of_a_weight_from_few_and_from_many_rows(count: int, inputs: int, outputs: int) -> None:
    grad, rows = torch.randn(3, count, outputs), torch.randn(3, count, inputs)
    exact = torch.einsum("bto,bti->oi", grad.double(), rows.double())
    torch.testing.assert_close(gradient_of_weight(grad, rows).double(), exact, atol=1e-4, rtol=1e-4)
    expanded = grad[:, :1].expand_as(grad)
    exact = torch.einsum("bto,bti->oi", expanded.double(), rows.double())
    torch.testing.assert_close(gradient_of_weight(expanded, rows).double(), exact, atol=1e-4, rtol=1e-4)
