"""Segmentation networks with weights from a user's file: how they are loaded, and what they see.

No network is distributed with this package, and nothing is downloaded or run from a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..data.allotment import usable_cores
from ..data.errors import BackboneError
from .backbones.state_dicts import SeveralNetworks, difference, of_network
from .backbones.weights import SAVE_ONE, Weights, load_state_dict

_MEAN: Final = (0.485, 0.456, 0.406)  # of ImageNet, which the encoders of both networks were trained on first
_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Published:
    """A network of a known architecture, and where users have its weights from."""

    what: str
    """What its weights are, as in ``tissue weights``."""
    architecture: Callable[[], nn.Module]
    """Builds it, without any weights."""
    of_training: re.Pattern[str]
    """Names of tensors that serve training only and are left out."""
    hint: str
    """Which file to give."""
    otherwise: str
    """What to do with a file that holds more than tensors."""

    def load(self, path: Path, device: torch.device) -> nn.Module:
        """Read the weights, without downloading anything or running code in the file.

        :param path: a checkpoint (also as PyTorch Lightning saves it), a plain state dict, or safetensors.
        :raises BackboneError: no such file, not a weights file, or of another network; the message names some of the
            tensors that are missing, surplus or of another shape.
        """
        if not path.is_file():
            raise BackboneError(f"no such file of {self.what}", path=path, hint=self.hint)
        with torch.device("meta"):  # not filled with random numbers first
            model = self.architecture()
        wanted = model.state_dict()
        try:
            found = load_state_dict(Weights(path, "file"), like=wanted)
            tensors = of_network(found, wanted, self.of_training).tensors
        except SeveralNetworks as error:
            raise BackboneError(f"holds {error}", path=path, hint=SAVE_ONE) from error
        except BackboneError as error:
            raise BackboneError(error.what, path=path, hint=f"{self.hint}; {self.otherwise}") from error
        if wrong := difference(wanted, tensors):
            raise BackboneError(wrong, path=path, hint=f"these are the weights of another network: {self.hint}")
        model.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in tensors.items()}, assign=True)
        return model.eval().requires_grad_(False).to(device)


def at_a_time(device: torch.device) -> int:
    """How many windows go through a network at a time: one on a CPU, where more cost 150 MB each and save little."""
    return 1 if device.type == "cpu" else 8


def readers_for(device: torch.device, processes: int = 1) -> int:
    """How many threads read windows ahead, in each of some processes: one on a CPU, where a process has one core."""
    return 1 if device.type == "cpu" else max(usable_cores() // processes, 1)


def native_kernels() -> AbstractContextManager[None]:
    """Compute without cuDNN, which on a GPU takes two seconds for each new shape of windows and is no faster then.

    On an H200 with PyTorch 2.11, eight windows of 512 px: the artefact network 28.5 ms for 31.0, the first time 0.1 s
    for 2.1; the tissue network 83 ms for 113.
    """
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=False, deterministic=True, allow_tf32=False
    )
    return flags


def normalised(pixels: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Convert pictures, (B, height, width, 3) RGB, to what the networks take, (B, 3, height, width)."""
    x = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(of_channel, device=device).view(1, 3, 1, 1) for of_channel in (_MEAN, _STD))
    return x.sub_(mean).div_(std)
