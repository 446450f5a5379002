"""Features on a GPU: those of the CPU but for rounding, the same bits twice and in any company."""

from __future__ import annotations

import os
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from command import told
from measured_figures import Figure
from torch import Tensor, nn
from wsipipe.data.features.store import read_bag
from wsipipe.models.backbones.backbone import Backbone, Embedder, Precision, find_backbone, load_embedder, ready
from wsipipe.models.backbones.weights import Weights

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
EMBEDDED = "efficientnet-lite0"
LEAST_COSINE = {"fp32": 0.99999, "fp16": 0.9999, "bf16": 0.995}
"""Between a feature vector and the CPU's in float32: three digits of bfloat16, over the depth of a network."""
SIZE = 16


@pytest.fixture(scope="module", params=[EMBEDDED, "vit_tiny_patch16_224", "uni2-h"])
def network(request: pytest.FixtureRequest, device: torch.device) -> tuple[Backbone, nn.Module]:
    """A network with its own weights, and two with random ones."""
    backbone = find_backbone(request.param)
    if backbone.name == EMBEDDED:
        return backbone, load_embedder(backbone, device=CPU).model
    if backbone.name == "uni2-h" and device.type == "cpu":
        pytest.skip("too slow on a CPU")
    torch.manual_seed(0)
    with torch.device(device):  # drawing 681 million numbers takes a CPU half a minute
        model = backbone.build(device)
    return backbone, model.cpu()


def on(network: tuple[Backbone, nn.Module], device: torch.device, precision: Precision) -> Embedder:
    """The network on a device; its weights are copied, as they are cast."""
    backbone, model = network
    weights = Weights(Path("none"), "random")
    return ready(backbone, deepcopy(model), weights, device=device, precision=precision)


def textured(number: int, side: int = 224) -> Tensor:
    """Smooth random pictures: what a network sees of pure noise hardly differs from tile to tile."""
    draw = torch.Generator().manual_seed(number)
    coarse = torch.rand((number, 3, 14, 14), generator=draw) * 255
    fine = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 255)
    return fine.permute(0, 2, 3, 1).to(torch.uint8).contiguous()


@pytest.fixture(scope="module")
def on_the_cpu(network: tuple[Backbone, nn.Module]) -> tuple[Tensor, Tensor]:
    """Tiles, and their features in float32."""
    tiles = textured(4 if network[0].name == "uni2-h" else SIZE)
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        return tiles, on(network, CPU, "fp32")(tiles)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_features_are_those_of_the_cpu(
    network: tuple[Backbone, nn.Module],
    on_the_cpu: tuple[Tensor, Tensor],
    device: torch.device,
    precision: Precision,
    figure: Figure,
) -> None:
    tiles, wanted = on_the_cpu
    found = on(network, device, precision)(tiles).cpu()
    cosine = nn.functional.cosine_similarity(found, wanted).min().item()
    difference = ((found - wanted).abs().max() / wanted.abs().max()).item()
    what = f"{network[0].name}, {precision}, against the CPU"
    figure(what, least_cosine=cosine, largest_relative_difference=difference)
    assert cosine > LEAST_COSINE[precision]
    if precision == "fp32":
        assert difference < 1e-3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_tiles_features_are_the_same_bits_twice_and_in_any_company(
    network: tuple[Backbone, nn.Module], device: torch.device, precision: Precision, figure: Figure
) -> None:
    embedder = on(network, device, precision)
    tiles = textured(SIZE)
    features = embedder(tiles).cpu()
    again = torch.equal(embedder(tiles).cpu(), features)
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(1))
    elsewhere = torch.equal(embedder(tiles[order]).cpu(), features[order])
    alone = torch.zeros_like(tiles)
    alone[5] = tiles[5]
    company = torch.equal(embedder(alone).cpu()[5], features[5])
    what = f"{network[0].name}, {precision}, same bits"
    figure(what, twice=again, at_another_place=elsewhere, alone=company)
    assert again
    assert company
    assert elsewhere


def test_weights_cast_once_give_the_bits_of_autocast(network: tuple[Backbone, nn.Module], device: torch.device) -> None:
    tiles = textured(SIZE)
    once = on(network, device, "bf16")(tiles)
    every_time = on(network, device, "fp32")
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(every_time(tiles), once)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("side", [200, 256, 448])
def test_resizing_is_that_of_the_cpu(device: torch.device, side: int, interpolation: str, figure: Figure) -> None:
    """To the last grey value: a CPU resizes with Pillow, a GPU with the same sums of whole numbers."""
    backbone = find_backbone("uni").model_copy(update={"interpolation": interpolation})
    networks = [Embedder(backbone, nn.Identity(), Weights(Path("none"), "none"), d, "fp32", 3) for d in (CPU, device)]
    wanted, found = (its.pixels(textured(SIZE, side)).cpu() for its in networks)
    off = ((found - wanted).abs() > 1e-5).float().mean().item()
    figure(f"pixels of {side} px, {interpolation}, resized otherwise than on the CPU", share=off)
    assert off == 0


def test_a_store_is_that_of_the_cpu(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device, figure: Figure
) -> None:
    monkeypatch.chdir(tmp_path)
    told("tile", slides)

    def store(name: str, where: torch.device) -> dict[str, np.ndarray]:
        shutil.copytree("work", name)
        asked = ["--device", where, "--batch-size", 16, "--precision", "fp32"]
        assert told("extract", *asked, "-w", name)["extract"]["done"] == 3
        return {file.stem: read_bag(file).features for file in Path(name, "features").glob("*/*/[abc].zarr")}

    wanted, found, again = store("one", CPU), store("two", device), store("three", device)
    assert wanted.keys() == {"a", "b", "c"}
    for slide, features in wanted.items():
        assert np.array_equal(found[slide], again[slide])
        difference = np.abs(found[slide].astype(np.float32) - features.astype(np.float32)).max()
        figure(
            f"store of slide {slide} against the CPU's", largest_relative_difference=float(difference / features.max())
        )
        assert difference < 2e-3 * features.max()  # two steps of the float16 that features are stored in
