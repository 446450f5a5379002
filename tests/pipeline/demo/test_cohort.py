"""The demo's synthetic cohort: the same bytes every time, real slide files, and tables that fit together."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import openslide
import pandas as pd
import pytest
from wsipipe.data.artifact import digest_of
from wsipipe.data.errors import UsageError
from wsipipe.data.units import Microns
from wsipipe.pipeline.demo.cohort import SITES, DemoCohort, make_cohort, recruit
from wsipipe.pipeline.demo.expression import PLANTED, make_expression

PATIENTS = 6


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> DemoCohort:
    return make_cohort(tmp_path_factory.mktemp("demo"), patients=PATIENTS, seed=3, side=Microns(850.0))


@pytest.fixture(scope="module")
def table(cohort: DemoCohort) -> pd.DataFrame:
    return pd.read_csv(cohort.table, dtype=str, keep_default_na=False)


def slide_files(cohort: DemoCohort) -> list[Path]:
    """All slides that can be opened."""
    files = sorted([*cohort.slides.iterdir(), *cohort.new_slides.iterdir()])
    return [file for file in files if file.stem != cohort.broken_slide]


def large_nuclei(file: Path) -> float:
    """Share of the dark pixels that lie in dark spots at least 8.5 microns wide."""
    with openslide.OpenSlide(file) as slide:
        mpp = float(slide.properties["openslide.mpp-x"])
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    red = cv2.resize(pixels[:, :, 0], None, fx=mpp / 0.5, fy=mpp / 0.5, interpolation=cv2.INTER_AREA)
    dark = (red < 0.8 * np.median(red[red < 235])).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (17, 17))
    return float(cv2.morphologyEx(dark, cv2.MORPH_OPEN, disc).sum() / dark.sum())


def test_a_whole_folder_is_left_alone_and_a_damaged_one_is_made_again_to_the_byte(tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"

    def made(side: Microns | None = None) -> DemoCohort:
        return make_cohort(home, patients=PATIENTS, seed=3, side=side)

    cohort = made(Microns(300.0))
    shutil.copytree(home, copy)
    before = {file: file.stat().st_mtime_ns for file in home.rglob("*")}
    made()
    assert {file: file.stat().st_mtime_ns for file in home.rglob("*")} == before
    slide_files(cohort)[0].unlink()
    made()
    assert all(file.stat().st_mtime_ns > before[file] for file in home.rglob("*.svs"))
    assert digest_of(home) == digest_of(copy)


def test_slides_of_somebody_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "mine.svs").write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"mine\.svs"):
        make_cohort(tmp_path, patients=PATIENTS)
    assert [file.name for file in tmp_path.rglob("*.*")] == ["mine.svs"]


def test_too_few_patients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too small"):
        make_cohort(tmp_path, patients=5)


def test_openslide_reads_every_slide_as_what_it_is(cohort: DemoCohort) -> None:
    seen = set()
    for file in slide_files(cohort):
        with openslide.OpenSlide(file) as slide:
            vendor, mpp = slide.properties["openslide.vendor"], float(slide.properties["openslide.mpp-x"])
            assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(mpp)
            assert vendor == ("aperio" if file.suffix == ".svs" else "generic-tiff")
            assert ("thumbnail" in slide.associated_images) == (vendor == "aperio")
            assert slide.level_downsamples[:2] == pytest.approx((1, 4), rel=1e-6)
            assert max(slide.level_dimensions[-1]) <= 256
            if vendor == "aperio":
                assert int(slide.properties["openslide.objective-power"]) == round(10 / mpp)
            field = max(slide.dimensions) * mpp
            assert 600 < field < 1200
            corner = np.asarray(slide.read_region((0, 0), 0, (64, 64)))[:, :, :3]
            assert corner.min() > 200, "bare glass in the corner"
            seen.add((vendor, round(mpp, 4)))
    assert {("aperio", 0.5), ("aperio", 0.25), ("generic-tiff", 0.5)} <= seen


def test_the_broken_slide_does_not_open(cohort: DemoCohort, table: pd.DataFrame) -> None:
    with pytest.raises(openslide.OpenSlideError):
        openslide.OpenSlide(cohort.slides / f"{cohort.broken_slide}.svs")
    patient = table.set_index("slide_id").patient_id[cohort.broken_slide]
    assert (table.patient_id == patient).sum() == 1


def test_the_table_fits_the_slides_and_is_as_untidy_as_promised(cohort: DemoCohort, table: pd.DataFrame) -> None:
    assert list(table.columns) == ["slide_id", "patient_id", "site", "HER2"]
    assert sorted(table.slide_id) == sorted(file.stem for file in cohort.slides.iterdir())
    patients = table.groupby("patient_id")
    assert len(patients) == PATIENTS
    assert sorted(patients.size()) == [1] * (PATIENTS - 1) + [2]
    assert (patients[["site", cohort.label_column]].nunique() == 1).all(axis=None)
    labels = patients[cohort.label_column].first()
    assert (labels == "").sum() == 1
    assert (labels == "equivocal").sum() == 1
    assert set(labels) == {"", "equivocal", cohort.positive, cohort.negative}


def test_the_expression_fits_the_table(cohort: DemoCohort, table: pd.DataFrame) -> None:
    expression = pd.read_csv(cohort.expression, index_col=0)
    assert expression.index.is_unique
    assert len(expression) >= 300
    assert {"ERBB2", "ESR1", "PGR", "MKI67"} <= set(expression.index)
    assert set(expression.columns) < set(table.patient_id)
    assert expression.columns.is_unique
    assert (expression.to_numpy() >= 0).all()
    assert expression.to_numpy().max() > 500


def test_new_slides_are_of_other_patients_and_of_both_classes(cohort: DemoCohort, table: pd.DataFrame) -> None:
    truth = pd.read_csv(cohort.new_slides_truth)
    assert sorted(truth.slide_id) == sorted(file.stem for file in cohort.new_slides.iterdir())
    assert set(truth.patient_id).isdisjoint(table.patient_id)
    assert sorted(truth[cohort.label_column]) == [cohort.negative] * 2 + [cohort.positive] * 2


def test_texture_tells_the_classes_apart(cohort: DemoCohort) -> None:
    truth = pd.read_csv(cohort.new_slides_truth, index_col="slide_id")[cohort.label_column]
    large = {file.stem: large_nuclei(file) for file in cohort.new_slides.iterdir()}
    positive = [large[slide] for slide, label in truth.items() if label == cohort.positive]
    negative = [large[slide] for slide, label in truth.items() if label == cohort.negative]
    assert min(positive) > 2 * max(negative), (positive, negative)


def test_the_cohort_is_balanced_and_differs_from_seed_to_seed() -> None:
    cohorts = [recruit(np.random.default_rng(seed), 40) for seed in range(5)]
    for people in cohorts:
        assert sum(person.label == "positive" for person in people) == pytest.approx(19, abs=3)
        assert sum(not person.has_rna for person in people) == 5
        by_site = [[person.state > 0 for person in people if person.site == site] for site in SITES]
        assert all(0.3 < np.mean(positive) < 0.7 for positive in by_site), "no site gives the label away"
    assert len({tuple(person.state for person in people) for people in cohorts}) == 5


def test_planted_genes_follow_the_state_and_others_do_not() -> None:
    states = np.random.default_rng(0).choice([-1.0, 1.0], 400)
    expression = make_expression(np.random.default_rng(1), {f"P{i}": state for i, state in enumerate(states)})
    correlation = np.log2(expression + 1).T.corrwith(pd.Series(states, index=expression.columns))
    assert correlation["ERBB2"] > 0.7
    assert correlation["ESR1"] < -0.4
    assert correlation.drop(index=list(PLANTED)).abs().max() < 0.25
