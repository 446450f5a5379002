"""A question of survival, from the split to a model, its evaluation and a comparison."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from command import wsipipe
from PIL import Image
from planted_workspace import FEATURES, SIDE, TILE_PX, TILES, Planted
from task_workspace import Asked, plant_task
from wsipipe.data.errors import UsageError
from wsipipe.pipeline.config import load_config
from wsipipe.stages.predict.prediction_report import PredictionReportSettings, PredictionReportStage
from wsipipe.stages.predict.settings import PredictSettings
from wsipipe.stages.predict.stage import PredictionTask, PredictStage

QUESTION = """task = "survival"
        time_column = "months"
        event_column = "died\""""


def of_follow_ups(number: int = 36, seed: int = 3) -> list[Asked]:
    """A stronger signal goes with an earlier event; the follow-up of some patients ends before it."""
    draw = np.random.default_rng(seed)
    signals = draw.uniform(0, 3, number)
    times, ends = 30 / np.exp(signals) * draw.uniform(0.8, 1.25, number), draw.uniform(2, 40, number)
    rows = zip(signals, times, ends, strict=True)
    return [Asked({"months": f"{min(t, e):.2f}", "died": str(int(t <= e))}, float(s)) for s, t, e in rows]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant_task(tmp_path_factory.mktemp("survival"), of_follow_ups(), QUESTION, epochs=4)


COX = ("--name", "er", "--loss", "cox", "--horizons", "3", "--horizons", "9", "--time-unit", "months")
TIMES = ("AUC at 3 months", "AUC at 9 months", "Brier score at 3 months", "Brier score at 9 months")


