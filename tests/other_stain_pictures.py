"""Drawn slides of other stains than H&E, and of fluorescence."""

from collections.abc import Callable

import cv2
import numpy as np
from stain_drawing import (
    ALCIAN_BLUE,
    ANILINE_BLUE,
    AZURE,
    CONGO_RED,
    DAB,
    GREY,
    HAEMATOXYLIN,
    HEIGHT,
    INKS,
    LIGHT_GREEN,
    PONCEAU,
    SCHIFF,
    SILVER,
    WIDTH,
    YELLOW,
    Drawing,
    Picture,
    section,
    stained,
)


def faint(drawing: Drawing) -> Drawing:
    """Immunohistochemistry of a negative case, hardly counterstained."""
    return section(drawing, eosin=0.0, nuclei=0.055)


def positive_in_part() -> Picture:
    """A dense brown nodule in tissue that is hardly counterstained."""
    drawing = faint(Drawing())
    drawing.stain(drawing.blob(430, 330, 120, 100), eosin=0, nuclei=0, dab=1.2)
    return drawing.done()


def web() -> Picture:
    """Arachnoid: thin strands, pale, with gaps of 30 µm, beside a clot of blood."""
    drawing = Drawing()
    cells = drawing.rng.uniform((0, 0), drawing.size, (WIDTH * HEIGHT // 14, 2))
    seeds = np.ones((HEIGHT, WIDTH), np.uint8)
    seeds[cells[:, 1].astype(int), cells[:, 0].astype(int)] = 0
    _, of = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
    walls = (of != np.roll(of, 1, 0)) | (of != np.roll(of, 1, 1))
    region = drawing.blob(560, 400, 600, 460, ragged=0.05)
    drawing.stain(region & walls, eosin=0.035, nuclei=0.04, truth=False)
    drawing.truth |= region
    drawing.stain(drawing.blob(170, 180, 130, 110), eosin=1.0, nuclei=0.0)
    return drawing.done()


def film() -> Picture:
    """PAS: the glue on the glass is stained too, in streaks and clouds, and most around the tissue."""
    drawing = stained(SCHIFF)
    where = drawing.blob(WIDTH * 0.5, HEIGHT * 0.5, WIDTH * 0.6, HEIGHT * 0.3)
    near = cv2.GaussianBlur(where.astype(float), (0, 0), 60)
    glue = np.clip(0.03 + 0.3 * near + 0.012 * drawing.cloud(40) + 0.012 * drawing.cloud(1.5), 0, None)
    drawing.light *= np.exp(-glue[..., None] * np.array(SCHIFF))
    drawing.stain(where, eosin=0.9, nuclei=0.5)
    return drawing.done()


def smear_of_cells() -> Picture:
    """Cytology: clusters of cells, pale blue-green and pink, strewn over the glass."""
    drawing = Drawing()
    for index, (x, y) in enumerate(drawing.rng.uniform((60, 60), (WIDTH - 60, HEIGHT - 60), (26, 2))):
        drawing.stains = np.array([ALCIAN_BLUE if index % 3 else CONGO_RED, HAEMATOXYLIN, DAB])
        across = float(drawing.rng.uniform(40, 90))
        drawing.stain(drawing.blob(float(x), float(y), across, across * 0.8), eosin=0.2, nuclei=0.15)
    return drawing.done()


def uneven(drawing: Drawing) -> Picture:
    """Faint, and light that falls by 25 grey levels to one corner."""
    drawing = faint(drawing)
    columns, rows = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    drawing.light *= 1 - ((columns + rows) / 2)[..., None] * 25 / 243
    return drawing.done()


def dirty(drawing: Drawing) -> Picture:
    """Dust, a hair, an air bubble, the shadow of a cover slip's edge."""
    for x, y in drawing.rng.uniform((0, 0), drawing.size, (40, 2)).astype(int):
        cv2.circle(drawing.light, (int(x), int(y)), int(drawing.rng.integers(1, 5)), (120, 119, 118), -1)
    hair = drawing.stroke([(200, 60), (260, 120), (380, 140), (430, 100)], 2)
    drawing.light[hair] = (110, 108, 105)
    ring = drawing.blob(130, 600, 160, 150, ragged=0.01) ^ drawing.blob(130, 600, 146, 136, ragged=0.01)
    drawing.shade(ring, 0.5)
    drawing.shade(drawing.stroke([(0, 30), (999, 50)], 6), 0.7)
    return drawing.done()


def faint_beside_pen(ink: tuple[int, int, int]) -> Picture:
    drawing = faint(Drawing())
    drawing.mark(drawing.stroke([(130, 80), (190, 330), (110, 700)], 32), ink)
    return drawing.done()


def glowing(colour: tuple[int, int, int], around: int) -> Picture:
    """Fluorescence: cells of one colour on black, in a frame that was not scanned, which is white."""
    drawing = Drawing(glass=(0, 0, 0))
    cells = np.clip(1 + 0.5 * drawing.cloud(1.0) + 0.4 * drawing.cloud(15), 0, 2)[..., None]
    where = drawing.blob(500, 380, 400, 300)
    drawing.light[where] = (cells * np.array(colour) / 2)[where]  # nothing of it is to be tiled
    picture = drawing.done()
    frame = np.ones((HEIGHT, WIDTH), bool)
    frame[around : HEIGHT - around, around : WIDTH - around] = False
    picture.pixels[frame] = 255
    return picture


BEYOND_HE: dict[str, Callable[[], Picture]] = {
    "faint counterstain": lambda: faint(Drawing()).done(),
    "positive in part": positive_in_part,
    "faint, glass yellow": lambda: faint(Drawing(glass=(240, 230, 195))).done(),
    "faint, glass blue": lambda: faint(Drawing(glass=(222, 232, 243))).done(),
    "faint, uneven light": lambda: uneven(Drawing()),
    "faint, uneven light, warm": lambda: uneven(Drawing(glass=(243, 236, 222))),
    "faint, dirty": lambda: dirty(faint(Drawing())),
    **{f"faint, {name} pen": lambda ink=ink: faint_beside_pen(ink) for name, ink in INKS.items()},
    "silver": lambda: section(stained(SILVER, GREY), eosin=0.3, nuclei=0.8).done(),
    "black and white": lambda: section(stained(GREY, GREY), eosin=0.3, nuclei=0.5).done(),
    "light green": lambda: section(stained(LIGHT_GREEN, GREY), eosin=0.8, nuclei=0.3).done(),
    "light green, pale": lambda: section(stained(LIGHT_GREEN, GREY), eosin=0.25, nuclei=0.1).done(),
    "light green, dirty": lambda: dirty(section(stained(LIGHT_GREEN, GREY), eosin=0.8, nuclei=0.3)),
    "trichrome": lambda: section(stained(ANILINE_BLUE, PONCEAU), eosin=0.9, nuclei=0.4).done(),
    "Alcian blue": lambda: section(stained(ALCIAN_BLUE), eosin=0.4, nuclei=0.1).done(),
    "Alcian blue, faint": lambda: section(stained(ALCIAN_BLUE), eosin=0.05, nuclei=0.03).done(),
    "Congo red": lambda: section(stained(CONGO_RED), eosin=0.4, nuclei=0.1).done(),
    "Giemsa": lambda: section(stained((0.5, 0.6, 0.2), AZURE), eosin=0.5, nuclei=1.0).done(),
    "elastic": lambda: section(stained(YELLOW, GREY), eosin=0.3, nuclei=1.8).done(),
    "toluidine blue": lambda: section(stained((0.9, 0.6, 0.1), (0.9, 0.6, 0.1)), eosin=0.5, nuclei=0.9).done(),
    "web": web,
    "stained film": film,
    "cells": smear_of_cells,
    "dirt alone": lambda: dirty(Drawing()),
    "blue cells glow, white around": lambda: glowing((0, 0, 220), 120),
    "grey cells glow, white around": lambda: glowing((110, 110, 110), 120),
    "grey cells glow": lambda: glowing((110, 110, 110), 0),
}
"""Slides that are not H&E, and what lies beside them."""
