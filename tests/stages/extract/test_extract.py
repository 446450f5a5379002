"""Extraction as a user runs it: the features are the backbone's own, bad tiles are left out, weights are not mixed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openslide
import pytest
import tifffile
import timm
import torch
from noise_pictures import noisy_tissue
from own_process import SignalWhen, ran
from PIL import Image
from safetensors.torch import save_file
from wsipipe.data.errors import UsageError
from wsipipe.data.features.store import Bag, read_bag
from wsipipe.data.manifest import Manifest
from wsipipe.data.units import Mpp
from wsipipe.models.backbones.weights import EMBEDDED, find_weights, load_tensors
from wsipipe.pipeline.demo.slides import write_aperio
from wsipipe.stages.extract.settings import ExtractSettings
from wsipipe.stages.extract.stage import ExtractStage

FEATURES = "features/0.5mpp-128px"
TILING = ("--tile-px", 128)  # 16 tiles a slide of 512 px
SMALLEST = "test_efficientnet"
"""A network of timm's in which a tile costs a hundredth."""
COMMAND = (sys.executable, "-c", "from wsipipe.pipeline.cli import main; main()")
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1"}


def wsipipe(*arguments: object) -> tuple[int | None, dict[str, Any], str]:
    ended = ran(*arguments, "--json")
    return ended.code, json.loads(ended.out.splitlines()[-1]), ended.err


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed, name in enumerate(("a", "b")):
        write_aperio(folder / f"{name}.svs", noisy_tissue(seed, 512), mpp=Mpp(0.5))
    return folder


def weights_file(path: Path, seed: int = 0) -> Path:
    """Random weights of the smallest network."""
    torch.manual_seed(seed)
    save_file(timm.create_model(SMALLEST, num_classes=0).state_dict(), path)
    return path


def damage(slide: Path, tiles: int) -> None:
    """Spoil the JPEG data of some tiles of level 0; the file's structure and the other levels stay."""
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))[:tiles]
    with slide.open("r+b") as stream:
        for offset, count in places:
            stream.seek(offset)
            stream.write(b"\0" * count)


def test_the_features_are_those_of_a_plain_timm_loop(slides: Path, tmp_path: Path) -> None:
    assert wsipipe("tile", slides, "-w", tmp_path)[0] == 0
    asked = ("extract", "-w", tmp_path, "--batch-size", 16, "--store-dtype", "float32", "--device", "cpu")
    code, answer, _ = wsipipe(*asked)
    assert (code, answer["stages"][0]["done"]) == (0, 2)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    model.load_state_dict(load_tensors(find_weights(EMBEDDED, None), model.state_dict()))
    bag = read_bag(tmp_path / "features/0.5mpp-224px" / EMBEDDED / "a.zarr")
    assert len(bag.coords) == 4
    with openslide.OpenSlide(slides / "a.svs") as slide, torch.inference_mode():
        for (x, y), ours in zip(bag.coords.tolist(), bag.features, strict=True):
            tile = np.array(slide.read_region((x, y), 0, (224, 224)).convert("RGB"))
            pixels = torch.from_numpy(tile).permute(2, 0, 1).float() / 255
            expected = model((pixels[None] - 0.5) / 0.5)[0].numpy()
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def cosines(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / lengths)


def test_a_real_slides_features_are_those_of_ten_lines_of_timm(shared: Path, tmp_path: Path) -> None:
    """Tiles by OpenSlide, the network by timm. 448 px tiles: the network's own resize is in it too."""
    slide = shared / "slides" / "CMU-1-Small-Region.svs"
    assert wsipipe("tile", slide, "-w", tmp_path, "--tile-px", 448)[0] == 0
    asked = ("extract", "-w", tmp_path, "--device", "cpu", "--store-dtype", "float32")
    assert wsipipe(*asked)[0] == 0
    bag = read_bag(tmp_path / "features/0.5mpp-448px" / EMBEDDED / "CMU-1-Small-Region.zarr")
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    model.load_state_dict(load_tensors(find_weights(EMBEDDED, None), model.state_dict()))
    with openslide.OpenSlide(slide) as opened, torch.inference_mode():
        tiles = [
            np.array(opened.read_region((x, y), 0, (448, 448)).convert("RGB").resize((224, 224), Image.BICUBIC))
            for x, y in bag.coords.tolist()
        ]
        pixels = torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).float() / 255
        wanted = model((pixels - 0.5) / 0.5).numpy()
    assert len(wanted) > 10
    assert cosines(bag.features, wanted).min() > 0.9999


