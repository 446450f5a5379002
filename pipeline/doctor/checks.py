"""The table of checks: a check is a function of a :class:`~.finding.Subject` that returns a finding, and a row here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Group:
    """Checks that concern the same thing. When one of them hangs the others would too, and are left out."""

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
    first: bool = False
    """Whether the others of its group say nothing if it fails, and are left out."""


_GPU_HANGS: Final = "look at `dmesg`, stop what uses the GPUs, or restart the machine; until then use --device cpu"

SOFTWARE: Final = Group("software", "the disk of the Python installation does not answer: check its mount")
MACHINE: Final = Group("machine", "the system does not answer: look at `dmesg`; is TMPDIR on a share that is gone?")
WORKSPACE: Final = Group("workspace", "its storage does not answer: check the mount and the network")
GPU: Final = Group("GPU driver", f"the driver hangs: {_GPU_HANGS}")
DEVICE: Final = Group("device", f"the device hangs: {_GPU_HANGS}", each_device=True)

CHECKS: Final[tuple[Check, ...]] = (
    Check("Python", SOFTWARE, "software:python", 20),
    Check("wsipipe", SOFTWARE, "software:wsipipe", 60),
    Check("PyTorch", SOFTWARE, "software:pytorch", 180),
    Check("packages", SOFTWARE, "software:packages", 120),
    Check("OpenSlide", SOFTWARE, "software:openslide", 60),
    Check("codecs", SOFTWARE, "codecs:codecs", 60),
    Check("weights", SOFTWARE, "backbone_weights:weights", 60),
    Check("cores", MACHINE, "machine:cores", 20),
    Check("memory", MACHINE, "machine:memory", 20),
    Check("open files", MACHINE, "machine:open_files", 20),
    Check("shared memory", MACHINE, "machine:shared", 20),
    Check("temporary folder", MACHINE, "machine:temporary_folder", 20),
    Check("writing", WORKSPACE, "storage:workspace", 20, first=True),
    Check("room", WORKSPACE, "storage:room", 60),
    Check("speed", WORKSPACE, "storage:speed", 40),
    Check("locks", WORKSPACE, "storage:locks", 150),
    Check("clock", WORKSPACE, "storage:clock", 20),
    Check("driver", GPU, "gpus:driver", 40),
    Check("PyTorch on the GPU", GPU, "gpus:build", 90),
    Check("devices in use", GPU, "gpus:asked_for", 60),
    Check("kernels and memory", DEVICE, "gpus:kernels_and_memory", 60, first=True),
    Check("forward and backward", DEVICE, "gpus:forward_and_backward", 120),
    Check("every stage", DEVICE, "every_stage:every_stage", 300),
)
DEVICES: Final = Check("devices", DEVICE, "gpus:devices", 90)
"""Lists the devices to check: its figures hold their names."""
CLEAR_AWAY: Final = Check("clearing away", MACHINE, "scratch:clear_away", 20)
"""Made after a check had to be killed."""
