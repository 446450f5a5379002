"""The audit of classes, grades, numbers and survival, from the command line to its files: a planted confounder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import told, wsipipe
from planted_workspace import Planted
from task_workspace import Asked, plant_task
from wsipipe.stages.train.audit import AUDIT_COLUMNS

CLASSES = ("low", "middle", "high")
QUESTIONS = {
    "multiclass": 'label_column = "kind"\ntask = "multiclass"\nclasses = ["low", "middle", "high"]',
    "ordinal": 'label_column = "kind"\ntask = "ordinal"\nclasses = ["low", "middle", "high"]',
    "regression": 'label_column = "score"\ntask = "regression"',
    "survival": 'task = "survival"\ntime_column = "months"\nevent_column = "dead"',
}
MEASURES = {
    "multiclass": "AUC",
    "ordinal": "concordance",
    "regression": "Spearman's ρ",
    "survival": "C-index (Harrell)",
}


def patients(number: int, seed: int) -> list[Asked]:
    """Labels of every task that go with grade; slides that show grade and nothing else."""
    draw = np.random.default_rng(seed)
    made = []
    for n in range(number):
        grade = int(draw.integers(1, 4))
        z = grade - 2 + 0.6 * draw.normal()
        time, end = draw.exponential(30 * np.exp(-z)), draw.uniform(10, 90)
        columns = {
            "kind": CLASSES[int(z > -0.5) + int(z > 0.7)],
            "score": f"{20 + 5 * z:.3f}",
            "months": f"{min(time, end) + 0.01:.2f}",
            "dead": str(int(time <= end)),
            "grade": str(grade),
            "ward": f"C{n % 3}",
        }
        made.append(Asked(columns, 0.9 * (grade - 2)))
    return made


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """One workspace for all questions."""
    asked = "\n".join(f"[biomarkers.{task}]\n{lines}" for task, lines in QUESTIONS.items())
    question = f"{QUESTIONS['regression']}\n{asked}"
    return plant_task(tmp_path_factory.mktemp("audits") / "project", patients(110, 3), question, rna=False)


def audit_of(model: Path, method: str = "mean") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((model / "audit.json").read_text())
    return content[method]


@pytest.mark.parametrize("task", QUESTIONS)
def test_a_confounder_is_found_and_what_goes_with_nothing_is_cleared(planted: Planted, task: str) -> None:
    told("train", "-c", planted.settings, "--name", task, "--method", "mean", "--audit", "grade,ward")
    model = planted.workspace / "models" / task
    found = audit_of(model)
    measure, chance = MEASURES[task], 0.0 if task == "regression" else 0.5
    assert (found["task"], found["measure"], found["chance"]) == (task, measure, chance)
    metrics = json.loads((model / "metrics.json").read_text())["pooled"]["figures"][measure]
    assert found["score"]["value"] == pytest.approx(metrics["value"])
    grade, ward = found["columns"]
    gain = found["score"]["value"] - chance
    assert grade["pooled"]["within"]["value"] - chance < 0.45 * gain, "most goes along with grade"
    assert ward["pooled"]["within"]["value"] - chance > 0.8 * gain
    assert ward["pooled"]["p_value"] < 0.005
    assert found["alone"]["p_value"] > 0.01
    assert found["alone"]["columns"]["value"] - chance > 0.8 * gain
    page = (model / "report.html").read_text()
    assert "goes along with grade" in page
    assert "little or nothing of what it reads goes along with ward" in page
    assert "It is not shown that the slide adds anything to them" in page
    with (model / "audit.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == AUDIT_COLUMNS
    assert (rows[0]["part"], rows[0]["figure"]) == ("all patients", measure)
    assert float(rows[0]["value"]) == found["score"]["value"]
    assert {row["stratum"] for row in rows if row["part"] == "subgroup"} == {"1", "2", "3", "C0", "C1", "C2"}


def test_other_commands_audit_survival_too(planted: Planted, tmp_path: Path) -> None:
    asked = ("-c", planted.settings, "--name", "survival")
    told("compare", *asked, "--methods", "abmil,mean", "--epochs", "1", "--audit", "grade")
    compared = planted.workspace / "comparisons/survival"
    assert set(json.loads((compared / "audit.json").read_text())) == {"abmil", "mean"}
    page = (compared / "comparison.html").read_text()
    assert "Audit of ABMIL" in page
    assert "Within grade" in page

    told("train", *asked, "--method", "mean")
    model = planted.workspace / "models/survival"
    assert not (model / "audit.json").exists(), "another run without an audit leaves none behind"
    other = plant_task(tmp_path / "other", patients(50, 9), QUESTIONS["survival"], seed=1, first=500, rna=False)
    words = ("--model", model, "--table", other.folder / "cohort.csv", "-w", other.workspace, "--device", "cpu")
    judged = wsipipe("evaluate", *words, "--audit", "grade,ward")
    assert judged.exit_code == 0, judged.output
    evaluated = other.workspace / "evaluations/survival"
    found = audit_of(evaluated)
    assert [column["column"] for column in found["columns"]] == ["grade", "ward"]
    assert found["alone"] is not None, "patients without folds are dealt into some"
    assert "Audit: the label" in (evaluated / "report.html").read_text()
    assert wsipipe("evaluate", *words).exit_code == 0
    assert not (evaluated / "audit.json").exists()
    refused = wsipipe("evaluate", *words, "--audit", "dead")
    assert "column dead is part of the label" in " ".join(refused.output.split())
