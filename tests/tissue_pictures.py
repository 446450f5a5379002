"""Slides drawn at 8 µm per pixel, with the truth about their tissue.

Stains absorb as in a microscope (Beer and Lambert): light that passes is the glass's times exp(−density · stain), with
the stain vectors of Ruifrok and Johnston (2001). All is drawn from fixed seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

MPP = 8.0
WIDTH, HEIGHT = 1000, 750  # 8 × 6 mm

EOSIN, HAEMATOXYLIN, DAB = STAINS = np.array([(0.07, 0.99, 0.11), (0.65, 0.70, 0.29), (0.27, 0.57, 0.78)])
"""Of red, green and blue, at density 1."""
LIGHT_GREEN, ANILINE_BLUE, ALCIAN_BLUE = (0.9, 0.25, 0.55), (0.85, 0.5, 0.15), (0.8, 0.3, 0.1)
SCHIFF, CONGO_RED, PONCEAU, AZURE = (0.2, 0.9, 0.35), (0.05, 0.7, 0.75), (0.25, 0.8, 0.6), (0.75, 0.6, 0.2)
SILVER, GREY, YELLOW = (0.58, 0.6, 0.57), (0.58, 0.58, 0.58), (0.02, 0.2, 0.8)
GLASS = (243, 243, 243)

BLUE, GREEN, RED, BLACK = (45, 70, 170), (30, 130, 70), (205, 30, 45), (25, 25, 28)
"""Light that passes a stroke of a marker."""


@dataclass
class Picture:
    pixels: np.ndarray
    """(height, width, 3) uint8."""
    truth: np.ndarray
    """(height, width) bool: tissue."""
    either: np.ndarray
    """(height, width) bool: what may count as tissue or not, such as fat, and the rim of a pen's stroke."""

    def scores(self, found: np.ndarray) -> tuple[float, float, float]:
        """Recall, precision, intersection over union; 1 where there is nothing to find and nothing found."""
        found, truth = found & ~self.either, self.truth & ~self.either
        both, either = float((found & truth).sum()), float((found | truth).sum())
        return both / max(truth.sum(), 1e-9), both / max(found.sum(), 1e-9), both / max(either, 1e-9)


