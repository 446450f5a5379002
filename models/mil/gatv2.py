"""GATv2 attention over a fixed graph (Brody, Alon, Yahav 2022, "How attentive are graph attention networks?").

The arithmetic and the state dict are those of ``torch_geometric.nn.GATv2Conv``. That implementation makes about ten
arrays of E × H numbers per layer and direction, and on a GPU sums them in no fixed order. Here edges are sorted by
target once, sums over a tile's edges are ``embedding_bag`` calls, and the values of edges are computed in chunks that
stay in the processor's cache, and computed again in the backward pass. Every sum has a fixed order: the same numbers on
every run of one device.

N is the number of tiles, of one bag or of several that lie one after the other with no edge between them; C is the
width of a head, H = heads · C.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .dropout import Dropout

NEGATIVE_SLOPE = 0.2
"""Slope of the leaky ReLU below zero."""
EDGES_PER_CHUNK = 512
"""Edges that a CPU handles at a time: 1 MiB for each array at H = 512."""


@dataclass(frozen=True)
class Graph:
    """E edges sorted by target, those of a tile to itself replaced by one for every tile; all int64.

    Made once a step for all layers. The order of a target's edges is that of the edges given, the self-loop last.
    """

    source: Tensor
    """(E)"""
    target: Tensor
    """(E), ascending."""
    target_starts: Tensor
    """(N + 1): tile i is target of the edges from ``target_starts[i]`` to before ``target_starts[i + 1]``."""
    by_source: Tensor
    """(E), the edges' numbers sorted by source."""
    source_starts: Tensor
    """(N + 1), the same for ``by_source``."""
    place: Tensor
    """(E), where an edge stands in a table of N rows with ``width`` places, a row for each target."""
    width: int
    """Most edges that one tile is target of."""

    @classmethod
    def of(cls, edge_index: Tensor, tiles: int) -> Graph:
        """
        :param edge_index: (2, E) int64, row 0 the source and row 1 the target; an edge given twice counts twice.
        :param tiles: N.
        """
        starts = torch.arange(tiles + 1, device=edge_index.device)
        loops = starts[:-1].expand(2, -1)
        edges = torch.cat([edge_index[:, edge_index[0] != edge_index[1]], loops], dim=1)
        source, target = edges[:, edges[1].argsort(stable=True)]
        by_source = source.argsort(stable=True)
        target_starts = torch.searchsorted(target, starts)
        width = int(target_starts.diff().max())
        rank = torch.arange(len(target), device=edge_index.device) - target_starts[target]
        return cls(
            source=source,
            target=target,
            target_starts=target_starts,
            by_source=by_source,
            source_starts=torch.searchsorted(source[by_source], starts),
            place=target * width + rank,
            width=width,
        )

    def chunks(self) -> Iterator[slice]:
        """Slices of the edges, one after the other; on a GPU a single one."""
        size = EDGES_PER_CHUNK if self.source.device.type == "cpu" else len(self.source)
        return (slice(start, start + size) for start in range(0, len(self.source), size))


