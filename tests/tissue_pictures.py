"""Drawn H&E slides: tissues, glass and light, and artefacts that are not tissue."""

from collections.abc import Callable

import cv2
import numpy as np
from stain_drawing import BLUE, EOSIN, GLASS, GREEN, HEIGHT, INKS, RED, WIDTH, Drawing, Picture, section

# ------------------------------------------------------------------------------------------ tissues


def plain_section() -> Picture:
    return section(Drawing()).done()


def pale_stroma() -> Picture:
    """Hardly any eosin, a nucleus here and there."""
    return section(Drawing(), eosin=0.09, nuclei=0.03).done()


def fat(eosin: float = 0.15) -> Picture:
    """Lobules and pale septa in fat: cells of about 100 µm with walls of a few µm. Fat may go either way."""
    drawing = Drawing()
    cells = drawing.rng.uniform((0, 0), drawing.size, (WIDTH * HEIGHT // 140, 2))
    seeds = np.ones((HEIGHT, WIDTH), np.uint8)
    seeds[cells[:, 1].astype(int), cells[:, 0].astype(int)] = 0
    _, of = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
    walls = (of != np.roll(of, 1, 0)) | (of != np.roll(of, 1, 1))
    region = drawing.blob(500, 380, 760, 560)
    drawing.stain(region & walls, eosin=0.12, nuclei=0.04, truth=False)
    drawing.either |= region
    septa = region & (
        drawing.stroke([(100, 300), (400, 420), (880, 330)], 40) | drawing.stroke([(450, 60), (560, 700)], 30)
    )
    lobule = region & drawing.blob(330, 250, 140, 100)
    for where, stains in ((septa, {"eosin": eosin, "nuclei": 0.04}), (lobule, {"nuclei": 0.5})):
        drawing.light[where] = GLASS
        drawing.stain(where, **stains)
        drawing.either &= ~where
    return drawing.done()


def dense() -> Picture:
    """A lymph node, cut thick: nearly black at 8 µm."""
    return section(Drawing(), eosin=0.7, nuclei=1.7).done()


def pale_beside_dense() -> Picture:
    drawing = Drawing()
    drawing.stain(drawing.blob(280, 380, 300, 420), eosin=0.08, nuclei=0.03)
    drawing.stain(drawing.blob(700, 380, 320, 420), eosin=0.6, nuclei=1.4)
    return drawing.done()


def cores() -> Picture:
    """Three needle cores, 0.5, 0.7 and 1 mm wide, one of them pale, one broken."""
    drawing = Drawing()
    drawing.stain(drawing.blob(480, 160, 860, 62, 4, 0.1))
    drawing.stain(drawing.blob(500, 370, 900, 88, -5, 0.1), eosin=0.12, nuclei=0.05)
    drawing.stain(drawing.blob(300, 590, 420, 125, 8, 0.1), nuclei=0.5)
    drawing.stain(drawing.blob(740, 600, 330, 110, -12, 0.1), nuclei=0.5)
    return drawing.done()


def fragments() -> Picture:
    """Six crumbs of 0.3 mm on a large empty slide."""
    drawing = Drawing(1500, 1100)
    for x, y in ((310, 400), (380, 460), (900, 700), (960, 720), (1300, 300), (700, 900)):
        drawing.truth |= drawing.blob(x, y, 42, 36, ragged=0.08)
    drawing.stain(drawing.truth)
    return drawing.done()


def sections() -> Picture:
    drawing = Drawing()
    for column in range(3):
        for row, nuclei in ((0, 0.1), (1, 0.6)):
            drawing.stain(
                drawing.blob(180 + 320 * column, 190 + 370 * row, 230, 280), eosin=0.2 + 0.15 * column, nuclei=nuclei
            )
    return drawing.done()


def brown() -> Picture:
    """Immunohistochemistry: DAB in part of the tissue, pale haematoxylin in all of it."""
    drawing = Drawing()
    where = drawing.blob(520, 380, 600, 460)
    drawing.stain(where, eosin=0, nuclei=0.12)
    drawing.stain(where & drawing.blob(430, 360, 320, 300), eosin=0, nuclei=0, dab=0.6)
    return drawing.done()


def counterstain() -> Picture:
    """Immunohistochemistry of a negative case: pale blue haematoxylin and nothing else."""
    return section(Drawing(), eosin=0, nuclei=0.12).done()


def out_of_focus() -> Picture:
    """Pale, and blurred by 40 µm."""
    drawing = section(Drawing(), eosin=0.12, nuclei=0.06)
    drawing.light = cv2.GaussianBlur(drawing.light, (0, 0), 5)
    return drawing.done()


def full() -> Picture:
    """A region cut out of a section: no glass at all."""
    drawing = Drawing(600, 500)
    drawing.stain(np.ones((500, 600), bool), eosin=0.3, nuclei=0.3)
    return drawing.done()


def full_pale_and_dense() -> Picture:
    drawing = Drawing(600, 500)
    follicles = drawing.blob(200, 200, 250, 200) | drawing.blob(430, 350, 200, 160)
    drawing.stain(~follicles, eosin=0.1, nuclei=0.04)
    drawing.stain(follicles, eosin=0.4, nuclei=1.2)
    return drawing.done()


def full_with_gaps() -> Picture:
    """A cropped region with vessels and cracks of 0.15 to 0.5 mm, through which one sees the glass."""
    drawing = Drawing(600, 500)
    gaps = drawing.blob(150, 120, 60, 40) | drawing.blob(420, 380, 50, 50) | drawing.stroke([(300, 60), (380, 250)], 18)
    drawing.stain(~gaps, eosin=0.3, nuclei=0.3)
    return drawing.done()


def full_pale_with_gaps() -> Picture:
    drawing = Drawing(600, 500)
    gaps = drawing.blob(150, 120, 60, 40) | drawing.blob(420, 380, 50, 50) | drawing.stroke([(300, 60), (380, 250)], 18)
    drawing.stain(~gaps, eosin=0.09, nuclei=0.04)
    return drawing.done()


def long_slide(width: int, height: int) -> Picture:
    """Sections in a row on a slide ten or forty times as long as it is wide."""
    drawing = Drawing(width, height)
    long, short = max(width, height), min(width, height)
    for along in np.arange(0.1, 0.95, 0.2) * long:
        x, y = (along, short / 2) if width > height else (short / 2, along)
        drawing.stain(drawing.blob(x, y, 0.7 * short, 0.6 * short))
    return drawing.done()


# --------------------------------------------------------------------------------- glass and light


def jpeg_noise(quality: int, noise: float = 4) -> Picture:
    return section(Drawing(), eosin=0.2, nuclei=0.1).done(noise, quality)


def vignetting(eosin: float = 0.12) -> Picture:
    """Darker by 15 grey levels, and warmer by 4, from the middle to the corners."""
    drawing = section(Drawing(), eosin=eosin, nuclei=0.06)
    columns, rows = np.meshgrid(np.linspace(-1, 1, WIDTH), np.linspace(-1, 1, HEIGHT))
    falls = (columns**2 + rows**2) / 2
    drawing.light *= 1 - falls[..., None] * np.array((13, 15, 17)) / 243
    return drawing.done()


def tinted(glass: tuple[int, int, int], eosin: float = 0.15, nuclei: float = 0.06) -> Picture:
    return section(Drawing(glass=glass), eosin=eosin, nuclei=nuclei).done()


def transparent(eosin: float = 0.25, glass: tuple[int, int, int] = (236, 232, 237)) -> Picture:
    """Only the fields with tissue were scanned; the rest is transparent, laid on white."""
    drawing = section(Drawing(glass=glass), eosin=eosin)
    scanned = np.zeros((HEIGHT, WIDTH), bool)
    for row in range(0, HEIGHT, 75):
        inside = np.flatnonzero(drawing.truth[row : row + 75].any(axis=0))
        if inside.size:
            scanned[row : row + 75, max(inside[0] - 50, 0) // 50 * 50 : inside[-1] // 50 * 50 + 100] = True
    drawing.light[~scanned] = 255
    picture = drawing.done(quality=None)
    picture.pixels[~scanned] = 255
    return picture


def unscanned(around: int, grey: int = 0) -> Picture:
    """Scanned fields with tissue in a frame that was not scanned, which the scanner leaves black."""
    drawing = Drawing()
    drawing.stain(drawing.blob(500, 380, 300, 240))
    picture = drawing.done()
    for side in (np.s_[:around], np.s_[-around:], np.s_[:, :around], np.s_[:, -around:]):
        picture.pixels[side] = grey
        picture.truth[side] = False
    return picture


def unscanned_all_tissue() -> Picture:
    """Black all around fields that are tissue from edge to edge."""
    drawing = Drawing()
    drawing.stain(np.ones((HEIGHT, WIDTH), bool), eosin=0.3, nuclei=0.3)
    picture = drawing.done(quality=None)
    frame = np.ones((HEIGHT, WIDTH), bool)
    frame[150:600, 250:750] = False
    picture.pixels[frame], picture.truth[frame] = 0, False
    picture.either = cv2.dilate(frame.astype(np.uint8), np.ones((17, 17), np.uint8)).astype(bool) & ~frame
    return picture


# ----------------------------------------------------------------------------------- what is no tissue


def pen(ink: tuple[int, int, int], eosin: float = 0.35) -> Picture:
    """A line beside the tissue, 0.25 mm wide."""
    drawing = Drawing()
    drawing.stain(drawing.blob(620, 380, 480, 420), eosin=eosin)
    drawing.mark(drawing.stroke([(130, 80), (190, 330), (110, 700)], 32), ink)
    return drawing.done()


def pen_across(ink: tuple[int, int, int]) -> Picture:
    """The same line over the tissue, and a dot beside it."""
    drawing = section(Drawing())
    drawing.mark(drawing.stroke([(330, 60), (560, 360), (760, 700)], 32), ink)
    drawing.mark(drawing.blob(120, 150, 70, 70, ragged=0.03), ink)
    return drawing.done()


def pen_ring(ink: tuple[int, int, int], faded: float = 0.5) -> Picture:
    """Drawn around the tissue, faded, so that light shines through it. (Red that has faded so far is eosin's pink.)"""
    drawing = section(Drawing())
    ring = drawing.blob(550, 375, 800, 690, ragged=0.02) & ~drawing.blob(550, 375, 740, 630, ragged=0.02)
    red, green, blue = (round((1 - faded) * channel + faded * 243) for channel in ink)
    drawing.mark(ring, (red, green, blue))
    return drawing.done()


def glass_edges(grey: int) -> Picture:
    """Dark along two sides, where the glass ends."""
    drawing = section(Drawing(), eosin=0.3)
    edge = np.zeros((HEIGHT, WIDTH), bool)
    edge[:, :45] = edge[-35:] = True
    drawing.shade(edge, grey / 243, 2)
    drawing.truth &= ~edge
    return drawing.done()


def coverslip() -> Picture:
    """The edge of the coverslip: lines, dark beside bright, 30 to 60 µm wide, with a little colour; one over tissue."""
    drawing = section(Drawing())
    for points, colour, thickness in (
        ([(60, 0), (75, 749)], (0.55, 0.56, 0.58), 5),
        ([(68, 0), (83, 749)], (1.04, 1.04, 1.05), 3),
        ([(0, 60), (999, 40)], (0.72, 0.72, 0.70), 8),
        ([(300, 0), (360, 749)], (0.86, 0.85, 0.84), 6),
    ):
        drawing.light[drawing.stroke(points, thickness)] *= colour
    drawing.light = cv2.GaussianBlur(drawing.light, (0, 0), 1)
    return drawing.done()


def bubbles() -> Picture:
    """Air under the coverslip: rings with dark rims, brighter within."""
    drawing = section(Drawing())
    for x, y, across in ((140, 170, 180), (180, 560, 120), (880, 640, 150), (900, 120, 60)):
        outer, inner = (
            drawing.blob(x, y, across, across, ragged=0.02),
            drawing.blob(x, y, across - 16, across - 16, ragged=0.02),
        )
        drawing.light[outer & ~inner & ~drawing.truth] *= (0.5, 0.5, 0.52)
        drawing.light[inner & ~drawing.truth] *= 1.03
    drawing.light = cv2.GaussianBlur(drawing.light, (0, 0), 1.5)
    return drawing.done()


def nearly_blank() -> Picture:
    """Dust, a hair, and a faint smear of eosin that was not washed off."""
    drawing = Drawing()
    for x, y in drawing.rng.uniform((0, 0), drawing.size, (60, 2)).astype(int):
        cv2.circle(drawing.light, (int(x), int(y)), int(drawing.rng.integers(1, 5)), (120, 118, 115), -1)
    hair = drawing.stroke([(200, 100), (260, 180), (380, 200), (420, 320)], 2)
    drawing.light[hair] = (110, 100, 90)
    smear = cv2.GaussianBlur(drawing.blob(650, 450, 400, 200).astype(float), (0, 0), 25)[..., None]
    drawing.light *= np.exp(-0.018 * smear * EOSIN)
    return drawing.done()


def grey_smear() -> Picture:
    """A smear without colour: mounting medium, a fingerprint."""
    drawing = Drawing()
    smear = drawing.blob(600, 400, 500, 260)
    drawing.light[smear] *= 0.9 + 0.03 * drawing.cloud(3)[smear][..., None]
    return drawing.done()


def blank(glass: tuple[int, int, int] = GLASS) -> Picture:
    return Drawing(glass=glass).done()


def all_at_once() -> Picture:
    """Pale tissue, two pens, a dark edge, a line, uneven light, and strong compression."""
    drawing = section(Drawing(glass=(238, 236, 230)), eosin=0.15, nuclei=0.08)
    drawing.mark(drawing.stroke([(120, 80), (160, 600)], 30), BLUE)
    drawing.mark(drawing.stroke([(330, 80), (700, 680)], 26), GREEN)
    edge = np.zeros((HEIGHT, WIDTH), bool)
    edge[-40:] = True
    drawing.shade(edge, 0.2, 2)
    drawing.truth &= ~edge
    drawing.shade(drawing.stroke([(0, 50), (999, 30)], 6), 0.75)
    columns, rows = np.meshgrid(np.linspace(-1, 1, WIDTH), np.linspace(-1, 1, HEIGHT))
    drawing.light *= 1 - ((columns**2 + rows**2) / 2)[..., None] * 15 / 243
    return drawing.done(2, 50)


CASES: dict[str, Callable[[], Picture]] = {
    "plain section": plain_section,
    "pale stroma": pale_stroma,
    "fat": fat,
    "fat, pale septa": lambda: fat(0.09),
    "dense": dense,
    "pale beside dense": pale_beside_dense,
    "cores": cores,
    "fragments of 0.3 mm": fragments,
    "six sections": sections,
    "brown": brown,
    "counterstain": counterstain,
    "out of focus": out_of_focus,
    "full": full,
    "full, pale and dense": full_pale_and_dense,
    "full with gaps": full_with_gaps,
    "full, pale, with gaps": full_pale_with_gaps,
    "long": lambda: long_slide(3000, 150),
    "high": lambda: long_slide(75, 3000),
    "jpeg 30": lambda: jpeg_noise(30),
    "jpeg 50": lambda: jpeg_noise(50),
    "vignetting": vignetting,
    "vignetting, paler": lambda: vignetting(0.09),
    "glass slightly yellow": lambda: tinted((243, 238, 224)),
    "glass yellow": lambda: tinted((240, 230, 195)),
    "glass grey": lambda: tinted((205, 205, 207)),
    "glass dark grey": lambda: tinted((165, 165, 168)),
    "glass blue": lambda: tinted((222, 232, 243)),
    "transparent": transparent,
    "transparent, pale": lambda: transparent(0.1),
    "transparent, glass pinkish": lambda: transparent(0.1, (228, 220, 230)),
    "black frame": lambda: unscanned(60),
    "wide black frame": lambda: unscanned(200),
    "dark grey frame": lambda: unscanned(100, 60),
    "black frame, tissue all over": unscanned_all_tissue,
    **{f"{name} pen": lambda ink=ink: pen(ink) for name, ink in INKS.items()},
    **{f"{name} pen, pale tissue": lambda ink=ink: pen(ink, 0.12) for name, ink in INKS.items()},
    **{f"{name} pen across": lambda ink=ink: pen_across(ink) for name, ink in INKS.items()},
    **{f"{name} ring, faded": lambda ink=ink: pen_ring(ink, 0.2 if ink == RED else 0.5) for name, ink in INKS.items()},
    "black edges": lambda: glass_edges(15),
    "dark grey edges": lambda: glass_edges(80),
    "grey edges": lambda: glass_edges(130),
    "coverslip": coverslip,
    "bubbles": bubbles,
    "nearly blank": nearly_blank,
    "grey smear": grey_smear,
    "blank": blank,
    "blank, yellow": lambda: blank((240, 230, 195)),
    "all at once": all_at_once,
}
