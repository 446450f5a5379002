"""Our GATv2 against PyTorch Geometric's: outputs, gradients, dropout's law; graphs of every kind; twice the same."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from wsipipe.models.mil.gatv2 import GATv2, Graph
from wsipipe.models.mil.tile_graph import knn_edges

with warnings.catch_warnings():
    # torch-geometric compiles parts of itself that are not used here with what torch has deprecated.
    warnings.filterwarnings("ignore", message=r"`torch\.jit")
    from torch_geometric.nn import GATv2Conv


def pair(
    in_features: int, width: int, heads: int, *, dropout: float = 0.0, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[GATv2, GATv2Conv]:
    """The two with one state, biases and all at random."""
    torch.manual_seed(seed)
    theirs = GATv2Conv(in_features, width, heads=heads, dropout=dropout).to(dtype)
    with torch.no_grad():
        theirs.bias.normal_()
    ours = GATv2(in_features, width, heads, dropout).to(dtype)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def gradients(layer: torch.nn.Module, out: Tensor, x: Tensor, upstream: Tensor) -> dict[str, Tensor]:
    names = dict(layer.named_parameters())
    found = torch.autograd.grad(out, [x, *names.values()], upstream)
    return dict(zip(["x", *names], found, strict=True))


def assert_equal_to_pyg(edges: Tensor, tiles: int, heads: int, dtype: torch.dtype, within: float) -> None:
    ours, theirs = pair(5, 6, heads, dtype=dtype)
    x = torch.randn(tiles, 5, dtype=dtype, requires_grad=True)
    upstream = torch.randn(tiles, 6 * heads, dtype=dtype)
    here, there = ours(x, Graph.of(edges, tiles)), theirs(x, edges)
    torch.testing.assert_close(here, there, rtol=within, atol=within)
    wanted = gradients(theirs, there, x, upstream)
    found = gradients(ours, here, x, upstream)
    assert found.keys() == wanted.keys()
    for name in wanted:
        scale = float(wanted[name].abs().max().clamp(min=1))
        torch.testing.assert_close(found[name] / scale, wanted[name] / scale, rtol=0, atol=within, msg=name)


def grid_edges(tiles: int, seed: int = 0) -> Tensor:
    """Of tiles scattered over a grid with gaps, so that tiles have from none to many edges coming in."""
    side = int(np.ceil((2 * tiles) ** 0.5))
    places = np.random.default_rng(seed).choice(side**2, tiles, replace=False)
    return knn_edges(np.stack([places % side, places // side], axis=1))


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_on_tile_graphs_outputs_and_gradients_are_those_of_pyg(heads: int):
    assert_equal_to_pyg(grid_edges(400), 400, heads, torch.float64, 1e-12)  # 3,600 edges: more than one piece


def test_in_float32_they_agree_to_a_millionth():
    assert_equal_to_pyg(grid_edges(200), 200, 2, torch.float32, 1e-6)


def test_at_the_size_of_the_network_they_agree_to_a_millionth():
    ours, theirs = pair(1536, 256, 2, dtype=torch.float32)
    x = torch.randn(150, 1536, requires_grad=True)
    edges, upstream = grid_edges(150), torch.randn(150, 512)
    here, there = ours(x, Graph.of(edges, 150)), theirs(x, edges)
    exact_layer = pair(1536, 256, 2)[1]
    exact_layer.load_state_dict(theirs.state_dict())
    exact = exact_layer(x.double(), edges)
    assert (here - exact).abs().max() < 1e-6 * exact.abs().max() + 2 * (there - exact).abs().max()
    wanted = gradients(theirs, there, x, upstream)
    for name, found in gradients(ours, here, x, upstream).items():
        assert (found - wanted[name]).abs().max() < 2e-6 * wanted[name].abs().max(), name


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_on_any_graph_they_agree(graph: tuple[int, list[tuple[int, int]]]):
    # Self-loops given, edges given twice, tiles without any edge, and no edges at all.
    tiles, pairs = graph
    edges = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous()
    assert_equal_to_pyg(edges, tiles, 2, torch.float64, 1e-12)


def test_gradients_are_those_of_finite_differences():
    edges = grid_edges(7)
    ours, _ = pair(3, 2, 2)
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    names, values = zip(*ours.named_parameters(), strict=True)

    def out(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(ours, dict(zip(names, values, strict=True)), (x, Graph.of(edges, 7)))

    assert torch.autograd.gradcheck(out, (x, *values))


def test_several_bags_at_once_are_what_they_are_alone():
    ours, _ = pair(5, 6, 2)
    sizes = [30, 1, 12]
    parts = [torch.randn(size, 5, dtype=torch.float64) for size in sizes]
    edges = [grid_edges(size) for size in sizes]
    together = torch.cat([e + begin for e, begin in zip(edges, (0, 30, 31), strict=True)], dim=1)
    alone = torch.cat([ours(x, Graph.of(e, len(x))) for x, e in zip(parts, edges, strict=True)])
    torch.testing.assert_close(ours(torch.cat(parts), Graph.of(together, 43)), alone, rtol=0, atol=1e-12)


def test_dropout_leaves_out_edges_as_pyg_does():
    # Mean and spread over many draws; a tile's edges are left out by themselves, each head on its own.
    ours, theirs = pair(4, 3, 2, dropout=0.4)
    x, edges = torch.randn(9, 4, dtype=torch.float64), grid_edges(9)
    graph = Graph.of(edges, 9)
    with torch.no_grad():
        here = torch.stack([ours(x, graph) for _ in range(4000)])
        there = torch.stack([theirs(x, edges) for _ in range(4000)])
        still = ours.eval()(x, graph)
    error = here.std(dim=0) / 4000**0.5
    assert ((here.mean(dim=0) - still).abs() < 5 * error).all()
    assert ((here.std(dim=0) / there.std(dim=0) - 1).abs() < 0.1).all()
    flat_here, flat_there = here.flatten(1).T.corrcoef(), there.flatten(1).T.corrcoef()
    assert (flat_here - flat_there).abs().max() < 0.12


def test_a_new_layer_starts_as_one_of_pyg_does():
    torch.manual_seed(0)
    ours, theirs = GATv2(300, 100, 2, 0.0), GATv2Conv(300, 100, heads=2)
    for name, value in theirs.state_dict().items():
        mine = ours.state_dict()[name]
        assert mine.shape == value.shape
        torch.testing.assert_close(mine.abs().max(), value.abs().max(), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def test_twice_the_same_numbers_to_the_last_bit(device: str):
    ours, _ = pair(64, 32, 2, dtype=torch.float32)
    ours = ours.to(device)
    x = torch.randn(700, 64, device=device, requires_grad=True)
    graph, upstream = Graph.of(grid_edges(700).to(device), 700), torch.randn(700, 64, device=device)
    first, second = (gradients(ours, ours(x, graph), x, upstream) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_under_mixed_precision_the_softmax_and_the_sums_stay_in_float32():
    ours, _ = pair(64, 32, 2, dtype=torch.float32)
    x = torch.randn(50, 64, requires_grad=True)
    graph = Graph.of(grid_edges(50), 50)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = ours(x, graph)
    assert mixed.dtype == torch.float32
    full = ours(x, graph)
    torch.testing.assert_close(mixed, full, rtol=0.05, atol=0.05)
    found, wanted = (gradients(ours, out, x, torch.ones_like(full)) for out in (mixed, full))
    assert all((found[n] - wanted[n]).abs().max() < 0.1 * wanted[n].abs().max() + 0.1 for n in wanted)
