"""A drawing kit for slides at 8 µm per pixel with a known tissue mask.

Stains absorb as in a microscope (Beer and Lambert): light that passes is the glass's times exp(−density · stain), with
the stain vectors of Ruifrok and Johnston (2001). All drawings use fixed seeds.
"""

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
INKS = {"blue": BLUE, "green": GREEN, "red": RED, "black": BLACK}


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


def section(drawing: Drawing, **stains: float) -> Drawing:
    """Draw one large section of tissue."""
    width, height = drawing.size
    drawing.stain(drawing.blob(width * 0.55, height * 0.5, width * 0.5, height * 0.55), **stains)
    return drawing
