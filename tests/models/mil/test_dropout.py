"""Our dropout against torch's: the same values, gradients and distribution."""

from __future__ import annotations

import torch
from wsipipe.models.mil.dropout import Dropout


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
