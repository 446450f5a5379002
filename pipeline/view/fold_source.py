"""A model whose folds may read a slide, each by itself, as the records and tables of the workspace say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ...data.files.own_tables import read_own_rows
from ...data.manifest import Record
from .inside import inside
from .predictions import OUT_OF_FOLD, slides_of

FEATURES_OF = "features of "
"""How the records of a model name the features of its slides among what they were made from."""


@dataclass(frozen=True, kw_only=True)
class FoldSource:
    """A model, the features of a slide that it reads, and which of its folds may read them."""

    name: str
    """As the list of slides calls the model's predictions."""
    model: str
    store: str
    """Paths of the model's folder and of the slide's features, as records have them."""
    folds: Sequence[int]
    """Those that were not trained on the slide's patient."""
    scores: Mapping[int, float] = field(default_factory=dict)
    """Fold → its score of the slide, where that is known and one number."""
    why_none: str = ""
    """Why no fold is offered; empty if any is."""

    def named(self, fold: int) -> str:
        """What the fold's layers belong to."""
        return f"{self.name}, fold {fold}"


def tested_slides(record: Record, model: Path, workspace: Path) -> dict[str, FoldSource]:
    """Slide of a patient who trained a model → the fold that was not trained on them.

    :param record: of the model's cross-validation, which names the features of each slide.
    :param model: the model's folder.
    :raises StoreError: its tables are damaged.
    """
    rows = read_own_rows(
        inside(workspace, model / "splits.csv"),
        ("patient_id", "fold"),
        lambda row: (row["patient_id"], int(row["fold"])),
    )
    fold_of, patients = dict(rows), slides_of(inside(workspace, model / "patients.csv"))
    folds = {slide: fold_of[patient] for patient, slides in patients.items() if patient in fold_of for slide in slides}
    stores = {
        name.removeprefix(FEATURES_OF): given.path
        for name, given in record.inputs.items()
        if name.startswith(FEATURES_OF)
    }
    place = model.relative_to(workspace).as_posix()
    return {
        slide: FoldSource(name=model.name + OUT_OF_FOLD, model=place, store=store, folds=(folds[slide],))
        for slide, store in stores.items()
        if store and slide in folds
    }


def tiles_in(store: str) -> str:
    """Name of the folder of tiles that features were made of, by their path; empty if it does not say it."""
    parts = PurePosixPath(store).parts
    return parts[1] if len(parts) == 4 and parts[0] == "features" else ""
