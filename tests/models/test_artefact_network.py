"""The learned mask of artefacts, with weights that make the network a known function of colour."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from artefact_weights import FOLD, PEN, architecture, colour_network, save_colours
from safetensors.torch import save_file
from wsipipe.data.errors import BackboneError, SlideError
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.artefacts import ARTEFACTS, COVERED, ArtefactMap
from wsipipe.data.tiling.overview import read_overview
from wsipipe.data.units import Level0Px, Mpp
from wsipipe.models.artefact_network import CLASSES, ArtefactNetwork

GLASS, TISSUE = (243, 243, 243), (190, 110, 170)


@pytest.fixture(scope="module")
def published() -> ArtefactNetwork:
    """The published architecture."""
    return ArtefactNetwork(colour_network().requires_grad_(False), Mpp(1.0), torch.device("cpu"), batch=2)


def quick(mpp: float = 1.0) -> ArtefactNetwork:
    """The same function of a pixel's colour in one layer, for slides of many windows."""
    layer = torch.nn.Conv2d(3, CLASSES, 1)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        mean, spread = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        for kind, more, less in ((2, 2, 1), (4, 1, 0)):
            layer.weight[kind, more, 0, 0], layer.weight[kind, less, 0, 0] = spread[more], -spread[less]
            layer.bias[kind] = mean[more] - mean[less] - 110 / 255
    return ArtefactNetwork(layer.requires_grad_(False), Mpp(mpp), torch.device("cpu"), batch=2)


def planted(height: int, width: int, *areas: tuple[slice, slice, tuple[int, int, int]]) -> np.ndarray:
    picture = np.full((height, width, 3), TISSUE, np.uint8)
    for rows, columns, colour in areas:
        picture[rows, columns] = colour
    return picture


