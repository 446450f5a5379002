"""Mixed precision: matrix products in bfloat16; sums, parameters and optimiser in float32."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16"]


def arithmetic(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the autocast context for the forward pass and the loss; gradients and steps are taken outside it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def in_float32(tensor: Tensor) -> torch.autocast:
    """Return a context without autocast for cosines and small sums, which need more than bfloat16's three digits."""
    return torch.autocast(tensor.device.type, enabled=False)
