"""Published names of tensors: files that are not timm's get the names of timm's network, by the rules of a table."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ...data.wording import some
from .state_dicts import StateDict

_PART = re.compile(r"#(\d+)(?=\.)")


class NamingRules(BaseModel):
    """How one kind of file names its tensors; see ``tensor_names.toml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rename: tuple[tuple[str, str], ...]
    drop: tuple[str, ...] = ()
    positions: int | None = None


@cache
def naming_rules() -> Mapping[str, NamingRules]:
    """Read the rules of ``tensor_names.toml``, by the name of the kind of file."""
    text = files(__package__).joinpath("tensor_names.toml").read_text(encoding="utf-8")
    return {name: NamingRules(**fields) for name, fields in tomllib.loads(text).items()}


def as_timm_names_them(found: StateDict, kind: str) -> StateDict:
    """Rename a file's tensors, join those that timm holds as one, and leave out those of other parts.

    What no rule knows keeps its name, so that it is reported as not expected.

    :param kind: a name of ``tensor_names.toml``.
    """
    rules = naming_rules()[kind]
    renamed: dict[str, Tensor] = {}
    dropped = []
    for name, tensor in found.tensors.items():
        if any(re.search(pattern, name) for pattern in rules.drop):
            dropped.append(name)
            continue
        new = name
        for pattern, replacement in rules.rename:
            new = re.sub(pattern, replacement, new)
        renamed[name if new in renamed else new] = tensor
    if renamed.keys() == found.tensors.keys():
        return found
    notes = [*found.notes, f"renamed its tensors from the names of {kind}"]
    if dropped:
        groups = list(dict.fromkeys(name.split(".")[0] for name in dropped))
        notes.append(f"left out {len(dropped)} tensors of other parts of the model: {some(groups, 6)}")
    tensors = _joined(renamed)
    if rules.positions is not None:
        tensors = {name: _as_batch_of_one(name, tensor, rules.positions) for name, tensor in tensors.items()}
    return StateDict(tensors, tuple(notes))


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the parts ``name#0``, ``name#1``, … along their first axis; parts that do not fit each other stay."""
    whole: dict[str, Tensor] = {}
    parts: dict[str, dict[int, str]] = defaultdict(dict)
    for name in tensors:
        if part := _PART.search(name):
            parts[_PART.sub("", name)][int(part[1])] = name
        else:
            whole[name] = tensors[name]
    for name, own in parts.items():
        pieces = [tensors[own[number]] for number in sorted(own)]
        if len(pieces) > 1 and len({(piece.shape[1:], piece.dtype) for piece in pieces}) == 1:
            whole[name] = torch.cat(pieces)
        else:
            whole |= {part: tensors[part] for part in own.values()}
    return whole


def _as_batch_of_one(name: str, tensor: Tensor, first: int) -> Tensor:
    """Give a table of positions, and a class token that is a plain vector, the axes that timm gives them."""
    if name.split(".")[-1] == "pos_embed" and tensor.ndim == 2:
        return tensor[first:].unsqueeze(0)
    if name.split(".")[-1] == "cls_token" and tensor.ndim == 1:
        return tensor.view(1, 1, -1)
    return tensor
