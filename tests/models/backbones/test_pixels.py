"""Pixels: tiles are resized as Pillow does, and each network sees what its published transform shows it."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pydantic import ValidationError
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torchvision import transforms
from wsipipe.data.errors import BackboneError
from wsipipe.models.backbones.backbone import Backbone, Embedder, find_backbone, ready, registry
from wsipipe.models.backbones.pixels import Interpolation, by_whole_numbers, pillow_weights, resized
from wsipipe.models.backbones.registry import _transform_of_timm
from wsipipe.models.backbones.weights import Weights

CPU = torch.device("cpu")
INTERPOLATIONS = get_args(Interpolation)


def noise(number: int, side: int) -> Tensor:
    """(number, side, side, 3) uint8: of pure noise each rounding shows."""
    return torch.from_numpy(np.random.default_rng(side).integers(0, 256, (number, side, side, 3), dtype=np.uint8))


def textured(number: int, side: int) -> Tensor:
    """Smooth pictures, as tissue is, in which sums lie near halves most often."""
    coarse = np.random.default_rng(side).integers(40, 255, (number, 9, 9, 3), dtype=np.uint8)
    return torch.from_numpy(
        np.stack([np.asarray(Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC)) for c in coarse])
    )


# ----- resizing -----

SIZES = [
    *[(256, 224), (224, 256), (512, 224), (448, 256), (200, 224), (224, 248), (224, 235), (333, 384), (96, 224)],
    *[(1000, 224), (224, 37), (1, 5), (5, 1)],
]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_the_sums_of_other_devices_are_pillows_to_the_last_grey_value(
    old: int, new: int, interpolation: Interpolation
) -> None:
    for tiles in (noise(2, old), textured(2, old)):
        kind = Image.Resampling[interpolation.upper()]
        wanted = np.stack([np.asarray(Image.fromarray(tile.numpy()).resize((new, new), kind)) for tile in tiles])
        for found in (by_whole_numbers(tiles, new, interpolation), resized(tiles, new, interpolation, CPU)):
            assert found.dtype == torch.float32
            assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), wanted)


def test_extreme_colours_are_clipped_as_pillow_clips_them() -> None:
    tiles = torch.zeros((1, 64, 64, 3), dtype=torch.uint8)
    tiles[:, ::2, 20:] = 255  # bicubic sums go below black and above white
    wanted = np.asarray(Image.fromarray(tiles[0].numpy()).resize((90, 90), Image.Resampling.BICUBIC))
    assert np.array_equal(by_whole_numbers(tiles, 90, "bicubic")[0].permute(1, 2, 0).numpy(), wanted)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_weights_are_whole_numbers_that_keep_the_brightness(interpolation: Interpolation) -> None:
    weights = pillow_weights(256, 224, interpolation)
    assert weights.shape == (256, 224)
    assert np.abs(weights.sum(axis=0) - 2**22).max() <= 5
    assert np.array_equal(weights, weights[::-1, ::-1])
    white = torch.full((1, 256, 256, 3), 255, dtype=torch.uint8)
    assert torch.equal(by_whole_numbers(white, 224, interpolation), torch.full((1, 3, 224, 224), 255.0))


def test_tiles_that_are_not_square_are_refused() -> None:
    for shape in ((1, 224, 256, 3), (1, 256, 224, 3)):
        with pytest.raises(BackboneError, match="are not square"):
            resized(torch.zeros(shape, dtype=torch.uint8), 224, "bicubic", CPU)
        with pytest.raises(BackboneError, match="are not square"):
            embedder(find_backbone("uni"))(torch.zeros(shape, dtype=torch.uint8))


# ----- the table's transforms -----


@cache
def network() -> nn.Module:
    """A small convolutional network that takes pictures of any size, always with the same random weights."""
    torch.manual_seed(0)
    return timm.create_model("test_efficientnet", pretrained=False, num_classes=0).eval()


def embedder(backbone: Backbone) -> Embedder:
    """The backbone's transform in front of a small network: what counts are the pixels."""
    return ready(backbone.with_pooling("pooled"), network(), Weights(Path("none"), "random"), device=CPU)


@torch.inference_mode()
def by_a_plain_loop(transform: Any, tiles: Tensor) -> Tensor:
    return torch.cat([network()(transform(Image.fromarray(tile.numpy()))[None]) for tile in tiles])


