"""A question of a number, from the split to a model, its evaluation, its predictions and a comparison."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from command import wsipipe
from planted_workspace import Planted
from task_workspace import Asked, plant_task
from wsipipe.data.errors import UsageError
from wsipipe.models.bundle import read_facts
from wsipipe.pipeline.config import load_config

QUESTION = """label_column = "score"
        task = "regression\""""


def of_numbers(number: int = 30, seed: int = 3) -> list[Asked]:
    values = np.random.default_rng(seed).uniform(0, 50, number)
    return [Asked({"score": f"{value:.2f}"}, float(value) / 20) for value in values]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant_task(tmp_path_factory.mktemp("regression"), of_numbers(), QUESTION, epochs=8)


@pytest.mark.parametrize("words", [["abmil"], ["transmil"], ["mean"], ["mean", "--robust", "--name", "er"]])
def test_every_method_that_can_learns_a_number(planted: Planted, words: list[str]) -> None:
    trained = wsipipe("train", "-c", planted.settings, "--replace", "--method", *words)
    assert trained.exit_code == 0, trained.output
    assert "Spearman's ρ" in trained.output
    with (planted.model / "oof_predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["label"] for row in rows] == [f"{float(one.columns['score'])!r}" for one in of_numbers()]
    metrics = json.loads((planted.model / "metrics.json").read_text())["pooled"]
    predicted = [float(row["prediction"]) for row in rows]
    errors = [abs(value - float(row["label"])) for value, row in zip(predicted, rows, strict=True)]
    assert metrics["figures"]["mean absolute error"]["value"] == pytest.approx(np.mean(errors))
    assert -20 < min(predicted) < max(predicted) < 80  # in the unit of the label
    if words[0] == "mean":
        assert metrics["figures"]["Spearman's ρ"]["value"] > 0.5
    state = read_facts(planted.model / "fold-0").task_state
    assert 10 < state["centre"] < 40
    page = " ".join((planted.model / "report.html").read_text().split())
    assert "Predicted and true values" in page
    assert "Slope: by how much the true value rises where the predicted one rises by 1. 1 is good" in page


def test_another_cohort_and_a_comparison(planted: Planted, tmp_path: Path) -> None:
    assert wsipipe("train", "-c", planted.settings, "--replace", "--method", "mean").exit_code == 0
    other = plant_task(tmp_path / "other", of_numbers(12, 5), QUESTION, seed=1, first=500, rna=False)
    words = ("--model", planted.model, "--table", other.folder / "cohort.csv", "-w", other.workspace)
    judged = wsipipe("evaluate", *words, "--device", "cpu")
    assert judged.exit_code == 0, judged.output
    metrics = json.loads((other.workspace / "evaluations/er/metrics.json").read_text())["pooled"]
    assert metrics["figures"]["Spearman's ρ"]["value"] > 0.4
    compared = wsipipe("compare", "-c", planted.settings, "--epochs", "1")
    assert compared.exit_code == 0, compared.output
    with (planted.workspace / "comparisons/er/comparison.csv").open(newline="") as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["abmil", "transmil", "mean"]
    assert rows["abmil"]["reference"] == "1"
    assert 0 < float(rows["mean"]["p_value"]) <= 1


def test_nested_settings_are_chosen_by_the_loss(planted: Planted) -> None:
    words = ("--method", "abmil", "--epochs", "1", "--nested", "hidden=8,16")
    trained = wsipipe("train", "-c", planted.settings, "--replace", *words)
    assert trained.exit_code == 0, trained.output
    for fold in (0, 1):
        facts = read_facts(planted.model / f"fold-{fold}")
        scores = {one["hidden"]: one["auc"] for one in facts.training["choice"]}
        assert list(scores) == [8, 16]
        assert all(score < 0 for score in scores.values())  # minus the loss
        assert facts.network["hidden"] == max(scores, key=lambda hidden: scores[hidden])
    assert "(inner score of the validation " in (planted.model / "report.html").read_text()


def test_what_cannot_be_is_refused_with_the_reason(planted: Planted, tmp_path: Path) -> None:
    for method, why in (
        ("momkd", "these labels have none"),
        ("clam-sb", "clustering"),
        ("matching", "between classes"),
    ):
        refused = wsipipe("train", "-c", planted.settings, "--replace", "--method", method)
        assert refused.exit_code == 2
        assert why in refused.output
    table = planted.folder / "cohort.csv"
    for value, wrong in (("about 20", "is no number"), ("inf", "is no number")):
        copy = planted.copied(tmp_path / value.replace(" ", "-"))
        lines = table.read_text().splitlines()
        lines[1] = lines[1].rsplit(",", 1)[0] + f",{value}"
        (copy.folder / "cohort.csv").write_text("\n".join(lines))
        assert wrong in wsipipe("train", "-c", copy.settings, "--replace", "--method", "mean").output
    with pytest.raises(UsageError, match="robust is for task regression"):
        load_config(None, {"biomarkers": {"er": {"label_column": "er", "robust": True}}})
