"""How long the networks of artefacts and of tissue take for a slide, on a GPU and on the CPU. A part of ``gpu.sh``.

    python tests/benchmarks/gpu_masks.py FILE --device cuda --seconds 60

Random weights. A slide of drawn tissue at 0.5 µm per pixel is read from its file, and every tile of it is looked at.

find        the whole: windows read and resized, the network, what it found brought onto the grid of the mask
network     the network alone, on windows that lie in memory, copied to the device at each batch as ``find`` does
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from gpu_extraction import Bench, waited
from gpu_record import Record, parser_of_a_part
from safetensors.torch import save_file
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.overview import read_overview
from wsipipe.data.units import Level0Px
from wsipipe.models.artefact_network import ArtefactNetwork, architecture
from wsipipe.models.tissue_network import TissueNetwork
from wsipipe.models.tissue_network import architecture as of_tissue

WINDOW = 512
BATCHES = (8, 1)


def loaded(what: str, folder: Path, device: torch.device) -> ArtefactNetwork | TissueNetwork:
    """A network with random weights, from a file as a user's."""
    torch.manual_seed(0)
    model = architecture() if what == "artefacts" else of_tissue()
    path = folder / f"{what}.safetensors"
    save_file(model.state_dict(), path)
    return ArtefactNetwork.load(path, 1.0, device) if what == "artefacts" else TissueNetwork.load(path, device)


def found(network: ArtefactNetwork | TissueNetwork, bench: Bench) -> float:
    """Seconds for the slide."""
    path, tiles = bench.slides["20x"]
    with open_slide(path) as slide:
        overview = read_overview(slide)
        started = time.perf_counter()
        if isinstance(network, ArtefactNetwork):
            network.find(slide, overview, tiles.coords, Level0Px(224))
        else:
            network.find(slide, overview)
        return time.perf_counter() - started


def alone(network: ArtefactNetwork | TissueNetwork, batch: int, seconds: float) -> float:
    """Windows a second."""
    windows = np.random.default_rng(0).integers(0, 256, (batch, WINDOW, WINDOW, 3), dtype=np.uint8)
    compute: Callable[[Any], Any] = network
    compute(windows)
    done, started = 0, time.perf_counter()
    while time.perf_counter() < started + seconds:
        compute(windows)
        done += batch
    waited(torch.zeros(1, device=network.device))
    return done / (time.perf_counter() - started)


def measure(bench: Bench, folder: Path, record: Record) -> None:
    path, tiles = bench.slides["20x"]
    record.add("the slide", file=path.name, tiles=len(tiles))
    for what in ("artefacts", "tissue"):
        if not record.has_time(what, 5):
            return
        network = loaded(what, folder, bench.device)
        for batch in BATCHES[: 1 if bench.small else None]:
            its = replace(network, batch=batch)
            record.add(
                f"{what}, {batch} windows a batch",
                first_find_seconds=found(its, bench),  # the device gets ready for each shape
                find_seconds=found(its, bench),
                find_seconds_with_one_reader=found(replace(its, readers=1), bench),
                network_windows_per_second=alone(its, batch, bench.seconds),
            )
        if record.has_time(f"{what}, CPU", 10) and not bench.small:
            own = loaded(what, folder, torch.device("cpu"))
            torch.set_num_threads(16)
            record.add(f"{what}, CPU, 16 threads", network_windows_per_second=alone(own, 1, bench.seconds))
            torch.set_num_threads(1)


def main() -> None:
    parser = parser_of_a_part(__doc__, seconds=60)
    parser.add_argument("--folder", type=Path, help="where slides lie or are made; a temporary one by default")
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    record = Record(asked.file, "masks", asked.seconds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        measure(Bench(folder, asked), Path(temporary), record)


if __name__ == "__main__":
    main()
