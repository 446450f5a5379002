"""The learned tissue mask, with weights that make the network a known function: dark is tissue, bright is glass."""

import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import tifffile
import torch
from artefact_weights import silence
from torchvision.models.segmentation import deeplabv3_resnet50
from torchvision.transforms import v2
from wsipipe.data.errors import BackboneError, SlideError
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.slides.slide import Slide
from wsipipe.data.tiling.overview import read_overview
from wsipipe.data.tiling.tissue import TissueMask, find_tissue
from wsipipe.models.tissue_network import TissueNetwork

GLASS, DARK = 243, 90
PURPLE = (120, 70, 150)


def darkness_network() -> torch.nn.Module:
    """All weights zero but for one channel that carries how dark a pixel is to the tissue class."""
    model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=2, aux_loss=True).eval()
    layers = dict(model.named_modules())
    with torch.no_grad():
        silence(model)
        layers["backbone.conv1"].weight[0, :, 3, 3] = -1 / 3  # normalised white is about 2.4, black −2
        through = [f"backbone.layer{n}.0.downsample.0" for n in (1, 2, 3, 4)]
        for name in [*through, "classifier.0.convs.0.0", "classifier.0.project.0"]:
            layers[name].weight[0, 0, 0, 0] = 1
        layers["classifier.1"].weight[0, 0, 1, 1] = 1
        layers["backbone.bn1"].bias[0] = 2.5  # dark is then 3 and more, glass below 0.5
        layers["classifier.4"].weight[1, 0] = 20
        layers["classifier.4"].bias[1] = -35
    return model


def random_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=2, aux_loss=True).eval()


