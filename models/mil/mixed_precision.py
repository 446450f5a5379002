"""Mixed precision: matrix products in bfloat16; sums, parameters and optimiser in float32."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16"]


def arithmetic(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the autocast context for the forward pass and the loss; gradients and steps are taken outside it.

    Casts of weights are not kept: PyTorch 2.10 keeps one that was made without gradients, as scores of tiles are, and
    what the weight does afterwards then teaches it nothing.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)


def in_float32(tensor: Tensor) -> torch.autocast:
    """Return a context without autocast for cosines and small sums, which need more than bfloat16's three digits."""
    return torch.autocast(tensor.device.type, enabled=False)
