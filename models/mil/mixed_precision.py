"""Mixed precision: matrix products in bfloat16; sums, parameters and optimiser in float32."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16"]


def arithmetic(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a network reads and its loss is computed; gradients and steps are taken outside."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def in_float32(tensor: Tensor) -> torch.autocast:
    """The context, on the tensor's device, for what three digits are too few for: cosines, small differences, sums."""
    return torch.autocast(tensor.device.type, enabled=False)