def _sums(rows: Tensor, index: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of some rows for every tile and head.

    :param rows: (R, H).
    :param index: (E), the rows to add, tile after tile.
    :param starts: (N + 1), where each tile's begin in ``index``.
    :param weights: (heads, E), in the order of ``index``.
    :returns: (N, H).
    """
    heads = len(weights)
    parts = rows.reshape(len(rows) * heads, -1)
    sums = (
        functional.embedding_bag(
            index * heads + head, parts, starts, mode="sum", per_sample_weights=weights[head], include_last_offset=True
        )
        for head in range(heads)
    )
    return torch.cat(list(sums), dim=1)


class _Scores(torch.autograd.Function):
    """e = att · LeakyReLU(l_j + r_i) of every edge j → i and head; l, r (N, H), att (1, heads, C) → (heads, E).

    ∂e/∂l_j = ∂e/∂r_i = att ∘ m with m the slope at l_j + r_i, 0.2 or 1. As LeakyReLU(s) = m ∘ s, the gradient of att
    needs no more than the sums of m that those of l and r need.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, att: Tensor, graph: Graph) -> Tensor:
        ctx.save_for_backward(left, right, att)
        ctx.graph = graph
        scores = left.new_empty(att.shape[1], len(graph.source))
        for edges in graph.chunks():
            sums = left.index_select(0, graph.source[edges]).add_(right.index_select(0, graph.target[edges]))
            activated = functional.leaky_relu_(sums, NEGATIVE_SLOPE).view(-1, *att.shape[1:])
            for head, direction in enumerate(att[0]):
                scores[head, edges] = activated[:, head] @ direction
        return scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        left, right, att = ctx.saved_tensors
        graph: Graph = ctx.graph
        [gradient] = gradients
        slopes = left.new_empty(len(graph.source), left.shape[1])
        for edges in graph.chunks():
            sums = torch.index_select(left, 0, graph.source[edges], out=slopes[edges])
            sums.add_(right.index_select(0, graph.target[edges])).gt_(0).clamp_(min=NEGATIVE_SLOPE)
        in_order = torch.arange(len(slopes), device=slopes.device)
        of_target = _sums(slopes, in_order, graph.target_starts, gradient)
        of_source = _sums(slopes, graph.by_source, graph.source_starts, gradient[:, graph.by_source])
        of_att = (of_source * left).sum(dim=0) + (of_target * right).sum(dim=0)
        direction = att.flatten()
        return of_source * direction, of_target * direction, of_att.view_as(att), None


class _Received(torch.autograd.Function):
    """Σ_j w_ij l_j of every tile i over its edges j → i; w (heads, E), l (N, H) → (N, H)."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, left: Tensor, graph: Graph) -> Tensor:
        ctx.save_for_backward(weights, left)
        ctx.graph = graph
        return _sums(left, graph.source, graph.target_starts, weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, left = ctx.saved_tensors
        graph: Graph = ctx.graph
        gradient = gradients[0].contiguous()
        of_weights = torch.empty_like(weights)
        for edges in graph.chunks():
            products = gradient.index_select(0, graph.target[edges]).mul_(left.index_select(0, graph.source[edges]))
            of_weights[:, edges] = products.view(len(products), len(weights), -1).sum(dim=2).T
        order = graph.by_source
        return of_weights, _sums(gradient, graph.target[order], graph.source_starts, weights[:, order]), None


class GATv2(nn.Module):
    """One layer: out_i = bias + Σ_j α_ij W_l x_j over the edges j → i, each head by itself and side by side.

    α_i = softmax_j(att · LeakyReLU(W_l x_j + W_r x_i)), then dropout on α.
    """

    def __init__(self, in_features: int, out_features: int, heads: int, dropout: float) -> None:
        """
        :param in_features: width of x.
        :param out_features: C.
        :param dropout: share of edges that training leaves out, each head its own.
        """
        super().__init__()
        self.lin_l = nn.Linear(in_features, heads * out_features)
        self.lin_r = nn.Linear(in_features, heads * out_features)
        self.att = nn.Parameter(torch.empty(1, heads, out_features))
        self.bias = nn.Parameter(torch.zeros(heads * out_features))
        self.dropout = Dropout(dropout)
        with torch.no_grad():
            for weight in (self.lin_l.weight, self.lin_r.weight, self.att[0]):
                nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """x (N, in_features) → (N, H); in mixed precision only the two products are in bfloat16."""
        left, right = self.lin_l(x), self.lin_r(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.bias + self._received(left.to(self.att.dtype), right.to(self.att.dtype), graph)

    def _received(self, left: Tensor, right: Tensor, graph: Graph) -> Tensor:
        scores = cast("Tensor", _Scores.apply(left, right, self.att, graph))
        # A table for the softmax: places without an edge are −∞ and get no share.
        table = scores.new_full((len(scores), len(left) * graph.width), -torch.inf).index_copy(1, graph.place, scores)
        shares = table.view(len(scores), len(left), graph.width).softmax(dim=2).flatten(1)
        weights = self.dropout(shares.index_select(1, graph.place))
        return cast("Tensor", _Received.apply(weights, left, graph))
