"""Odd cohorts (slides of one tile, patients with ten, genes that never vary, NaN, small classes): right, or refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import wsipipe
from planted_workspace import GENES, TELLING, WIDTH, Patient, Planted, make_patients, plant
from trained_workspace import bundle_facts
from wsipipe.models.training.methods import OF_TILES
from wsipipe.stages.train.cross_validate import read_oof


def odd_patients() -> list[Patient]:
    """A slide of one tile, a patient with ten slides, a gene that never varies, one that is zero for most, NaN."""
    patients = make_patients(28)
    draw = np.random.default_rng(3)
    one_tile = replace(patients[1], slides={"one": draw.normal(0, 1, (1, WIDTH)).astype(np.float32)})
    another = replace(patients[4], slides={"two": draw.normal(0, 1, (1, WIDTH)).astype(np.float32)})
    ten = {f"ten{n}": draw.normal(0, 1, (5, WIDTH)).astype(np.float32) for n in range(10)}
    odd = [another if p is patients[4] else one_tile if p is patients[1] else p for p in patients]
    odd[2] = replace(odd[2], slides=ten)
    for n, patient in enumerate(odd):
        assert patient.rna is not None
        rna = patient.rna.copy()
        rna[TELLING] = 7.25
        rna[TELLING + 1] = 9.0 if n == 0 else 0.0
        rna[n % GENES] = np.nan
        rna[TELLING + 2] = np.nan if n % 2 else rna[TELLING + 2]
        odd[n] = replace(patient, rna=rna)
    return odd


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    planted = plant(tmp_path_factory.mktemp("odd"), odd_patients())
    result = wsipipe("train", "-c", planted.settings, "--soft-targets", "--epochs", "2")
    assert result.exit_code == 0, result.output
    return planted


def test_an_odd_cohort_trains_and_everyone_is_tested(odd: Planted) -> None:
    rows = {row.patient_id: row for row in read_oof(odd.model / "oof_predictions.csv")}
    assert sorted(rows) == [patient.id for patient in odd.patients]
    assert rows["P02"].slides == 10
    assert all(np.isfinite(row.logit) for row in rows.values())
    for fold in (0, 1):
        assert 0 < len(bundle_facts(odd.model, fold)["genes"]) <= 12
        assert f"GENE{TELLING:02d}" not in bundle_facts(odd.model, fold)["genes"]


def test_the_report_counts_epochs_from_1_as_the_console_does(odd: Planted) -> None:
    page = (odd.model / "report.html").read_text()
    kept = [int(epoch) for epoch in re.findall(r'data-name="kept epoch">(\d+)<', page)]
    best = [bundle_facts(odd.model, fold)["training"]["best_epoch"] for fold in (0, 1)]
    assert kept == [epoch + 1 for epoch in best]
    axis = page[page.index('aria-label="Training loss, fold 0"') :]
    axis = axis[: axis.index("</svg>")]
    assert re.findall(r'class="tick middle"[^>]*>(\d+)<', axis) == ["1", "2"]


def test_rna_that_could_not_be_read_again_is_said_to_have_failed(odd: Planted, tmp_path: Path) -> None:
    mine = odd.copied(tmp_path / "mine")
    (mine.folder / "rna.csv").write_text("gene,P00,P01\nGENE00,high,low\nGENE01,low,high\n")
    assert wsipipe("genomics", "-c", mine.settings).exit_code == 1
    refused = wsipipe("train", "-c", mine.settings)
    assert refused.exit_code == 1
    told = " ".join(refused.output.split())
    assert "wsipipe genomics failed last time" in told
    assert "contain words" in told
    assert "wsipipe status" in told


@pytest.mark.parametrize("method", OF_TILES)
@pytest.mark.parametrize("bags", [1, 4])
def test_every_method_bears_an_odd_cohort(odd: Planted, method: str, bags: int) -> None:
    folder = odd.workspace / f"models/{method}-{bags}"
    summary = odd.runner().run(odd.trainer(folder, method=method, epochs=1, bags_per_step=bags))
    assert (summary.done, summary.failures) == (2, ())


def test_labels_of_one_class_are_refused(tmp_path: Path) -> None:
    planted = plant(tmp_path, [replace(p, label="negative") for p in make_patients(12)])
    refused = wsipipe("train", "-c", planted.settings)
    assert refused.exit_code == 1
    assert "no row of column er is positive" in refused.output
    assert "--positive" in refused.output


def test_a_class_too_small_for_the_folds_is_refused(tmp_path: Path) -> None:
    patients = [replace(p, label="negative") if n > 6 else p for n, p in enumerate(make_patients(20))]
    planted = plant(tmp_path, patients)
    refused = wsipipe("train", "-c", planted.settings, "--folds", "5")
    assert refused.exit_code == 1
    assert "too few patients for 5 folds with both classes: 3 positive, 17 negative" in refused.output
    assert "at most 3 folds" in refused.output
    assert wsipipe("train", "-c", planted.settings, "--folds", "3", "--epochs", "1").exit_code == 0
