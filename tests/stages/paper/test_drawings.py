"""Every task has its figures; each draws with few patients, hard names and missing figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from wsipipe.data.cohort.outcomes import Label, Survival
from wsipipe.models.evaluation.decision_curve import DecisionCurve
from wsipipe.models.evaluation.metrics import binary_metrics
from wsipipe.models.tasks.prediction import PatientPrediction
from wsipipe.models.tasks.task import find_task
from wsipipe.stages.pages.asked_question import Question
from wsipipe.stages.paper.cohort_flow import CohortFlow, Dropped, Step
from wsipipe.stages.paper.drawings import Judged, drawings
from wsipipe.stages.paper.flow_figure import flow_figure
from wsipipe.stages.paper.operating import named_points, operating_part
from wsipipe.stages.paper.performance_figures import (
    decision_figure,
    precision_recall_figure,
    roc_figure,
    scatter_figure,
    survival_figure,
)
from wsipipe.stages.paper.print_style import write_figures

NAMES = ("low $x_1$", "middle", "<high>")


def patient(
    n: int, label: Label, probability: float, call: int = 0, shares: tuple[float, ...] = ()
) -> PatientPrediction:
    return PatientPrediction(
        patient_id=f"P{n}", label=label, probability=probability, logit=probability, threshold=0.5, call=call,
        slides=1, folds=(n % 2,), shares=shares,
    )  # fmt: skip


def judged(task: str) -> Judged:
    draw = np.random.default_rng(0)
    question = Question(
        label_column="marker",
        positive="yes",
        negative="no",
        task=task,
        classes=NAMES if task in ("multiclass", "ordinal") else (),
    )  # type: ignore[arg-type]
    rows = []
    for n in range(24):
        place = n % 3
        if task in ("multiclass", "ordinal"):
            shares = tuple(((np.arange(3) == place) * 0.5 + draw.dirichlet([1, 1, 1]) * 0.5).tolist())
            rows.append(patient(n, place, max(shares), int(np.argmax(shares)), shares))
        elif task == "regression":
            rows.append(patient(n, float(n), n + draw.normal()))
        elif task == "survival":
            rows.append(patient(n, Survival(24.0 - n, n % 4 != 0), float(n), n % 2))
        else:
            rows.append(patient(n, n % 2, 0.3 + 0.4 * (n % 2), n % 2))
    if task == "binary":
        y = [int(row.label == 1) for row in rows]
        metrics = binary_metrics(y, [row.probability for row in rows], y, rounds=50)
        return Judged(question=question, rows=rows, metrics=metrics)
    figures = find_task(task, question.classes).figures(rows, rounds=50, seed=0)
    return Judged(question=question, rows=rows, metrics=figures)


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("binary", {"roc", "precision_recall", "calibration", "decision_curve", "confusion"}),
        ("multiclass", {"roc", "confusion"}),
        ("ordinal", {"confusion"}),
        ("regression", {"predicted_and_true"}),
        ("survival", {"survival"}),
    ],
)
def test_each_task_has_its_figures(tmp_path: Path, task: str, names: set[str]) -> None:
    found = drawings(judged(task))
    assert set(found) == names
    written = write_figures(tmp_path, found)
    assert {path.name for path in written.values()} == {f"{name}.{kind}" for name in names for kind in ("svg", "pdf")}
    if task == "multiclass":
        svg = (tmp_path / "confusion.svg").read_text()
        assert "low $x_1$" in svg, "a name is no formula"
        assert "&lt;high&gt;" in svg


def test_classes_have_calls_and_numbers_have_none() -> None:
    several = judged("multiclass")
    assert [name for name, _ in named_points(several.question, several.rows)] == list(NAMES)
    assert "&lt;high&gt;" in operating_part(several.question, several.rows)
    number = judged("regression")
    assert named_points(number.question, number.rows) == []
    assert not operating_part(number.question, number.rows)


def test_files_of_an_earlier_run_are_removed_and_others_stay(tmp_path: Path) -> None:
    write_figures(tmp_path, drawings(judged("survival")))
    (tmp_path / "note.txt").write_text("of a person")
    write_figures(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_flow_with_many_reasons_and_with_none() -> None:
    many = tuple(Dropped(f"reason {n} that takes more than one line of its box", ("a",) * (9 - n)) for n in range(9))
    flow = CohortFlow(
        slides=(
            Step("Slides of the cohort found", "slides", 100, many),
            Step("Tiled", "slides", 55),
            Step("Slides used", "slides", 55),
        ),
        patients=(Step("Patients in the cohort table", "patients", 60), Step("Patients used", "patients", 60)),
        tested=((0, 30), (1, 30)),
        with_rna=0,
    )
    words = " ".join(text.get_text() for text in flow_figure(flow).axes[0].texts)
    assert "Dropped: 45" in words
    assert "4 other reasons: 10" in words
    assert "60 patients used with 55 slides; 0 of them with RNA" in " ".join(words.split())
    flow_figure(CohortFlow(slides=flow.slides[1:], patients=flow.patients, tested=(), with_rna=3))


def test_no_legend_hides_a_curve() -> None:
    ends, shares = np.array([[0.0, 0.0], [0.9, 0.1], [1.0, 1.0]]), np.linspace(0.01, 0.99, 50)
    steps = [(0.0, 1.0), (1.0, 0.05), (20.0, 0.0)]
    drawn = {
        "ROC": roc_figure([("low", ends), ("a class of a long name", ends)]),
        "precision": precision_recall_figure(ends[::-1], "AUPRC 0.1", 0.1),
        "benefit": decision_figure(DecisionCurve(shares, model=0.5 - 0.01 * shares, treat_all=0.5 - shares)),
        "numbers": scatter_figure([1, 2], [2, 2], "R² 0.1"),
        "survival": survival_figure(steps, steps, ("low risk", "high risk"), "months"),
    }
    for name, figure in drawn.items():
        figure.draw_without_rendering()
        [axes] = figure.axes
        legend = axes.get_legend()
        assert legend is not None, name
        assert legend.get_window_extent().y0 >= axes.get_window_extent().y1 - 1, name
