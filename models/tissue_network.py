"""The optional learned tissue mask: a segmentation network with weights from a local file.

The network is the one that came with HEST (Jaume et al., NeurIPS 2024) and that TRIDENT uses (Zhang et al., arXiv
2502.06750): torchvision's DeepLabV3 on a ResNet-50 (Chen et al., arXiv 1706.05587), two classes of which the second is
tissue, run on tiles of 512 px at 1 µm per pixel without overlap. Its checkpoint, ``deeplabv3_seg_v4.ckpt``, is not
distributed with this package: users provide it, or the same tensors as safetensors.

The result is a :class:`TissueMask` on the same grid as that of :func:`find_tissue`, with the same rules for specks and
holes, so that later steps need not distinguish the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3_resnet50

from ..data.errors import BackboneError, SlideError
from ..data.slides.slide import Rgb, Slide
from ..data.tiling.overview import WITHIN, Overview, sufficient_levels
from ..data.tiling.pieces import MIN_PIECE, MIN_WIDTH, pieces, without_holes
from ..data.tiling.tissue import TissueMask, find_tissue, mask_factor
from ..data.units import Level0Px, LevelPx, Microns, Mpp
from .backbones.state_dicts import SeveralNetworks, difference, of_network
from .backbones.weights import SAVE_ONE, Weights, load_state_dict

NETWORK_MPP: Final = Mpp(1.0)
COARSEST: Final = Mpp(2.0)
"""Coarsest resolution of a slide: that of HEST's own fast mode; the network was not tested beyond."""
TILE: Final = 512
"""Side in pixels of the network's input."""

_Floats = npt.NDArray[np.float32]
_Corner = tuple[int, int]
"""Top and left of a tile, in pixels of the mask."""

_TISSUE: Final = 1  # class 0 is glass and whatever else is no tissue
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)

_OF_TRAINING: Final = re.compile(r"aux_classifier\.")

_HINT: Final = "give deeplabv3_seg_v4.ckpt (TRIDENT's, from MahmoodLab/hest-tissue-seg), or its tensors as safetensors"


@dataclass(frozen=True, eq=False)
class TissueNetwork:
    """A loaded network. On one device and at one batch size the same slide gives the same mask."""

    model: nn.Module
    device: torch.device
    batch: int
    """Tiles that go through the network at a time."""

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "cpu", *, batch: int | None = None) -> Self:
        """Read the weights, without downloading anything or running code in the file.

        :param path: a checkpoint as PyTorch Lightning saves it (``state_dict`` with names that start with ``model.``;
            an auxiliary head is left out), a plain state dict, or safetensors.
        :param batch: tiles at a time; by default 8, and 1 on a CPU, where more costs 150 MB each and saves little.
        :raises BackboneError: no such file, not a weights file, or of another network; the message names some of the
            tensors that are missing, surplus or of another shape.
        """
        if not path.is_file():
            raise BackboneError("no such file of tissue weights", path=path, hint=_HINT)
        with torch.device("meta"):  # not filled with random numbers first
            model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=2, aux_loss=False)
        wanted = model.state_dict()
        try:
            tensors = of_network(load_state_dict(Weights(path, "file"), like=wanted), wanted, _OF_TRAINING).tensors
        except SeveralNetworks as error:
            raise BackboneError(f"holds {error}", path=path, hint=SAVE_ONE) from error
        except BackboneError as error:
            hint = f"{_HINT}; a checkpoint that holds more than tensors can be saved as safetensors where it is trusted"
            raise BackboneError(error.what, path=path, hint=hint) from error
        if wrong := difference(wanted, tensors):
            raise BackboneError(wrong, path=path, hint=f"these are the weights of another network: {_HINT}")
        model.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in tensors.items()}, assign=True)
        device = torch.device(device)
        if batch is None:
            batch = 1 if device.type == "cpu" else 8
        return cls(model.eval().requires_grad_(False).to(device), device, batch)

    @torch.inference_mode()
    def __call__(self, tiles: npt.NDArray[np.uint8]) -> _Floats:
        """Compute the probability of tissue for every pixel.

        :param tiles: (B, height, width, 3) RGB at about 1 µm per pixel.
        :returns: (B, height, width).
        """
        x = torch.from_numpy(tiles).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        mean, std = (torch.tensor(of_channel, device=self.device).view(1, 3, 1, 1) for of_channel in (_MEAN, _STD))
        logits: Tensor = self.model(x.sub_(mean).div_(std))["out"]
        return np.asarray(logits.softmax(dim=1)[:, _TISSUE].cpu().numpy(), np.float32)

    def find(self, slide: Slide, overview: Overview) -> TissueMask:
        """Mask the tissue of a slide, on the grid of ``find_tissue(overview)``.

        A pixel of the mask is tissue if the mean probability over its area is at least one half. Tiles are read one
        batch at a time, each from the coarsest level that is fine enough, so memory does not grow with the slide.
        Tiles that are pure white in the overview (not scanned, transparent) are not read. Tiles that cannot be decoded
        get the mask that :func:`find_tissue` finds in the overview.

        :raises SlideError: coarser than :data:`COARSEST`, no plausible mpp, or no tile that can be decoded.
        """
        slide_mpp = slide.believed_mpp()
        if slide_mpp > COARSEST:
            wrong = f"its pixels are {slide_mpp:.4g} µm, and the tissue network was made for {NETWORK_MPP:.4g} µm"
            raise SlideError(wrong, path=slide.path, hint="tile this slide without the learned tissue mask")
        field = _Field.over(overview, mask_factor(overview))
        tissue, undecodable = self._look(slide, field, [c for c in field.corners() if not field.is_white(overview, *c)])
        if undecodable:
            by_colour = find_tissue(overview).mask
            for corner in undecodable:
                tissue[field.part(*corner)] = by_colour[field.part(*corner)]
        pen = np.zeros(field.shape, bool)
        mpp = Mpp(overview.mpp * field.factor)
        mask = pieces(without_holes(tissue >= 0.5, pen, mpp), MIN_PIECE, mpp, MIN_WIDTH, goes_on=True)
        return TissueMask(
            mask=mask,
            downsample=field.downsample,
            mpp=mpp,
            verdict="learned" if mask.any() else "nothing",
            threshold=0,
            pen=pen,
        )

    def _look(self, slide: Slide, field: _Field, corners: list[_Corner]) -> tuple[_Floats, list[_Corner]]:
        """Compute the mean probability of tissue in each pixel of the mask; also list the tiles that failed."""
        tissue = np.zeros(field.shape, np.float32)
        undecodable = []
        for start in range(0, len(corners), self.batch):
            tiles: dict[_Corner, Rgb] = {}
            for corner in corners[start : start + self.batch]:
                try:
                    tiles[corner] = field.read(slide, *corner)
                except SlideError:
                    undecodable.append(corner)
                    if len(undecodable) == len(corners):
                        raise
            if tiles:
                for corner, probability in zip(tiles, self(np.stack(list(tiles.values()))), strict=True):
                    tissue[field.part(*corner)] = _resized(probability, field.width, field.height)
        return tissue, undecodable


