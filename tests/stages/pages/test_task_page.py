"""The page of a task that is not binary: what stands above its cautions, and below its curves."""

from __future__ import annotations

import re

import pytest
from wsipipe.data.cohort.outcomes import Survival
from wsipipe.models.evaluation.metrics import Estimate
from wsipipe.models.evaluation.task_metrics import TaskMetrics
from wsipipe.models.tasks.prediction import PatientPrediction
from wsipipe.stages.pages.asked_question import Question
from wsipipe.stages.pages.report_page import Accounting, FoldSummary
from wsipipe.stages.pages.task_page import TaskReport, task_page

FOLD = FoldSummary(
    fold=0,
    n_train=60,
    n_validation=20,
    n_test=20,
    validation_auc=0.6,
    test_auc=0.6,
    threshold=0.5,
    best_epoch=1,
    history=(),
)
FOLLOW_UPS = [Survival(time, event) for time, event in ((1, True), (4, False), (7, True), (10, False))]


def report(low: float, high: float, folds: tuple[FoldSummary, ...] = (FOLD,)) -> TaskReport:
    name = "C-index (Harrell)"
    patients = tuple(
        PatientPrediction(
            patient_id=f"P{n}",
            label=label,
            probability=0.5,
            logit=0.0,
            threshold=0.5,
            call=int(n == 0),
            slides=1,
            folds=(0,),
        )
        for n, label in enumerate(FOLLOW_UPS)
    )
    return TaskReport(
        kind="Training report",
        run="death",
        question=Question(label_column="time", positive="", negative="", task="survival", time_unit="months"),
        how="By the fold that did not know them.",
        accounting=Accounting(in_table=100, used=100, dropped=()),
        metrics=TaskMetrics(
            task="survival",
            n_patients=100,
            counts={"with the event": 50, "without": 50},
            figures={name: Estimate(value=(low + high) / 2, low=low, high=high)},
            chance={name: 0.5},
            bootstrap_rounds=2000,
            seed=0,
        ),
        folds=folds,
        patients=patients,
        facts=(),
    )


@pytest.mark.parametrize(
    ("low", "high", "claims"),
    [(0.45, 0.62, ["Caution: claim nothing from this run yet"]), (0.6, 0.75, [])],
)
def test_what_is_no_better_than_chance_is_headed_as_on_the_binary_page(
    low: float, high: float, claims: list[str]
) -> None:
    assert re.findall("<h2>(Caution.*)</h2>", task_page(report(low, high))) == claims
    evaluated = ["Caution"] if claims else []
    assert re.findall("<h2>(Caution.*)</h2>", task_page(report(low, high, folds=()))) == evaluated


def test_numbers_at_risk_stand_below_the_curves() -> None:
    page = task_page(report(0.6, 0.75))
    chart = page[page.index("Share without the event by predicted risk") :].partition("</svg>")[0]
    texts = re.findall(r'<text class="tick[^"]*" x="([0-9.]+)" y="([0-9.]+)">([^<]*)</text>', chart)
    rows: dict[str, list[str]] = {}
    places: dict[str, list[str]] = {}
    for x, y, text in texts:
        rows.setdefault(y, []).append(text)
        places.setdefault(y, []).append(x)
    axis, heading, low, high = (row for y, row in rows.items() if float(y) > 310)
    assert (axis, heading) == (["0", "2", "4", "6", "8", "10"], ["At risk"])
    # Of the three with a low risk, followed for 4, 7 and 10 months; of the one with a high risk, for 1.
    assert low == ["Low", "3", "3", "3", "2", "1", "1"]
    assert high == ["High", "1", "0", "0", "0", "0", "0"]
    below = [own for y, own in places.items() if float(y) > 340 and len(own) > 1]
    assert all(own[1:] == places["312.0"] for own in below), "each number under its tick"
    height = float(re.search(r'height="([0-9]+)"', chart)[1])  # type: ignore[index]
    assert height > max(map(float, rows))
