"""The table of checks: a check is a function of a :class:`~.finding.Subject` that returns a finding, and a row here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Group:
    """Checks that concern the same thing: when one of them hangs, the others would too and are left out."""

    title: str
    hangs: str
    """The way out when a check of the group does not answer in its time."""
    each_device: bool = False
    """Whether its checks are made once for every device."""


@dataclass(frozen=True)
class Check:
    """One check."""

    name: str
    group: Group
    place: str
    """Its module in this folder and its function, as ``module:function``."""
    seconds: float
    """Its time limit."""


SOFTWARE: Final = Group("software", "the disk of the Python installation does not answer: check its mount")
GPU: Final = Group(
    "GPU driver", "the driver hangs: look at `dmesg`, stop what uses the GPUs, or restart the machine; use --device cpu"
)
DEVICE: Final = Group("device", f"the device hangs: {GPU.hangs.partition(': ')[2]}", each_device=True)

CHECKS: Final[tuple[Check, ...]] = (
    Check("Python", SOFTWARE, "software:python", 20),
    Check("wsipipe", SOFTWARE, "software:wsipipe", 60),
    Check("PyTorch", SOFTWARE, "software:pytorch", 180),
    Check("OpenSlide", SOFTWARE, "software:openslide", 60),
    Check("driver", GPU, "gpus:driver", 40),
    Check("PyTorch on the GPU", GPU, "gpus:build", 90),
    Check("kernels and memory", DEVICE, "gpus:kernels_and_memory", 60),
    Check("forward and backward", DEVICE, "gpus:forward_and_backward", 120),
)
DEVICES: Final = "gpus:devices"
"""Lists the devices to check: its figures hold their names."""
