"""What the list says of patients whose labels are known: target, prediction, and whether it is right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from external_workspace import evaluate, external_workspace, model_at, predictions
from wsipipe.data.cohort.labels import PatientLabels
from wsipipe.data.cohort.outcomes import Label, Survival
from wsipipe.models.tasks.multiclass import MulticlassTask
from wsipipe.models.tasks.prediction import PatientPrediction
from wsipipe.models.tasks.regression import RegressionTask
from wsipipe.models.tasks.survival import SurvivalTask
from wsipipe.models.tasks.task import Task
from wsipipe.pipeline.view.predictions import Said, of_patients, predicted
from wsipipe.pipeline.view.slide_list import Workspace
from wsipipe.stages.train.cross_validate import write_oof
from wsipipe.stages.train.patient_table import write_patients


def test_an_evaluation_is_listed_with_what_was_right(tmp_path: Path) -> None:
    place = external_workspace(tmp_path)
    evaluate(place)
    workspace = Workspace(place / "work")
    listed = workspace.slides()
    said, table = listed.said["her2 (evaluated)"], predictions(place)
    assert listed.notes == ()
    assert said.keys() == {row.id for row in listed.rows.values()}
    for slide, one in said.items():
        row = table[f"P{slide.removeprefix('S').rstrip('abc')}"]
        names = {"0": "negative", "1": "positive"}
        assert (one.call, one.target, one.status) == (names[row["call"]], names[row["label"]], "done")
        assert one.right == (row["call"] == row["label"])
        assert float(one.value) == pytest.approx(float(row["probability"]), rel=0.01)
    assert {one.right for one in said.values()} == {True, False}
    assert {row.state for row in listed.rows.values()} == {"predicted"}
    assert not any(scored.stale for row in listed.rows.values() for scored in row.scored)

    model_at(place / "development/models/her2", seed=1)  # the evaluation was of another model
    assert {one.status for one in Workspace(place / "work").slides().said["her2 (evaluated)"].values()} == {"stale"}


def prediction(patient: str, label: Label, call: int, shares: tuple[float, ...] = ()) -> PatientPrediction:
    return PatientPrediction(
        patient_id=patient,
        label=label,
        probability=0.625,
        logit=0.25,
        threshold=0.5,
        call=call,
        slides=1,
        folds=(0,),
        prevalence=(),
        shares=shares,
    )


def said_of(folder: Path, task: Task, rows: Mapping[str, PatientPrediction]) -> dict[str, Said]:
    write_oof(folder / "oof.csv", list(rows.values()), task)
    labels = {patient: row.label for patient, row in rows.items()}
    slides = {patient: (f"{patient}; 1", f"{patient} 2") for patient in rows}
    write_patients(folder / "patients.csv", PatientLabels("x", labels, slides, {}, ()))
    found = of_patients(folder / "oof.csv", folder / "patients.csv")
    assert len(found) == 2 * len(rows)
    return {patient: found[f"{patient}; 1"] for patient in rows}


def test_classes_have_their_names(tmp_path: Path) -> None:
    task = MulticlassTask(("low", "call", "very, high"))
    rows = {"p": prediction("p", 2, 2, (0.1, 0.2, 0.7)), "q": prediction("q", 0, 1, (0.2, 0.5, 0.3))}
    said = said_of(tmp_path, task, rows)
    found = said["p"]
    assert (found.target, found.call, found.value, found.right) == ("very, high", "very, high", "0.625", True)
    assert (said["q"].target, said["q"].call, said["q"].right) == ("low", "call", False)


def test_numbers_and_follow_ups_have_a_target_and_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    [said] = said_of(tmp_path, RegressionTask(), {"p": prediction("p", 17.23456, 0)}).values()
    assert (said.target, said.call, said.value, said.right) == ("17.2", "", "0.625", None)
    [said] = said_of(tmp_path, SurvivalTask(), {"p": prediction("p", Survival(31.5, True), 1)}).values()
    assert (said.target, said.call, said.value, said.right) == ("event at 31.5", "", "0.625", None)


def test_of_several_targets_each_has_its_call_value_and_doubt(tmp_path: Path) -> None:
    columns = ["probability", "spread", "threshold", "call", "prevalence", "uncertain", "possible"]
    header = ["level", "patient_id", "slide_id", "status", *(f"{of} {name}" for of in ("er", "pr") for name in columns)]
    cells = [
        "slide",
        "p",
        "s",
        "done",
        *["0.9", "0.1", "0.5", "positive", "0.5", "", ""],
        *["0.52", "0.1", "0.5", "", "0.5", "blurred", ""],
    ]
    (tmp_path / "predictions.csv").write_text("\n".join(",".join(line) for line in (header, cells)) + "\n")
    said = predicted(tmp_path / "predictions.csv")["s"]
    assert (said.call, said.value, said.uncertain) == ("er positive", "0.9, 0.52", "pr: blurred")