def as_lightning(model: torch.nn.Module, path: Path) -> Path:
    """As Lightning's trainer leaves it, with an auxiliary head of other classes as torchvision's pretraining has."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors["model.aux_classifier.4.weight"] = torch.zeros(21, 256, 1, 1)
    content = {
        "epoch": 3,
        "global_step": 1234,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": tensors,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}],
        "hyper_parameters": {"lr": 1e-4, "arch": "deeplabv3"},
    }
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def darkness(tmp_path_factory) -> TissueNetwork:
    path = as_lightning(darkness_network(), tmp_path_factory.mktemp("weights") / "dark.ckpt")
    network = TissueNetwork.load(path)
    path.unlink()
    return network


@pytest.fixture(scope="module")
def everything(darkness) -> TissueNetwork:
    """Says tissue wherever it looks."""
    model = darkness_network()
    with torch.no_grad():
        dict(model.named_modules())["classifier.4"].bias[1] = 100
    return TissueNetwork(model, torch.device("cpu"), batch=1)


def saved(picture: np.ndarray, path: Path) -> Path:
    cv2.imwrite(str(path), picture[..., ::-1] if picture.ndim == 3 else picture)
    return path


def grey(height: int, width: int, value: int = GLASS) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def find(network: TissueNetwork, path: Path, mpp: float) -> TissueMask:
    with open_slide(path, mpp_override=mpp) as slide:
        return network.find(slide, read_overview(slide))


def at_level0(result: TissueMask, height: int, width: int) -> np.ndarray:
    rows = (np.arange(height) / result.downsample).astype(int)
    columns = (np.arange(width) / result.downsample).astype(int)
    return result.mask[rows][:, columns]


def agreement(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def test_dark_is_tissue_where_it_lies_on_the_grid_of_find_tissue(darkness, tmp_path):
    picture = grey(300, 400)
    truth = np.zeros((300, 400), bool)
    truth[60:220, 200:400] = True
    picture[truth] = DARK
    with open_slide(saved(picture, tmp_path / "half.png"), mpp_override=1.0) as slide:
        overview = read_overview(slide)
        result = darkness.find(slide, overview)
        classic = find_tissue(overview)
    assert agreement(at_level0(result, 300, 400), truth) > 0.9
    assert result.area == pytest.approx(truth.sum(), rel=0.1)
    assert result.verdict == "learned"
    assert (result.mask.shape, result.downsample, result.mpp) == (classic.mask.shape, classic.downsample, classic.mpp)
    assert result.pen.shape == result.mask.shape
    assert not result.pen.any()


@pytest.mark.parametrize("mpp", [0.2525, 0.5056, 1.9])
def test_the_same_tissue_is_found_at_every_resolution_across_several_tiles(darkness, tmp_path, mpp):
    """A strip of 1.4 mm: four windows that overlap."""
    height, width = round(80 / mpp), round(1400 / mpp)
    microns = np.arange(width) * mpp
    truth = np.broadcast_to((microns > 380) & (microns < 900) | (microns > 1150), (height, width))
    picture = np.where(truth[..., None], DARK, grey(height, width)).astype(np.uint8)
    result = find(darkness, saved(picture, tmp_path / "strip.png"), mpp)
    assert agreement(at_level0(result, height, width), truth) > 0.95


class Watched(Slide):
    """A slide that keeps a list of what was read."""

    def __init__(self, inner: Slide) -> None:
        self.inner, self.reads = inner, []
        self.path, self.mpp = inner.path, inner.mpp
        self.level_dimensions, self.level_downsamples = inner.level_dimensions, inner.level_downsamples

    def read(self, level, x, y, width, height):
        self.reads.append((level, x, y, width, height))
        return self.inner.read(level, x, y, width, height)

    def close(self):
        self.inner.close()


def pyramid(picture: np.ndarray, path: Path, downsamples: tuple[int, ...]) -> Path:
    with tifffile.TiffWriter(path) as tiff:
        for downsample in (1, *downsamples):
            size = (picture.shape[1] // downsample, picture.shape[0] // downsample)
            level = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            tiff.write(
                level, tile=(256, 256), photometric="rgb", subfiletype=int(downsample > 1), compression="deflate"
            )
    return path


def test_it_reads_block_by_block_from_the_coarsest_level_that_suffices(darkness, tmp_path):
    """At 0.2625 µm the second level has 1.05 µm, which will do; the third, 4.2 µm, will not."""
    picture = grey(300, 4800)
    picture[:, 2000:4000] = DARK
    with open_slide(pyramid(picture, tmp_path / "slide.tif", (4, 16)), mpp_override=0.2625) as inner:
        slide = Watched(inner)
        result = darkness.find(slide, read_overview(inner))
    levels, xs, _, widths, heights = zip(*slide.reads, strict=True)
    assert set(levels) == {1}
    assert max(widths) <= 512
    assert max(heights) <= 512
    assert len(slide.reads) == 4  # 1.26 mm, of which each window adds 0.38
    assert xs[0] == 0
    assert max(x + 4 * w for x, w in zip(xs, widths, strict=True)) == pytest.approx(4800, abs=32)
    truth = np.zeros((300, 4800), bool)
    truth[:, 2000:4000] = True
    assert agreement(at_level0(result, 300, 4800), truth) > 0.95


def damage(path: Path, tiles: slice) -> None:
    """Overwrite some tiles of level 0."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))[tiles]
    with path.open("r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(b"\xff" * count)


def test_where_nothing_can_be_decoded_colour_decides(darkness, tmp_path):
    """The overview is read from the second level (2 µm), the network's tiles from the first."""
    picture = grey(160, 3400)
    picture[:, 800:2600] = PURPLE
    path = pyramid(picture, tmp_path / "damaged.tif", (4,))
    damage(path, slice(7, 8))  # 896 to 1024 µm, in the middle of the tissue
    truth = (picture == PURPLE).all(axis=2)
    assert agreement(at_level0(find(darkness, path, 0.5), 160, 3400), truth) > 0.95
    damage(path, slice(None))
    with pytest.raises(SlideError):
        find(darkness, path, 0.5)


def test_blank_parts_are_not_read_and_are_no_tissue(everything, tmp_path):
    picture = grey(80, 1300, 255)
    picture[:, 600:] = 250
    with open_slide(saved(picture, tmp_path / "blank.png"), mpp_override=1.0) as inner:
        slide = Watched(inner)
        result = everything.find(slide, read_overview(inner))
    assert len(slide.reads) == 3  # of four: the first is blank
    found = at_level0(result, 80, 1300)
    assert not found[:, :380].any()  # of the next 384 px, a part is not blank
    assert found[:, 600:].all()


def test_specks_go_and_small_holes_are_filled(darkness, tmp_path):
    picture = grey(330, 400)
    picture[20:240, 20:380] = DARK
    picture[60:110, 60:110] = GLASS  # 2,500 µm²
    picture[70:190, 220:340] = GLASS  # 14,400 µm²
    picture[265:315, 200:300] = DARK  # 5,000 µm²
    found = at_level0(find(darkness, saved(picture, tmp_path / "specks.png"), 1.0), 330, 400)
    assert found[60:110, 60:110].all()
    assert not found[100:160, 250:310].any()
    assert not found[260:].any()


def test_no_tissue_is_an_empty_mask(darkness, tmp_path):
    result = find(darkness, saved(grey(200, 200), tmp_path / "glass.png"), 1.0)
    assert not result.mask.any()
    assert result.verdict == "nothing"


def test_a_slide_of_few_pixels_does_not_break_it(darkness, tmp_path):
    assert find(darkness, saved(grey(3, 5, DARK), tmp_path / "tiny.png"), 0.5).mask.shape == (3, 5)


def test_the_same_bytes_every_time(darkness, tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (100, 640, 3), np.uint8)
    picture = cv2.GaussianBlur(picture, (0, 0), 6) // 2 + 40
    path = saved(picture, tmp_path / "noise.png")
    first, second = (find(darkness, path, 1.0) for _ in range(2))
    assert first.mask.any()
    assert first.mask.tobytes() == second.mask.tobytes()


def test_too_coarse_a_slide_is_refused(darkness, tmp_path):
    with pytest.raises(SlideError, match=r"4 µm") as refused:
        find(darkness, saved(grey(100, 100, DARK), tmp_path / "coarse.png"), 4.0)
    assert "without" in refused.value.hint


def test_a_checkpoint_and_safetensors_are_the_same_network_and_that_is_torchvisions(tmp_path):
    model = random_network()
    checkpoint = as_lightning(model, tmp_path / "seg.ckpt")
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("aux")}
    safetensors.torch.save_file(tensors, tmp_path / "seg.safetensors")
    tiles = np.random.default_rng(0).integers(0, 255, (2, 64, 96, 3), np.uint8)
    one = TissueNetwork.load(checkpoint)(tiles)
    other = TissueNetwork.load(tmp_path / "seg.safetensors")(tiles)
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.inference_mode():
        expected = model(torch.stack([transform(tile) for tile in tiles]))["out"].softmax(1)[:, 1].numpy()
    assert one.shape == (2, 64, 96)
    assert np.ptp(expected) > 1e-3
    assert one.tobytes() == other.tobytes()
    np.testing.assert_allclose(one, expected, atol=1e-5)


