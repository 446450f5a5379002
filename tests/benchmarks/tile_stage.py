"""What the whole tile stage costs a slide (open, mask, grid, sharpness, QC, write), and whether memory stays flat.

    python tests/benchmarks/tile_stage.py SLIDE... [--many 200] [--mpp 0.5] [--mpp-override 0.5]

One core: run it under `taskset -c 0`. Each slide is done in a process of its own, whose peak memory is told; with
--many the slides are then done over and over in one process, and its memory is told as it goes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from wsipipe.data.errors import SlideError
from wsipipe.data.slides.finding import FoundSlide
from wsipipe.stages.stage import Outcome, Silence
from wsipipe.stages.tile.settings import TileSettings
from wsipipe.stages.tile.stage import TileStage


def once(slide: Path, settings: TileSettings, work: Path) -> Outcome:
    """The stage on one slide, as a worker process does it."""
    stage = TileStage(settings, work / "tiles", work, slides=[FoundSlide(slide.stem, slide)])
    stage.setup()
    [item] = stage.plan().items
    return stage.process(item, Silence())


def timed(slide: Path, settings: TileSettings, repeat: int) -> str:
    """Best of some runs, in a fresh process: its peak memory is this slide's."""
    start = peak()
    with tempfile.TemporaryDirectory() as work:
        try:
            seconds = []
            for _ in range(repeat):
                began = time.perf_counter()
                outcome = once(slide, settings, Path(work))
                seconds.append(time.perf_counter() - began)
        except SlideError as error:
            return f"{slide.name:32} {type(error).__name__}: {error.what}"
    its = outcome.stats
    return (
        f"{slide.name:32} {its['tiles']:5} of {its['grid_tiles']:5} tiles  tissue {its['tissue_fraction']:6.1%}  "
        f"best {min(seconds):5.2f} s, first {seconds[0]:5.2f} s  peak {peak():4.0f} MiB ({start:.0f} before)"
    )


def over_and_over(slides: Sequence[Path], settings: TileSettings, many: int) -> list[str]:
    """Memory of one process after so many slides."""
    lines = []
    with tempfile.TemporaryDirectory() as work:
        for count, slide in enumerate(itertools.islice(itertools.cycle(slides), many), 1):
            once(slide, settings, Path(work))
            if count in (len(slides), many // 4, many // 2, many):
                lines.append(f"after {count:4} slides: {resident():4.0f} MiB resident, peak {peak():4.0f} MiB")
    return lines


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--mpp-override", type=float)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--many", type=int, default=0, help="slides to do in one process, to see its memory")
    asked = parser.parse_args()
    settings = TileSettings(mpp=asked.mpp, mpp_override=asked.mpp_override)
    fresh = get_context("spawn")
    for slide in asked.slides:
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            print(pool.submit(timed, slide.resolve(), settings, asked.repeat).result())
    if asked.many:
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            slides = [slide.resolve() for slide in asked.slides]
            print("\n".join(pool.submit(over_and_over, slides, settings, asked.many).result()))


if __name__ == "__main__":
    main()
