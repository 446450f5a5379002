"""Simple drawn overviews for tests of the tissue mask: glass, ellipses of stain, and the mask found in them."""

import cv2
import numpy as np
from wsipipe.data.tiling.overview import Overview
from wsipipe.data.tiling.tissue import TissueMask, find_tissue
from wsipipe.data.units import Mpp

MPP = 8.0
GLASS = (243, 243, 243)
PALE = (232, 214, 226)
PINK = (222, 160, 190)
DENSE = (120, 70, 150)
BROWN = (150, 105, 75)
COUNTERSTAIN = (150, 160, 195)


def glass(width: int = 800, height: int = 600, colour: tuple[int, int, int] = GLASS) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def ellipse(width: int, height: int, centre: tuple[int, int], axes: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, cv2.FILLED)
    return mask.astype(bool)


def stain(picture: np.ndarray, where: np.ndarray, colour: tuple[int, int, int], texture: float = 12) -> None:
    """Colour with the grain of tissue: lighter and darker by turns."""
    grain = np.random.default_rng(1).normal(0, texture, where.shape)[..., None]
    stained = np.clip(np.array(colour) + grain, 0, 255).astype(np.uint8)
    picture[where] = stained[where]


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].copy()


def overview_of(picture: np.ndarray, mpp: float = MPP) -> Overview:
    unread = np.zeros(picture.shape[:2], bool)
    return Overview(pixels=picture, downsample=mpp / 0.25, mpp=Mpp(mpp), unread=unread)


def tissue_of(picture: np.ndarray, mpp: float = MPP) -> TissueMask:
    return find_tissue(overview_of(picture, mpp))


def agreement(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union."""
    return float((found & truth).sum() / (found | truth).sum())