def test_an_interrupted_extraction_loses_no_finished_slide(tmp_path: Path) -> None:
    slide = tmp_path / "original.svs"
    write_aperio(slide, noisy_tissue(5, 512), mpp=Mpp(0.5))
    (tmp_path / "slides").mkdir()
    for number in range(6):
        (tmp_path / "slides" / f"s{number}.svs").hardlink_to(slide)
    assert wsipipe("tile", tmp_path / "slides", "-w", tmp_path, *TILING)[0] == 0
    stores = tmp_path / FEATURES / EMBEDDED
    manifest = Manifest.of(stores)
    words = ("extract", "-w", tmp_path, "--device", "cpu", "--batch-size", 16)
    at_the_first_record = SignalWhen(stores, manifest.path.name, sent=signal.SIGINT)
    ended = ran(*words, disturbed=(at_the_first_record,))
    assert ended.code == 130
    assert "Traceback" not in ended.err
    done = manifest.latest("extract")
    assert 1 <= len(done) < 6
    assert {store.stem for store in stores.glob("*.zarr")} == set(done)
    assert not list(tmp_path.rglob(".partial-*"))
    code, answer, _ = wsipipe(*words)
    assert (code, answer["stages"][0]["done"], answer["stages"][0]["before"]) == (0, 6 - len(done), len(done))
    bags = [read_bag(stores / f"s{number}.zarr") for number in range(6)]
    assert all((bag.features == bags[0].features).all() for bag in bags)


def test_a_slide_alone_and_among_others_gives_the_same_bits(slides: Path, tmp_path: Path) -> None:
    bags: dict[str, Bag] = {}
    for name, given in (("alone", slides / "b.svs"), ("among", slides)):
        assert wsipipe("tile", given, "-w", tmp_path / name, *TILING)[0] == 0
        assert wsipipe("extract", "-w", tmp_path / name, "--batch-size", 24, "--device", "cpu")[0] == 0
        bags[name] = read_bag(tmp_path / name / FEATURES / EMBEDDED / "b.zarr")
    assert (bags["alone"].features == bags["among"].features).all()


def test_any_timm_name_with_a_weights_file_and_no_other_weights_over_it(slides: Path, tmp_path: Path) -> None:
    files = [weights_file(tmp_path / f"{seed}.safetensors", seed) for seed in (0, 1)]
    assert wsipipe("tile", slides / "a.svs", "-w", tmp_path, *TILING)[0] == 0
    asked = ("extract", "-w", tmp_path, "--backbone", SMALLEST, "--device", "cpu")
    alone = subprocess.run([*COMMAND, *map(str, asked)], capture_output=True, text=True, env=OFFLINE)
    assert (alone.returncode, "--weights FILE" in alone.stderr) == (1, True)  # not in the hub's cache, and no network
    assert wsipipe(*asked, "--weights", files[0])[0] == 0
    store = tmp_path / FEATURES / SMALLEST / "a.zarr"
    first = read_bag(store).facts.weights_digest
    code, _, messages = wsipipe(*asked, "--weights", files[1])
    assert (code, "other weights" in messages) == (2, True)
    assert read_bag(store).facts.weights_digest == first
    assert wsipipe(*asked, "--weights", files[1], "--replace")[0] == 0
    assert read_bag(store).facts.weights_digest != first


