"""Checkpoints from other people's training: finding the network's tensors in them, and listing differences.

A training checkpoint holds more than the network, under longer names: ``module.`` (DataParallel), ``_orig_mod.``
(``torch.compile``), ``teacher.backbone.`` (DINO), ``encoder.`` beside a decoder, weights averaged over the steps (EMA)
beside those of the last step. If there are both, the averaged ones are used, as in timm: they are what the authors
evaluate. If this leaves more than one candidate, the file is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ...data.wording import some
from .tensor_files import is_plain

_AVERAGED: Final = ("state_dict_ema", "model_ema", "ema_state_dict", "model_state_dict_ema", "ema", "teacher")
_CONTAINERS: Final = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "student")
"""Keys under which checkpoints keep a network's state dict, beside an optimiser's; averaged weights take precedence."""

_DEEPEST: Final = 8
"""Containers in each other; one that holds itself has no end."""

_WRAPPERS: Final = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of a name that wrappers of the network add; they can stand anywhere in a name."""
_OF_AN_AVERAGE: Final = re.compile(r"(?:^|[._])(?:ema|teacher|target)(?:[._]|$)")

OF_TRAINING: Final = re.compile(
    r"(?:head|heads|fc|classifier|aux_classifier|head_dist|mask_token|\w+_head|last_layer|prototypes|pre_logits"
    r"|decoder\w*|predictor\w*|projector\w*|projection\w*|queue\w*|criterion|\w*loss\w*)(?:\.|$)"
)
"""Tensors that serve training only: classifiers, heads of self-supervision, decoders of masked images. Any other
surplus tensor means that the file is of another network."""


class SeveralNetworks(ValueError):  # noqa: N818  named after what was found
    """A file holds several networks that would fit, and the choice is ambiguous."""


@dataclass(frozen=True)
class StateDict:
    """The tensors of one network."""

    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()
    """Prefixes removed from the names, and tensors left out."""


def unwrapped(content: Any) -> StateDict:
    """Find the state dict in a file's content; without tensors if there is none.

    :raises SeveralNetworks: averaged weights of two kinds.
    """
    path: list[str] = []
    while isinstance(content, dict) and len(path) < _DEEPEST:
        averaged = [name for name in _AVERAGED if isinstance(content.get(name), dict) and content[name]]
        if len(averaged) > 1 and not _all_equal([content[name] for name in averaged]):
            raise SeveralNetworks(f"averaged weights of {len(averaged)} kinds: {', '.join(averaged)}")
        inner = next((n for n in (*averaged, *_CONTAINERS) if isinstance(content.get(n), dict) and content[n]), None)
        if inner is None:
            break
        content = content[inner]
        path.append(inner)
    entries = content.items() if isinstance(content, dict) else ()
    tensors = {name: value for name, value in entries if isinstance(name, str) and isinstance(value, Tensor)}
    averages = [name for name in path if name in _AVERAGED]
    return StateDict(tensors, (f"took the averaged weights ({averages[0]})",) if averages else ())


def without_common_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that wrappers add to all names: ``module.``, ``_orig_mod.``."""
    named = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    while named and all(name.startswith("module.") for name in named):
        named = {name.removeprefix("module."): tensor for name, tensor in named.items()}
    return named


def of_network(found: StateDict, wanted: Mapping[str, Tensor], of_training: re.Pattern[str] = OF_TRAINING) -> StateDict:
    """Select the tensors of a network from those of a file, under the network's names.

    These are all tensors under the prefix with most of the wanted ones, except those that only training needs.

    :param of_training: names of tensors that serve training only.
    :raises SeveralNetworks: two prefixes have equally many, and neither belongs to averaged weights.
    """
    notes = list(found.notes)
    tensors = {_WRAPPERS.sub("", name): tensor for name, tensor in found.tensors.items()}
    if tensors.keys() != found.tensors.keys():
        notes.append("stripped _orig_mod. and the like from its names")
    prefix = _prefix(tensors, wanted)
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if prefix:
        notes.append(f"stripped {prefix} from its names")
        if _OF_AN_AVERAGE.search(prefix):
            notes.append("took the averaged weights")
    training = [name for name in own if name not in wanted and of_training.match(name)]
    others = [name for name in tensors if not name.startswith(prefix)]
    if training or others:
        groups = list(dict.fromkeys(name.split(".")[0] for name in (*training, *others)))
        notes.append(f"left out {len(training) + len(others)} tensors that are not the network's: {some(groups, 6)}")
    return StateDict({name: tensor for name, tensor in own.items() if name not in training}, tuple(notes))


def _prefix(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    places = [(n[:start], n, n[start:]) for n in tensors for start in (0, *_starts(n)) if n[start:] in wanted]
    fitting = Counter(prefix for prefix, name, own in places if tensors[name].shape == wanted[own].shape)
    fitting = fitting or Counter(prefix for prefix, _, _ in places)
    if not fitting:
        return ""
    most = max(fitting.values())
    best = [prefix for prefix, count in fitting.items() if count == most]
    averages = [prefix for prefix in best if _OF_AN_AVERAGE.search(prefix)]
    best = averages or best
    if len(best) > 1 and not _all_equal([{n: tensors.get(prefix + n) for n in wanted} for prefix in best]):
        names = ", ".join(f"{prefix}…" if prefix else "plain names" for prefix in best)
        raise SeveralNetworks(f"tensors of {len(best)} networks that would fit: {names}")
    return best[0]


def _starts(name: str) -> Iterable[int]:
    return (match.end() for match in re.finditer(r"\.", name))


def _all_equal(dicts: list[dict[str, Any]]) -> bool:
    first, *others = dicts
    return all(
        other.keys() == first.keys() and all(_equal(other[name], first[name]) for name in first) for other in others
    )


def _equal(one: Any, other: Any) -> bool:
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    if not both or not is_plain(one) or not is_plain(other):
        return one is other
    return one.dtype == other.dtype and torch.equal(one, other)


def difference(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Describe how a state dict differs from the wanted one, with some of the names; empty if it fits."""
    shapes = [
        f"{name} {tuple(found[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    faults = {
        "missing": [name for name in wanted if name not in found],
        "not expected": [name for name in found if name not in wanted],
        "of another shape": shapes,
    }
    return "; ".join(f"{len(names)} tensors {what}: {_some(names)}" for what, names in faults.items() if names)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
