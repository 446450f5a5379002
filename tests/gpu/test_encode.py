"""Slide encoders on a GPU: the vectors are those of the CPU, also of a bag of many tiles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from measured_figures import Figure
from slide_encoder_files import feather
from torch import Tensor
from wsipipe.models.mil.starting_weights import read_starting_weights
from wsipipe.models.slide_encoders.networks import GatedAttentionMean, Mean, MeanAndDeviation, SlideEncoder

pytestmark = pytest.mark.gpu

WIDTH = 512


def encoder(name: str, folder: Path) -> SlideEncoder:
    if name == "mean":
        return Mean()
    if name == "mean-std":
        return MeanAndDeviation()
    start = read_starting_weights(feather(folder / "weights.safetensors", WIDTH))
    return GatedAttentionMean(start, of_tiles=name == "attention-of-tiles")


@pytest.mark.parametrize("name", ["mean", "mean-std", "attention", "attention-of-tiles"])
def test_vectors_are_those_of_the_cpu(name: str, device: torch.device, tmp_path: Path, figure: Figure) -> None:
    network = encoder(name, tmp_path).requires_grad_(False).eval()
    tiles = torch.randn(20_000, WIDTH, generator=torch.Generator().manual_seed(0))

    def computed(where: torch.device) -> Tensor:
        with torch.inference_mode():
            return network.to(where)(tiles.to(where)).cpu()

    here, there, again = computed(torch.device("cpu")), computed(device), computed(device)
    off = float((there - here).abs().max() / here.abs().max())
    figure(f"vectors of {name} against the CPU's", largest_difference=off)
    assert off < 1e-5
    assert torch.equal(there, again)
