"""Cross-validation splits by patient: training, validation and test patients of each fold.

The split is stratified by label. It is the same on every machine and for any order of the input, and is saved as a
readable CSV; all methods that are compared use the same file.

Patients are ordered by a hash of seed and id instead of random numbers, so that no version of a library can change a
split.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ..artifact import whole
from ..errors import CohortError, StoreError
from ..files.safe_cells import SafeWriter, plain_cell
from ..plain_files import refuse_pipe
from ..surroundings import patiently
from ..wording import some
from .outcomes import Classes, Label, label_of

Role = Literal["train", "validation", "test"]
MOST_FOLDS: Final = 1000
"""Of a split, and of the model that is trained on it."""


@dataclass(frozen=True)
class Strata:
    """The strata whose shares are kept equal in all folds, such as the classes.

    :param of: patient → place of their stratum in ``names``.
    :param names: each must have patients in every fold.
    """

    of: Mapping[str, int]
    names: tuple[str, ...] = ("negative", "positive")


@dataclass(frozen=True)
class Splits:
    """The role of every patient in every fold.

    :param labels: patient → label, sorted by patient.
    :param roles: patient → role in fold 0, 1, …, for the same patients. Each is tested exactly once.
    """

    labels: Mapping[str, Label]
    roles: Mapping[str, tuple[Role, ...]]

    @property
    def folds(self) -> int:
        """The number of folds."""
        return len(next(iter(self.roles.values())))

    def patients(self, fold: int, role: Role) -> tuple[str, ...]:
        """The patients with a role in a fold, sorted."""
        return tuple(patient for patient, roles in self.roles.items() if roles[fold] == role)

    def test_fold(self, patient: str) -> int:
        """The fold in which a patient is tested."""
        return self.roles[patient].index("test")


def make_splits(
    labels: Mapping[str, Label],
    folds: int,
    seed: int,
    validation_fraction: float = 0.2,
    groups: Mapping[str, str] | None = None,
    strata: Strata | None = None,
) -> Splits:
    """Make stratified folds, each with a stratified validation part taken from its training part.

    Without groups the patients of each class are dealt to the folds in turn, so that folds differ by at most one
    patient of a class. With groups (sites), all patients of a group are tested in the same fold: groups are assigned,
    the largest first, so that the classes stay as even as possible, and folds may differ in size. The validation part
    is drawn by patient in either case, because with few sites a whole site would be too large a part.

    :param labels: patient → label, in any order.
    :param folds: how many; at least 2.
    :param validation_fraction: part of each class of the training part, rounded, at least one patient and never all.
    :param groups: patient → group, for all patients.
    :param strata: used in place of the classes; None if the labels are 0 and 1.
    :raises CohortError: too few patients of a class, or too few groups.
    """
    if folds < 2:
        raise CohortError(f"{folds} folds are no cross-validation", hint="use 2 folds or more")
    if not 0 < validation_fraction < 1:
        raise CohortError(f"a validation fraction of {validation_fraction} is not between 0 and 1", hint="0.2 is usual")
    if strata is None:
        others = sorted({str(label) for label in labels.values() if label not in (0, 1)})
        if others:
            raise CohortError(f"labels must be 0 or 1, not {some(others)}", hint="map the label's values first")
        strata = Strata({patient: int(label == 1) for patient, label in labels.items()})
    counts = [sum(place == wanted for place in strata.of.values()) for wanted in range(len(strata.names))]
    if min(counts) < folds:
        raise too_few(strata.names, counts, folds)
    of_one = {patient: (place,) for patient, place in strata.of.items()}
    tested = _deal(strata, folds, seed) if groups is None else deal_groups(of_one, strata.names, folds, seed, groups)
    roles = {patient: ["train"] * folds for patient in sorted(labels)}
    for fold in range(folds):
        for place, name in enumerate(strata.names):
            rest = [p for p in labels if strata.of[p] == place and tested[p] != fold]
            if len(rest) < 2:
                what = f"fold {fold} leaves too few {name} patients to train and to validate on: {len(rest)}"
                raise CohortError(what, hint="at least two are needed: find more patients of this class")
            size = min(max(1, int(validation_fraction * len(rest) + 0.5)), len(rest) - 1)
            for patient in shuffled(rest, seed, f"validation of fold {fold}")[:size]:
                roles[patient][fold] = "validation"
    for patient, fold in tested.items():
        roles[patient][fold] = "test"
    in_order = dict(sorted(labels.items()))
    return Splits(in_order, {patient: tuple(roles[patient]) for patient in in_order})  # type: ignore[arg-type]


def too_few(names: Sequence[str], counts: Sequence[int], folds: int) -> CohortError:
    """Build the error for a stratum that has fewer patients than there are folds; the last one is named first."""
    listed = ", ".join(f"{count} {name}" for count, name in zip(counts[::-1], names[::-1], strict=True))
    of_each = "both classes" if len(names) == 2 else "all of these"
    fewer = f"use at most {min(counts)} folds, or " if min(counts) > 1 else ""
    what = f"too few patients for {folds} folds with {of_each}: {listed}"
    return CohortError(what, hint=f"{fewer}find more labelled patients, two of each class at least")


def shuffled(items: Iterable[str], seed: int, purpose: str) -> list[str]:
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}\0{purpose}\0{item}".encode()).digest())


def _deal(strata: Strata, folds: int, seed: int) -> dict[str, int]:
    """Patient → fold. Each class starts at the fold where the last one ended, so that folds have similar sizes."""
    cards = [
        patient
        for place in range(len(strata.names))
        for patient in shuffled((p for p in strata.of if strata.of[p] == place), seed, "test")
    ]
    return {patient: place % folds for place, patient in enumerate(cards)}


def deal_groups(
    strata: Mapping[str, tuple[int, ...]], names: Sequence[str], folds: int, seed: int, groups: Mapping[str, str]
) -> dict[str, int]:
    """Patient → fold, with all patients of a group in the same fold.

    :param strata: patient → places of their strata in ``names``.
    :raises CohortError: a patient without a group, too few groups, or a fold without a patient of a stratum.
    """
    without = sorted(patient for patient in strata if not groups.get(patient))
    if without:
        raise CohortError(f"{len(without)} patients have no site: {some(without)}", hint="fill in the site column")
    places = range(len(names))
    sizes: dict[str, list[int]] = {}
    for patient, own in strata.items():
        for place in own:
            sizes.setdefault(groups[patient], [0] * len(places))[place] += 1
    if len(sizes) < folds:
        what = f"{len(sizes)} sites are too few for {folds} folds"
        raise CohortError(what, hint=f"use {max(len(sizes), 2)} folds, or split by patient")
    totals = [sum(size[place] for size in sizes.values()) for place in places]
    filled = [[0] * len(places) for _ in range(folds)]
    fold_of: dict[str, int] = {}
    for group in sorted(shuffled(sizes, seed, "test"), key=lambda group: -sum(sizes[group])):
        # The increase of the sum of squared shares of each class; it is smallest for the emptiest fold.
        cost = [
            sum(
                ((2 * have[place] + sizes[group][place]) * sizes[group][place]) / totals[place] ** 2 for place in places
            )
            for have in filled
        ]
        fold = cost.index(min(cost))
        fold_of[group] = fold
        for place in places:
            filled[fold][place] += sizes[group][place]
    for fold, have in enumerate(filled):
        for place, name in enumerate(names):
            if not have[place]:
                what = f"with sites kept apart, fold {fold} has no {name} patient"
                raise CohortError(what, hint="use fewer folds, or split by patient")
    return {patient: fold_of[groups[patient]] for patient in strata}


def write_splits(path: Path, splits: Splits) -> None:
    """Save as CSV: ``patient_id``, ``label``, ``fold`` (the test fold), then the role in each fold, ``fold_0`` ….

    The same splits give the same bytes.
    """
    with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = SafeWriter(stream)
        writer.writerow(_header(splits.folds))
        for patient, label in splits.labels.items():
            writer.writerow([patient, label, splits.test_fold(patient), *splits.roles[patient]])


def read_splits(path: Path, classes: Classes = 2) -> Splits:
    """Read what :func:`write_splits` wrote.

    :param classes: how many classes the labels have; 0 if they are numbers or follow-ups; of several targets each.
    :raises StoreError: the file was not written by wsipipe, or was edited into an invalid cross-validation.
    """
    try:
        text = patiently(lambda: _bytes(path), path).decode("utf-8")
        lines = csv.reader(io.StringIO(text, newline=""))
        header, *rows = [[plain_cell(cell) for cell in line] for line in lines] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"could not be read ({error})", path=path, hint="make the splits again") from error
    folds = len(header) - 3
    if folds < 2 or header != _header(folds) or not rows:
        raise StoreError("is no table of splits", path=path, hint=f"its columns are {', '.join(_header(2))}, …")
    labels: dict[str, Label] = {}
    roles: dict[str, tuple[Role, ...]] = {}
    for line, row in enumerate(rows, start=2):
        fault = _fault(row, folds, labels, classes)
        if fault:
            raise StoreError(f"line {line}: {fault}", path=path, hint="undo the edit, or make the splits again")
        label = label_of(row[1], classes)
        assert label is not None  # checked just above
        labels[row[0]] = label
        roles[row[0]] = tuple(row[3:])  # type: ignore[arg-type]  # checked just above
    return Splits(dict(sorted(labels.items())), dict(sorted(roles.items())))


def _bytes(path: Path) -> bytes:
    refuse_pipe(path, StoreError)
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise StoreError("there is no such table of splits", path=path, hint="make the splits again") from error


def _header(folds: int) -> list[str]:
    return ["patient_id", "label", "fold", *(f"fold_{fold}" for fold in range(folds))]


def _fault(row: Sequence[str], folds: int, seen: Mapping[str, Label], classes: Classes) -> str:
    if len(row) != folds + 3:
        return f"{len(row)} cells instead of {folds + 3}"
    patient, label, fold, *roles = row
    if patient in seen:
        return f"patient {patient} is there twice"
    if label_of(label, classes) is None:
        if isinstance(classes, tuple):
            return f"label {label!r} is not of {len(classes)} targets, with ? for a missing one, such as '1 / ? / 0'"
        return f"label {label!r} is not {f'a class from 0 to {classes - 1}' if classes else 'a number or a follow-up'}"
    if not set(roles) <= {"train", "validation", "test"}:
        return f"roles are train, validation and test, not {', '.join(sorted(set(roles)))}"
    if [str(index) for index, role in enumerate(roles) if role == "test"] != [fold]:
        return f"patient {patient} must be tested once, in fold {fold}"
    return ""
