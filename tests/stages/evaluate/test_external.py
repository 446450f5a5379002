"""`wsipipe evaluate`: a model's word on another cohort is the bundles' own, honest, and fits nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from external_workspace import (
    COHORT,
    THRESHOLDS,
    by_hand,
    dropped,
    evaluate,
    external_workspace,
    metrics,
    model_at,
    predictions,
    table_at,
)
from planted_workspace import Planted, digest_of_slide, write_slide
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score
from wsipipe.data.errors import BundleError, CohortError, UsageError
from wsipipe.data.features.store import read_bag
from wsipipe.models.applicability import FILE, HeldOutSlide, applicability_of, write_applicability
from wsipipe.models.bundle import folds_of
from wsipipe.models.tasks.prediction import threshold_at
from wsipipe.stages.evaluate.cohort import SEEN_BY_ALL


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return external_workspace(tmp_path_factory.mktemp("made"))


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy to play with."""
    return Path(shutil.copytree(made, tmp_path / "place"))


# Numbers


def test_predictions_and_auc_are_what_the_bundles_say_read_by_hand(place: Path) -> None:
    read, judged = evaluate(place)
    assert (read.done, judged.done) == (15, 1)
    rows = predictions(place)
    assert list(rows) == sorted(COHORT)
    alone: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for patient, slides in COHORT.items():
        by_fold = [np.mean([by_hand(place, slide, fold) for slide in slides]) for fold in range(3)]
        for fold, score in enumerate(by_fold):
            alone[fold].append(float(expit(score)))
        row = rows[patient]
        assert float(row["logit"]) == pytest.approx(np.mean(by_fold))
        assert float(row["probability"]) == pytest.approx(expit(np.mean(by_fold)))
        assert float(row["spread"]) == pytest.approx(np.std(expit(by_fold), ddof=1))
        assert float(row["threshold"]) == pytest.approx(np.mean(THRESHOLDS))
        assert row["call"] == str(int(expit(np.mean(by_fold)) >= np.mean(THRESHOLDS)))
        assert (row["label"], row["slides"], row["folds"]) == (str(int(patient[1:]) % 2), str(len(slides)), "0;1;2")
    assert {row["call"] for row in rows.values()} == {"0", "1"}  # else the calls would test nothing

    labels = [int(patient[1:]) % 2 for patient in COHORT]
    found = metrics(place)
    probabilities = [float(rows[patient]["probability"]) for patient in COHORT]
    assert found["pooled"]["auc"]["value"] == pytest.approx(roc_auc_score(labels, probabilities))
    assert found["pooled"]["auc"]["low"] <= found["pooled"]["auc"]["value"] <= found["pooled"]["auc"]["high"]
    aucs = [roc_auc_score(labels, alone[fold]) for fold in range(3)]
    assert [fold["auc"]["value"] for fold in found["folds"]] == pytest.approx(aucs)
    assert (found["auc_mean"], found["auc_sd"]) == pytest.approx((np.mean(aucs), np.std(aucs, ddof=1)))
    for fold, threshold in enumerate(THRESHOLDS):
        called = sum(p >= threshold for p, y in zip(alone[fold], labels, strict=True) if y)
        assert found["folds"][fold]["true_positives"] == called
    assert dropped(place) == {}


def test_nothing_is_fitted_other_labels_change_no_prediction(place: Path) -> None:
    evaluate(place)
    before = predictions(place)
    table_at(place / "external.csv", P0="positive", P3="negative", P5="negative")
    read, judged = evaluate(place)
    assert (read.done, read.before, judged.done) == (0, 15, 1)
    after = predictions(place)
    assert after["P3"]["label"] == "0" != before["P3"]["label"]
    assert [{**row, "label": ""} for row in after.values()] == [{**row, "label": ""} for row in before.values()]


