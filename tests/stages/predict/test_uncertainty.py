"""When predict gives no call: slides unlike those of training, too little tissue, blur, label sets of two classes."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from command import wsipipe
from planted_workspace import FEATURES, TILES, WIDTH, Floats, Planted, make_patients, plant, write_slide
from scipy.stats import betabinom
from trained_workspace import trained_workspace
from wsipipe.data.errors import BundleError
from wsipipe.data.features.store import read_bag
from wsipipe.models.applicability import FILE, Applicability, Fitness, Held, read_applicability
from wsipipe.models.bundle import folds_of, prevalence_of, read_bundle
from wsipipe.models.evaluation.conformal import LabelSet
from wsipipe.models.label_sets import label_set_of
from wsipipe.models.tasks.prediction import PatientPrediction
from wsipipe.models.tasks.task import find_task
from wsipipe.stages.pages.asked_question import Question
from wsipipe.stages.predict.prediction_report import PredictionReportSettings, PredictionReportStage
from wsipipe.stages.predict.settings import PredictSettings
from wsipipe.stages.predict.stage import PredictionTask, PredictStage
from wsipipe.stages.predict.uncertainty import Judge, doubts_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return trained_workspace(tmp_path_factory.getbasetemp())


@pytest.fixture
def planted(trained: Planted, tmp_path: Path) -> Planted:
    return trained.copied(tmp_path / "planted")


def known_by(model: Path) -> Applicability:
    known = read_applicability(model, [path for path, _ in folds_of(model)])
    assert known is not None
    return known


def noise(seed: int, tiles: int = 12) -> Floats:
    return np.random.default_rng(seed).normal(0, 1, (tiles, WIDTH)).astype(np.float32)


def predict(
    planted: Planted, slides: Mapping[str, str], *, alpha: float = 0.1, name: str = "new"
) -> dict[tuple[str, str], dict[str, str]]:
    """Predict slides (slide → patient) and return the rows of the table, by level and id."""
    task = PredictionTask(
        model=planted.model, tiles=planted.workspace / TILES, features=planted.workspace / FEATURES, slides=slides
    )
    folder, runner = planted.workspace / "predictions" / name, planted.runner()
    for stage in (
        PredictStage(PredictSettings(device="cpu"), folder, planted.workspace, task),
        PredictionReportStage(PredictionReportSettings(alpha=alpha), folder, planted.workspace, task),
    ):
        assert not (summary := runner.run(stage)).failures, summary
    with (folder / "predictions.csv").open(newline="") as stream:
        return {(row["level"], row[f"{row['level']}_id"]): row for row in csv.DictReader(stream)}


def test_cross_validation_keeps_what_it_saw_of_held_out_slides(planted: Planted) -> None:
    known = known_by(planted.model)
    stores = [read_bag(planted.store(slide)) for patient in planted.patients for slide in patient.slides]
    assert known.slides == len(stores)
    counts = [len(bag.features) for bag in stores]
    assert (known.fewest_tiles, known.most_tiles) == (min(counts), max(counts))
    with (planted.model / "oof_predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for label, own in enumerate(known.held[""].strangeness):
        for fold, values in own.items():
            of_fold = [r for r in rows if r["label"] == str(label) and r["fold"] == str(fold)]
            odds = [float(row["logit"]) * (-1 if label else 1) for row in of_fold]
            assert values == pytest.approx(sorted(1 / (1 + np.exp(-np.array(odds)))), abs=1e-6)
    text = (planted.model / FILE).read_text()
    assert not [patient.id for patient in planted.patients if f'"{patient.id}"' in text or f"{patient.id} " in text]
    assert planted.runner().run(planted.evaluator()).before == 1
    before = text
    (planted.model / FILE).unlink()
    assert planted.runner().run(planted.evaluator()).done == 1
    assert (planted.model / FILE).read_text() == before, "the same bytes again"


def test_another_training_does_not_use_it_and_a_changed_one_is_refused(planted: Planted) -> None:
    paths = [path for path, _ in folds_of(planted.model)]
    assert read_applicability(planted.model, paths[::-1]) is None
    file = planted.model / FILE
    content = json.loads(file.read_text())
    for change in ({"slides": 1}, {"tiles_limit": 0.5}, {"encoding-version": "9"}, {"held": {}}):
        file.write_text(json.dumps(content | change))
        with pytest.raises(BundleError):
            read_applicability(planted.model, paths)
    file.unlink()
    assert read_applicability(planted.model, paths) is None


def test_a_slide_unlike_those_of_training_gets_no_call(planted: Planted) -> None:
    write_slide(planted, "like", noise(1))
    write_slide(planted, "shifted", noise(2) + 4)
    # Its mean is that of the others, but no tile is.
    write_slide(planted, "torn", noise(3) + 8 * np.repeat([[1.0], [-1.0]], 6, axis=0).astype(np.float32))
    write_slide(planted, "tiny", noise(4, tiles=1))
    rows = predict(planted, {"like": "A", "shifted": "B", "torn": "C", "tiny": "D"})
    doubts = {slide: rows["slide", slide]["uncertain"] for slide in ("like", "shifted", "torn", "tiny")}
    assert "unlike the training slides" not in doubts["like"]
    assert "its mean feature lies" in doubts["shifted"]
    assert "its tiles lie" in doubts["torn"]
    assert "too little tissue: 1 tile, and the training slides have 6 to 20" in doubts["tiny"]
    for slide, patient in (("shifted", "B"), ("torn", "C"), ("tiny", "D")):
        assert rows["slide", slide]["call"] == rows["patient", patient]["call"] == "uncertain"
        assert rows["slide", slide]["uncertain"] == rows["patient", patient]["uncertain"]
    page = (planted.workspace / "predictions/new/report.html").read_text()
    assert "too little tissue: 1 tile" in page


def test_the_numbers_are_those_of_a_model_that_cannot_judge(planted: Planted) -> None:
    write_slide(planted, "shifted", noise(2) + 4)
    judged = predict(planted, {"shifted": "B"})["slide", "shifted"]
    (planted.model / FILE).unlink()
    plain = predict(planted, {"shifted": "B"}, name="plain")["slide", "shifted"]
    for column in ("probability", "spread", "threshold", "prevalence", "folds", "model"):
        assert judged[column] == plain[column]
    assert (judged["call"], plain["uncertain"], plain["possible"]) == ("uncertain", "", "")
    assert plain["call"] in ("positive", "negative")
    assert "cannot say when it should not answer" in (planted.workspace / "predictions/plain/report.html").read_text()


def test_a_patient_with_one_doubtful_slide_is_uncertain_and_the_slide_is_named(planted: Planted) -> None:
    write_slide(planted, "good", noise(1))
    write_slide(planted, "bad", noise(2) + 4)
    rows = predict(planted, {"good": "A", "bad": "A"})
    assert rows["patient", "A"]["call"] == "uncertain"
    assert "bad: unlike the training slides" in rows["patient", "A"]["uncertain"]
    assert "unlike" not in rows["slide", "good"]["uncertain"]


def test_the_level_decides_without_reading_a_slide_again(planted: Planted) -> None:
    for n in range(8):
        write_slide(planted, f"n{n}", noise(100 + n))
    slides = {f"n{n}": f"N{n}" for n in range(8)}
    strict = predict(planted, slides, alpha=0.3)
    heatmaps = {path: path.stat().st_mtime_ns for path in planted.workspace.glob("predictions/new/slides/*.json")}
    lenient = predict(planted, slides, alpha=0.06)
    assert heatmaps == {path: path.stat().st_mtime_ns for path in heatmaps}
    for key, row in lenient.items():
        small, large = strict[key]["possible"].split(" or "), row["possible"].split(" or ")
        assert small == ["none"] or set(small) <= set(large), "sets grow with the level"
        not_one = " or " in row["possible"] or row["possible"] == "none"
        assert not_one == ("possible at" in row["uncertain"] or "no class" in row["uncertain"])
        assert row["probability"] == strict[key]["probability"]
    assert any(" or " in row["possible"] for row in lenient.values())
    few = predict(planted, slides, alpha=0.01)
    assert {row["possible"] for row in few.values()} == {""}
    page = (planted.workspace / "predictions/new/report.html").read_text()
    assert "needs 99 held-out patients of each class, and there are 20 negative, 20 positive" in page


def test_the_tables_say_the_same(planted: Planted) -> None:
    write_slide(planted, "a", noise(1))
    write_slide(planted, "b", noise(2) + 4)
    rows = predict(planted, {"a": "A", "b": "B"})
    folder = planted.workspace / "predictions/new"
    document = json.loads((folder / "predictions.json").read_text())
    assert (document["model"], document["judged"], document["alpha"]) == ("er", True, 0.1)
    for own in (document["rows"], pq.read_table(folder / "predictions.parquet").to_pylist()):
        for row in own:
            text = rows[row["level"], row[f"{row['level']}_id"]]
            assert list(row) == list(text)
            assert row["probability"] == float(text["probability"])
            assert "; ".join(row["uncertain"] or []) == text["uncertain"]
            assert row["call"] == text["call"]


def fitness(**changed: object) -> Fitness:
    usual = {"tiles": 12, "slide_distance": 1.0, "tile_distance": 1.0, "sharpness": 3.0, "bad_tiles": 0.0, "by": ""}
    return Fitness.model_validate(usual | changed)


def test_blur_and_undecoded_tiles(trained: Planted) -> None:
    known = known_by(trained.model).model_copy(update={"sharpness_limit": 2.4, "sharpness_usual": 2.6})
    assert doubts_of(fitness(), known) == ()
    assert doubts_of(fitness(sharpness=2.0), known) == (), "less sharp than training, and still sharp"
    assert doubts_of(fitness(sharpness=1.1), known) == ("blurred: sharpness 1.1, of the training slides 2.6",)
    assert doubts_of(fitness(sharpness=1.1), known.model_copy(update={"sharpness_limit": 0.9})) == (), "as training"
    assert doubts_of(fitness(sharpness=None), known) == ()
    assert doubts_of(fitness(bad_tiles=0.05), known) == ("damaged: 5 % of its tiles could not be decoded",)
    assert doubts_of(fitness(bad_tiles=0.05), known.model_copy(update={"most_bad_tiles": 0.06})) == ()
    assert doubts_of(None, known) == doubts_of(fitness(sharpness=0.1), None) == ()


@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_sets_of_a_planted_cohort_hold_the_label_as_often_as_stated(trained: Planted, alpha: float) -> None:
    """New patients of the same cohort: of each class, the share in which the set holds it lies in its interval.

    Of n held-out patients, the coverage itself is a draw from a beta distribution, so the number of covered patients
    is beta-binomial (Angelopoulos and Bates, Foundations and Trends in Machine Learning 16, 2023).
    """
    known, folds = known_by(trained.model), folds_of(trained.model)
    bundles = {facts.fold: read_bundle(path, torch.device("cpu")) for path, facts in folds}
    task, prevalence = bundles[0].facts.task, prevalence_of(folds, None)
    pattern = read_bag(trained.store("S00a"))
    covered, number = [0, 0], 200
    for patient in make_patients(2 * number, seed=23):
        scores = []
        for bag in patient.slides.values():
            coords = np.stack([np.arange(len(bag)) % 5, np.arange(len(bag)) // 5], axis=1) * 224
            whole = replace(pattern, features=bag, coords=coords)
            scores.append({fold: bundle.read(whole, Path("new")).logit for fold, bundle in bundles.items()})
        thresholds = {fold: bundle.facts.threshold for fold, bundle in bundles.items()}
        p = PatientPrediction.of(patient.id, scores, thresholds, task, prevalence=prevalence)
        by_fold = {fold: task.join([score[fold] for score in scores]) for fold in bundles}
        chosen = label_set_of(task, known.held[""], by_fold, p, alpha).classes
        assert chosen is not None
        label = int(patient.label == "positive")
        covered[label] += label in chosen
    for count in covered:
        left_out = int(alpha * 21)  # of 20 held-out patients a class
        low, high = betabinom.interval(0.999, number, 21 - left_out, left_out)
        assert low <= count <= high, covered


@pytest.mark.parametrize(("n", "why"), [(8, "an interval at 90 % needs 9 held-out patients, and there are 8"), (9, "")])
def test_an_interval_speaks_of_patients_and_not_of_classes(n: int, why: str) -> None:
    task = find_task("regression")
    predicted = PatientPrediction(
        patient_id="P", label=None, probability=5.0, logit=5.0, threshold=0.0, call=0, slides=1, folds=(0,)
    )
    held = Held(residuals=[float(residual) for residual in range(n)])
    found = label_set_of(task, held, {0: 5.0}, predicted, 0.1)
    assert (found.why_not, found.between) == (why, None if why else (-3.0, 13.0))


def test_the_page_says_who_is_called_without_a_set(trained: Planted) -> None:
    def patient(name: str, folds: tuple[int, ...], there: str = "") -> PatientPrediction:
        label_set = LabelSet(needed=needed, there=there) if there else LabelSet(classes=(1,))
        return PatientPrediction(
            patient_id=name,
            label=None,
            probability=0.7,
            logit=1.0,
            threshold=0.5,
            call=1,
            slides=1,
            folds=folds,
            label_set=label_set,
        )

    needed = "a set at 90 % needs 9 held-out patients of each class"
    new, one, two = (
        patient("new", (0, 1, 2)),
        patient("one", (1,), "4 negative, 5 positive"),
        patient("two", (2,), "5 negative, 4 positive"),
    )
    judge = Judge(
        known=known_by(trained.model),
        task=find_task("binary"),
        question=Question(label_column="ER", positive="positive", negative="negative"),
        alpha=0.1,
    )
    said = [dict(judge.facts(patients))["label sets"] for patients in ([new], [new, one, one, two], [one])]
    hold = "hold the label of 90 % of the patients of each class (--alpha)"
    counts = "4 negative, 5 positive by fold 1; 5 negative, 4 positive by fold 2"
    assert said == [
        hold,
        f"{hold}; 3 of 4 patients are called without one: {needed}, and there are {counts}",
        f"{needed}, and there are 4 negative, 5 positive by fold 1",
    ]


def test_an_interval_of_a_number_and_none_of_survival(tmp_path: Path) -> None:
    from task_workspace import Asked, plant_task

    values = np.random.default_rng(3).uniform(0, 50, 30)
    asked = [Asked({"score": f"{value:.2f}"}, float(value) / 20) for value in values]
    planted = plant_task(tmp_path, asked, 'label_column = "score"\n        task = "regression"', epochs=2, rna=False)
    assert wsipipe("train", "-c", planted.settings, "--method", "mean").exit_code == 0
    known = known_by(planted.model)
    residuals = sorted(known.held[""].residuals)
    assert len(residuals) == 30
    write_slide(planted, "new", noise(1))
    row = predict(planted, {"new": "N"})["patient", "N"]
    low, high = map(float, row["possible"].replace("−", "-").split(" to "))
    limit = residuals[28 - 1]  # ⌈31 · 0.9⌉
    assert (low, high) == pytest.approx((float(row["prediction"]) - limit, float(row["prediction"]) + limit), abs=0.01)
    assert row["call"] == ""


def test_a_cohort_too_small_to_compare_says_so(tmp_path: Path) -> None:
    planted = plant(tmp_path, make_patients(8), epochs=1)
    assert wsipipe("train", "-c", planted.settings).exit_code == 0
    known = known_by(planted.model)
    assert known.slides >= 8
    write_slide(planted, "new", noise(1))
    row = predict(planted, {"new": "N"})["patient", "N"]
    assert row["possible"] == ""
    assert (
        "needs 9 held-out patients of each class, and there are 4 negative"
        in (planted.workspace / "predictions/new/report.html").read_text()
    )
