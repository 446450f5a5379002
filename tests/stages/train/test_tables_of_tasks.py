"""Tables and records of every task, written and read back; what is no task's own is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from pydantic import ValidationError
from wsipipe.data.cohort.outcomes import Label, Survival, label_from_text, label_of
from wsipipe.data.errors import BundleError, StoreError, UsageError
from wsipipe.models.model_question import Question
from wsipipe.models.tasks.prediction import PatientPrediction, Score
from wsipipe.models.tasks.task import Task, find_task
from wsipipe.stages.predict.reading import SlideOutput, read_outputs, write_output
from wsipipe.stages.train.cross_validate import read_oof, write_oof

CLASSES = ("neg", "low;=1+", "high")
TASKS: dict[str, tuple[Task, list[Label], list[Score]]] = {
    "binary": (find_task("binary"), [0, 1], [-0.5, 2.25]),
    "multiclass": (find_task("multiclass", CLASSES), [0, 2], [(0.5, -0.25, -0.25), (-1.0, 0.0, 1.0)]),
    "ordinal": (find_task("ordinal", CLASSES), [1, 2], [(0.5, -0.25), (2.0, 1.0)]),
    "regression": (find_task("regression"), [-3.5, 12.0], [-2.0, 11.5]),
    "survival": (find_task("survival"), [Survival(3.0, True), Survival(0.0, False)], [-1.5, -3.25]),
}


def rows_of(name: str) -> tuple[Task, list[PatientPrediction]]:
    task, labels, scores = TASKS[name]
    rows = [
        PatientPrediction.of(f"=P{n}", [{n: score}], {n: 0.5}, task, prevalence=0.5, label=label)
        for n, (label, score) in enumerate(zip(labels, scores, strict=True))
    ]
    return task, rows


@pytest.mark.parametrize("name", TASKS)
def test_out_of_fold_predictions_are_read_as_they_were_written(name: str, tmp_path: Path) -> None:
    task, rows = rows_of(name)
    write_oof(tmp_path / "oof.csv", rows, task)
    again = read_oof(tmp_path / "oof.csv", task)
    for row, read in zip(rows, again, strict=True):
        assert (read.patient_id, read.label, read.folds, read.slides) == (row.patient_id, row.label, row.folds, 1)
        assert (read.probability, read.call, read.shares) == (row.probability, row.call, row.shares)
        assert task.figures([read], rounds=0, seed=0) == task.figures([row], rounds=0, seed=0)


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("binary", "label", "2"),
        ("binary", "label", "0.5"),
        ("binary", "call", "3"),
        ("binary", "threshold", ""),
        ("binary", "probability", "nan"),
        ("multiclass", "label", "3"),
        ("multiclass", "call", "-1"),
        ("multiclass", "probability of neg", "inf"),
        ("ordinal", "label", "1.0"),
        ("regression", "label", "event at 3"),
        ("regression", "label", "nan"),
        ("regression", "prediction", "high"),
        ("survival", "label", "3.0"),
        ("survival", "label", "event at -3"),
        ("survival", "call", "2"),
        ("survival", "risk", ""),
    ],
)
def test_an_edited_prediction_is_refused_by_line(name: str, column: str, value: str, tmp_path: Path) -> None:
    task, rows = rows_of(name)
    path = tmp_path / "oof.csv"
    write_oof(path, rows, task)
    header, first, *rest = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    first[header.index(column)] = value
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, first, *rest])
    with pytest.raises(StoreError, match="line 2 cannot be read"):
        read_oof(path, task)


def test_a_table_of_another_task_is_refused(tmp_path: Path) -> None:
    task, rows = rows_of("survival")
    write_oof(tmp_path / "oof.csv", rows, task)
    for other in ("binary", "regression", "multiclass"):
        with pytest.raises(StoreError, match="has no column"):
            read_oof(tmp_path / "oof.csv", TASKS[other][0])


@pytest.mark.parametrize("name", TASKS)
def test_the_scores_of_a_slide_are_those_of_its_task(name: str, tmp_path: Path) -> None:
    task, _, scores = TASKS[name]
    threshold = -2.5 if name == "survival" else 0.5
    output = SlideOutput(
        slide_id="s", patient_id="p", logits={0: scores[0]}, thresholds={0: threshold}, why="new", tiles=3
    )
    paths = {"s": write_output(tmp_path / "s.json", output)}
    assert read_outputs(paths, task) == {"s": output}
    for other in {"binary", "multiclass", "ordinal"} - {name}:
        if (name, other) != ("regression", "binary"):  # both have one number
            with pytest.raises(StoreError, match=f"task {other} does not have"):
                read_outputs(paths, TASKS[other][0])


def test_labels_as_tables_hold_them() -> None:
    for task, labels, _ in TASKS.values():
        assert [label_of(str(label), len(task.classes)) for label in labels] == labels
    for text in ("", "9" * 5000, "1" * 10 + "x", "event at inf", "event at", "nan", "²"):
        assert label_of(text, 3) is None
    assert label_from_text("event at soon") is None
    assert label_of("3", 3) is label_of("1.0", 3) is label_of("1", 0) is None


@pytest.mark.parametrize(
    ("given", "state", "wrong"),
    [
        ({"task": "multiclass", "classes": ["a"]}, {}, "two classes or more"),
        ({"task": "multiclass", "classes": ["a", "b", "a"]}, {}, "is there twice"),
        ({"task": "binary", "classes": ["a", "b"]}, {}, "classes are for task"),
        ({"task": "survival"}, {}, "needs time_column and event_column"),
        ({"task": "regression"}, {"centre": 1.0, "scale": 0.0}, "what its task regression has learned is damaged"),
        ({"task": "regression"}, {"centre": "a", "scale": 1.0}, "what its task regression has learned is damaged"),
        ({"task": "binary"}, {"centre": 1.0}, "what its task binary has learned is damaged"),
        (
            {"task": "survival", "time_column": "t", "event_column": "e"},
            {"edges": [3.0, 2.0], "end": 4.0},
            "do not rise",
        ),
    ],
)
def test_a_question_and_what_its_task_learned_are_checked(
    given: dict[str, object], state: dict[str, object], wrong: str
) -> None:
    shared = {"name": "q", "label_column": "x", "positive": ["positive"], "negative": ["negative"]}
    with pytest.raises((ValidationError, BundleError), match=wrong):
        Question.model_validate({**shared, **given}).asked(state)


def test_a_class_is_no_label_of_numbers() -> None:
    with pytest.raises(UsageError, match="a class is"):
        TASKS["multiclass"][0].value("P", 1.0, None)
