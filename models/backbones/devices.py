"""The devices that a network runs on, chosen by the user's setting."""

from __future__ import annotations

import torch

from ...data.errors import UsageError


def choose_device(name: str) -> torch.device:
    """Find a device by name: ``auto`` is the first GPU, else the CPU; any other name is torch's own.

    :raises UsageError: this machine has no such device.
    """
    if name != "auto":
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError, ImportError) as error:
            raise UsageError(
                f"there is no device {name!r} here", hint="use auto, cpu, cuda, cuda:1 or mps; auto takes what there is"
            ) from error
    if torch.cuda.is_available():
        return torch.device("cuda:0")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_devices(name: str) -> list[torch.device]:
    """Find one or several devices: ``cuda:0,cuda:1``, or ``cuda:all`` for every GPU.

    :raises UsageError: this machine lacks one of them, or has no GPU at all.
    """
    if name == "cuda:all":
        name = ",".join(f"cuda:{number}" for number in range(torch.cuda.device_count()))
        if not name:
            raise UsageError("there is no GPU here", hint="leave --gpu out, or use --device cpu")
    return [choose_device(part.strip()) for part in name.split(",")]
