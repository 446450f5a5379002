"""How fast tiles become ready as uint8 RGB: ``read_tile`` in threads, beside a plain loop and the bare decoder.

    python tests/benchmarks/tile_reading.py SLIDE --mpp 0.5 --tile-px 224 --threads 2

All figures are of one run on one machine: compare the ratios, not the rates, with those of another.

native pixels  the same tiles as they lie in the level, not resized: for a GPU that resizes
plain loop     OpenSlide ``read_region``, ``convert("RGB")``, Pillow ``resize`` antialiased where the tile is resampled
bare decode    the compressed tiles of the level, from memory, by the reader's decoder alone (libjpeg-turbo for JPEG),
               in as many threads, expressed in tiles of the grid by area: what could be had if all else cost nothing

Threads are given runs of a few neighbouring tiles: these share compressed tiles, for which else one thread would wait
for the other.

Memory is the process's: first as it stands before a tile is read (the interpreter and the libraries, torch among them
where tiles are resized), then the peak after ``read_tile`` has run, then with the plain loop and the bare decoder.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import openslide
from PIL import Image
from wsipipe.data.slides.codecs import decoder_of
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.slides.slide import Slide
from wsipipe.data.slides.tiff_layout import TiledLevel, tiled_jpeg_levels
from wsipipe.data.tiling.grid import plan_grid
from wsipipe.data.tiling.resize import resize_tile
from wsipipe.data.tiling.store import TileSet, read_tile
from wsipipe.data.units import Level0Px, Mpp, TilePx
from wsipipe.stages.tile.slide_tiling import tile_slide


def tiles_of(slide: Slide, mpp: float, tile_px: int, *, tissue: bool, native_tolerance: float) -> TileSet:
    """All tiles of the grid, or those with tissue."""
    its = {"mpp": Mpp(mpp), "tile_px": TilePx(tile_px), "overlap": TilePx(0), "native_tolerance": native_tolerance}
    if tissue:
        return tile_slide(slide, slide.path.stem, min_tissue=0.25, allow_upsample=False, **its).tiles
    slide_mpp = slide.believed_mpp()
    grid = plan_grid(slide.level_dimensions, slide.level_downsamples, slide_mpp, allow_upsample=False, **its)
    coords = grid.coords()
    nothing = np.zeros(len(coords), np.float32)
    return TileSet(
        slide_id=slide.path.stem,
        slide_format=slide.format,
        slide_size=slide.dimensions,
        slide_mpp=slide_mpp,
        grid=grid,
        min_tissue=0.0,
        coords=coords,
        tissue_fraction=nothing,
        sharpness=nothing,
        sharpness_mpp=Mpp(8.0),
    )


def rate(read: Callable[[int], object], count: int, threads: int, run: int = 1) -> float:
    """Calls a second, handed out in their order, a few at a time."""

    def read_run(start: int) -> None:
        for index in range(start, min(start + run, count)):
            read(index)

    started = time.perf_counter()
    if threads == 1:
        for index in range(count):
            read(index)
    else:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(read_run, range(0, count, run)):
                pass
    return count / (time.perf_counter() - started)


def ours(path: Path, tiles: TileSet, threads: int, run: int) -> float:
    with open_slide(path) as slide:
        return rate(lambda index: read_tile(slide, tiles, index).shape, len(tiles), threads, run)


def native_pixels(path: Path, tiles: TileSet, threads: int, run: int) -> float:
    grid, places = tiles.grid, [(Level0Px(x), Level0Px(y)) for x, y in tiles.coords.tolist()]
    with open_slide(path) as slide:
        return rate(
            lambda index: slide.read(grid.level, *places[index], grid.read_px, grid.read_px).shape,
            len(tiles),
            threads,
            run,
        )


def plain_loop(path: Path, tiles: TileSet, most: int) -> float:
    """Every n-th row of tiles, so that neighbours are still read one after another."""
    grid = tiles.grid
    rows = np.unique(tiles.coords[:, 1])
    some = tiles.coords[np.isin(tiles.coords[:, 1], rows[:: max(len(tiles) // most, 1)])]
    with openslide.OpenSlide(path) as handle:

        def read(index: int) -> np.ndarray:
            at = int(some[index, 0]), int(some[index, 1])
            patch = handle.read_region(at, grid.level, (grid.read_px, grid.read_px)).convert("RGB")
            if not grid.native:
                patch = patch.resize((grid.tile_px, grid.tile_px), Image.Resampling.BILINEAR)
            return np.asarray(patch)

        return rate(read, len(some), 1)


def bare_decode(path: Path, layout: TiledLevel, threads: int) -> float:
    """Compressed tiles a second, all of the level, by the reader's own decoder from memory."""
    file = os.open(path, os.O_RDONLY)
    try:
        tiles = [
            ([os.pread(file, count, offset) for offset, count in layout.parts_of(index)], layout.rows_of(index))
            for index in range(layout.tiles)
        ]
    finally:
        os.close(file)
    present = [(streams, rows) for streams, rows in tiles if all(streams)]
    decoder = decoder_of(layout)

    def decode(part: int) -> None:
        for streams, rows in present[part::threads]:
            decoder(streams, rows)

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, range(threads)))
    return len(present) / (time.perf_counter() - started)


