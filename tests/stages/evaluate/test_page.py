"""The page of a model on another cohort: what it says of calibration, and that it stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from html_page import HOSTILE, Page, assert_alone, outline
from scipy.special import expit, logit
from wsipipe.data.errors import UsageError
from wsipipe.models.evaluation.metrics import Metrics, binary_metrics
from wsipipe.models.tasks.prediction import PatientPrediction
from wsipipe.stages.evaluate.page import (
    ExternalReport,
    FoldAlone,
    calibration_in_words,
    external_cautions,
    external_page,
    kind_of_evaluation,
)
from wsipipe.stages.pages.asked_question import Question as AskedQuestion
from wsipipe.stages.pages.report_page import Accounting


def report_of(labels: Sequence[int], probabilities: Sequence[float], **changes: Any) -> ExternalReport:
    calls = [int(p >= 0.5) for p in probabilities]
    found: Metrics = binary_metrics(labels, probabilities, calls, rounds=50)
    fields: dict[str, Any] = {
        "name": "her2",
        "model": "her2",
        "question": AskedQuestion(label_column="HER2", positive="positive", negative="negative"),
        "accounting": Accounting(in_table=len(labels), used=len(labels), dropped=()),
        "metrics": found,
        "prevalence": 0.5,
        "folds": (FoldAlone(fold=0, threshold=0.5, metrics=found),),
        "n_folds": 1,
        "cross_validated": None,
        "patients": tuple(
            PatientPrediction(
                patient_id=f"P{i}",
                label=y,
                probability=p,
                logit=float(logit(p)),
                threshold=0.5,
                call=call,
                slides=1,
                folds=(0,),
            )
            for i, (y, p, call) in enumerate(zip(labels, probabilities, calls, strict=True))
        ),
        "known_by_id": 0,
        "differences": (),
        "facts": (("slides", str(len(labels))),),
    }
    return ExternalReport(**fields | changes)


def drawn(patients: int, *, slope: float = 1.0, shift: float = 0.0) -> tuple[list[int], list[float]]:
    """Patients whose true log-odds are intercept and slope times what is predicted."""
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 2, patients)
    return (draw.random(patients) < expit(slope * logits + shift)).astype(int).tolist(), expit(logits).tolist()


def test_calibration_is_told_in_words() -> None:
    good = calibration_in_words(report_of(*drawn(2000)))
    assert "no difference beyond chance" in good[0]
    assert "interval contains 1" in good[1]
    assert "too high for this cohort" in calibration_in_words(report_of(*drawn(2000, shift=-1)))[0]
    assert "too low for this cohort" in calibration_in_words(report_of(*drawn(2000, shift=1)))[0]
    assert "below 1" in calibration_in_words(report_of(*drawn(2000, slope=0.4)))[1]
    assert "above 1" in calibration_in_words(report_of(*drawn(2000, slope=2)))[1]
    assert "below 0" in calibration_in_words(report_of(*drawn(2000, slope=-1)))[1]
    assert "cannot be estimated" in calibration_in_words(report_of([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]))[1]
    assert "no interval" in calibration_in_words(report_of([0, 1, 0, 0], [0.1, 0.5, 0.8, 0.6]))[1]


def test_the_page_needs_nothing_else_and_trusts_nobody() -> None:
    labels, probabilities = drawn(200)
    report = report_of(labels, probabilities, name="<script>", differences=("overlap 0, not 112",))
    page = external_page(report)
    assert page == external_page(report)
    assert "<script" not in page
    assert "http" not in page
    for told_there in (
        "Slope",
        "Calibration-in-the-large",
        "Decision curve",
        "Expected calibration error",
        "overlap 0, not 112",
        "200 patients",
    ):
        assert told_there in page
    assert page.count('<svg class="place"') == 200


def test_hostile_names_stay_text() -> None:
    labels, probabilities = drawn(50)

    def page(text: str) -> str:
        report = report_of(labels, probabilities)
        changes: dict[str, Any] = {
            "name": text,
            "model": text,
            "question": AskedQuestion(label_column=text, positive=text, negative=text),
            "accounting": Accounting(in_table=51, used=50, dropped=((text, 1),)),
            "patients": (replace(report.patients[0], patient_id=text), *report.patients[1:]),
            "differences": (text,),
            "facts": ((text, text),),
        }
        return external_page(report_of(labels, probabilities, **changes))

    assert_alone(page(HOSTILE))
    assert outline(page(HOSTILE)) == outline(page("plain"))
    assert Page(page(HOSTILE)).text.count(HOSTILE) >= 8


def test_a_large_cohort_judged_by_all_folds_needs_no_caution() -> None:
    assert external_cautions(report_of(*drawn(600))) == ()
    with pytest.raises(UsageError, match="differ"):
        report_of(*drawn(20), patients=())


def test_patients_who_trained_are_in_the_title_of_every_task() -> None:
    assert kind_of_evaluation(0, 5) == ""
    assert kind_of_evaluation(2, 5) == "Evaluation on patients that include training patients"
    assert kind_of_evaluation(5, 5) == "Evaluation on the training cohort"
