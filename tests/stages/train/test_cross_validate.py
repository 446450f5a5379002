"""What an evaluation writes, from rows made by hand: calls, figures over all patients and by fold, and back again."""

from __future__ import annotations

import json
from math import log
from pathlib import Path

import pytest
from wsipipe.models.evaluation.metrics import binary_metrics
from wsipipe.models.tasks.binary import BINARY
from wsipipe.models.tasks.prediction import PatientPrediction
from wsipipe.stages.train.cross_validate import CrossValidateSettings, read_oof, write_evaluation


@pytest.mark.parametrize(
    ("probability", "threshold", "call"), [(0.4, 0.3, 1), (0.6, 0.7, 0), (0.5, 0.5, 1), (0.4, 0.5, 0), (0.6, 0.5, 1)]
)
def test_a_patient_is_called_at_the_threshold_of_the_fold(probability: float, threshold: float, call: int) -> None:
    logit = log(probability / (1 - probability))
    row = PatientPrediction.of("P1", [{2: logit}], {2: threshold}, BINARY, prevalence=0.5, label=1)
    assert row.probability == pytest.approx(probability)
    assert (row.logit, row.threshold, row.call) == (logit, threshold, call)
    assert (row.patient_id, row.fold, row.label, row.slides) == ("P1", 2, 1, 1)


def test_an_evaluation_is_pooled_and_by_fold_and_reads_back(tmp_path: Path) -> None:
    by_fold = [  # logit and label; AUCs of 1, 3/4 and none
        [(-1.0, 0), (-0.5, 0), (0.5, 1), (2.0, 1)],
        [(-1.0, 0), (0.6, 0), (0.5, 1), (2.0, 1)],
        [(0.1, 1), (0.3, 1)],
    ]
    rows = [
        PatientPrediction.of(
            f"P{9 - n}{fold}", [{fold: logit}], {fold: 0.4 + fold / 10}, BINARY, prevalence=0.2, label=label
        )
        for fold, patients in enumerate(by_fold)
        for n, (logit, label) in enumerate(patients)
    ]
    outcome = write_evaluation(tmp_path, rows, CrossValidateSettings(bootstrap_rounds=20), BINARY)
    assert read_oof(outcome.outputs["predictions"]) == sorted(rows, key=lambda row: row.patient_id)
    told = json.loads(outcome.outputs["metrics"].read_text())
    assert [(fold["fold"], fold["auc"]["value"]) for fold in told["folds"]] == [(0, 1.0), (1, 0.75), (2, None)]
    assert told["prevalence"] == 0.2
    assert told["auc_mean"] == pytest.approx(0.875)
    assert told["auc_sd"] == pytest.approx(0.25 / 2**0.5), "of two folds, with n − 1"
    ordered = sorted(rows, key=lambda row: row.patient_id)
    pooled = binary_metrics(
        [row.label for row in ordered],
        [row.probability for row in ordered],
        [row.call for row in ordered],
        rounds=20,
        seed=0,
    )
    assert told["pooled"] == pooled.model_dump(mode="json")
    alone = write_evaluation(tmp_path / "alone", rows[:4], CrossValidateSettings(bootstrap_rounds=20), BINARY)
    told = json.loads(alone.outputs["metrics"].read_text())
    assert (told["auc_mean"], told["auc_sd"]) == (1.0, None)