def test_undecodable_tiles_are_left_out_and_counted_and_too_many_fail_the_slide(tmp_path: Path) -> None:
    slide = tmp_path / "c.svs"
    write_aperio(slide, noisy_tissue(2, 4096), mpp=Mpp(0.5))  # so large that the overview comes from a coarser level
    damage(slide, tiles=4)  # of 256, each 256 px as the tiles asked for
    assert wsipipe("tile", slide, "-w", tmp_path, "--tile-px", 256)[0] == 0
    network = ("--backbone", SMALLEST, "--weights", weights_file(tmp_path / "small.safetensors"), "--device", "cpu")
    code, answer, _ = wsipipe("extract", "-w", tmp_path, *network)
    failure = answer["stages"][0]["failures"][0]
    assert (code, failure["item"]) == (1, "c")
    assert "at least 3 of 256 tiles cannot be decoded" in failure["message"]
    store = tmp_path / "features/0.5mpp-256px" / SMALLEST / "c.zarr"
    assert not store.exists()
    code, answer, messages = wsipipe("extract", "-w", tmp_path, *network, "--max-bad-tiles", 0.02)
    assert (code, answer["stages"][0]["stats"]["bad_tiles"]) == (0, 4)
    assert "c: 4 of 256 tiles cannot be decoded, left out" in messages
    assert answer["stages"][0]["notes"][0] == "c: 4 of 256 tiles cannot be decoded, left out"
    _, answer, _ = wsipipe("status", "-w", tmp_path)
    assert [item["why"] for item in answer["items"] if item["stage"] == "extract"] == [
        "4 tiles cannot be decoded and are left out"
    ]
    bag = read_bag(store)
    assert len(bag.coords) == len(bag.features) == 252
    left_out = {tuple(place) for place in bag.facts.bad_tiles}
    assert left_out == {(256 * column, 0) for column in range(4)}
    assert not left_out & {tuple(place) for place in bag.coords.tolist()}

    made = (store / "zarr.json").stat().st_mtime_ns
    code, answer, _ = wsipipe("extract", "-w", tmp_path, *network)  # judged again, and not made again
    assert (code, answer["stages"][0]["done"]) == (1, 0)
    assert "4 of 256 tiles are missing, over the 1.0% allowed" in answer["stages"][0]["failures"][0]["message"]
    code, answer, _ = wsipipe("export", "clam", "-w", tmp_path, "--features", f"0.5mpp-256px/{SMALLEST}")
    assert code == 2  # no slide has features that are good enough
    code, answer, _ = wsipipe("extract", "-w", tmp_path, *network, "--max-bad-tiles", 0.03)
    assert (code, answer["stages"][0]["done"], answer["stages"][0]["before"]) == (0, 0, 1)
    assert (store / "zarr.json").stat().st_mtime_ns == made


def test_a_slide_that_changed_after_tiling_is_not_read_with_old_tiles(tmp_path: Path) -> None:
    slide = tmp_path / "d.svs"
    write_aperio(slide, noisy_tissue(3, 512), mpp=Mpp(0.5))
    assert wsipipe("tile", slide, "-w", tmp_path, *TILING)[0] == 0
    write_aperio(slide, noisy_tissue(4, 512), mpp=Mpp(0.5))
    code, answer, _ = wsipipe("extract", "-w", tmp_path, "--device", "cpu")
    assert code == 1
    assert "changed since it was tiled" in answer["stages"][0]["failures"][0]["message"]


def test_devices_that_would_compute_in_different_arithmetic_are_refused(tmp_path: Path) -> None:
    def precision(device: str, asked: Literal["auto", "fp32"] = "auto") -> Any:
        settings = ExtractSettings(backbone="uni2-h", device=device, precision=asked)
        return ExtractStage(settings, tmp_path, tmp_path, tiles=tmp_path).resolved()["precision"]

    assert [precision(device) for device in ("cpu", "cpu,cpu", "cuda:0", "cuda:0,cuda:1")] == ["fp32"] * 2 + [
        "bf16"
    ] * 2
    with pytest.raises(UsageError, match="--device cpu,cuda:0 would compute some slides in bf16 and others in fp32"):
        precision("cpu,cuda:0")
    assert precision("cpu,cuda:0", "fp32") == "fp32"