@pytest.mark.parametrize("name", registry())
def test_a_row_is_the_transform_of_torchvision_that_it_says(name: str) -> None:
    backbone = registry()[name]
    steps = [
        transforms.Resize(backbone.resize, transforms.InterpolationMode(backbone.interpolation)),
        transforms.CenterCrop(backbone.crop or backbone.resize),
        transforms.ToTensor(),
        transforms.Normalize(backbone.mean, backbone.std),
    ]
    for side in (224, 256, 200):
        tiles = textured(2, side)
        plain = transforms.Compose(steps)
        wanted = torch.stack([plain(Image.fromarray(tile.numpy())) for tile in tiles])
        torch.testing.assert_close(embedder(backbone).pixels(tiles), wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(embedder(backbone)(tiles), by_a_plain_loop(plain, tiles), rtol=1e-5, atol=1e-5)


def in_timm() -> dict[str, tuple[str, dict[str, Any]]]:
    """Rows that timm describes too, by name; the embedded default is shown the whole tile, as its row says."""
    changes: dict[str, dict[str, Any]] = {"resnet50": {}, "efficientnet-lite0": {"crop_pct": 1.0}}
    names = {"resnet50": "resnet50.tv_in1k", "efficientnet-lite0": "tf_efficientnet_lite0.in1k"}
    own = {name for name, backbone in registry().items() if (backbone.hub_id or "").startswith("timm/")}
    assert own <= names.keys()
    return {name: (names[name], changes[name]) for name in names}


@pytest.mark.parametrize("name", ["resnet50", "efficientnet-lite0"])
@pytest.mark.parametrize("side", [256, 224])
def test_a_row_that_timm_describes_gives_the_features_of_a_plain_timm_loop(name: str, side: int) -> None:
    timm_name, changes = in_timm()[name]
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(timm_name).to_dict()) | changes
    tiles = textured(3, side)
    wanted = by_a_plain_loop(create_transform(**config), tiles)
    torch.testing.assert_close(embedder(registry()[name])(tiles), wanted, rtol=1e-5, atol=1e-5)


def kinds_of_transform() -> list[str]:
    """One pretrained model of timm for each way of resizing and cutting, of those up to 300 px."""
    kinds: dict[tuple[Any, ...], str] = {}
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name)
        if max(config.input_size) <= 300 and config.crop_pct <= 1:
            kind = (config.input_size, config.crop_pct, config.crop_mode, config.interpolation)
            kinds.setdefault(kind, name)
    assert len(kinds) > 30
    return sorted(kinds.values())


@pytest.mark.parametrize("name", kinds_of_transform())
def test_any_name_of_timm_gets_timms_own_evaluation_transform(name: str) -> None:
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    plain = create_transform(**config)
    for side in (256, 224):
        tiles = textured(1, side)
        wanted = torch.stack([plain(Image.fromarray(tile.numpy())) for tile in tiles])
        found = embedder(find_backbone(name)).pixels(tiles)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "said"),
    [("vit_base_patch16_sapiens2", "pictures of 768 × 1024 px"), ("volo_d4_448", r"a black margin \(crop_pct 1.15\)")],
)
def test_a_transform_that_square_tiles_cannot_have_is_refused(name: str, said: str) -> None:
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    with pytest.raises(BackboneError, match=f"timm evaluates {name} on {said}"):
        find_backbone(name)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"interpolation": "lanczos"}, "the interpolation lanczos"), ({"input_size": (1, 224, 224)}, "1 channels")],
)
def test_a_transform_that_is_not_known_here_is_refused(change: dict[str, Any], said: str) -> None:
    config = timm.get_pretrained_cfg("resnet50.tv_in1k").to_dict()
    assert _transform_of_timm("it", config)["resize"] == 256
    with pytest.raises(BackboneError, match=f"timm evaluates it on {said}"):
        _transform_of_timm("it", config | change)


@pytest.mark.parametrize("field", ["interpolation", "source"])
def test_every_row_says_its_interpolation_and_its_source(field: str) -> None:
    text = files("wsipipe.models.backbones").joinpath("backbones.toml").read_text(encoding="utf-8")
    for name, fields in tomllib.loads(text).items():
        assert fields[field]
        with pytest.raises(ValidationError, match=field):
            Backbone(name=name, **{key: value for key, value in fields.items() if key != field})
