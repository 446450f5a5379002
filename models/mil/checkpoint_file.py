"""Checkpoints of slide networks from other programs: their content, read without running code in them."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from ...data.errors import BundleError
from ...data.surroundings import patiently
from ..backbones.tensor_files import UNREADABLE, OddTensors, read_without_running, require_plain


def read_checkpoint(path: str | PathLike[str], hint: str) -> Any:
    """Read what a checkpoint or a safetensors file holds.

    :param hint: which files can be read, for messages.
    :raises BundleError: no such file, damaged, of code, or with tensors that networks do not consist of.
    """
    if not Path(path).exists():
        raise BundleError("cannot be read: there is no such file", path=path, hint="check the path")
    try:
        content = patiently(lambda: read_without_running(Path(path)), Path(path))
        if isinstance(content, dict):
            require_plain({name: t for name, t in content.items() if isinstance(name, str) and isinstance(t, Tensor)})
    except OddTensors as error:
        raise BundleError(f"cannot be read: {error}", path=path, hint=hint) from error
    except UNREADABLE as error:
        raise BundleError("is not a checkpoint that can be read without running code", path=path, hint=hint) from error
    return content
