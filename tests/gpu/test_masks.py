"""The networks of artefacts and of tissue on a GPU: what they compute on the CPU, also through ``tile``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from artefact_weights import FOLD, PEN, architecture, save_colours
from command import told
from measured_figures import Figure
from noise_pictures import noisy_tissue
from safetensors.torch import save_file
from torch import Tensor, nn
from wsipipe.data.tiling.store import read_tiles
from wsipipe.data.units import Mpp
from wsipipe.models.artefact_network import CLASSES
from wsipipe.models.segmentation import normalised
from wsipipe.models.tissue_network import TissueNetwork
from wsipipe.models.tissue_network import architecture as of_tissue
from wsipipe.pipeline.demo.slides import write_aperio

pytestmark = pytest.mark.gpu


def artefacts() -> nn.Module:
    pytest.importorskip("segmentation_models_pytorch")
    return architecture()


def windows() -> Tensor:
    return normalised(np.stack([noisy_tissue(seed, 256) for seed in range(3)]), torch.device("cpu"))


def random(make: Callable[[], nn.Module]) -> nn.Module:
    """Random weights, with statistics of the pictures so that numbers neither vanish nor explode."""
    torch.manual_seed(0)
    model = make().train()
    with torch.no_grad():
        model(windows())
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(("what", "make", "width"), [("artefacts", artefacts, CLASSES), ("tissue", of_tissue, 2)])
def test_a_network_computes_what_it_does_on_the_cpu(
    what: str, make: Callable[[], nn.Module], width: int, device: torch.device, figure: Figure
) -> None:
    model = random(make)

    def computed() -> Tensor:
        found = model(windows().to(next(model.parameters()).device))
        logits: Tensor = found if isinstance(found, Tensor) else found["out"]
        return logits.cpu()

    with torch.inference_mode():
        here = computed()
        model.to(device)
        there, again = computed(), computed()
    assert here.shape == (3, width, 256, 256)
    off = float((there - here).abs().max() / here.abs().max())
    other = float((there.argmax(dim=1) != here.argmax(dim=1)).float().mean())
    figure(f"network of {what} against the CPU's", largest_difference=off, pixels_of_another_class=other)
    assert off < 1e-4
    assert other < 1e-3
    assert torch.equal(there, again)


def test_a_tissue_mask_is_that_of_the_cpu(slides: Path, device: torch.device, tmp_path: Path) -> None:
    save_file(random(of_tissue).state_dict(), tmp_path / "tissue.safetensors")
    here, there = (TissueNetwork.load(tmp_path / "tissue.safetensors", where, batch=2) for where in ("cpu", device))
    pictures = np.stack([noisy_tissue(seed, 256) for seed in range(2)])
    np.testing.assert_allclose(there(pictures), here(pictures), atol=1e-4)


def test_tile_marks_the_planted_artefacts_on_the_device(tmp_path: Path, device: torch.device) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    weights = save_colours(tmp_path / "colours.safetensors")
    picture = noisy_tissue(0, 2240)
    picture[448:672, 224:448], picture[896:1120, 1120:1344] = FOLD, PEN
    (tmp_path / "slides").mkdir()
    write_aperio(tmp_path / "slides" / "a.svs", picture, mpp=Mpp(0.5))
    found = []
    for name, where in (("there", str(device)), ("here", "cpu")):
        work = tmp_path / name
        network = ("--artefact-weights", weights, "--artefact-mpp", 1, "--device", where)
        assert told("tile", tmp_path / "slides", "-w", work, *network)["tile"]["done"] == 1
        [file] = work.rglob("a.h5")
        found.append(read_tiles(file))
    there, here = found
    np.testing.assert_array_equal(there.coords, here.coords)
    assert there.artefacts is not None
    assert here.artefacts is not None
    np.testing.assert_allclose(there.artefacts.shares, here.artefacts.shares, atol=0.01)
    marked = there.coords[there.artefacts.fraction > 0.5]
    assert sorted(map(tuple, marked.tolist())) == [(224, 448), (1120, 896)]
