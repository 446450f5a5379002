"""Processor time of everything that is drawn of a slide's scores.

    python tests/benchmarks/heatmaps.py --tiles 100000

Random scores on a full grid of tiles, over an overview of 1400 px.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from wsipipe.data.interop.qupath import tile_scores_geojson
from wsipipe.data.units import Mpp
from wsipipe.stages.predict.heatmap import draw_heatmap
from wsipipe.stages.predict.score_image import write_score_image

TILE = 224


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The least processor time of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Print a row for each picture, and their sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=100_000)
    tiles = parser.parse_args().tiles
    columns = round((1.6 * tiles) ** 0.5)
    coords = np.array([(i % columns, i // columns) for i in range(tiles)]) * TILE
    size = (columns * TILE, int(coords[-1, 1]) + TILE)
    draw = np.random.default_rng(0)
    attention, scores = draw.dirichlet(np.ones(tiles)), draw.normal(size=tiles)
    overview = draw.integers(0, 255, (round(1400 * size[1] / size[0]), 1400, 3), dtype=np.uint8)
    about = (overview, size[0] / 1400, coords, TILE)
    measured = {"attention": attention, "score": scores}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ends = ("for negative", "for positive")
        works: dict[str, Callable[[], object]] = {
            "attention": lambda: draw_heatmap(*about, attention, caption="attention").png(),
            "evidence": lambda: draw_heatmap(*about, scores, caption="evidence", ends=ends).png(),
            "OME-TIFF": lambda: write_score_image(place / "s.ome.tiff", size, coords, TILE, measured, mpp=Mpp(0.25)),
            "GeoJSON": lambda: (place / "g.json").write_text(tile_scores_geojson(coords, TILE, measured)),
        }
        times = {name: seconds(work) for name, work in works.items()}
        for name, taken in {**times, "all": sum(times.values())}.items():
            print(f"{name:<10} {taken:.2f} s")


if __name__ == "__main__":
    main()