class Drawing:
    """Light that passes the slide, layer by layer."""

    def __init__(self, width: int = WIDTH, height: int = HEIGHT, glass: tuple[int, int, int] = GLASS, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.stains = STAINS
        self.light = np.full((height, width, 3), glass, float)
        self.truth = np.zeros((height, width), bool)
        self.either = np.zeros((height, width), bool)

    @property
    def size(self) -> tuple[int, int]:
        return self.light.shape[1], self.light.shape[0]

    def cloud(self, scale: float) -> np.ndarray:
        """Noise of mean 0 and deviation 1 with features of about so many pixels."""
        step = max(int(scale / 3), 1)  # coarse clouds are drawn small and enlarged
        noise = self.rng.standard_normal([-(-side // step) + 1 for side in self.truth.shape], np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), scale / step, borderType=cv2.BORDER_REFLECT)
        noise = cv2.resize(noise, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        noise = noise[: self.truth.shape[0], : self.truth.shape[1]]
        return (noise - noise.mean()) / noise.std()

    def blob(
        self, x: float, y: float, across: float, high: float, angle: float = 0, ragged: float = 0.12
    ) -> np.ndarray:
        """An ellipse of that width and height with a ragged outline."""
        columns, rows = np.meshgrid(np.arange(self.size[0]) - x, np.arange(self.size[1]) - y)
        turn = np.deg2rad(angle)
        along, over = columns * np.cos(turn) + rows * np.sin(turn), rows * np.cos(turn) - columns * np.sin(turn)
        distance = np.hypot(along / (across / 2), over / (high / 2))
        return distance < 1 + ragged * self.cloud(min(across, high) / 6)

    def stroke(self, points: list[tuple[int, int]], thickness: int) -> np.ndarray:
        drawn = np.zeros(self.truth.shape, np.uint8)
        cv2.polylines(drawn, [np.array(points, np.int32)], False, 1, thickness)
        return drawn.astype(bool)

    def stain(
        self, where: np.ndarray, eosin: float = 0.35, nuclei: float = 0.25, dab: float = 0.0, truth: bool = True
    ) -> None:
        """Tissue: eosin in soft bundles, nuclei in clusters with hardly one a pixel, DAB in patches."""
        rows, columns = (np.flatnonzero(where.any(axis=axis)) for axis in (1, 0))
        inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        fibres = np.clip(1 + 0.4 * self.cloud(1.2) + 0.15 * self.cloud(12), 0.3, None)[inside]
        cells = np.clip(1 + 0.5 * self.cloud(0.7) + 0.4 * self.cloud(15), 0.1, None)[inside]
        brown = np.clip(1 + 0.7 * self.cloud(10) + 0.3 * self.cloud(1), 0, None)[inside]
        layers = (eosin * fibres, nuclei * cells, dab * brown)
        density = sum(layer[..., None] * stain for layer, stain in zip(layers, self.stains, strict=True))
        self.light[inside] *= np.where(where[inside][..., None], np.exp(-density), 1)
        if truth:
            self.truth |= where

    def mark(self, where: np.ndarray, ink: tuple[int, int, int], soft: float = 1.0) -> None:
        """Ink on the coverslip: tissue below is lost, and the rim, 100 µm, may go either way."""
        cover = cv2.GaussianBlur(where.astype(float), (0, 0), soft)[..., None]
        self.light *= 1 - cover * (1 - np.array(ink) / 243)
        self.truth &= ~where
        rim = cv2.dilate(where.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (25, 25))) > 0
        self.either |= rim & ~where

    def shade(self, where: np.ndarray, grey: float, soft: float = 1.0) -> None:
        """Something colourless that lets a share of the light through."""
        cover = cv2.GaussianBlur(where.astype(float), (0, 0), soft)[..., None]
        self.light *= 1 - cover * (1 - grey)

    def done(self, noise: float = 1.2, quality: int | None = 80) -> Picture:
        """With a camera's noise, and as JPEG unless ``quality`` is None."""
        pixels = np.clip(self.light + self.rng.normal(0, noise, self.light.shape), 0, 255).astype(np.uint8)
        if quality is not None:
            _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
            pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].copy()
        return Picture(pixels, self.truth, self.either)


def stained(
    fibres: tuple[float, float, float],
    nuclei: tuple[float, float, float] = tuple(HAEMATOXYLIN),
    glass: tuple[int, int, int] = GLASS,
) -> Drawing:
    """A slide on which these stains take the place of eosin and haematoxylin."""
    drawing = Drawing(glass=glass)
    drawing.stains = np.array([fibres, nuclei, DAB])
    return drawing


def _section(drawing: Drawing, **stains: float) -> Drawing:
    width, height = drawing.size
    drawing.stain(drawing.blob(width * 0.55, height * 0.5, width * 0.5, height * 0.55), **stains)
    return drawing


# ------------------------------------------------------------------------------------------ tissues


def plain_section() -> Picture:
    return _section(Drawing()).done()


def pale_stroma() -> Picture:
    """Hardly any eosin, a nucleus here and there."""
    return _section(Drawing(), eosin=0.09, nuclei=0.03).done()


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
    return _section(Drawing(), eosin=0.7, nuclei=1.7).done()


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
    return _section(Drawing(), eosin=0, nuclei=0.12).done()


def out_of_focus() -> Picture:
    """Pale, and blurred by 40 µm."""
    drawing = _section(Drawing(), eosin=0.12, nuclei=0.06)
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
    return _section(Drawing(), eosin=0.2, nuclei=0.1).done(noise, quality)


def vignetting(eosin: float = 0.12) -> Picture:
    """Darker by 15 grey levels, and warmer by 4, from the middle to the corners."""
    drawing = _section(Drawing(), eosin=eosin, nuclei=0.06)
    columns, rows = np.meshgrid(np.linspace(-1, 1, WIDTH), np.linspace(-1, 1, HEIGHT))
    falls = (columns**2 + rows**2) / 2
    drawing.light *= 1 - falls[..., None] * np.array((13, 15, 17)) / 243
    return drawing.done()


def tinted(glass: tuple[int, int, int], eosin: float = 0.15, nuclei: float = 0.06) -> Picture:
    return _section(Drawing(glass=glass), eosin=eosin, nuclei=nuclei).done()


def transparent(eosin: float = 0.25, glass: tuple[int, int, int] = (236, 232, 237)) -> Picture:
    """Only the fields with tissue were scanned; the rest is transparent, laid on white."""
    drawing = _section(Drawing(glass=glass), eosin=eosin)
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
    drawing = _section(Drawing())
    drawing.mark(drawing.stroke([(330, 60), (560, 360), (760, 700)], 32), ink)
    drawing.mark(drawing.blob(120, 150, 70, 70, ragged=0.03), ink)
    return drawing.done()


def pen_ring(ink: tuple[int, int, int], faded: float = 0.5) -> Picture:
    """Drawn around the tissue, faded, so that light shines through it. (Red that has faded so far is eosin's pink.)"""
    drawing = _section(Drawing())
    ring = drawing.blob(550, 375, 800, 690, ragged=0.02) & ~drawing.blob(550, 375, 740, 630, ragged=0.02)
    red, green, blue = (round((1 - faded) * channel + faded * 243) for channel in ink)
    drawing.mark(ring, (red, green, blue))
    return drawing.done()


def glass_edges(grey: int) -> Picture:
    """Dark along two sides, where the glass ends."""
    drawing = _section(Drawing(), eosin=0.3)
    edge = np.zeros((HEIGHT, WIDTH), bool)
    edge[:, :45] = edge[-35:] = True
    drawing.shade(edge, grey / 243, 2)
    drawing.truth &= ~edge
    return drawing.done()


def coverslip() -> Picture:
    """The edge of the coverslip: lines, dark beside bright, 30 to 60 µm wide, with a little colour; one over tissue."""
    drawing = _section(Drawing())
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
    drawing = _section(Drawing())
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
    drawing = _section(Drawing(glass=(238, 236, 230)), eosin=0.15, nuclei=0.08)
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


INKS = {"blue": BLUE, "green": GREEN, "red": RED, "black": BLACK}

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


# --------------------------------------------------------------------------------- beyond H&E


def faint(drawing: Drawing) -> Drawing:
    """Immunohistochemistry of a negative case, hardly counterstained."""
    return _section(drawing, eosin=0.0, nuclei=0.055)


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
    "silver": lambda: _section(stained(SILVER, GREY), eosin=0.3, nuclei=0.8).done(),
    "black and white": lambda: _section(stained(GREY, GREY), eosin=0.3, nuclei=0.5).done(),
    "light green": lambda: _section(stained(LIGHT_GREEN, GREY), eosin=0.8, nuclei=0.3).done(),
    "light green, pale": lambda: _section(stained(LIGHT_GREEN, GREY), eosin=0.25, nuclei=0.1).done(),
    "light green, dirty": lambda: dirty(_section(stained(LIGHT_GREEN, GREY), eosin=0.8, nuclei=0.3)),
    "trichrome": lambda: _section(stained(ANILINE_BLUE, PONCEAU), eosin=0.9, nuclei=0.4).done(),
    "Alcian blue": lambda: _section(stained(ALCIAN_BLUE), eosin=0.4, nuclei=0.1).done(),
    "Alcian blue, faint": lambda: _section(stained(ALCIAN_BLUE), eosin=0.05, nuclei=0.03).done(),
    "Congo red": lambda: _section(stained(CONGO_RED), eosin=0.4, nuclei=0.1).done(),
    "Giemsa": lambda: _section(stained((0.5, 0.6, 0.2), AZURE), eosin=0.5, nuclei=1.0).done(),
    "elastic": lambda: _section(stained(YELLOW, GREY), eosin=0.3, nuclei=1.8).done(),
    "toluidine blue": lambda: _section(stained((0.9, 0.6, 0.1), (0.9, 0.6, 0.1)), eosin=0.5, nuclei=0.9).done(),
    "web": web,
    "stained film": film,
    "cells": smear_of_cells,
    "dirt alone": lambda: dirty(Drawing()),
    "blue cells glow, white around": lambda: glowing((0, 0, 220), 120),
    "grey cells glow, white around": lambda: glowing((110, 110, 110), 120),
    "grey cells glow": lambda: glowing((110, 110, 110), 0),
}
"""Slides that are not H&E, and what lies beside them."""