def saved(picture: np.ndarray, path: Path, downsamples: tuple[int, ...] = ()) -> Path:
    with tifffile.TiffWriter(path) as tiff:
        for downsample in (1, *downsamples):
            size = (picture.shape[1] // downsample, picture.shape[0] // downsample)
            level = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            tiff.write(
                level, tile=(256, 256), photometric="rgb", subfiletype=int(downsample > 1), compression="deflate"
            )
    return path


def grid(height: int, width: int, side: int) -> np.ndarray:
    return np.array([(x, y) for y in range(0, height - side + 1, side) for x in range(0, width - side + 1, side)])


def find(network: ArtefactNetwork, path: Path, mpp: float, coords: np.ndarray, side: int, **cut: int) -> ArtefactMap:
    with open_slide(path, mpp_override=mpp) as slide:
        return network.find(slide, read_overview(slide), coords, Level0Px(side), **cut)


@pytest.mark.parametrize(("mpp", "network_mpp"), [(0.5, 1.0), (0.5, 1.5), (0.2525, 2.0), (1.0, 1.0), (1.2, 1.0)])
def test_planted_colours_mark_exactly_the_planted_tiles(tmp_path, mpp, network_mpp):
    """Tiles of 112 µm over 1.8 × 0.9 mm, from an offset of 200 µm: five windows, two kinds of artefacts."""
    side, offset = round(112 / mpp), round(200 / mpp)
    tile = {place: np.s_[offset + place[0] * side :, offset + place[1] * side :] for place in ((1, 2), (4, 12), (2, 6))}
    picture = planted(round(900 / mpp), round(1800 / mpp))
    for place, colour in (((1, 2), FOLD), ((4, 12), PEN), ((2, 6), FOLD)):
        picture[tile[place]][:side, :side] = colour
    picture[:offset], picture[:, :offset] = GLASS, GLASS
    coords = grid(900 - 200, 1800 - 200, 112)  # in µm, so that the same tiles are meant at each resolution
    coords = offset + np.rint(coords / 112).astype(int) * side
    shares = find(quick(network_mpp), saved(picture, tmp_path / "a.tif", (4,)), mpp, coords, side).of_tiles(
        coords, Level0Px(side)
    )
    marked = {
        (kind, round((y - offset) / side), round((x - offset) / side))
        for kind, of_kind in zip(ARTEFACTS, shares.shares.T, strict=True)
        for (x, y), share in zip(coords, of_kind, strict=True)
        if share > 0.5
    }
    assert marked == {("fold", 1, 2), ("pen", 4, 12), ("fold", 2, 6)}
    assert shares.fraction.max() > 0.95
    beside = np.sort(shares.fraction)[:-3]
    assert beside.max() < 0.05, "a tile beside them has no more than its rim"


@pytest.mark.parametrize("deep", [False, True])
def test_where_pixels_agree_the_marks_are_exact(published, tmp_path, deep):
    """At the network's own resolution, with whole pixels of the mask: no rounding, no rim."""
    height, width = (224, 448) if deep else (1120, 2048)
    fold, pen = ((112, 112), (224, 0)) if deep else ((448, 224), (896, 0))
    areas = (fold[1], fold[1] + 112), (fold[0], fold[0] + 112), (0, 56), (pen[0], pen[0] + 112)
    rows, columns, of_pen, pen_columns = (slice(*area) for area in areas)
    picture = planted(height, width, (rows, columns, FOLD), (of_pen, pen_columns, PEN))
    coords = grid(height, width, 112)
    network = published if deep else quick()
    tiles = find(network, saved(picture, tmp_path / "a.tif"), 1.0, coords, 112).of_tiles(coords, Level0Px(112))
    expected = np.zeros((len(coords), len(ARTEFACTS)), np.float32)
    expected[(coords == fold).all(axis=1), 0] = 1
    expected[(coords == pen).all(axis=1), 2] = 0.5
    np.testing.assert_array_equal(tiles.shares, expected)
    assert tiles.stats()["artefact_fold"] == pytest.approx(1 / len(coords), abs=1e-4)
    assert tiles.stats()["artefact_fraction"] == pytest.approx(1.5 / len(coords), abs=1e-4)


def smoothed_network() -> ArtefactNetwork:
    """Marks a fold by the mean colour of 61 px around: as far as a margin reaches."""
    rows = torch.nn.AvgPool2d((61, 1), stride=1, padding=(30, 0), count_include_pad=False)
    columns = torch.nn.AvgPool2d((1, 61), stride=1, padding=(0, 30), count_include_pad=False)
    return ArtefactNetwork(torch.nn.Sequential(rows, columns, quick().model), Mpp(1.0), torch.device("cpu"), batch=3)


def spotted(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    places = rng.integers(0, 3, (height // 40 + 1, width // 40 + 1)).repeat(40, axis=0).repeat(40, axis=1)
    return np.array([TISSUE, FOLD, PEN], np.uint8)[places[:height, :width]]


CUTS = ({}, {"middle": 2}, {"middle": 4, "margin": 2}, {"middle": 30})


@pytest.mark.parametrize("seed", range(3))
def test_however_the_slide_is_cut_the_map_is_the_same(tmp_path, seed):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(60, 900, 2))
    mpp = float(rng.choice([0.25, 0.4, 0.97, 1.1]))
    path = saved(spotted(rng, height, width), tmp_path / "a.tif", (4,))
    everywhere = np.array([[0, 0]]), max(height, width)
    for network, close in ((quick(), 0), (smoothed_network(), 1)):
        whole = [find(network, path, mpp, *everywhere, **cut).shares.astype(int) for cut in CUTS]
        assert whole[0].any() or close
        for other in whole[1:]:
            assert np.abs(other - whole[0]).max() <= close * COVERED, "the last digit of a mean of 3,721 differs"
            assert (other != whole[0]).mean() < 1e-3 * close or not close


@pytest.mark.parametrize("readers", [1, 4])
def test_a_network_is_given_windows_of_few_shapes_and_always_as_many(tmp_path, readers):
    """A GPU takes seconds for each new shape; edges and the last batch must not bring ever new ones."""
    picture = spotted(np.random.default_rng(0), 1450, 2100)
    path, everywhere = saved(picture, tmp_path / "a.tif", (4,)), (np.array([[0, 0]]), 2100)
    shapes = []
    network = replace(quick(), batch=3, readers=readers)
    network.model.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    found = find(network, path, 1.0, *everywhere)
    assert {shape[0] for shape in shapes} == {3}
    assert len(set(shapes)) <= 4
    assert len(shapes) <= -(-24 // 3) + 3, "windows of one shape wait for each other"
    np.testing.assert_array_equal(found.shares, find(quick(), path, 1.0, *everywhere).shares)


def test_without_a_margin_the_cuts_show(tmp_path):
    """The measure of the test above: it would notice."""
    picture = spotted(np.random.default_rng(0), 600, 1400)
    path, everywhere = saved(picture, tmp_path / "a.tif"), (np.array([[0, 0]]), 1400)
    shares = [find(smoothed_network(), path, 1.0, *everywhere, middle=2, margin=margin).shares for margin in (0, 1)]
    assert (shares[0] != shares[1]).mean() > 1e-3


def test_only_windows_with_tiles_are_read(tmp_path):
    picture = planted(2304, 2304)
    reads = []
    with open_slide(saved(picture, tmp_path / "a.tif"), mpp_override=1.0) as slide:
        overview, read = read_overview(slide), slide.read
        slide.read = lambda *region: reads.append(region) or read(*region)
        quick().find(slide, overview, np.array([[300, 300], [2100, 2100]]), Level0Px(112))
        assert len(reads) == 4 + 1, "the first tile lies on four windows"
        assert max(max(region[3:]) for region in reads) <= 512
        reads.clear()
        quick().find(slide, overview, np.empty((0, 2), np.int64), Level0Px(112))
    assert not reads


@pytest.mark.parametrize("readers", [1, 4])
def test_what_cannot_be_decoded_is_not_known_and_the_rest_is(tmp_path, readers):
    """The overview is read from the second level (2 µm), the network's windows from the first."""
    picture = planted(448, 4480, (slice(0, 224), slice(4032, 4256), FOLD))
    path = saved(picture, tmp_path / "a.tif", (4,))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        offset, count = page.dataoffsets[0], page.databytecounts[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * count)
    coords = grid(448, 4480, 224)
    tiles = find(replace(quick(), readers=readers), path, 0.5, coords, 224).of_tiles(coords, Level0Px(224))
    unknown = np.isnan(tiles.fraction)
    assert set(coords[unknown, 0]) == {0, 224, 448, 672}, "the middle of one window, 768 px, and no margin around it"
    assert tiles.fraction[(coords == (4032, 0)).all(axis=1)] == 1
    assert tiles.stats()["artefact_unread_tiles"] == unknown.sum() == 8
    assert tiles.stats()["artefact_fraction"] == pytest.approx(1 / 32, abs=1e-4)


def test_too_coarse_a_slide_is_refused(tmp_path):
    path = saved(planted(200, 200), tmp_path / "a.tif")
    with pytest.raises(SlideError, match=r"2 µm") as refused:
        find(quick(), path, 2.0, np.array([[0, 0]]), 112)
    assert "without" in refused.value.hint


def test_a_share_of_every_pixel_is_counted_once():
    shares = np.zeros((len(ARTEFACTS), 4, 4), np.uint8)
    shares[0, :, :2], shares[4, :, 2] = COVERED, COVERED
    tiles = ArtefactMap(shares=shares, unread=np.zeros((4, 4), bool), downsample=8.0).of_tiles(
        np.array([[0, 0], [16, 0], [24, 0]]), Level0Px(8)
    )
    np.testing.assert_array_equal(tiles.fraction, np.array([1, 1, 0], np.float32))


# ------------------------------------------------------------------------------------------- weights


def test_the_published_architecture_by_shapes_and_names():
    """GrandQC's models are 24 MB: U-Net, EfficientNet-B0, eight classes; U-Net++ would have 6,570,596 parameters."""
    with torch.device("meta"):
        network = architecture()
    tensors = network.state_dict()
    assert sum(parameter.numel() for parameter in network.parameters()) == 6_252_484
    assert len(tensors) == 420
    assert tensors["encoder.conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["encoder.blocks.6.0.se.conv_reduce.weight"].shape == (48, 1152, 1, 1)
    assert tensors["decoder.blocks.0.conv1.0.weight"].shape == (256, 432, 3, 3)
    assert tensors["segmentation_head.0.weight"].shape == (8, 16, 3, 3)


def test_a_state_dict_however_it_is_saved_is_the_library_s_network(tmp_path):
    torch.manual_seed(0)
    model = architecture().eval()
    tensors = model.state_dict()
    torch.save(tensors, tmp_path / "plain.pth")
    torch.save({"state_dict": {f"module.{name}": t for name, t in tensors.items()}}, tmp_path / "trained.ckpt")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 96, 3), np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        expected = model((x - mean) / std).argmax(dim=1).numpy()
    assert len(np.unique(expected)) > 2
    for name in ("plain.pth", "trained.ckpt", "a.safetensors"):
        assert (ArtefactNetwork.load(tmp_path / name, 1.0)(pixels) == expected).mean() > 0.999, name


def without_bytes(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
    """The names and shapes of the network in a small file."""
    with torch.device("meta"):
        tensors = architecture().state_dict()
    return {name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in tensors.items()} | changed


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    whole = without_bytes()
    torch.save({name: tensor for name, tensor in whole.items() if "blocks.4" not in name}, path)
    with pytest.raises(BackboneError, match=r"missing: encoder\.blocks\.4") as refused:
        ArtefactNetwork.load(path, 1.0)
    assert "GrandQC_MPP1_state_dict.pth" in refused.value.hint
    torch.save(whole | {"decoder.blocks.x_0_0.conv1.0.weight": torch.zeros(1)}, path)
    with pytest.raises(BackboneError, match=r"1 tensors not expected: decoder\.blocks\.x_0_0"):
        ArtefactNetwork.load(path, 1.0)
    head = {"segmentation_head.0.weight": torch.zeros(2, 16, 3, 3), "segmentation_head.0.bias": torch.zeros(2)}
    torch.save(whole | head, path)
    with pytest.raises(BackboneError, match=r"of another shape: segmentation_head\.0\.weight \(2, 16, 3, 3\), not \(8"):
        ArtefactNetwork.load(path, 1.0)
    with pytest.raises(BackboneError, match="no such file of artefact weights"):
        ArtefactNetwork.load(tmp_path / "absent.pth", 1.0)


def test_a_pickled_model_is_refused_and_the_way_out_works(tmp_path):
    """GrandQC's own files are pickled models; the hint's line makes a state dict of one, which loads."""
    path = tmp_path / "GrandQC_MPP15.pth"
    torch.save(colour_network(), path)
    with pytest.raises(BackboneError, match="may run code") as refused:
        ArtefactNetwork.load(path, 1.5)
    assert "weights_only=False).state_dict()" in refused.value.hint
    torch.save(torch.load(path, map_location="cpu", weights_only=False).state_dict(), path)
    assert ArtefactNetwork.load(path, 1.5).mpp == 1.5
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(BackboneError):
        ArtefactNetwork.load(path, 1.5)


def test_the_weights_of_the_tests_are_a_file_of_the_user(tmp_path):
    picture = planted(64, 64, (slice(0, 32), slice(0, 64), FOLD))[None]
    classes = ArtefactNetwork.load(save_colours(tmp_path / "a.safetensors"), 1.0)(picture)
    assert set(np.unique(classes[:, 2:30])) == {2}
    assert set(np.unique(classes[:, 34:])) == {1}
