"""Our linear layer and dropout against torch's: the same arithmetic, gradients and law."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from wsipipe.models.mil.cpu_layers import Dropout, Linear


@pytest.mark.parametrize("rows", [1, 7, 325])
def test_linear_is_torchs_own_to_rounding(rows: int):
    torch.manual_seed(0)
    ours, theirs = Linear(1536, 512), nn.Linear(1536, 512)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x, upstream = torch.randn(rows, 1536, requires_grad=True), torch.randn(rows, 512)
    exact = nn.functional.linear(x.double(), theirs.weight.double(), theirs.bias.double())
    error, allowed = ((layer(x) - exact).abs().max() for layer in (ours, theirs))
    assert error < 2 * allowed + 1e-6
    found, wanted = (torch.autograd.grad(layer(x), [x, *layer.parameters()], upstream) for layer in (ours, theirs))
    for mine, other in zip(found, wanted, strict=True):
        assert (mine - other).abs().max() < 2e-6 * other.abs().max()


def test_linear_works_in_inference_in_float64_in_mixed_precision_and_without_gradients_of_x():
    layer = Linear(8, 4)
    x = torch.randn(5, 8)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64


def test_dropout_zeroes_a_share_and_keeps_the_mean():
    torch.manual_seed(0)
    layer, ones = Dropout(0.3), torch.ones(1000, 1000)
    kept = layer(ones)
    assert abs(float((kept == 0).float().mean()) - 0.3) < 0.003
    torch.testing.assert_close(kept[kept != 0], torch.full_like(kept[kept != 0], 1 / 0.7))
    zeros = (kept == 0).float()
    assert (zeros.mean(dim=0) - 0.3).abs().max() < 0.08  # no row and no column is spared
    assert (zeros.mean(dim=1) - 0.3).abs().max() < 0.08
    assert not torch.equal(kept, layer(ones))


def test_dropout_passes_the_gradient_where_it_passed_the_value():
    x = torch.randn(50, 20, requires_grad=True)
    kept = Dropout(0.5)(x)
    kept.sum().backward()
    torch.testing.assert_close(x.grad, 2.0 * (kept != 0))


def test_dropout_does_nothing_when_it_should_not():
    x = torch.randn(5, 5)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_dropout_in_bfloat16_keeps_type_and_share():
    torch.manual_seed(0)
    kept = Dropout(0.1)(torch.ones(1000, 100, dtype=torch.bfloat16))
    assert kept.dtype == torch.bfloat16
    assert abs(float((kept == 0).float().mean()) - 0.1) < 0.005
