"""Files of tensors from anybody: safetensors and PyTorch checkpoints, read without running code in them.

PyTorch's restricted reader (``weights_only``) builds nothing but tensors and plain values. What it builds may still be
absurd: a tensor of 10¹² values that repeats one number, a sparse or quantised one, a file that unpacks into a thousand
times its size. Such files are refused before anything is computed with them.
"""

from __future__ import annotations

import argparse
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path, PosixPath
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...data.errors import BackboneError
from ...data.plain_files import refuse_pipe

_MOST_TENSORS: Final = 200_000
_LONGEST_NAME: Final = 1000
_MOST_REPEATED: Final = 8
"""How often the bytes of a file may be used: layers share their weights, and views repeat them."""
_SLACK: Final = 512 << 20
"""Bytes that a small file may claim all the same."""


class OddTensors(ValueError):  # noqa: N818  named after what was found
    """A file holds what is no plain tensor, or claims to hold more than it has bytes for."""


def read_without_running(file: Path) -> Any:
    """Read a safetensors file or a PyTorch checkpoint without running code in it.

    Beside tensors and plain values, settings of ``argparse`` and numbers of NumPy are allowed, which contain no code.

    :raises OddTensors: it would unpack into more than it has bytes, or is no file.
    :raises Exception: one of :data:`UNREADABLE`: no such file, damaged, or of something else.
    """
    refuse_pipe(file, BackboneError)
    if file.is_dir():
        raise OddTensors("it is a folder, not a file")
    if file.suffix == ".safetensors":
        return load_file(file)
    source: Path | BytesIO = file
    if zipfile.is_zipfile(file):
        _refuse_packed(file)
    else:  # the format before PyTorch 1.6: of a file, it would allocate any length that is written in it
        source = BytesIO(file.read_bytes())
    with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to those who wrote the file
        content = torch.load(source, map_location="cpu", weights_only=True)
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in _tensors_in(content))
    if claimed > _MOST_REPEATED * (size := file.stat().st_size) + _SLACK:
        raise OddTensors(f"its tensors claim to hold {claimed:,} bytes, in a file of {size:,}")
    return content


def require_plain(tensors: Mapping[str, Tensor]) -> None:
    """Refuse a network's tensors if they are not what networks consist of.

    :raises OddTensors: a tensor that is sparse, quantised, complex or not stored at all; absurdly many, or a name
        that is absurdly long.
    """
    if len(tensors) > _MOST_TENSORS:
        raise OddTensors(f"it holds {len(tensors):,} tensors, and no network has more than {_MOST_TENSORS:,}")
    for name, tensor in tensors.items():
        if len(name) > _LONGEST_NAME:
            raise OddTensors(f"it holds a tensor whose name has {len(name):,} characters")
        if odd := _oddity(tensor):
            raise OddTensors(f"its tensor {name!a} is {odd}: save the network with plain, dense tensors")


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is a dense one with its values in memory."""
    return not _oddity(tensor)


def _oddity(tensor: Tensor) -> str:
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_nested:
        return f"a {type(tensor).__name__} of another kind"
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_complex():
        return "of complex numbers"
    return "" if tensor.device.type == "cpu" else "without its values"


def _tensors_in(content: Any) -> Iterator[Tensor]:
    """All tensors in containers, however they are nested, or the one that there is without any."""
    if isinstance(content, Tensor):
        yield content
    waiting, known = [content], {id(content)}
    while waiting:
        held = waiting.pop()
        parts = held.values() if isinstance(held, Mapping) else held if isinstance(held, list | tuple) else ()
        for part in parts:
            if isinstance(part, Tensor):
                yield part
            elif isinstance(part, Mapping | list | tuple) and id(part) not in known:
                known.add(id(part))
                waiting.append(part)


def _refuse_packed(file: Path) -> None:
    """Refuse an archive that is larger than its file when unpacked; PyTorch itself writes them without packing."""
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > (size := file.stat().st_size):
        raise OddTensors(f"it would unpack into {unpacked:,} bytes from {size:,}: save it with torch.save")


def _number_type(name: str | bytes, *flags: Any) -> np.dtype[Any]:
    """Stands for ``numpy.dtype`` in a checkpoint: numbers alone, no texts or structures of any size."""
    text = name.decode("ascii") if isinstance(name, bytes) else name
    if text not in _NUMBERS:
        raise pickle.UnpicklingError(f"unsupported type {text!a}")
    return np.dtype(text, *flags)


_NUMBERS: Final = ("f2", "f4", "f8", "i4", "i8", "u1", "b1")
_HARMLESS: Final[list[Any]] = [
    argparse.Namespace,
    PosixPath,
    (_number_type, "numpy.dtype"),
    *(type(np.dtype(kind)) for kind in _NUMBERS),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # under its names before and since NumPy 2
    np.float64(0).__reduce__()[0],
]

UNREADABLE: Final = (
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    OSError,
    # errors of torch's unpickler for a damaged file or one of another format
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    SystemError,
    struct.error,
)
