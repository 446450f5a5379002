"""The data of a fold's training: its training and validation patients with their bags, and no test patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.cohort.outcomes import Label
from ...data.errors import StoreError, UsageError
from ...data.features.store import read_bag
from ...data.molecular.signature_target import Signature
from ...models.mil.bag_tensors import AnyBag, Patient, bag_tensors
from ...models.tasks.prediction import SoftTarget
from ...models.tasks.task import Task

MEMORY_SHARE = 0.5
"""Features stay on the GPU for the whole training if they need no more than this fraction of its free memory."""


@dataclass(frozen=True)
class FoldCohort:
    """The patients that a fold is trained on.

    :param train, validation: patient → (label, slides).
    :param test_patients: number of test patients; nothing else about them is known here.
    :param slides: slide → its feature store and the digest of the slide's file.
    """

    fold: int
    folds: int
    splits_digest: str
    train: Mapping[str, tuple[Label, tuple[str, ...]]]
    validation: Mapping[str, tuple[Label, tuple[str, ...]]]
    test_patients: int
    slides: Mapping[str, tuple[Path, str]]
    tile: dict[str, Any]
    extract: dict[str, Any]
    sites: Mapping[str, str] = field(default_factory=dict)
    """Patient → site, where the split keeps sites apart; empty where it does not."""
    signature: Signature | None = None
    """Of a signature's question: its genes, and what it has taken from the training patients."""
    encode: dict[str, Any] | None = None
    """Settings of the slide encoder, if the features are one vector a slide."""


def read_bags(
    cohort: FoldCohort, neighbours: int, device: torch.device, known: Mapping[str, AnyBag]
) -> dict[str, AnyBag]:
    """Read all bags of the fold, each once; they are moved to the GPU if they fit.

    :param known: bags that an earlier fold has read, or that are read from a file as they are needed.
    :raises StoreError: the slides were extracted in different ways.
    """
    bags: dict[str, AnyBag] = {}
    for slide, (path, _) in cohort.slides.items():
        bags[slide] = bag = known[slide] if slide in known else bag_tensors(read_bag(path), neighbours)
        first = next(iter(bags.values()))
        for name in ("backbone", "pooling", "weights_digest", "tile_px", "width", "slide_encoder"):
            if getattr(bag.facts, name) != getattr(first.facts, name):
                raise StoreError(
                    f"{name} is {getattr(bag.facts, name)}, but {getattr(first.facts, name)} for {first.slide_id}",
                    path=path,
                    hint="run wsipipe extract to the end, so that all slides are extracted in the same way",
                )
    if not bags:
        raise UsageError("a fold without slides", hint="use fewer folds")
    new = sum(bag.bytes for bag in bags.values() if bag.device != device)
    if device.type == "cuda" and new <= MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
        for slide in list(bags):
            bags[slide] = bags[slide].to(device)  # one by one, so that they are not in both memories at once
    return bags


def patients_of(
    part: Mapping[str, tuple[Label, tuple[str, ...]]],
    bags: Mapping[str, AnyBag],
    *,
    expression: Mapping[str, Tensor] | None = None,
    targets: Mapping[str, SoftTarget | None] | None = None,
    task: Task,
) -> list[Patient]:
    """Join patients with their bags and, if there are any, their expression and soft targets."""
    expression, targets = expression or {}, targets or {}
    return [
        Patient(patient, label, [bags[slide] for slide in slides], expression.get(patient), targets.get(patient), task)
        for patient, (label, slides) in part.items()
    ]
