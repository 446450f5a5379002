"""Networks are PyTorch modules: they are called, hooks run, and ``torch.compile`` gives the same output."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from wsipipe.models.mil.bag_tensors import BagBatch, BagTensors
from wsipipe.models.mil.network import NetworkOutput, SlideNetwork
from wsipipe.models.mil.tile_graph import knn_edges
from wsipipe.models.training.methods import METHODS

SIZES = (9, 1, 16)


def batch() -> BagBatch:
    torch.manual_seed(1)
    bags = []
    for tiles in SIZES:
        coords = np.array([(place % 4, place // 4) for place in range(tiles)])
        bags.append(BagTensors("S", torch.randn(tiles, 12), knn_edges(coords).int()))
    return BagBatch.of(bags)


@pytest.fixture(params=METHODS)
def network(request: pytest.FixtureRequest) -> SlideNetwork:
    kind = METHODS[request.param].network
    small = {"hidden": 16, "attention": 8, "shared": 6, "heads": 2}
    config = {name: value for name, value in small.items() if name in kind.Config.model_fields}
    torch.manual_seed(0)
    return kind(kind.Config.model_validate({"in_features": 12, **config})).eval()


def tensors(output: NetworkOutput) -> dict[str, Tensor]:
    return {f.name: value for f in fields(output) if isinstance(value := getattr(output, f.name), Tensor)}


def test_a_network_is_called_and_its_hooks_run(network: SlideNetwork) -> None:
    hooked: list[NetworkOutput] = []
    network.register_forward_hook(lambda _module, _inputs, output: hooked.append(output))
    bags = batch()
    output = network(bags)
    assert hooked == [output]
    assert output.logits.shape == (len(SIZES), network.task.outputs)
    for name, value in tensors(network.forward(bags)).items():
        assert torch.equal(value, getattr(output, name)), name


def test_hooks_of_its_layers_run(network: SlideNetwork) -> None:
    shapes = []
    heads = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    for layer in heads:
        layer.register_forward_hook(lambda _layer, _inputs, output: shapes.append(output.shape))
    network(batch())
    assert shapes


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, as it traces
@pytest.mark.parametrize("network", ["momkd", "evidence", "transmil"], indirect=True)
def test_a_compiled_network_gives_the_same_output_and_trains(network: SlideNetwork) -> None:
    bags = batch()
    compiled = torch.compile(network, backend="eager")  # traces as any backend; needs no compiler on the machine
    output = compiled(bags)
    for name, value in tensors(network(bags)).items():
        torch.testing.assert_close(getattr(output, name), value, msg=name)
    output.logits.square().sum().backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert any(name.startswith(("head", "slot")) for name in reached)
