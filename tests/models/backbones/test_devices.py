"""Which device runs what: `--gpu`, `--device`, and several at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command import told, wsipipe
from wsipipe.data.artifact import digest_of
from wsipipe.data.errors import UsageError
from wsipipe.data.units import Mpp
from wsipipe.models.backbones.devices import choose_device, choose_devices
from wsipipe.pipeline.demo.slides import write_aperio


def test_names_of_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_devices("cpu") == [torch.device("cpu")]
    assert choose_devices("cpu, cpu") == [torch.device("cpu")] * 2
    with pytest.raises(UsageError, match="'tpu'"):
        choose_devices("cpu,tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no GPU here"):
        choose_devices("cuda:all")
    pixels = np.random.default_rng(0).normal((200, 110, 170), 30, size=(500, 500, 3)).clip(0, 255)
    write_aperio(tmp_path / "a.svs", pixels.astype(np.uint8), mpp=Mpp(0.5))
    told("tile", "a.svs")
    for gpu, said in (("all", "no GPU here"), ("0,1", "no device 'cuda:0' here"), ("first", "names no GPU")):
        result = wsipipe("extract", "--gpu", gpu)
        assert result.exit_code == 2
        assert said in result.stderr


def test_two_devices_share_the_slides_and_give_the_bytes_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("slides").mkdir()
    for number in range(4):
        side = 500 + 120 * number
        pixels = np.random.default_rng(number).normal((200, 110, 170), 30, size=(side, side, 3)).clip(0, 255)
        write_aperio(Path(f"slides/{number}.svs"), pixels.astype(np.uint8), mpp=Mpp(0.5))
    told("tile", "slides")
    shutil.copytree("work", "other")
    one = told("extract", "--device", "cpu", "--threads", 1)["extract"]
    two = told("extract", "--device", "cpu,cpu", "--threads", 1, "-w", "other")["extract"]
    assert (one["done"], one["units"]) == (two["done"], two["units"]) == (4, one["units"])
    folder = Path("features/0.5mpp-224px/efficientnet-lite0")
    for number in range(4):
        assert digest_of("work" / folder / f"{number}.zarr") == digest_of("other" / folder / f"{number}.zarr")
    said = [note for note in two["notes"] if "bottleneck: " in note]
    assert said  # of two processes, or of the one that was ready so early that it did all four
    assert all(note.startswith("cpu: ") for note in said)
    assert sum("bottleneck: " in note for note in one["notes"]) == 1