def test_slides_on_which_predict_would_give_no_call_are_named(place: Path) -> None:
    evaluate(place)
    before = predictions(place)
    assert metrics(place)["uncertain_slides"] is None, "the model has no applicability.json"
    assert "Not compared: this model cannot say" in (place / "work/evaluations/her2/report.html").read_text()
    model = place / "development/models/her2"
    features = {slide: read_bag(Planted(place).store(slide)).features for slides in COHORT.values() for slide in slides}
    # The model is said to have been trained on slides such as these, but for one.
    training = [
        HeldOutSlide.of(n % 3, bag, bad_tiles=0, sharpness=None) for n, (_, bag) in enumerate(sorted(features.items()))
    ]
    write_applicability(model / FILE, applicability_of(training, {}, [path for path, _ in folds_of(model)]))
    write_slide(Planted(place), "S3", features["S3"] + 1000)
    read, judged = evaluate(place)
    assert (read.done, judged.done) == (15, 1)
    uncertain = metrics(place)["uncertain_slides"]
    assert list(uncertain) == ["S3"]
    assert uncertain["S3"][0].startswith("unlike the training slides: its mean feature lies")
    page = (place / "work/evaluations/her2/report.html").read_text()
    assert "Slides on which predict would give no call: 1 of 15. They are in all figures here" in page
    assert '<tr><th scope="row">S3</th><td>unlike the training slides' in page
    after = predictions(place)
    assert {patient for patient in after if after[patient] != before[patient]} <= {"P3"}


# Honesty


def test_a_fold_is_silent_on_patients_and_slides_that_it_knows(place: Path) -> None:
    shutil.rmtree(place / "development")
    model_at(
        place / "development/models/her2",
        seen=[
            ["P4", "P7", digest_of_slide("S6")],
            ["P7", digest_of_slide("S2b"), digest_of_slide("S6")],
            ["P7", digest_of_slide("S6")],
        ],
    )
    _, judged = evaluate(place, training_patients=True)
    rows = predictions(place)
    assert dropped(place) == {"P6": SEEN_BY_ALL, "P7": SEEN_BY_ALL}
    assert not (place / "work/evaluations/her2/readings/S7.json").exists()
    partly = {patient: row["folds"] for patient, row in rows.items() if row["folds"] != "0;1;2"}
    # One slide of P2 has the bytes of one of fold 1's: that fold knows the patient, and says nothing of the others.
    assert partly == {"P2": "0;2", "P4": "1;2"}
    by_fold = [np.mean([by_hand(place, slide, fold) for slide in COHORT["P2"]]) for fold in (0, 2)]
    assert float(rows["P2"]["logit"]) == pytest.approx(np.mean(by_fold))
    assert float(rows["P2"]["threshold"]) == pytest.approx(np.mean([THRESHOLDS[0], THRESHOLDS[2]]))
    assert [fold["n_patients"] for fold in metrics(place)["folds"]] == [9, 9, 10]
    assert "patients that some folds were trained on, read by the others: 2" in judged.notes
    page = (place / "work/evaluations/her2/report.html").read_text()
    assert "read by the other folds: 2. To that extent this is not another cohort" in page
    assert "by their id, but not by a slide: 2 patients" in page  # P4 and P7
    assert any("by id, but not by slide: P4, P7. If the patients of another" in note for note in judged.notes)
    assert f"Dropped: {SEEN_BY_ALL}" in page


def test_ids_that_are_other_peoples_keep_no_fold_from_reading(place: Path) -> None:
    shutil.rmtree(place / "development")
    seen = [["P4", "P7", digest_of_slide("S6")], ["P7"], ["P7"]]
    model_at(place / "development/models/her2", seen=seen, slides=[["S3"], [], []])
    with pytest.raises(CohortError, match="1 of 12 patients trained this model: P6"):
        evaluate(place, other_patients=True)
    evaluate(place, other_patients=True, training_patients=True)
    rows = predictions(place)
    assert dropped(place) == {}
    assert {patient for patient, row in rows.items() if row["folds"] != "0;1;2"} == {"P6"}, "its bytes trained fold 0"
    assert rows["P6"]["folds"] == "1;2"


