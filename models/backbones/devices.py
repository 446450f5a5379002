"""The devices that a network runs on, chosen by the user's setting."""

from __future__ import annotations

import torch

from ...data.errors import UsageError


def choose_device(name: str) -> torch.device:
    """Find a device by name: ``auto`` is the first GPU, else the CPU; any other name is torch's own.

    The same numbers on every run: on a GPU cuDNN takes algorithms with a fixed order of sums, and float32 is float32.

    :raises UsageError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type != "cuda":
            return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise _no_such_device(name) from error
    # Nothing is put on a GPU to see whether it is there: the process that only hands out work would keep some hundred
    # megabytes of each.
    number = device.index or 0
    if number >= torch.cuda.device_count():
        raise _no_such_device(name)
    torch.backends.cudnn.allow_tf32 = False  # PyTorch's default for convolutions: ten bits of float32's 23
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda", number)


def _no_such_device(name: str) -> UsageError:
    hint = "use auto, cpu, cuda, cuda:1 or mps; auto takes what there is"
    return UsageError(f"there is no device {name!r} here", hint=hint)


def choose_devices(name: str) -> list[torch.device]:
    """Find one or several devices: ``cuda:0,cuda:1``, or ``cuda:all`` for every GPU.

    :raises UsageError: this machine lacks one of them, or has no GPU at all.
    """
    if name == "cuda:all":
        name = ",".join(f"cuda:{number}" for number in range(torch.cuda.device_count()))
        if not name:
            raise UsageError("there is no GPU here", hint="leave --gpu out, or use --device cpu")
    return [choose_device(part.strip()) for part in name.split(",")]