@dataclass(frozen=True, kw_only=True)
class _Field:
    """The mask's grid cut into tiles of one size, each a whole number of mask pixels: about 512 µm, or the whole slide.

    Since tiles begin and end with pixels of the mask, none of these mixes two tiles, and rounding does not add up.
    """

    shape: tuple[int, int]
    """Height and width of the mask."""
    factor: int
    """Pixels of the overview along one of the mask."""
    downsample: float
    """Pixels of level 0 along one of the mask."""
    height: int
    width: int
    """Height and width of a tile, in pixels of the mask."""
    pixels_per: float
    """Pixels that the network sees along one of the mask."""

    @classmethod
    def over(cls, overview: Overview, factor: int) -> Self:
        height, width = (-(-side // factor) for side in overview.pixels.shape[:2])
        side = max(round(Microns(TILE * NETWORK_MPP) / (overview.mpp * factor)), 1)
        return cls(
            shape=(height, width),
            factor=factor,
            downsample=overview.downsample * factor,
            height=min(side, height),
            width=min(side, width),
            pixels_per=TILE / side,
        )

    def corners(self) -> Iterator[_Corner]:
        """Yield each tile's corner, row by row. The last ones are moved back so as not to reach beyond the slide."""
        height, width = self.shape
        for top in range(0, height, self.height):
            for left in range(0, width, self.width):
                yield min(top, height - self.height), min(left, width - self.width)

    def part(self, top: int, left: int) -> tuple[slice, slice]:
        """Rows and columns of a tile in the mask."""
        return slice(top, top + self.height), slice(left, left + self.width)

    def is_white(self, overview: Overview, top: int, left: int) -> bool:
        rows = slice(top * self.factor, (top + self.height) * self.factor)
        columns = slice(left * self.factor, (left + self.width) * self.factor)
        return bool(overview.pixels[rows, columns].min() == 255)

    def read(self, slide: Slide, top: int, left: int) -> Rgb:
        """What the network sees of a tile."""
        level = sufficient_levels(slide, Mpp(NETWORK_MPP * WITHIN))[0]
        scale = self.downsample / slide.level_downsamples[level]
        pixels = slide.read(
            level,
            Level0Px(round(left * self.downsample)),
            Level0Px(round(top * self.downsample)),
            LevelPx(max(round(self.width * scale), 1)),
            LevelPx(max(round(self.height * scale), 1)),
        )
        width, height = (max(round(side * self.pixels_per), 1) for side in (self.width, self.height))
        return _resized(pixels, width, height)


def _resized(picture: npt.NDArray[Any], width: int, height: int) -> npt.NDArray[Any]:
    """Resize a picture: area means when it shrinks, linear interpolation when it grows."""
    way = cv2.INTER_AREA if width <= picture.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=way))