def test_a_slide_of_the_table_that_is_not_here_counts_too(place: Path) -> None:
    """Fold 2 was trained on a slide that the table gives to P5, and that was never copied to this workspace."""
    shutil.rmtree(place / "development")
    model_at(place / "development/models/her2", slides=[[], [], ["S5-older"]])
    table_at(place / "external.csv", {**COHORT, "P5": ["S5", "S5-older"]})
    evaluate(place, training_patients=True)
    assert {p: row["folds"] for p, row in predictions(place).items() if row["folds"] != "0;1;2"} == {"P5": "0;1"}


def test_patients_who_trained_the_model_are_refused_unless_they_are_asked_for(place: Path) -> None:
    shutil.rmtree(place / "development")
    model_at(place / "development/models/her2", seen=[["P4", "P5"], ["P4"], []])
    with pytest.raises(CohortError, match="2 of 12 patients trained this model: P4, P5") as caught:
        evaluate(place)
    assert caught.value.path == str(place / "external.csv")
    assert "--training-patients" in caught.value.hint
    assert "--other-patients" in caught.value.hint
    assert not (place / "work/evaluations/her2/report.html").exists()


@pytest.mark.parametrize(
    ("patients", "kind", "whom"),
    [
        ([], "External evaluation", "on another cohort"),
        (
            ["P4", "P5"],
            "Evaluation on patients that include training patients",
            "on 12 patients, 2 of whom some of its folds were",
        ),
        (list(COHORT), "Evaluation on the training cohort", "on 12 patients, 12 of whom some of its folds were"),
    ],
)
def test_the_page_says_on_whom_the_model_is_judged(place: Path, patients: list[str], kind: str, whom: str) -> None:
    shutil.rmtree(place / "development")
    model_at(place / "development/models/her2", seen=[[*patients, "T0"], ["T1"], ["T2"]])
    evaluate(place, training_patients=bool(patients))
    page = (place / "work/evaluations/her2/report.html").read_text()
    assert f'<p class="kind">{kind}</p>' in page
    assert whom in page
    assert ("Model her2 on another cohort. Does" in page) == (not patients)


def test_whatever_shows_a_probability_says_at_which_prevalence(place: Path) -> None:
    evaluate(place)
    assert {row["prevalence"] for row in predictions(place).values()} == {"0.5"}
    assert metrics(place)["prevalence"] == 0.5
    assert "at a prevalence of 50 %" in (place / "work/evaluations/her2/report.html").read_text()


def test_probabilities_are_at_the_training_patients_prevalence_or_at_the_given_one(place: Path) -> None:
    evaluate(place)
    even, page = predictions(place), (place / "work/evaluations/her2/report.html").read_text()
    shutil.rmtree(place / "development")
    model_at(place / "development/models/her2", prevalence=0.15)
    evaluate(place)
    own = predictions(place)
    evaluate(place, prevalence=0.4)
    given = predictions(place)
    for rows, prevalence in ((own, 0.15), (given, 0.4)):
        for patient, row in rows.items():
            assert float(row["prevalence"]) == pytest.approx(prevalence)
            assert float(row["probability"]) == pytest.approx(expit(float(row["logit"]) + logit(prevalence)))
            assert float(row["threshold"]) == pytest.approx(threshold_at(float(even[patient]["threshold"]), prevalence))
            assert (row["call"], row["logit"]) == (even[patient]["call"], even[patient]["logit"])
    assert metrics(place)["prevalence"] == 0.4
    now = (place / "work/evaluations/her2/report.html").read_text()
    assert "at a prevalence of 40 %" in now
    assert "one that says 40 % of each" in now
    assert "at a prevalence of 50 %" in page


def test_a_model_that_does_not_say_its_prevalence_is_refused_until_one_is_given(place: Path) -> None:
    shutil.rmtree(place / "development")
    model_at(place / "development/models/her2", prevalence=None)
    with pytest.raises(BundleError, match="training patients were positive"):
        evaluate(place)
    evaluate(place, prevalence=0.15)
    assert {row["prevalence"] for row in predictions(place).values()} == {"0.15"}


