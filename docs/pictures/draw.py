"""Draws the pictures of docs/tiling.md, on a synthetic slide, with the code that they explain.

python docs/pictures/draw.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.slides.slide import Rgb, Slide
from wsipipe.data.tiling.grid import plan_grid
from wsipipe.data.tiling.store import read_tile
from wsipipe.data.units import Level0Px, LevelPx, Microns, Mpp, TilePx
from wsipipe.pipeline.demo.slides import write_aperio
from wsipipe.pipeline.demo.tissue import Stain, draw_tissue
from wsipipe.stages.tile.slide_tiling import TOO_LITTLE_TISSUE, TileResult, tile_slide

BLUE, ORANGE, GREY = "#1446c8", "#d97706", "#64696f"
PAPER = {"facecolor": "white", "dpi": 110}
mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 10, "svg.hashsalt": "wsipipe"})


def draw_all(folder: Path, side: Microns = Microns(1500)) -> None:  # noqa: B008  a number
    """Write every picture into ``folder``.

    :param side: of the slide.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixels = draw_tissue(np.random.default_rng(7), side=side, mpp=Mpp(0.25), planted_fraction=0.3, stain=Stain())
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "slide.svs"
        write_aperio(path, pixels, mpp=Mpp(0.25))
        with open_slide(path) as slide:
            _save(resolution(slide), folder / "resolution.jpg")
            _save(overlap(slide), folder / "overlap.jpg")
            _save(min_tissue(slide), folder / "min_tissue.jpg")
            _save(level_policy(slide), folder / "level_policy.png")
            _save(sharpness(pixels, Path(scratch)), folder / "min_sharpness.jpg")


def resolution(slide: Slide) -> Figure:
    """What 224 px are at four resolutions: their field of view, and the tile itself."""
    asked = (2.0, 1.0, 0.5, 0.25)
    figure = Figure(figsize=(10.5, 6.2), layout="constrained", **PAPER)
    whole, *tiles = (figure.add_subplot(spot) for spot in _one_large_and_four(figure))
    whole.imshow(_overview(slide))
    centre = np.array(slide.dimensions) * (0.3, 0.6)
    for axes, mpp in zip(tiles, asked, strict=True):
        result = tile_slide(slide, "slide", mpp=mpp, tile_px=224)
        grid = result.tiles.grid
        index = int(np.abs(result.tiles.coords + grid.size_level0 / 2 - centre).sum(axis=1).argmin())
        at = result.tiles.coords[index]
        _frame(whole, slide, at, grid.size_level0, ORANGE, 2)
        axes.imshow(read_tile(slide, result.tiles, index))
        read = "native pixels" if grid.native else f"{grid.read_px} → {grid.tile_px} px"
        axes.set_title(f"--mpp {mpp:g}: {grid.tile_px * grid.tile_mpp:.0f} µm\nlevel {grid.level}, {read}", fontsize=9)
    whole.set_title("fields of view of --tile-px 224", fontsize=10)
    return _bare(figure)


def overlap(slide: Slide) -> Figure:
    """Where tiles lie with three overlaps."""
    figure = Figure(figsize=(10.5, 3.9), layout="constrained", **PAPER)
    for axes, shared in zip(figure.subplots(1, 3), (0, 56, 112), strict=True):
        result = tile_slide(slide, "slide", mpp=1.0, tile_px=224, overlap=shared)
        axes.imshow(_overview(slide))
        _frames(axes, slide, result, BLUE)
        axes.set_title(f"--overlap {shared}: {len(result.tiles)} tiles", fontsize=10)
    return _bare(figure)


def min_tissue(slide: Slide) -> Figure:
    """Which tiles are kept with three thresholds."""
    figure = Figure(figsize=(10.5, 3.9), layout="constrained", **PAPER)
    for axes, least in zip(figure.subplots(1, 3), (0.1, 0.5, 0.9), strict=True):
        result = tile_slide(slide, "slide", mpp=0.5, tile_px=224, min_tissue=least)
        axes.imshow(_overview(slide))
        for at in result.dropped[TOO_LITTLE_TISSUE]:
            _frame(axes, slide, at, result.tiles.grid.size_level0, ORANGE, 0.9)
        _frames(axes, slide, result, BLUE)
        dropped = len(result.dropped[TOO_LITTLE_TISSUE])
        axes.set_title(f"--min-tissue {least}: {len(result.tiles)} kept, {dropped} dropped (orange)", fontsize=10)
    return _bare(figure)


