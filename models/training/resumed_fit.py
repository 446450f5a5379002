"""The state of a fit on disk, from which a training that was interrupted goes on.

The file is a PyTorch checkpoint of tensors and plain values. It is read as one from a stranger is: no code of it runs,
each part of the archive is compared with its checksum, and what it holds must have the form of this fit's own state.
Otherwise it is dropped, with a warning that says so, and the fit begins anew.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...data.artifact import remove, whole
from ...data.surroundings import patiently, reading_fault
from ..backbones.tensor_files import UNREADABLE, is_plain, read_without_running
from ..mil.network import SlideNetwork

Plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
Parts = Mapping[str, SlideNetwork | torch.optim.Optimizer | Plateau]
"""The parts of a fit whose state is saved for resuming, beside its history."""
T = TypeVar("T")


class OtherForm(ValueError):  # noqa: N818  named after what was found
    """A saved state that is not of this fit."""


def keep_state(file: Path, more: Mapping[str, Any], parts: Parts) -> None:
    """Write the state of all parts, with more values beside it, completely or not at all."""
    content = {**more, **{name: part.state_dict() for name, part in parts.items()}}
    stream = io.BytesIO()  # onto a full disk, torch says nothing of the disk
    torch.save(content, stream)
    with whole(file) as scratch:
        scratch.write_bytes(stream.getbuffer())


def resume_from(file: Path, parts: Parts, check: Callable[[Mapping[str, Any]], T]) -> T | None:
    """Set all parts to the state that :func:`keep_state` wrote, and return what ``check`` makes of the rest.

    None if the state is damaged or of another form: the parts are then as they were, the file is removed, and a warning
    says so.

    :param check: raises ``ValueError`` for values that are not of this fit.
    :raises SurroundingsError: the file cannot be read for some seconds.
    """
    try:
        content, result = patiently(lambda: _read(file, parts, check), file)
    except ValueError as error:
        warnings.warn(
            f"{file}: dropped the state of an interrupted training, from which it cannot go on: {error}; "
            "it begins with its first epoch again",
            stacklevel=2,
        )
        remove(file)
        return None
    for name, part in parts.items():
        part.load_state_dict(content[name])
    return result


def _read(file: Path, parts: Parts, check: Callable[[Mapping[str, Any]], T]) -> tuple[dict[str, Any], T]:
    try:
        with zipfile.ZipFile(file) as archive:  # PyTorch does not look at the checksums that it writes
            damaged = archive.testzip()
        content = read_without_running(file)
    except UNREADABLE as error:
        if reading_fault(error):  # the storage is at fault, not the file
            raise
        raise OtherForm("it is damaged") from error
    if damaged is not None:
        raise OtherForm("it is damaged")
    if not isinstance(content, dict) or not content.keys() >= parts.keys():
        raise OtherForm("it holds something else")
    for name, part in parts.items():
        if not same_form(content[name], _form_of(part)):
            raise OtherForm(f"its {name} is of another form, or of another version of PyTorch")
    try:
        return content, check(content)
    except (LookupError, TypeError, ValueError) as error:
        raise OtherForm("its history is not that of a fit") from error


def _form_of(part: SlideNetwork | torch.optim.Optimizer | Plateau) -> Any:
    """A state of the same form as a saved one of this part."""
    form = part.state_dict()
    if isinstance(part, torch.optim.Optimizer):
        parameters = [parameter for group in part.param_groups for parameter in group["params"]]
        form["state"] = {
            number: {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
            for number, parameter in enumerate(parameters)
        }
    return form


def same_form(found: Any, wanted: Any) -> bool:
    """Whether values have the same types, names and shapes, and tensors the same numbers of values."""
    if isinstance(wanted, Tensor):
        return (
            isinstance(found, Tensor) and is_plain(found) and (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        )
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and _same_names(found, wanted)
    if isinstance(wanted, list | tuple):
        same_length = isinstance(found, list | tuple) and len(found) == len(wanted)
        return same_length and all(same_form(f, w) for f, w in zip(found, wanted, strict=True))
    if isinstance(wanted, str):
        return bool(found == wanted)
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        return type(found) is type(wanted)
    return isinstance(found, int | float) and not isinstance(found, bool)


def _same_names(found: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> bool:
    # A parameter that has never had a gradient has no state in the optimiser.
    of_optimiser = all(isinstance(name, int) for name in wanted)
    names_fit = found.keys() <= wanted.keys() if of_optimiser else found.keys() == wanted.keys()
    return names_fit and all(same_form(value, wanted[name]) for name, value in found.items())