def test_of_one_fold_there_is_no_spread(place: Path) -> None:
    shutil.rmtree(place / "development")
    model_at(place / "development/models/her2", seen=[["P4"], [], ["P4"]])
    evaluate(place, training_patients=True)
    row = predictions(place)["P4"]
    assert (row["folds"], row["spread"], row["threshold"]) == ("1", "", str(THRESHOLDS[1]))


def test_a_model_is_not_judged_on_its_own_patients(place: Path) -> None:
    shutil.rmtree(place / "development")
    model_at(place / "development/models/her2", seen=[list(COHORT)] * 3)
    with pytest.raises(CohortError, match=rf"no patient is left to evaluate on: {SEEN_BY_ALL} \(12\)") as caught:
        evaluate(place, training_patients=True)
    assert caught.value.path == str(place / "external.csv")
    assert "give their ids a prefix" in caught.value.hint


# Labels


def test_another_cohort_may_name_its_labels_otherwise(place: Path) -> None:
    evaluate(place)
    usual = predictions(place)
    text = (place / "external.csv").read_text()
    text = text.replace("HER2", "erbb2_ihc").replace("positive", "3+").replace("negative", "0")
    (place / "external.csv").write_text(text)
    with pytest.raises(CohortError, match="there is no column 'HER2'"):
        evaluate(place)
    with pytest.raises(CohortError, match="no row of column erbb2_ihc is negative"):
        evaluate(place, label_column="erbb2_ihc")
    with pytest.raises(UsageError, match=r"made with other settings .*label_column HER2 → erbb2_ihc"):
        evaluate(place, label_column="erbb2_ihc", positive=["3+"], negative=["0", "1+"])
    evaluate(place, label_column="erbb2_ihc", positive=["3+"], negative=["0", "1+"], replace=True)
    assert predictions(place) == usual
    assert "erbb2_ihc" in (place / "work/evaluations/her2/report.html").read_text()


def test_a_value_cannot_mean_both(place: Path) -> None:
    with pytest.raises(UsageError, match="negative cannot mean both") as caught:
        evaluate(place, positive=["negative"])
    assert "override both" in caught.value.hint


def test_conflicting_labels_are_refused_or_dropped(place: Path) -> None:
    with (place / "external.csv").open("a") as stream:
        stream.write("S1c,P1,negative\n")
    with pytest.raises(CohortError, match="P1 "):
        evaluate(place)
    evaluate(place, drop_conflicts=True)
    assert dropped(place) == {"P1": "labels conflict"}
    assert len(predictions(place)) == 11


@pytest.mark.parametrize("label", ["positive", "negative"])
def test_a_cohort_of_one_class_has_predictions_and_says_what_is_undefined(place: Path, label: str) -> None:
    table_at(place / "external.csv", P0="equivocal", P1="", **{f"P{n}": label for n in range(2, 12)})
    _, judged = evaluate(place)
    assert judged.done == 1
    assert {row["label"] for row in predictions(place).values()} == {str(int(label == "positive"))}
    assert dropped(place) == {"P0": "label equivocal (equivocal)", "P1": "label missing"}
    pooled = metrics(place)["pooled"]
    assert pooled["auc"] == {"value": None, "low": None, "high": None}
    assert pooled["brier"]["value"] is not None
    page = (place / "work/evaluations/her2/report.html").read_text()
    assert "All patients have the same label" in page
    assert "With patients of one class alone" in page


def test_a_class_that_is_only_written_otherwise_is_refused(place: Path) -> None:
    text = (place / "external.csv").read_text()
    (place / "external.csv").write_text(text.replace("positive", "pos"))
    with pytest.raises(CohortError, match="no row of column HER2 is positive") as caught:
        evaluate(place)
    assert "pos (" in caught.value.hint
