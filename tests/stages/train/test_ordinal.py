"""A question of ordered classes, from the split to a model and a comparison."""

from __future__ import annotations

import csv
import json

import pytest
from command import wsipipe
from planted_workspace import Planted
from task_workspace import of_classes, plant_task

QUESTION = """label_column = "grade"
        task = "ordinal"
        classes = ["G1", "G2", "G3"]"""
GRADES = ("G1", "G2", "G3")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant_task(tmp_path_factory.mktemp("ordinal"), of_classes(GRADES), QUESTION)


@pytest.mark.parametrize("method", ["abmil", "clam-sb", "mean", "momkd"])
def test_every_method_that_can_learns_grades(planted: Planted, method: str) -> None:
    trained = wsipipe("train", "-c", planted.settings, "--method", method, "--replace")
    assert trained.exit_code == 0, trained.output
    assert "concordance" in trained.output
    with (planted.model / "oof_predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        shares = [float(row[f"probability of {name}"]) for name in GRADES]
        assert sum(shares) == pytest.approx(1)
        assert min(shares) >= 0
        below = sum(shares[: int(row["call"])])
        assert below <= 0.5 + 1e-9 <= below + float(row["probability of the call"]) + 1e-9  # the median class
    metrics = json.loads((planted.model / "metrics.json").read_text())["pooled"]
    if method == "mean":
        assert metrics["figures"]["concordance"]["value"] > 0.7
    assert "Which grade" in (planted.model / "report.html").read_text()


def test_a_comparison_and_what_is_refused(planted: Planted) -> None:
    compared = wsipipe("compare", "-c", planted.settings, "--methods", "mean", "--epochs", "1")
    assert compared.exit_code == 0, compared.output
    with (planted.workspace / "comparisons/er/comparison.csv").open(newline="") as stream:
        assert [row["method"] for row in csv.DictReader(stream)] == ["momkd", "mean"]
    refused = wsipipe("train", "-c", planted.settings, "--method", "clam-mb", "--replace")
    assert refused.exit_code == 2
    assert "its attentions are of single classes" in " ".join(refused.output.split())
