"""The optional learned tissue mask: a segmentation network with weights from a local file.

The network is the one that came with HEST (Jaume et al., NeurIPS 2024) and that TRIDENT uses (Zhang et al., arXiv
2502.06750): torchvision's DeepLabV3 on a ResNet-50 (Chen et al., arXiv 1706.05587), two classes of which the second is
tissue, run on windows of 512 px at 1 µm per pixel. Its checkpoint, ``deeplabv3_seg_v4.ckpt``, is not distributed with
this package: users provide it, or the same tensors as safetensors.

The result is a :class:`TissueMask` on the same grid as that of :func:`find_tissue`, with the same rules for specks and
holes, so that later steps need not distinguish the two.
"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3_resnet50

from ..data.errors import SlideError
from ..data.slides.slide import Slide
from ..data.tiling.overview import Overview
from ..data.tiling.pieces import MIN_PIECE, MIN_WIDTH, pieces, without_holes
from ..data.tiling.tissue import TissueMask, find_tissue, mask_factor
from ..data.units import Mpp
from .segmentation import Published, at_a_time, native_kernels, normalised, readers_for
from .segmentation_windows import Part, Windows

NETWORK_MPP: Final = Mpp(1.0)
COARSEST: Final = Mpp(2.0)
"""Coarsest resolution of a slide: that of HEST's own fast mode; the network was not tested beyond."""

_Floats = npt.NDArray[np.float32]

_TISSUE: Final = 1  # class 0 is glass and whatever else is no tissue

architecture: Final = partial(deeplabv3_resnet50, weights=None, weights_backbone=None, num_classes=2, aux_loss=False)
"""Builds the network, without any weights."""

_PUBLISHED: Final = Published(
    "tissue weights",
    architecture,
    re.compile(r"aux_classifier\."),
    "give deeplabv3_seg_v4.ckpt (TRIDENT's, from MahmoodLab/hest-tissue-seg), or its tensors as safetensors",
    "a checkpoint that holds more than tensors can be saved as safetensors where it is trusted",
)


@dataclass(frozen=True, eq=False)
class TissueNetwork:
    """A loaded network. On one device and at one batch size the same slide gives the same mask."""

    model: nn.Module
    device: torch.device
    batch: int
    """Windows that go through the network at a time."""
    readers: int = 1
    """Threads that read windows ahead."""

    @classmethod
    def load(
        cls, path: Path, device: str | torch.device = "cpu", *, batch: int | None = None, processes: int = 1
    ) -> Self:
        """Read the weights, without downloading anything or running code in the file.

        :param path: a checkpoint as PyTorch Lightning saves it (``state_dict`` with names that start with ``model.``;
            an auxiliary head is left out), a plain state dict, or safetensors.
        :param batch: windows at a time; by default 8, and 1 on a CPU.
        :param processes: that share the cores which read for a GPU.
        :raises BackboneError: no such file, not a weights file, or of another network; the message names some of the
            tensors that are missing, surplus or of another shape.
        """
        device = torch.device(device)
        return cls(_PUBLISHED.load(path, device), device, batch or at_a_time(device), readers_for(device, processes))

    @torch.inference_mode()
    def __call__(self, tiles: npt.NDArray[np.uint8]) -> _Floats:
        """Compute the probability of tissue for every pixel.

        :param tiles: (B, height, width, 3) RGB at about 1 µm per pixel.
        :returns: (B, height, width).
        """
        with native_kernels():
            logits: Tensor = self.model(normalised(tiles, self.device))["out"]
        return np.asarray(logits.softmax(dim=1)[:, _TISSUE].cpu().numpy(), np.float32)

    def find(self, slide: Slide, overview: Overview) -> TissueMask:
        """Mask the tissue of a slide, on the grid of ``find_tissue(overview)``.

        A pixel of the mask is tissue if the mean probability over its area is at least one half. Parts that are pure
        white in the overview (not scanned, transparent) are not read. Parts that cannot be decoded get the mask that
        :func:`find_tissue` finds in the overview.

        :raises SlideError: coarser than :data:`COARSEST`, no plausible mpp, or no part that can be decoded.
        """
        slide_mpp = slide.believed_mpp()
        if slide_mpp > COARSEST:
            wrong = f"its pixels are {slide_mpp:.4g} µm, and the tissue network was made for {NETWORK_MPP:.4g} µm"
            raise SlideError(wrong, path=slide.path, hint="tile this slide without the learned tissue mask")
        windows = Windows.over(overview, mask_factor(overview), NETWORK_MPP)
        parts = [part for part in windows.parts() if not windows.is_white(overview, part)]
        tissue = np.zeros(windows.shape, np.float32)
        undecodable: list[Part] = []
        with closing(windows.run(slide, parts, self, self.batch, self.readers)) as found:
            for part, computed in found:
                if isinstance(computed, SlideError):
                    undecodable.append(part)
                    if len(undecodable) == len(parts):
                        raise computed
                else:
                    tissue[part.at] = windows.on_mask(computed, part)
        if undecodable:
            by_colour = find_tissue(overview).mask
            for part in undecodable:
                tissue[part.at] = by_colour[part.at]
        pen = np.zeros(windows.shape, bool)
        mpp = Mpp(overview.mpp * windows.factor)
        mask = pieces(without_holes(tissue >= 0.5, pen, mpp), MIN_PIECE, mpp, MIN_WIDTH, goes_on=True)
        return TissueMask(
            mask=mask,
            downsample=windows.downsample,
            mpp=mpp,
            verdict="learned" if mask.any() else "nothing",
            threshold=0,
            pen=pen,
        )