@pytest.mark.parametrize("method", ["abmil", "transmil", "mean"])
@pytest.mark.parametrize("loss", ["hazards", "cox"])
def test_every_method_that_can_learns_survival(planted: Planted, method: str, loss: str) -> None:
    words = ("train", "-c", planted.settings, "--replace", "--method", method)
    trained = wsipipe(*words, *(() if loss == "hazards" else (*COX, "--bags-per-step", "4")))
    assert trained.exit_code == 0, trained.output
    events = sum(one.columns["died"] == "1" for one in of_follow_ups())
    assert f"36 patients, {events} with the event, {36 - events} censored" in trained.output
    with (planted.model / "oof_predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row, one in zip(rows, of_follow_ups(), strict=True):
        kind = "event" if one.columns["died"] == "1" else "censored"
        assert row["label"] == f"{kind} at {float(one.columns['months'])!r}"
        if loss == "hazards":
            assert -4 <= float(row["risk"]) <= 0
        else:
            early, late = float(row["no event by 3 months"]), float(row["no event by 9 months"])
            assert 0 <= late <= early <= 1
        assert int(row["call"]) == (float(row["risk"]) >= float(row["threshold"]))
    metrics = json.loads((planted.model / "metrics.json").read_text())["pooled"]
    assert list(metrics["figures"])[:2] == ["C-index (Harrell)", "C-index (Uno)"]
    if method == "mean":
        assert metrics["figures"]["C-index (Harrell)"]["value"] > 0.6
    page = " ".join((planted.model / "report.html").read_text().split())
    assert "log-rank p" in page
    assert f"Only {events} patients (with the event)" in page, "censored ones are not what is missing"
    assert f"{events} of 36 patients ({events / 36:.0%}".replace("%", " %") in page
    assert "(reverse Kaplan–Meier). If that is not so, look at the event column" in page
    if loss == "cox":
        assert list(metrics["figures"])[2:] == [*TIMES, "integrated Brier score"]
        if method == "mean":
            found, chance = metrics["figures"]["integrated Brier score"], metrics["chance"]["integrated Brier score"]
            assert found["value"] < chance
        assert "Time (months)" in page
        assert "log hazard relative to the average training patient" in page
        assert "quartiles of the event times" not in page
    else:
        assert all(name.startswith("AUC at ") for name in list(metrics["figures"])[2:])
        assert "The times of the AUC are quartiles of the event times" in page


def test_one_bag_a_step_has_nobody_to_compare(planted: Planted) -> None:
    refused = wsipipe(
        "train", "-c", planted.settings, "--replace", "--method", "abmil", "--name", "er", "--loss", "cox"
    )
    said = " ".join(refused.output.split())
    assert refused.exit_code == 2
    assert "loss = cox compares the patients of a step, and a step has one slide" in said
    assert "--bags-per-step 16" in said
    nested = ("--nested", "bags_per_step=1,4", "--bags-per-step", "4")
    again = wsipipe("train", "-c", planted.settings, "--replace", "--method", "abmil", *COX, *nested)
    assert "a step has one slide" in " ".join(again.output.split())


def test_another_question_of_the_same_labels_is_trained_again(planted: Planted) -> None:
    words = ("train", "-c", planted.settings, "--replace", "--method", "mean")
    task = lambda: json.loads((planted.model / "fold-0/bundle.json").read_text())["question"]  # noqa: E731
    assert wsipipe(*words).exit_code == 0
    assert (task()["loss"], task()["horizons"]) == ("hazards", [])
    assert wsipipe(*words, *COX).exit_code == 0
    assert (task()["loss"], task()["horizons"]) == ("cox", [3.0, 9.0])
    assert wsipipe(*words, "--name", "er", "--loss", "cox", "--horizons", "5").exit_code == 0
    assert (task()["loss"], task()["horizons"]) == ("cox", [5.0])
    late = wsipipe(*words, "--name", "er", "--horizons", "500")
    assert "was followed for 500: the longest is" in " ".join(late.output.split())


def test_another_cohort_and_new_slides(planted: Planted, tmp_path: Path) -> None:
    assert wsipipe("train", "-c", planted.settings, "--replace", "--method", "mean", *COX).exit_code == 0
    other = plant_task(tmp_path / "other", of_follow_ups(20, 5), QUESTION, seed=1, first=500, rna=False)
    words = ("--model", planted.model, "--table", other.folder / "cohort.csv", "-w", other.workspace)
    judged = wsipipe("evaluate", *words, "--device", "cpu")
    assert judged.exit_code == 0, judged.output
    folder = other.workspace / "evaluations/er"
    metrics = json.loads((folder / "metrics.json").read_text())["pooled"]
    assert metrics["figures"]["C-index (Harrell)"]["value"] > 0.6
    assert list(metrics["figures"])[2:] == [*TIMES, "integrated Brier score"]
    with (folder / "predictions.csv").open(newline="") as stream:
        evaluated = {row["patient_id"]: row for row in csv.DictReader(stream)}

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
    assert rows.keys() == set(slides.values())
    for patient, row in rows.items():
        for name in ("risk", "no event by 3 months", "no event by 9 months"):
            assert float(row[name]) == pytest.approx(float(evaluated[patient][name]), abs=1e-6)


@pytest.mark.parametrize("words", [(), (*COX, "--bags-per-step", "2")])
def test_methods_are_compared(planted: Planted, words: tuple[str, ...]) -> None:
    asked = ("--methods", "mean", "--epochs", "1", "--replace")
    compared = wsipipe("compare", "-c", planted.settings, *asked, *words)
    assert compared.exit_code == 0, compared.output
    with (planted.workspace / "comparisons/er/comparison.csv").open(newline="") as stream:
        assert [row["method"] for row in csv.DictReader(stream)] == ["abmil", "mean"]


@pytest.mark.parametrize(
    ("months", "died", "wrong"),
    [
        ("-3", "1", "times cannot be negative"),
        ("soon", "1", "is no number"),
        ("3", "2", "an event is 1 where it happened, and 0 where the patient was censored"),
        ("3", "perhaps", "an event is 1"),
        ("3", "0:DECEASED", "an event is 1"),
        ("0", "1", "has the event at the time 0"),
    ],
)
def test_follow_ups_that_make_no_sense(planted: Planted, tmp_path: Path, months: str, died: str, wrong: str) -> None:
    copy = planted.copied(tmp_path / "copy")
    lines = (planted.folder / "cohort.csv").read_text().splitlines()
    lines[1] = ",".join([*lines[1].split(",")[:2], months, died])
    (copy.folder / "cohort.csv").write_text("\n".join(lines))
    refused = wsipipe("train", "-c", copy.settings, "--replace", "--method", "mean")
    assert refused.exit_code == 1
    assert wrong in " ".join(refused.output.split())


def test_nobody_with_an_event_and_questions_that_make_no_sense(planted: Planted, tmp_path: Path) -> None:
    copy = planted.copied(tmp_path / "copy")
    lines = (planted.folder / "cohort.csv").read_text().splitlines()
    (copy.folder / "cohort.csv").write_text(
        "\n".join([lines[0], *(line.rsplit(",", 1)[0] + ",0" for line in lines[1:])])
    )
    assert "no patient has an event" in wsipipe("train", "-c", copy.settings, "--replace", "--method", "mean").output
    for given, wrong in (
        ({"task": "survival", "label_column": "x"}, "needs time_column and event_column"),
        ({"label_column": "x", "event_column": "died"}, "are for task survival"),
    ):
        with pytest.raises(UsageError, match=wrong):
            load_config(None, {"biomarkers": {"er": given}})
    refused = wsipipe("train", "-c", planted.settings, "--replace")
    assert "momkd cannot answer a survival question: its memory has slots for classes" in " ".join(
        refused.output.split()
    )
