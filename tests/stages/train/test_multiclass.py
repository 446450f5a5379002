"""A question of three classes, from the split to a model, its evaluation, its predictions and a comparison."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import wsipipe
from PIL import Image
from planted_workspace import FEATURES, SIDE, TILE_PX, TILES, Planted
from task_workspace import Asked, of_classes, plant_task
from wsipipe.data.cohort.splits import read_splits
from wsipipe.data.errors import UsageError
from wsipipe.models.bundle import folds_of, prevalence_of
from wsipipe.pipeline.config import load_config
from wsipipe.stages.pages.numbers import at_shares
from wsipipe.stages.predict.prediction_report import PredictionReportSettings, PredictionReportStage
from wsipipe.stages.predict.settings import PredictSettings
from wsipipe.stages.predict.stage import PredictionTask, PredictStage

QUESTION = """label_column = "grade"
        task = "multiclass"
        classes = ["zero", "low", "high=high|very high"]"""
CLASSES = ("zero", "low", "high")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant_task(tmp_path_factory.mktemp("multiclass"), of_classes(CLASSES), QUESTION)


def oof(model: Path) -> list[dict[str, str]]:
    with (model / "oof_predictions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("method", ["abmil", "clam-sb", "clam-mb", "transmil", "matching", "mean", "momkd"])
def test_every_method_that_can_learns_three_classes(planted: Planted, method: str) -> None:
    trained = wsipipe("train", "-c", planted.settings, "--method", method, "--replace")
    assert trained.exit_code == 0, trained.output
    assert "30 patients, 10 zero, 10 low, 10 high" in trained.output
    rows = oof(planted.model)
    assert len(rows) == 30
    for row in rows:
        shares = [float(row[f"probability of {name}"]) for name in CLASSES]
        assert sum(shares) == pytest.approx(1)
        assert int(row["call"]) == shares.index(max(shares))
        assert float(row["probability of the call"]) == max(shares)
    metrics = json.loads((planted.model / "metrics.json").read_text())["pooled"]
    assert metrics["counts"] == dict.fromkeys(CLASSES, 10)
    assert sum(map(sum, metrics["confusion"])) == 30
    assert method in ("transmil", "matching", "clam-mb") or metrics["figures"]["AUC"]["value"] > 0.6
    page = (planted.model / "report.html").read_text()
    assert "Called high" in page
    assert "zero, low, high" in page


def test_folds_hold_every_class_equally(planted: Planted) -> None:
    wsipipe("train", "-c", planted.settings, "--method", "mean", "--replace")
    with (planted.model / "splits.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for fold in ("0", "1"):
        assert sorted(row["label"] for row in rows if row["fold"] == fold) == ["0"] * 5 + ["1"] * 5 + ["2"] * 5


def test_probabilities_are_at_the_shares_of_the_training_patients(tmp_path: Path) -> None:
    draw = np.random.default_rng(4)
    people = [
        Asked({"grade": CLASSES[place]}, place - 1 + draw.normal(0, 0.7)) for place in [0] * 20 + [1] * 14 + [2] * 6
    ]
    mine = plant_task(tmp_path / "uneven", people, QUESTION, rna=False)
    assert wsipipe("train", "-c", mine.settings, "--method", "mean").exit_code == 0
    bundles, rows = folds_of(mine.model), oof(mine.model)
    splits, labels = read_splits(mine.model / "splits.csv", 3), {row["patient_id"]: row["label"] for row in rows}
    for fold, (_, facts) in enumerate(bundles):
        own = [labels[patient] for patient in splits.patients(fold, "train")]
        assert facts.prevalence == tuple(own.count(place) / len(own) for place in "012")
    shown = prevalence_of(bundles, None)
    assert isinstance(shown, tuple)
    metrics = json.loads((mine.model / "metrics.json").read_text())
    assert metrics["prevalence"] == list(shown)
    assert metrics["pooled"]["chance"]["Brier score"] == pytest.approx(1 - sum(share**2 for share in shown), abs=0.05)
    means = [sum(float(row[f"probability of {name}"]) for row in rows) / len(rows) for name in CLASSES]
    assert means == pytest.approx(shown, abs=0.08)
    assert {row["prevalence"] for row in rows} == {";".join(map(repr, shown))}
    assert "at the shares of the training patients: zero 50" in (mine.model / "report.html").read_text()
    for row in rows:  # called is the class whose probability is largest in proportion to its share
        ratios = [float(row[f"probability of {name}"]) / share for name, share in zip(CLASSES, shown, strict=True)]
        assert int(row["call"]) == ratios.index(max(ratios))

    unknown = [(path, facts.model_copy(update={"prevalence": None})) for path, facts in bundles]
    assert prevalence_of(unknown, None) == (), "an earlier version's classes count as equally frequent"
    assert "an earlier version trained this model" in at_shares((), CLASSES)
    refused = wsipipe("train", "-c", mine.settings, "--method", "mean", "--prevalence", "0.3")
    assert refused.exit_code == 2
    assert "a prevalence is of two classes, positive and negative" in refused.output


def test_another_cohort_and_new_slides(planted: Planted, tmp_path: Path) -> None:
    wsipipe("train", "-c", planted.settings, "--method", "abmil", "--replace")
    other = plant_task(tmp_path / "other", of_classes(CLASSES, 4), QUESTION, seed=1, first=500, rna=False)
    words = ("--model", planted.model, "--table", other.folder / "cohort.csv", "-w", other.workspace)
    judged = wsipipe("evaluate", *words, "--device", "cpu")
    assert judged.exit_code == 0, judged.output
    folder = other.workspace / "evaluations/er"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["pooled"]["counts"] == dict.fromkeys(CLASSES, 4)
    assert "Evaluation on another cohort" in (folder / "report.html").read_text()
    with (folder / "predictions.csv").open(newline="") as stream:
        evaluated = {row["patient_id"]: row for row in csv.DictReader(stream)}

    table = other.folder / "renamed.csv"
    table.write_text((other.folder / "cohort.csv").read_text().replace(",zero", ",none").replace(",high", ",3+"))
    renamed = (
        "--model",
        planted.model,
        "--table",
        table,
        "-w",
        other.workspace,
        "--device",
        "cpu",
        "--name",
        "renamed",
    )
    (other.folder / "numbered.csv").write_text(
        (other.folder / "cohort.csv").read_text().replace(",zero", ",0").replace(",low", ",1").replace(",high", ",2")
    )
    numbered = ("--table", other.folder / "numbered.csv", "--name", "numbered", "-w", other.workspace)
    unsaid = wsipipe("evaluate", *words[:2], *numbered)
    assert unsaid.exit_code == 1
    assert "--classes zero=VALUE --classes low=VALUE --classes high=VALUE" in " ".join(unsaid.output.split())
    values = [("--classes", text) for text in ("zero=none|nothing", "low", "high=3+")]
    again = wsipipe("evaluate", "--device", "cpu", *renamed, *(word for pair in values for word in pair))
    assert again.exit_code == 0, again.output
    assert json.loads((other.workspace / "evaluations/renamed/metrics.json").read_text()) == metrics
    refused = wsipipe("evaluate", *renamed[:-1], "refused", *(word for pair in values[::-1] for word in pair))
    assert refused.exit_code == 2
    assert "these classes are not the model's, which are zero, low, high" in " ".join(refused.output.split())

    slides = {"S500": "P500", "S502": "P502"}
    for slide in slides:
        other.picture(slide).parent.mkdir(exist_ok=True)
        Image.new("RGB", (SIDE * TILE_PX, SIDE * TILE_PX), (200, 120, 160)).save(other.picture(slide))
    task = PredictionTask(
        model=planted.model, tiles=other.workspace / TILES, features=other.workspace / FEATURES, slides=slides
    )
    into, runner = other.workspace / "predictions/er", other.runner()
    predicted = runner.run(PredictStage(PredictSettings(device="cpu"), into, other.workspace, task))
    assert not predicted.failures
    assert not runner.run(PredictionReportStage(PredictionReportSettings(), into, other.workspace, task)).failures
    with (into / "predictions.csv").open(newline="") as stream:
        rows = {row["patient_id"]: row for row in csv.DictReader(stream) if row["level"] == "patient"}
    for patient, row in rows.items():
        assert row["call"] == ("uncertain" if row["uncertain"] else CLASSES[int(evaluated[patient]["call"])])
        for name in CLASSES:
            share = float(evaluated[patient][f"probability of {name}"])
            assert float(row[f"probability of {name}"]) == pytest.approx(share, abs=1e-6)
    geojson = json.loads((into / "geojson/S500.geojson").read_text())
    measured = geojson["features"][0]["properties"]["measurements"]
    assert {f"score of {name}" for name in CLASSES} <= set(measured)
    assert "Columns zero, low, high: the probability of each class" in (into / "report.html").read_text()


def test_methods_are_compared(planted: Planted) -> None:
    compared = wsipipe("compare", "-c", planted.settings, "--methods", "abmil,mean", "--epochs", "1")
    assert compared.exit_code == 0, compared.output
    folder = planted.workspace / "comparisons/er"
    with (folder / "comparison.csv").open(newline="") as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {"momkd", "abmil", "mean"}
    for name in ("abmil", "mean"):
        difference = float(rows[name]["AUC"]) - float(rows["momkd"]["AUC"])
        assert float(rows[name]["difference"]) == pytest.approx(difference)
        assert 0 < float(rows[name]["p_value"]) <= float(rows[name]["p_value_holm"]) <= 1
    assert (folder / "comparison.png").exists()
    assert "Comparison of methods" in (folder / "comparison.html").read_text()
    refused = wsipipe("compare", "-c", planted.settings, "--methods", "evidence")
    assert refused.exit_code == 2
    assert "evidence cannot answer a multiclass question" in refused.output


def test_what_cannot_be_is_refused_with_the_reason(planted: Planted, tmp_path: Path) -> None:
    refused = wsipipe("train", "-c", planted.settings, "--method", "evidence", "--replace")
    assert refused.exit_code == 2
    assert "evidence cannot answer a multiclass question" in refused.output
    assert "momkd" in refused.output
    soft = wsipipe("train", "-c", planted.settings, "--method", "abmil", "--soft-targets", "--replace")
    assert soft.exit_code == 2
    assert "soft targets are for the binary task" in soft.output
    copy = planted.copied(tmp_path / "copy")
    shutil.rmtree(copy.model)
    text = (copy.folder / "cohort.csv").read_text().replace(",high", ",higher")
    (copy.folder / "cohort.csv").write_text(text)
    unknown = wsipipe("train", "-c", copy.settings, "--method", "mean")
    assert unknown.exit_code == 1
    assert "no row of column grade is of class high" in unknown.output
    assert "higher (10)" in unknown.output


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"task": "multiclass"}, "needs classes"),
        ({"task": "multiclass", "classes": ["a"]}, "two classes or more"),
        ({"task": "multiclass", "classes": ["a", "b=A"]}, "cannot mean two classes"),
        ({"task": "multiclass", "classes": ["a", "a"]}, "is there twice"),
        ({"classes": ["a", "b"]}, "classes are for task multiclass"),
        ({"task": "multiclass", "classes": ["a", "b"], "positive": ["x"]}, "positive is for task binary"),
    ],
)
def test_questions_that_make_no_sense(given: dict[str, object], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        load_config(None, {"biomarkers": {"er": {"label_column": "er", **given}}})