def peak_memory() -> float:
    """MiB, of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--tile-px", type=int, default=224)
    parser.add_argument("--native-tolerance", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", type=int, default=4, help="tiles handed to a thread at a time")
    parser.add_argument("--tissue", action="store_true", help="only tiles with tissue, not the whole grid")
    parser.add_argument("--plain-tiles", type=int, default=1000, help="about as many in the plain loop")
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many runs counts, of each kind")
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    with open_slide(asked.slide) as slide:
        tiles = tiles_of(slide, asked.mpp, asked.tile_px, tissue=asked.tissue, native_tolerance=asked.native_tolerance)
        layout = tiled_jpeg_levels(slide.path, slide.level_dimensions)[tiles.grid.level]
        lines = [f"{slide.path.name}: {slide.reader}"]
    grid = tiles.grid
    kind = "native" if grid.native else f"{grid.read_px} → {grid.tile_px} px"
    lines.append(f"{len(tiles)} tiles, level {grid.level}, {kind}, {asked.threads} threads, runs of {asked.run}")
    two, one = f"read_tile, {asked.threads} threads", "read_tile, 1 thread"
    native, plain, bare = "native pixels", "plain loop", "bare decode"
    runs: dict[str, list[float]] = {two: [], one: [], native: [], plain: [], bare: []}
    resize_tile(np.zeros((grid.read_px, grid.read_px, 3), np.uint8), grid.tile_px)  # loads what it needs
    memory = [peak_memory()]
    for _ in range(asked.repeat):  # by turns, so that a busy moment of the machine does not fall on one of them
        runs[two].append(ours(asked.slide, tiles, asked.threads, asked.run))
        if len(memory) == 1:
            memory.append(peak_memory())
        runs[one].append(ours(asked.slide, tiles, 1, 1))
        runs[native].append(native_pixels(asked.slide, tiles, asked.threads, asked.run))
        runs[plain].append(plain_loop(asked.slide, tiles, asked.plain_tiles))
        if isinstance(layout, TiledLevel):
            decoded = bare_decode(asked.slide, layout, asked.threads)
            runs[bare].append(decoded * layout.tile_width * layout.tile_height / grid.read_px**2)
    best = {name: max(rates) for name, rates in runs.items() if rates}
    lines += [f"{name:20} {its:8,.0f} tiles/s" for name, its in best.items()]
    lines.append(f"{two}: {best[two] / best[plain]:.1f} × plain loop")
    if isinstance(layout, TiledLevel):
        compressed = best[bare] * grid.read_px**2 / (layout.tile_width * layout.tile_height)
        lines.append(
            f"{two}: {best[two] / best[bare]:.0%} of bare decode; native pixels {best[native] / best[bare]:.0%}"
        )
        lines.append(
            f"bare decode: {compressed:,.0f} compressed tiles/s of {layout.tile_width} × {layout.tile_height} px"
        )
    lines.append(f"memory: {memory[0]:.0f} MiB before, {memory[1]:.0f} with read_tile, {peak_memory():.0f} in the end")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