def level_policy(slide: Slide) -> Figure:
    """Which level each policy reads, for three resolutions asked."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained", **PAPER)
    for axes, policy in zip(figure.subplots(1, 3, sharey=True), ("coarsest", "finest", "nearest"), strict=True):
        levels = [0.25 * downsample for downsample in slide.level_downsamples[:3]]
        for level, mpp in enumerate(levels):
            axes.plot([mpp, mpp], [-0.5, 2.8], color=GREY, lw=1, ls=":")
            axes.text(mpp, 3.0, f"level {level}\n{mpp:g} µm", ha="center", va="bottom", fontsize=8, color=GREY)
        for row, asked in enumerate((0.5, 0.9, 3.5)):
            grid = plan_grid(
                slide.level_dimensions,
                slide.level_downsamples,
                Mpp(0.25),
                mpp=Mpp(asked),
                tile_px=TilePx(224),
                overlap=TilePx(0),
                native_tolerance=0.02,
                level_policy=policy,
                allow_upsample=False,
            )
            axes.annotate(
                "", (asked, row), (grid.level_mpp, row), arrowprops={"arrowstyle": "-|>", "color": BLUE, "lw": 1.6}
            )
            axes.plot(grid.level_mpp, row, "o", color=BLUE)
            axes.plot(asked, row, "s", color=ORANGE)
            axes.text(20, row, f"reads {grid.read_px} px", va="center", ha="right", fontsize=9)
        axes.set(xscale="log", xlim=(0.17, 22), ylim=(-0.6, 3.8), title=f"--level-policy {policy}", xticks=[])
        axes.set_yticks(range(3), ["--mpp 0.5", "--mpp 0.9", "--mpp 3.5"])
        axes.tick_params(length=0)
        axes.minorticks_off()
    return figure


def sharpness(pixels: Rgb, folder: Path) -> Figure:
    """The same tile in and out of focus, and what is measured of it."""
    figure = Figure(figsize=(10.5, 2.9), layout="constrained", **PAPER)
    for axes, blur in zip(figure.subplots(1, 5), (0.0, 0.5, 1.0, 2.0, 4.0), strict=True):
        path = folder / f"blur-{blur}.svs"
        blurred = cv2.GaussianBlur(pixels, (0, 0), blur / 0.25) if blur else pixels
        write_aperio(path, np.asarray(blurred, np.uint8), mpp=Mpp(0.25))
        with open_slide(path) as slide:
            result = tile_slide(slide, "slide", mpp=0.5, tile_px=224)
            centre = np.array(slide.dimensions) / 2
            index = int(np.abs(result.tiles.coords - centre).sum(axis=1).argmin())
            axes.imshow(read_tile(slide, result.tiles, index))
            known = result.tiles.sharpness[np.isfinite(result.tiles.sharpness)]
        its = result.tiles.sharpness[index]
        title = f"blur {blur:g} µm: sharpness {its:.3g}\n(all tiles {known.min():.3g} to {known.max():.3g})"
        axes.set_title(title, fontsize=8)
    return _bare(figure)


def _one_large_and_four(figure: Figure) -> list[Any]:
    grid = figure.add_gridspec(2, 4)
    return [grid[:, :2], grid[0, 2], grid[0, 3], grid[1, 2], grid[1, 3]]


def _overview(slide: Slide) -> Rgb:
    level = 1
    return slide.read(level, Level0Px(0), Level0Px(0), *(LevelPx(side) for side in slide.level_dimensions[level]))


def _frames(axes: Any, slide: Slide, result: TileResult, colour: str) -> None:
    for at in result.tiles.coords:
        _frame(axes, slide, at, result.tiles.grid.size_level0, colour, 0.9)


def _frame(axes: Any, slide: Slide, at: Any, side: int, colour: str, width: float) -> None:
    scale = 1 / slide.level_downsamples[1]
    axes.add_patch(Rectangle(at * scale, side * scale, side * scale, fill=False, ec=colour, lw=width))


def _bare(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
    return figure


def _save(figure: Figure, path: Path) -> None:
    options = {"pil_kwargs": {"quality": 82}} if path.suffix == ".jpg" else {"metadata": {"Software": None}}
    figure.savefig(path, **options)


if __name__ == "__main__":
    draw_all(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
