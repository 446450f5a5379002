"""Layers of torch's own arithmetic that take less time on a CPU; on other devices they are torch's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


class Linear(nn.Linear):
    """``nn.Linear`` by oneDNN in float32.

    torch multiplies float32 matrices with MKL, which on processors that are not Intel's leaves half of their width
    unused; oneDNN does not look at the maker. Worth it for a bag of tiles, not for a single row.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in_features) → (N, out_features)."""
        plain = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        if plain and _ONEDNN and not torch.is_autocast_enabled("cpu"):
            return functional.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()
        return super().forward(x)


class Dropout(nn.Dropout):
    """``nn.Dropout`` from uniform numbers: torch draws the coins themselves five times as slowly."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape, zeroed with probability p and else scaled by 1 / (1 − p)."""
        if x.device.type != "cpu" or not self.training or self.p == 0:
            return super().forward(x)
        return x * (torch.rand(x.shape) >= self.p).to(x.dtype).mul_(1 / (1 - self.p))
