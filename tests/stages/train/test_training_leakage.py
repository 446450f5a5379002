"""Leakage: what a fold is tested on may be anything, and no byte of its bundle changes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted_workspace import Planted, make_patients, plant, write_rna, write_slide
from trained_workspace import bundle_files
from wsipipe.data.cohort.splits import Splits, read_splits, write_splits
from wsipipe.stages.stage import Plan
from wsipipe.stages.train.fold import FoldCohort
from wsipipe.stages.train.stage import TrainStage


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A workspace whose patients are split."""
    planted = plant(tmp_path_factory.mktemp("split") / "lab", make_patients(24, without_rna=4))
    assert planted.runner().run(planted.splitter()).done == 1
    return planted


class FirstFold(TrainStage):
    """Trains fold 0 alone."""

    def plan(self) -> Plan:
        plan = super().plan()
        return replace(plan, items=plan.items[:1])


class LeakyFold(FirstFold):
    """The fault that the tests are to catch: the epoch is chosen on the patients of the test."""

    def plan(self) -> Plan:
        plan = super().plan()
        [item] = plan.items
        cohort: FoldCohort = item.payload
        splits = read_splits(self.splits / "splits.csv")
        slides = {p: ids for p, ids in _slides_of(self.splits).items() if p in splits.patients(0, "test")}
        tested = {p: (splits.labels[p], ids) for p, ids in slides.items()}
        stores = {s: (self.features / f"{s}.zarr", "") for ids in slides.values() for s in ids}
        leaky = replace(cohort, validation={**cohort.validation, **tested}, slides={**cohort.slides, **stores})
        return replace(plan, items=[replace(item, payload=leaky)])


def _slides_of(folder: Path) -> dict[str, tuple[str, ...]]:
    with (folder / "patients.csv").open() as stream:
        return {row["patient_id"]: tuple(row["slides"].split(";")) for row in csv.DictReader(stream)}


def altered(planted: Planted, folder: Path, patients: Sequence[str], what: str) -> Planted:
    """A copy in which these patients have other tiles, other RNA, or the other label; the roles stay."""
    copy = planted.copied(folder)
    draw = np.random.default_rng(1)
    if "features" in what:
        for patient in planted.patients:
            for slide, bag in patient.slides.items() if patient.id in patients else ():
                write_slide(copy, slide, (bag + draw.normal(3, 2, bag.shape)).astype(np.float32))
    if "rna" in what:
        rows = [
            replace(p, rna=(p.rna[::-1] * 2).astype(np.float32)) if p.id in patients and p.rna is not None else p
            for p in planted.patients
        ]
        write_rna(copy, rows)
    if "label" in what:
        # In place and of the same length: its record, and with it the digest that the bundle tells, stay.
        splits = read_splits(copy.model / "splits.csv")
        labels = {p: 1 - label if p in patients else label for p, label in splits.labels.items()}
        write_splits(copy.model / "splits.csv", Splits(labels, splits.roles))
    return copy


def first_fold(planted: Planted, name: str, kind: type[TrainStage] = FirstFold, **settings: object) -> dict[str, bytes]:
    """The bytes of fold 0, trained in a folder of this name."""
    stage = planted.trainer(planted.workspace / "leakage" / name, kind=kind, **{"epochs": 2, **settings})
    summary = planted.runner().run(stage)
    assert (summary.done, summary.failures) == (1, ())
    return bundle_files(stage.folder / "fold-0")


LEARNERS: dict[str, dict[str, object]] = {
    "momkd": {},
    "momkd, momentum, several bags": {"memory": "momentum", "bags_per_step": 4},
    "soft targets": {"soft_targets": True},
    "abmil": {"method": "abmil"},
    "abmil, soft targets": {"method": "abmil", "soft_targets": True, "use_rna": False},
    "mean": {"method": "mean"},
    "nested": {"method": "matching", "nested": ["genes=4,8"], "epochs": 1},
}


@pytest.fixture(scope="module")
def cohorts(split: Planted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Planted]:
    """The workspace as it is, with all patients of fold 0's test altered, and with one of its training altered."""
    splits = read_splits(split.model / "splits.csv")
    test, train = splits.patients(0, "test"), splits.patients(0, "train")
    without = next(p.id for p in split.patients if p.id in train and p.rna is None)
    measured = next(p.id for p in split.patients if p.id in train and p.rna is not None)
    wanted = {
        "as it is": ([], ""),
        "test": (test, "features, rna, label"),
        "features": ([without], "features"),
        "label": ([without], "label"),
        "rna": ([measured], "rna"),
    }
    place = tmp_path_factory.mktemp("cohorts")
    return {name: altered(split, place / name, *of) for name, of in wanted.items()}


@pytest.mark.parametrize("learner", LEARNERS)
def test_no_byte_of_a_bundle_knows_the_patients_of_its_test(cohorts: dict[str, Planted], learner: str) -> None:
    bundles = {name: first_fold(planted, learner, **LEARNERS[learner]) for name, planted in cohorts.items()}
    as_it_is = bundles.pop("as it is")
    assert bundles.pop("test") == as_it_is
    # The same changes to one patient of the training do show; one without RNA teaches by features and label too.
    learns_from_rna = learner not in ("abmil", "mean")
    for what, bundle in bundles.items():
        changed = bundle["model.safetensors"] != as_it_is["model.safetensors"]
        assert changed is (learns_from_rna or what != "rna"), what


def test_a_leak_would_be_seen(cohorts: dict[str, Planted]) -> None:
    as_it_is, other = (first_fold(cohorts[name], "leaky", LeakyFold, method="abmil") for name in ("as it is", "test"))
    assert other != as_it_is
