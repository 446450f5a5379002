"""What the tests of a GPU share. They prove on one what the other tests prove on a CPU.

They are skipped where there is no GPU. ``--gpu-device cpu`` runs them on the CPU all the same, which proves the tests.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from measured_figures import Figure
from noise_pictures import noisy_tissue
from wsipipe.data.units import Mpp
from wsipipe.models.backbones.devices import choose_device
from wsipipe.pipeline.demo.slides import write_aperio


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The GPU, or what ``--gpu-device`` names."""
    name = request.config.getoption("--gpu-device")
    if name is None and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    return choose_device(name or "cuda:0")


@pytest.fixture(scope="session")
def gpu(device: torch.device) -> torch.device:
    """A GPU, for what a CPU cannot stand in for."""
    if device.type != "cuda":
        pytest.skip("this is of a GPU alone")
    return device


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Appends what a test measured to the file of ``--gpu-figures``, a line of JSON each."""
    file: Path | None = request.config.getoption("--gpu-figures")

    def note(what: str, **figures: float | str | bool) -> None:
        if file is not None:
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"part": "correctness", "what": what, **figures}) + "\n")

    return note


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of 20x, and one of 40x, whose tiles are resized."""
    folder = tmp_path_factory.mktemp("slides")
    for seed, (name, side, mpp) in enumerate([("a", 1024, 0.5), ("b", 512, 0.5), ("c", 1024, 0.25)]):
        write_aperio(folder / f"{name}.svs", noisy_tissue(seed, side), mpp=Mpp(mpp))
    return folder
