"""How well the tissue mask does on H&E slides that are repainted with other stains.

    python tests/benchmarks/tissue_stains.py SLIDE... [--ink]

Haematoxylin and eosin are separated by their absorption (Ruifrok and Johnston 2001), and each is given the absorption
and strength of what another stain shows in its place. Truth is what was drawn by eye on the H&E
(``tissue_outlines.json``). With --ink, a streaky stroke of each marker is laid across it as well.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tissue_masks import OUTLINES, drawn, scores
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.overview import Overview, read_overview
from wsipipe.data.tiling.tissue import find_tissue

Floats = npt.NDArray[np.float64]
Density = tuple[float, float, float]

GLASS = 244
H_AND_E = np.array([(0.65, 0.70, 0.29), (0.07, 0.99, 0.11)])
H, PALE, GREY, GREEN, BLUE = (0.65, 0.7, 0.29), (0.5, 0.53, 0.54), (0.58,) * 3, (0.9, 0.25, 0.55), (0.85, 0.5, 0.15)
CYAN, RED, YELLOW, SILVER = (0.8, 0.3, 0.1), (0.05, 0.7, 0.75), (0.02, 0.2, 0.8), (0.58, 0.6, 0.57)
STAINS: dict[str, tuple[Density, float, Density, float]] = {
    "IHC, negative": (H, 0.3, H, 0.04),
    "IHC, DAB in the nuclei": ((0.27, 0.57, 0.78), 1, H, 0.12),
    "silver": (SILVER, 1.3, PALE, 0.5),
    "silver, pale": (SILVER, 0.8, PALE, 0.15),
    "grey": (GREY, 1, GREY, 0.5),
    "PAS": (H, 0.4, (0.2, 0.9, 0.35), 0.8),
    "GMS": (GREY, 1, GREEN, 0.9),
    "GMS, pale": (GREY, 0.6, GREEN, 0.3),
    "Masson, aniline blue": ((0.25, 0.8, 0.6), 0.9, BLUE, 1),
    "Masson, light green": ((0.25, 0.8, 0.6), 0.9, (0.9, 0.3, 0.5), 1),
    "Alcian blue": ((0.2, 0.6, 0.3), 0.4, CYAN, 0.7),
    "Alcian blue, pale": ((0.2, 0.6, 0.3), 0.2, CYAN, 0.2),
    "Congo red": (H, 0.3, RED, 0.7),
    "Giemsa": ((0.75, 0.6, 0.2), 1, (0.5, 0.6, 0.2), 0.6),
    "Sirius red": ((0.1, 0.8, 0.8), 0.6, (0.05, 1.0, 0.8), 1.2),
    "elastic, van Gieson": (GREY, 1.5, YELLOW, 0.5),
    "saffron": (H, 0.3, YELLOW, 0.5),
    "Luxol fast blue": ((0.5, 0.7, 0.3), 0.4, (0.9, 0.5, 0.15), 0.9),
    "toluidine blue": ((0.8, 0.6, 0.15), 1.2, (0.8, 0.6, 0.15), 0.4),
    "toluidine blue, dark": ((0.9, 0.6, 0.1), 2, (0.9, 0.6, 0.1), 0.9),
    "Papanicolaou": ((0.7, 0.6, 0.3), 0.8, (0.8, 0.3, 0.2), 0.5),
}
INKS = {"blue": (45, 70, 170), "green": (30, 130, 70), "red": (205, 30, 45), "black": (25, 25, 28)}


def amounts(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Of haematoxylin and eosin: (height, width, 2)."""
    darkest = pixels.min(axis=2)
    white = np.median(pixels[(darkest > 225) & (darkest < 254)], axis=0)
    density = -np.log(np.maximum(pixels, 1) / white)
    unit = H_AND_E / np.linalg.norm(H_AND_E, axis=1, keepdims=True)
    found = np.maximum(density.reshape(-1, 3) @ np.linalg.pinv(unit), 0).reshape(*pixels.shape[:2], 2)
    return np.where(found < 0.02, 0.3 * found, found)  # the noise of JPEG on its glass is no stain


def repainted(amount: Floats, stain: tuple[Density, float, Density, float]) -> Floats:
    """Light that passes the slide."""
    nuclei, dense, fibres, strong = stain
    layers = amount[..., :1] * dense * np.array(nuclei) + amount[..., 1:] * strong * np.array(fibres)
    return np.asarray(GLASS * np.exp(-layers))


def crossed_out(light: Floats, ink: tuple[int, int, int]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """A stroke over it, 0.3 mm wide at 8 µm per pixel, thicker and thinner by turns; and where it is."""
    height, width = light.shape[:2]
    stroke = np.zeros((height, width), np.uint8)
    points = np.array([(0.05, 0.2), (0.4, 0.5), (0.7, 0.3), (0.95, 0.8)]) * (width, height)
    cv2.polylines(stroke, [np.rint(points).astype(np.int32)], False, 1, 40)
    streaks = cv2.GaussianBlur(np.random.default_rng(1).standard_normal(stroke.shape), (0, 0), 3)
    cover = cv2.GaussianBlur(stroke.astype(np.float64), (0, 0), 1.5) * (1 + 0.15 * streaks / streaks.std())
    return light * np.exp(cover[..., None] * np.log((np.array(ink) + 1) / GLASS)), stroke > 0


def photographed(light: Floats) -> npt.NDArray[np.uint8]:
    """With a camera's noise, and as JPEG."""
    pixels = np.clip(light + np.random.default_rng(0).normal(0, 1, light.shape), 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument(
        "--ink", action="store_true", help="how much of a marker's stroke across it is taken for tissue"
    )
    asked = parser.parse_args()
    overviews: dict[str, Overview] = {}
    for path in asked.slides:
        with open_slide(path) as slide:
            override = None if slide.mpp else 1.0
        with open_slide(path, mpp_override=override) as slide:
            overviews[path.stem] = read_overview(slide)
    found_amounts = {name: amounts(overview.pixels) for name, overview in overviews.items()}
    every: list[float] = []
    for stain, layers in STAINS.items():
        words = []
        for name, overview in overviews.items():
            light = repainted(found_amounts[name], layers)
            tissue = find_tissue(replace(overview, pixels=photographed(light)))
            every.append(scores(tissue.mask, OUTLINES[name])[0])
            words.append(f"{every[-1]:.2f} {tissue.verdict:16}")
            for ink in INKS if asked.ink else ():
                inked, stroke = crossed_out(light, INKS[ink])
                mask = find_tissue(replace(overview, pixels=photographed(inked))).mask
                stroke = np.asarray(cv2.resize(stroke.astype(np.uint8), mask.shape[::-1])) > 0
                on_tissue = stroke & drawn(OUTLINES[name]["tissue"], *mask.shape)
                words.append(f"{ink} {mask[on_tissue].mean():.2f}")
        print(f"{stain:24}", *words)
    print(f"mean {np.mean(every):.3f} of {', '.join(overviews)}")


if __name__ == "__main__":
    main()
