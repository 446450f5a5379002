"""Ways to shrink one tile: how long each takes on one core, and what it makes of it.

    python tests/benchmarks/resize_kernels.py SLIDE --read-px 426 --tile-px 224

Time is the processor's, in one thread, of the fastest of several rounds: other work on the machine hardly shows in it.
What is made is judged by three figures:

triangle  the mean and the largest difference, in grey levels, from the antialiasing triangle in double precision
area      the same from the exact mean over the area of each pixel; rounding alone makes 0.25 and 0.5 of either
alias     what is left of a zone plate (rings that become ever finer), in per cent, where a tile cannot show it
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.resize import resize_tile
from wsipipe.data.units import Level0Px, LevelPx, TilePx

Resize = Callable[[np.ndarray], np.ndarray]


def kernels(side: int, tile_px: int) -> dict[str, Resize]:
    size = (tile_px, tile_px)
    spread = ((side / tile_px) ** 2 - 1) / 12
    taps = np.array([spread, 1 - 2 * spread, spread], np.float32)

    def linear(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR))

    def by_pillow(kernel: Image.Resampling) -> Resize:
        return lambda pixels: np.asarray(Image.fromarray(pixels).resize(size, kernel))

    its: dict[str, Resize] = {
        "ours: torch, triangle": lambda pixels: resize_tile(pixels, TilePx(tile_px)),
        "Pillow, triangle (BILINEAR)": by_pillow(Image.Resampling.BILINEAR),
        "Pillow, BOX": by_pillow(Image.Resampling.BOX),
        "OpenCV, INTER_AREA": lambda pixels: np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)),
        "OpenCV, stackBlur 3, linear": lambda pixels: linear(np.asarray(cv2.stackBlur(pixels, (3, 3)))),
        "OpenCV, INTER_LINEAR (not antialiased)": linear,
    }
    if side <= 2 * tile_px:  # beyond it, three taps are too few
        its["OpenCV, [1 2 1] / 4, linear"] = lambda pixels: linear(np.asarray(cv2.GaussianBlur(pixels, (3, 3), 0)))
        its["OpenCV, 3 taps as wide as the triangle, linear"] = lambda pixels: linear(
            np.asarray(cv2.sepFilter2D(pixels, -1, taps, taps))
        )
    return its


def exactly(weights: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    return np.stack([weights @ pixels[..., channel].astype(float) @ weights.T for channel in range(3)], axis=2)


def triangle(side: int, tile_px: int) -> np.ndarray:
    ratio = side / tile_px
    centres = (np.arange(tile_px) + 0.5) * ratio
    weights = np.clip(1 - np.abs(np.arange(side) + 0.5 - centres[:, None]) / ratio, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def area(side: int, tile_px: int) -> np.ndarray:
    edges = np.arange(tile_px + 1)[:, None] * side / tile_px
    return np.diff(np.clip(edges - np.arange(side), 0, 1), axis=0) * tile_px / side


def detailed_tiles(path: Path, side: int, count: int) -> list[np.ndarray]:
    """Those with most contrast of a coarse grid over level 0."""
    with open_slide(path) as slide:
        width, height = slide.dimensions
        places = [(x, y) for y in range(0, height - side, 2 * side) for x in range(0, width - side, 2 * side)]
        tiles = [slide.read(0, Level0Px(x), Level0Px(y), LevelPx(side), LevelPx(side)) for x, y in places]
    return sorted(tiles, key=lambda tile: -float(tile.std()))[:count]


def milliseconds(resize: Resize, tiles: list[np.ndarray], rounds: int = 15) -> float:
    times = []
    for _ in range(rounds):
        started = time.process_time()
        for tile in tiles:
            resize(tile)
        times.append((time.process_time() - started) / len(tiles) * 1e3)
    return min(times)


def alias(resize: Resize, side: int, tile_px: int) -> float:
    y, x = np.indices((side, side)) - (side - 1) / 2
    rings = np.rint(127.5 + 127.5 * np.cos(np.pi * (x**2 + y**2) / side)).astype(np.uint8)
    y, x = (np.indices((tile_px, tile_px)) - (tile_px - 1) / 2) * side / tile_px
    frequency = np.hypot(x, y) / side
    too_fine = (frequency > 0.65 * tile_px / side) & (frequency < 0.5)
    return float(resize(rings[..., None].repeat(3, axis=2))[..., 0][too_fine].std() / (127.5 / np.sqrt(2)) * 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--read-px", type=int, default=426)
    parser.add_argument("--tile-px", type=int, default=224)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    side, tile_px = asked.read_px, asked.tile_px
    tiles = detailed_tiles(asked.slide, side, 24)
    lines = [
        f"{side} → {tile_px} px, {len(tiles)} tiles of {asked.slide.name}",
        f"{'':46} {'ms':>6}  {'triangle':>12}  {'area':>12}  {'alias':>6}",
    ]
    references = [[exactly(filter_(side, tile_px), tile) for tile in tiles] for filter_ in (triangle, area)]
    for name, resize in kernels(side, tile_px).items():
        made = [resize(tile).astype(float) for tile in tiles]
        away = [np.abs(np.stack(made) - np.stack(reference)) for reference in references]
        judged = "  ".join(f"{its.mean():5.2f} / {its.max():4.1f}" for its in away)
        lines.append(f"{name:46} {milliseconds(resize, tiles):6.3f}  {judged}  {alias(resize, side, tile_px):4.0f} %")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
