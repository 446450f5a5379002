"""The optional learned mask of artefacts: a segmentation network with weights from a local file.

The network is GrandQC's (Weng et al., Nature Communications 15, 2024, 10685): a U-Net (Ronneberger et al., arXiv
1505.04597) on an EfficientNet-B0 (Tan and Le, arXiv 1905.11946) with eight classes, built by
segmentation-models-pytorch and run on windows of 512 px. There are three checkpoints, for 1, 1.5 and 2 µm per pixel
(10x, 7x, 5x). They are not distributed with this package: users provide them. Their licence is CC BY-NC-SA 4.0: no
commercial use.

GrandQC's own files are pickled models, which run code when they are loaded, and are refused here. A state dict of the
one for 1 µm is published with HEST's tissue weights; the others can be made where the files are trusted.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..data.errors import SlideError, UsageError
from ..data.slides.slide import Slide
from ..data.tiling.artefacts import ARTEFACTS, COVERED, ArtefactMap
from ..data.tiling.grid import Coords
from ..data.tiling.overview import WITHIN, Overview
from ..data.tiling.tissue import mask_factor
from ..data.units import Level0Px, Mpp
from .segmentation import Published, at_a_time, native_kernels, normalised, readers_for
from .segmentation_windows import Part, Windows

CLASSES: Final = 8
"""Of the network: 0 is not used, 1 is tissue, 7 is background, and those between are artefacts."""
_FIRST: Final = 2
"""Class of the first of :data:`ARTEFACTS`, which are in the network's order: folds, dark spots and foreign objects, pen
marks, air bubbles and edges, out of focus."""


def architecture() -> nn.Module:
    """Build the network, without any weights.

    :raises UsageError: segmentation-models-pytorch is not installed, or no longer has its encoder.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        what = "the artefact network needs segmentation-models-pytorch, which is not installed"
        raise UsageError(what, hint="pip install 'wsipipe-momkd[artefacts]'") from error
    with warnings.catch_warnings():  # timm's own EfficientNet, which is to replace this one, lacks a skip of its stem
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            network: nn.Module = smp.Unet("timm-efficientnet-b0", encoder_weights=None, classes=CLASSES)
        except KeyError as error:
            what = f"segmentation-models-pytorch {smp.__version__} no longer has the encoder timm-efficientnet-b0"
            raise UsageError(what, hint="pip install 'segmentation-models-pytorch==0.6.0'") from error
    return network


_PUBLISHED: Final = Published(
    "artefact weights",
    architecture,
    re.compile(r"classification_head\."),
    "give a state dict of one of GrandQC's artefact models, such as GrandQC_MPP1_state_dict.pth (from "
    "MahmoodLab/hest-tissue-seg), or its tensors as safetensors",
    "GrandQC_MPP1.pth, GrandQC_MPP15.pth and GrandQC_MPP2.pth are pickled models: where the file is trusted, in "
    "GrandQC's own environment, save torch.load(FILE, map_location='cpu', weights_only=False).state_dict() with "
    "torch.save (docs/tiling.md)",
)


@dataclass(frozen=True, eq=False)
class ArtefactNetwork:
    """A loaded network. On one device and at one batch size the same slide gives the same map."""

    model: nn.Module
    mpp: Mpp
    """Resolution that it was trained at."""
    device: torch.device
    batch: int
    """Windows that go through the network at a time."""
    readers: int = 1
    """Threads that read windows ahead."""

    @classmethod
    def load(
        cls, path: Path, mpp: float, device: str | torch.device = "cpu", *, batch: int | None = None, processes: int = 1
    ) -> Self:
        """Read the weights, without downloading anything or running code in the file.

        :param path: a state dict of U-Net with EfficientNet-B0 and eight classes, as segmentation-models-pytorch names
            its tensors, or the same as safetensors.
        :param mpp: microns per pixel that the weights were trained at.
        :param batch: windows at a time; by default 8, and 1 on a CPU.
        :param processes: that share the cores which read for a GPU.
        :raises BackboneError: no such file, not a weights file, or of another network; the message names some of the
            tensors that are missing, surplus or of another shape.
        :raises UsageError: segmentation-models-pytorch is not installed.
        """
        device = torch.device(device)
        return cls(
            _PUBLISHED.load(path, device), Mpp(mpp), device, batch or at_a_time(device), readers_for(device, processes)
        )

    @torch.inference_mode()
    def __call__(self, tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Compute the most probable class of every pixel.

        :param tiles: (B, height, width, 3) RGB at about :attr:`mpp`; both sides are multiples of 32.
        :returns: (B, height, width).
        """
        with native_kernels():
            logits: Tensor = self.model(normalised(tiles, self.device))
        most = logits.max(dim=1).indices  # argmax gives the same, eight times slower on a CPU
        return np.asarray(most.to(torch.uint8).cpu().numpy(), np.uint8)

    def find(self, slide: Slide, overview: Overview, coords: Coords, size_level0: Level0Px, **cut: int) -> ArtefactMap:
        """Find the artefacts on some tiles of a slide, on the grid of ``find_tissue(overview)``.

        Only windows whose middle touches a tile are read, from the coarsest level that is fine enough. Of those that
        cannot be decoded nothing is known.

        :param coords: (N, 2) positions of the tiles in pixels of level 0.
        :param size_level0: side of a tile in pixels of level 0.
        :param cut: how the slide is cut into windows, see :class:`.segmentation_windows.Windows`.
        :raises SlideError: coarser than the network's resolution by more than a quarter, or no plausible mpp.
        """
        slide_mpp = slide.believed_mpp()
        if slide_mpp > self.mpp * WITHIN:
            wrong = f"its pixels are {slide_mpp:.4g} µm, and the artefact network was made for {self.mpp:.4g} µm"
            hint = "tile this slide without artefact weights, or give the weights of a coarser model (--artefact-mpp)"
            raise SlideError(wrong, path=slide.path, hint=hint)
        windows = Windows.over(overview, mask_factor(overview), self.mpp, **cut)
        shares = np.zeros((len(ARTEFACTS), *windows.shape), np.uint8)
        unread = np.zeros(windows.shape, bool)
        parts = _touched(list(windows.parts()), windows, coords, size_level0)
        with closing(windows.run(slide, parts, self, self.batch, self.readers)) as found:
            for part, classes in found:
                if isinstance(classes, SlideError):
                    unread[part.at] = True
                    continue
                for kind in range(len(ARTEFACTS)):
                    marked = windows.on_mask((classes == _FIRST + kind).astype(np.float32), part)
                    shares[kind][part.at] = np.rint(marked * COVERED).astype(np.uint8)
        return ArtefactMap(shares=shares, unread=unread, downsample=windows.downsample)


def _touched(parts: Sequence[Part], windows: Windows, coords: Coords, size_level0: Level0Px) -> list[Part]:
    """Choose the parts that tiles lie on."""
    columns, rows = (parts[-1].column + 1, parts[-1].row + 1) if parts else (0, 0)
    touched = np.zeros((rows, columns), bool)
    side = windows.middle * windows.cells / 2 * windows.downsample
    first = np.floor(np.asarray(coords) / side).astype(np.int64)
    last = np.ceil((np.asarray(coords) + size_level0) / side).astype(np.int64)
    for (left, top), (right, bottom) in zip(first.tolist(), last.tolist(), strict=True):
        touched[top:bottom, left:right] = True
    return [part for part in parts if touched[part.row, part.column]]
