"""What Dask costs against the local executor on one machine, and what a second worker brings: ratios within one run.

    python tests/benchmarks/cluster.py [--slides 200] [--rounds 3] [--side 1000]

Small slides are made, tiled and extracted (efficientnet-lite0 on the CPU) by processes here and by workers of a
cluster on the loopback, in turns. Rates are from the first item's begin to the last one's end; what a stage takes
besides (processes that start and load a network) stands beside them. On a busy machine compare the milliseconds of the
processors instead.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
from wsipipe.data.manifest import Manifest
from wsipipe.data.slides.finding import find_slides
from wsipipe.data.units import Mpp
from wsipipe.pipeline.cluster.choice import elsewhere
from wsipipe.pipeline.cluster.settings import ClusterSettings
from wsipipe.pipeline.console import Console, LogLevel
from wsipipe.pipeline.demo.slides import write_aperio
from wsipipe.pipeline.run.runner import Elsewhere, Runner
from wsipipe.stages.extract.settings import ExtractSettings
from wsipipe.stages.extract.stage import ExtractStage
from wsipipe.stages.stage import Stage
from wsipipe.stages.tile.settings import TileSettings
from wsipipe.stages.tile.stage import TileStage


def make_slides(folder: Path, count: int, side: int) -> None:
    """Write slides of noise, all alike."""
    folder.mkdir()
    first = folder / "s0000.svs"
    pixels = np.random.default_rng(0).integers(60, 200, (side, side, 3)).astype(np.uint8)
    write_aperio(first, pixels, mpp=Mpp(0.5))
    for number in range(1, count):
        copyfile(first, folder / f"s{number:04}.svs")


def processor_seconds() -> float:
    """What this process and all that it has started have taken of the processors."""
    here = psutil.Process()
    taken = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(one.user + one.system + one.children_user + one.children_system for one in taken)


def run(stage: Stage[Any], there: Elsewhere | None) -> tuple[float, float, float]:
    """Items a second from the first begin to the last end, the seconds that the stage took besides, and milliseconds
    of the processors an item, of all processes and with their start.
    """
    before = processor_seconds()
    runner = Runner(stage.workspace, Console(json_only=True, level=LogLevel.error), elsewhere=there)
    summary = runner.run(stage)
    assert not summary.failures, summary.failures
    records = [record for record in Manifest.of(stage.folder).records() if record.stage == stage.name]
    begin = min(record.start.timestamp() for record in records)
    seconds = max(record.start.timestamp() + record.seconds for record in records) - begin
    taken = 1000 * (processor_seconds() - before) / len(records)
    return len(records) / seconds, summary.seconds - seconds, taken


@contextmanager
def workers(count: int) -> Iterator[Elsewhere]:
    """A cluster of workers of one core."""
    there = elsewhere(ClusterSettings(kind="local", cores=1, memory="3GB", max_jobs=count))
    assert there is not None
    try:
        yield there
    finally:
        there.close()


def tile(slides: Path, work: Path, processes: int) -> TileStage:
    """Tile slides, all of whose area counts as tissue."""
    settings = TileSettings(tissue="all", workers=processes)
    return TileStage(settings, work / "tiles" / "t", work, slides=find_slides([slides]))


def extract(work: Path, tiles: Path) -> ExtractStage:
    """Extract what was tiled, in one thread."""
    settings = ExtractSettings(device="cpu", threads=1)
    return ExtractStage(settings, work / "features" / "t" / "e", tiles.parents[1], tiles=tiles)


def main() -> None:
    """Print a line for each round and each way."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--slides", type=int, default=200)
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--side", type=int, default=1000, help="of a slide, in pixels: 16 tiles if 1000")
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as name, workers(1) as one, workers(2) as two:
        place = Path(name)
        make_slides(place / "warm", 4, given.side)
        make_slides(place / "slides", given.slides, given.side)
        ways: dict[str, tuple[Elsewhere | None, int]] = {
            "here, 1 process": (None, 1),
            "1 worker": (one, 1),
            "here, 2 processes": (None, 2),
            "2 workers": (two, 2),
        }
        for there, processes in ways.values():
            run(tile(place / "warm", place / f"warm-{id(there)}-{processes}", processes), there)
        run(tile(place / "slides", place / "tiled", 2), None)
        best: dict[str, float] = {}
        for turn in range(given.rounds):
            for way, (there, processes) in ways.items():
                of_workers = 1 if there is not None else processes
                rate, besides, taken = run(tile(place / "slides", place / f"tile-{turn}-{way}", of_workers), there)
                print(
                    f"tile     {way:18} {rate:7.2f} slides/s, {besides:5.1f} s besides, {taken:5.0f} ms of processors",
                    flush=True,
                )
                best[f"tile {way}"] = max(rate, best.get(f"tile {way}", 0.0))
            for way in ("here, 1 process", "1 worker", "2 workers"):
                work = place / "tiled"
                stage = extract(work, work / "tiles" / "t")
                stage.folder = work / "features" / "t" / f"{turn}-{way}"
                rate, besides, taken = run(stage, ways[way][0])
                print(
                    f"extract  {way:18} {rate:7.2f} slides/s, {besides:5.1f} s besides, {taken:5.0f} ms of processors",
                    flush=True,
                )
                best[f"extract {way}"] = max(rate, best.get(f"extract {way}", 0.0))
    for what in ("tile", "extract"):
        print(f"{what}: 1 worker / here {best[f'{what} 1 worker'] / best[f'{what} here, 1 process']:.2f}")
        print(f"{what}: 2 workers / 1 worker {best[f'{what} 2 workers'] / best[f'{what} 1 worker']:.2f}")
    print(f"tile: 2 workers / 2 processes here {best['tile 2 workers'] / best['tile here, 2 processes']:.2f}")


if __name__ == "__main__":
    main()