def without_bytes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same names and shapes in a small file."""
    return {name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in tensors.items()}


def test_weights_of_another_network_are_refused(tmp_path):
    whole = without_bytes(deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=2).state_dict())
    path = tmp_path / "weights.pth"

    torch.save({name: t for name, t in whole.items() if "layer4" not in name}, path)
    with pytest.raises(BackboneError, match=r"missing: backbone\.layer4") as refused:
        TissueNetwork.load(path)
    assert "deeplabv3_seg_v4.ckpt" in refused.value.hint
    assert refused.value.path == str(path)

    torch.save(whole | {"decoder.weight": torch.zeros(1)}, path)
    with pytest.raises(BackboneError, match=r"1 tensors not expected: decoder\.weight"):
        TissueNetwork.load(path)

    torch.save(whole | {"classifier.4.weight": torch.zeros(21, 256, 1, 1)}, path)
    with pytest.raises(BackboneError, match=r"1 tensors of another shape: classifier\.4\.weight"):
        TissueNetwork.load(path)


class Planted:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_checkpoint_never_runs(tmp_path, how):
    path, trace = tmp_path / "evil.ckpt", tmp_path / "it ran"
    content = {"state_dict": {"model.backbone.conv1.weight": torch.zeros(3)}, "callbacks": Planted(trace)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content["callbacks"], protocol=2))
    with pytest.raises(BackboneError, match=r"run code|not a checkpoint") as refused:
        TissueNetwork.load(path)
    assert not trace.exists()
    assert "safetensors" in refused.value.hint


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(BackboneError, match="no such file"):
        TissueNetwork.load(tmp_path / "absent.ckpt")
    for name in ("text.ckpt", "text.safetensors", "model.onnx"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(BackboneError) as refused:
            TissueNetwork.load(tmp_path / name)
        assert refused.value.path == str(tmp_path / name)
        assert "deeplabv3_seg_v4.ckpt" in refused.value.hint
