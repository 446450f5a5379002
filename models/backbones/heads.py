"""What some published networks add to a plain one: a pooling that attends to all tokens, a projection, a stem.

Each is described by a row of the table (``head``, or the ``embed_layer`` of its arguments).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Headed(nn.Module):
    """A network with something after its tokens. Its tokens can be pooled as those of any transformer."""

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head_hidden_size = width

    @property
    def num_features(self) -> int:
        """The width of the tokens."""
        return int(self.trunk.num_features)  # type: ignore[arg-type]

    @property
    def num_prefix_tokens(self) -> int:
        """The tokens before those of the patches."""
        return int(getattr(self.trunk, "num_prefix_tokens", 0))

    @property
    def patch_embed(self) -> nn.Module:
        """The layer that makes tokens of patches."""
        return self.trunk.patch_embed  # type: ignore[return-value]

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Compute the tokens (B, N, C), after the network's last norm."""
        return self.trunk.forward_features(pixels)  # type: ignore[operator, no-any-return]


class AttentionPool(nn.Module):
    """One learned query attends to all tokens (CoCa, Yu et al. 2022).

    :param width: of the query and of the result.
    :param tokens: width of the tokens.
    :param bias: whether queries, keys, values and results have one.
    """

    def __init__(self, width: int, tokens: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(1, width).normal_())
        self.norm_query, self.norm_tokens = nn.LayerNorm(width), nn.LayerNorm(tokens)
        self.to_query = nn.Linear(width, width, bias=False)
        self.to_key_value = nn.Linear(tokens, 2 * width, bias=False)
        self.bias = nn.Parameter(torch.zeros(3 * width)) if bias else None
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool tokens (B, N, C) to (B, width)."""
        query = self.to_query(self.norm_query(self.query)).expand(len(tokens), -1, -1)
        key, value = self.to_key_value(self.norm_tokens(tokens)).chunk(2, dim=-1)
        if self.bias is not None:
            query, key, value = (x + b for x, b in zip((query, key, value), self.bias.chunk(3), strict=True))
        of_heads = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        pooled = functional.scaled_dot_product_attention(*of_heads)
        return self.out(pooled.transpose(1, 2).flatten(-2))[:, 0]  # type: ignore[no-any-return]


class AttentionPooled(Headed):
    """A transformer whose feature vector is pooled from its tokens by attention, then normed."""

    def __init__(self, trunk: nn.Module, *, width: int, heads: int, bias: bool) -> None:
        super().__init__(trunk, width)
        self.pool = AttentionPool(width, self.num_features, heads, bias=bias)
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the feature vectors (B, width)."""
        return self.norm(self.pool(self.forward_features(pixels)))  # type: ignore[no-any-return]


class Projected(Headed):
    """A network whose pooled output is projected, as into a space that it shares with texts.

    :param widths: of the layers, with GELU between them.
    :param unit: whether the feature vector gets length 1.
    """

    def __init__(self, trunk: nn.Module, *, widths: Sequence[int], bias: bool, unit: bool) -> None:
        super().__init__(trunk, widths[-1])
        self.unit = unit
        layers: list[nn.Module] = []
        for before, after in pairwise([self.num_features, *widths]):
            layers += [nn.Linear(before, after, bias=bias), nn.GELU()]
        self.head = nn.Sequential(*layers[:-1])

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the feature vectors (B, widths[-1])."""
        projected: Tensor = self.head(self.trunk(pixels))
        return functional.normalize(projected, dim=-1) if self.unit else projected


HEADS: dict[str, Callable[..., Headed]] = {"attention": AttentionPooled, "projection": Projected}
"""The kinds of ``head`` in the table."""


class ConvStem(nn.Module):
    """CTransPath's stem (Wang et al. 2022): two convolutions of stride 2 and one of 1 × 1, in place of 4 × 4 patches.

    It takes the arguments with which timm makes a Swin transformer's patches.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Callable[[int], nn.Module] | None = None,
        **_: Any,
    ) -> None:
        from timm.layers import to_2tuple

        super().__init__()
        self.img_size, self.patch_size = to_2tuple(img_size), to_2tuple(patch_size)
        self.grid_size = tuple(side // patch for side, patch in zip(self.img_size, self.patch_size, strict=True))
        layers: list[nn.Module] = []
        before = in_chans
        for after in (embed_dim // 8, embed_dim // 4):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after)]
            layers.append(nn.ReLU(inplace=True))
            before = after
        self.proj = nn.Sequential(*layers, nn.Conv2d(before, embed_dim, 1))
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the patches (B, side, side, embed_dim)."""
        return self.norm(self.proj(pixels).permute(0, 2, 3, 1))  # type: ignore[no-any-return]
