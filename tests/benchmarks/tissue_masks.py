"""How well the tissue mask agrees with what was drawn by hand, slide by slide.

    python tests/benchmarks/tissue_masks.py SLIDE... [--tissue auto colour glass] [--pictures FOLDER]

The outlines in ``tissue_outlines.json`` were drawn by eye on the overviews, in thousandths of a slide's width and
height: what is tissue, what within it is not, and what may count as either (fat, a skin that is hardly visible). A
slide without outlines is passed over. They are good to about 3 % of a large piece's area and to 10 % of a web's.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.overview import Overview, read_overview
from wsipipe.data.tiling.tissue import TissueMask, find_tissue
from wsipipe.stages.tile.settings import TileSettings
from wsipipe.stages.tile.stage import way_of

OUTLINES = json.loads((Path(__file__).parent / "tissue_outlines.json").read_text())
Mask = npt.NDArray[np.bool_]


def drawn(polygons: list[list[int]], height: int, width: int) -> Mask:
    """Polygons in thousandths of the sides, filled."""
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        points = np.reshape(polygon, (-1, 2)) * (width / 1000, height / 1000)
        cv2.fillPoly(mask, [np.rint(points * 16).astype(np.int32)], 1, shift=4)
    return mask > 0


def scores(found: Mask, outlines: dict[str, list[list[int]]]) -> tuple[float, float, float]:
    """Intersection over union, recall, precision."""
    tissue, not_tissue, either = (drawn(outlines[kind], *found.shape) for kind in ("tissue", "not", "either"))
    truth, found = tissue & ~not_tissue & ~either, found & ~either
    both = float((truth & found).sum())
    return both / max((truth | found).sum(), 1), both / max(truth.sum(), 1), both / max(found.sum(), 1)


def picture(overview: Overview, tissue: TissueMask, outlines: dict[str, list[list[int]]]) -> npt.NDArray[np.uint8]:
    """What was found (green) and what was drawn (blue)."""
    factor = 1200 / max(overview.pixels.shape[:2])
    image = np.asarray(cv2.resize(overview.pixels, None, fx=factor, fy=factor), np.uint8)
    found = cv2.resize(tissue.mask.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    truth = drawn(outlines["tissue"], *image.shape[:2]) & ~drawn(outlines["not"], *image.shape[:2])
    for mask, colour in ((truth, (0, 80, 230)), (found, (0, 160, 60))):
        lines, _ = cv2.findContours(np.asarray(mask, np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, lines, -1, colour, 2)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--tissue", nargs="+", default=["colour", "auto"], help="ways to find it, as --tissue has")
    parser.add_argument("--mpp-override", type=float, default=1.0, help="of slides that do not say it")
    parser.add_argument("--pictures", type=Path, help="draw what was found and what was drawn into this folder")
    asked = parser.parse_args()
    ways = [way_of(TileSettings(tissue=way)) for way in asked.tissue]
    print(f"{'slide':28}", *(f"{way!s:>8} recall precision     ms" for way in ways), " verdict")
    for path in asked.slides:
        if path.stem not in OUTLINES:
            continue
        outlines = OUTLINES[path.stem]
        with open_slide(path) as slide:
            override = None if slide.mpp else asked.mpp_override
        with open_slide(path, mpp_override=override) as slide:
            overview = read_overview(slide)
        line = [f"{path.stem:28}"]
        for way in ways:
            began = time.process_time()
            tissue = find_tissue(overview, way)
            taken = time.process_time() - began
            iou, recall, precision = scores(tissue.mask, outlines)
            line.append(f"{iou:8.3f} {recall:6.3f} {precision:9.3f} {1000 * taken:6.0f}")
        print(*line, f" {tissue.verdict}")
        if asked.pictures:
            asked.pictures.mkdir(parents=True, exist_ok=True)
            image = picture(overview, tissue, outlines)
            cv2.imwrite(str(asked.pictures / f"{path.stem}.png"), image[..., ::-1])


if __name__ == "__main__":
    main()
