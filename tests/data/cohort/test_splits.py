"""Splits: what must hold for every cohort, and refusals."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsipipe.data.cohort.splits import make_splits, read_splits, write_splits
from wsipipe.data.errors import CohortError, StoreError


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[dict[str, int], int, int, float]:
    folds = draw(st.integers(2, 6))
    sizes = [draw(st.integers(folds + 2, 40)) for _ in range(2)]
    names = draw(st.lists(st.text("ABab01-,\"'é ", min_size=1), min_size=sum(sizes), max_size=sum(sizes), unique=True))
    labels = {name: int(place < sizes[1]) for place, name in enumerate(names)}
    return labels, folds, draw(st.integers(0, 1000)), draw(st.sampled_from([0.1, 0.2, 0.5, 0.9]))


@given(cohorts())
def test_what_every_split_keeps(cohort: tuple[dict[str, int], int, int, float]) -> None:
    labels, folds, seed, fraction = cohort
    splits = make_splits(labels, folds, seed, fraction)
    assert splits.folds == folds
    tested: list[str] = []
    for fold in range(folds):
        parts = [set(splits.patients(fold, role)) for role in ("train", "validation", "test")]
        assert set.union(*parts) == set(labels)
        assert sum(map(len, parts)) == len(labels)  # disjoint
        tested += parts[2]
        assert all(splits.test_fold(patient) == fold for patient in parts[2])
        for label in (0, 1):
            train, validation, test = (sum(labels[p] == label for p in part) for part in parts)
            total = train + validation + test
            assert total // folds <= test <= total // folds + 1
            assert validation >= 1
            assert train >= 1
            assert abs(validation - fraction * (train + validation)) <= 1
        assert len(labels) // folds <= len(parts[2]) <= len(labels) // folds + 1
    assert sorted(tested) == sorted(labels)


@given(cohorts(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_changes_nothing(
    cohort: tuple[dict[str, int], int, int, float], shuffler: random.Random
) -> None:
    labels, folds, seed, fraction = cohort
    items = list(labels.items())
    shuffler.shuffle(items)
    one, other = make_splits(labels, folds, seed, fraction), make_splits(dict(items), folds, seed, fraction)
    assert list(one.roles.items()) == list(other.roles.items())
    assert list(one.labels) == list(other.labels)


def cohort(positives: int = 30, negatives: int = 70) -> dict[str, int]:
    return {f"P{i:03d}": int(i < positives) for i in range(positives + negatives)}


def test_a_split_that_never_changes() -> None:
    """A split once published is the same in every later version: this list may not be edited."""
    splits = make_splits(cohort(4, 5), 2, seed=7)
    assert splits.patients(0, "test") == ("P000", "P003", "P005", "P006", "P008")
    assert splits.patients(0, "validation") == ("P001", "P004")


def test_another_seed_is_another_split() -> None:
    assert len({str(make_splits(cohort(), 5, seed).roles) for seed in range(10)}) == 10


@given(cohorts())
def test_round_trip_and_equal_bytes(
    tmp_path_factory: pytest.TempPathFactory, cohort: tuple[dict[str, int], int, int, float]
) -> None:
    labels, folds, seed, fraction = cohort
    splits = make_splits(labels, folds, seed, fraction)
    path = tmp_path_factory.mktemp("splits") / "splits.csv"
    write_splits(path, splits)
    first = path.read_bytes()
    again = read_splits(path)
    assert again == splits
    assert list(again.roles) == list(splits.roles)
    write_splits(path, again)
    assert path.read_bytes() == first


def test_the_file_is_readable(tmp_path: Path) -> None:
    write_splits(tmp_path / "splits.csv", make_splits(cohort(4, 5), 2, seed=7))
    lines = (tmp_path / "splits.csv").read_text().splitlines()
    assert lines[:4] == [
        "patient_id,label,fold,fold_0,fold_1",
        "P000,1,0,test,validation",
        "P001,1,1,validation,test",
        "P002,1,1,train,test",
    ]


@given(st.integers(0, 200), st.integers(6, 20))
def test_sites_are_tested_whole(seed: int, sites: int) -> None:
    pick = random.Random(seed)
    labels = {f"P{i}": int(pick.random() < 0.4) for i in range(200)}
    groups = {patient: f"site {min(int(pick.expovariate(0.3)), sites - 1)}" for patient in labels}
    try:
        splits = make_splits(labels, 4, seed, groups=groups)
    except CohortError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "sites" in refusal  # a few large sites can make it impossible, and that is said
        return
    folds_of: dict[str, set[int]] = {}
    for patient, site in groups.items():
        folds_of.setdefault(site, set()).add(splits.test_fold(patient))
    assert all(len(folds) == 1 for folds in folds_of.values())
    for fold in range(4):
        for role in ("train", "validation", "test"):
            assert {labels[p] for p in splits.patients(fold, role)} == {0, 1}


def test_equal_sites_are_dealt_evenly() -> None:
    labels = cohort(40, 60)
    groups = {patient: f"site {int(patient[1:]) % 20}" for patient in labels}  # 2 positive, 3 negative each
    splits = make_splits(labels, 5, 0, groups=groups)
    assert [len(splits.patients(fold, "test")) for fold in range(5)] == [20] * 5


@pytest.mark.parametrize(
    ("labels", "folds", "fraction", "message"),
    [
        (cohort(4, 50), 5, 0.2, "too few patients for 5 folds with both classes: 4 positive, 50 negative"),
        (cohort(0, 50), 5, 0.2, "0 positive"),
        ({}, 5, 0.2, "0 positive, 0 negative"),
        (cohort(2, 50), 2, 0.2, "leaves too few positive patients to train and to validate on: 1"),
        (cohort(), 1, 0.2, "1 folds"),
        (cohort(), 5, 0.0, "validation fraction"),
        (cohort(), 5, 1.0, "validation fraction"),
        ({**cohort(), "X": 2}, 5, 0.2, "labels must be 0 or 1, not 2"),
    ],
)
def test_refusals(labels: dict[str, int], folds: int, fraction: float, message: str) -> None:
    with pytest.raises(CohortError, match=message) as caught:
        make_splits(labels, folds, 0, fraction)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("site_of", "message"),
    [
        (lambda place: "" if place == 3 else str(place % 9), "1 patients have no site: P003"),
        (lambda place: str(place % 3), "3 sites are too few for 5 folds"),
        (lambda place: "all positives" if place < 30 else str(place % 9), "has no positive patient"),
    ],
)
def test_sites_that_do_not_go_round(site_of: object, message: str) -> None:
    groups = {patient: site_of(place) for place, patient in enumerate(cohort())}  # type: ignore[operator]
    with pytest.raises(CohortError, match=message):
        make_splits(cohort(), 5, 0, groups=groups)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("patient_id,", "patient,", "no table of splits"),
        ("P001,1,1,validation,test", "P001,1,1,test,test", "tested once"),
        ("P001,1,1,validation,test", "P001,1,0,validation,test", "tested once"),
        ("P001,1,1,validation,test", "P001,1,1,val,test", "not test, val"),
        ("P001,1,1,validation,test", "P001,2,1,validation,test", "label '2'"),
        ("P001,1,1,validation,test", "P001,1,1,validation", "4 cells"),
        ("P001,", "P000,", "line 3: patient P000 is there twice"),
        ("P001,1,1,validation,test", "P001,1,²,validation,test", "tested once"),
        ("P001,1,1,validation,test", f"P001,1,{'1' * 5000},validation,test", "tested once"),
    ],
)
def test_edited_files_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "splits.csv"
    write_splits(path, make_splits(cohort(4, 5), 2, seed=7))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(StoreError, match=message) as caught:
        read_splits(path)
    assert caught.value.path == str(path)


def test_no_file_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        read_splits(tmp_path / "none.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(StoreError, match="no table of splits"):
        read_splits(tmp_path / "empty.csv")
