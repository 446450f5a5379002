"""Which patients' slides a report shows: known answers of the rule for each task."""

from __future__ import annotations

import pytest
from wsipipe.data.cohort.outcomes import Label, Survival
from wsipipe.models.tasks.prediction import PatientPrediction
from wsipipe.stages.pages.asked_question import Question
from wsipipe.stages.paper.examples import SLIDES_OF_A_PATIENT, examples_of, slides_shown

BINARY = Question(label_column="er", positive="ER+", negative="ER-")


def row(patient: str, label: Label, value: float, call: int = 0, threshold: float = 0.5) -> PatientPrediction:
    return PatientPrediction(
        patient_id=patient,
        label=label,
        probability=value,
        logit=0,
        threshold=threshold,
        call=call,
        slides=1,
        folds=(1,),
    )


def chosen(question: Question, rows: list[PatientPrediction]) -> dict[str, str]:
    found = examples_of("", question, rows, {})
    return {example.row.patient_id: example.why for example in found.shown}


def test_two_classes() -> None:
    rows = [
        row("p1", 1, 0.9, 1), row("p2", 1, 0.97, 1), row("n1", 0, 0.05, 0), row("n2", 0, 0.2, 0),
        row("w1", 0, 0.8, 1), row("w2", 1, 0.4, 0), row("m", 1, 0.85, 1),
    ]  # fmt: skip
    assert chosen(BINARY, rows) == {
        "p2": "most certain of those rightly called ER+",
        "n1": "most certain of those rightly called ER-",
        "w1": "most certain of those wrongly called",
        "m": "median certainty",
    }
    found = examples_of("", BINARY, rows, {"p2": ["c", "a", "b"], "n1": ["n"]})
    assert found.shown[0].slides == ("a", "b")
    assert (len(found.shown[0].slides), found.shown[0].of_slides) == (SLIDES_OF_A_PATIENT, 3)
    assert found.shown[0].said == "ER+, called ER+; probability 0.970, threshold 0.500"
    assert found.note == ""
    assert "distance of the probability from the threshold" in found.rule


def test_the_order_of_the_rows_does_not_matter_and_ties_go_by_id() -> None:
    rows = [row("b", 1, 0.9, 1), row("a", 1, 0.9, 1), row("c", 0, 0.1, 0)]
    assert chosen(BINARY, rows) == chosen(BINARY, rows[::-1])
    assert "a" in chosen(BINARY, rows)


def test_nobody_is_wrong_or_of_a_class() -> None:
    found = examples_of("", BINARY, [row("a", 1, 0.9, 1)], {})
    assert found.note == "Nobody is rightly called ER-, nor wrongly called."
    assert [example.why for example in found.shown] == ["most certain of those rightly called ER+; median certainty"]
    assert examples_of("", BINARY, [], {}).shown == ()


@pytest.mark.parametrize("task", ["multiclass", "ordinal"])
def test_several_classes(task: str) -> None:
    names = ("a", "b", "c", "d", "e")
    question = Question(label_column="grade", positive="", negative="", task=task, classes=names)  # type: ignore[arg-type]
    rows = [
        row(f"{name}{n}", place, 0.5 + place / 20 + n / 100, place) for place, name in enumerate(names) for n in (1, 2)
    ]
    found = chosen(question, [*rows, row("w", 0, 0.99, 4)])
    rightly = {part.rpartition(" ")[2] for why in found.values() for part in why.split("; ") if "rightly" in part}
    assert rightly == {"a", "b", "c", "d"}, "of four"
    assert {"a2", "b2", "c2", "d2", "w"} <= found.keys()


def test_numbers_and_follow_ups() -> None:
    number = Question(label_column="score", positive="", negative="", task="regression")
    rows = [row("far", 9.0, 2.0), row("near", 3.0, 3.1), row("mid", 4.0, 5.0), row("mid2", 4.0, 6.0)]
    assert chosen(number, rows) == {"near": "smallest error", "mid": "median error", "far": "largest error"}
    survival = Question(label_column="", positive="", negative="", task="survival", time_unit="months")
    followed = [
        row("late", Survival(40, True), 0.2), row("soon", Survival(3, True), 0.9), row("mid", Survival(9, True), 0.5),
        row("censored", Survival(50, False), 0.99),
    ]  # fmt: skip
    assert chosen(survival, followed) == {"soon": "highest risk", "mid": "median risk", "late": "lowest risk"}
    said = examples_of("", survival, followed, {}).shown[0].said
    assert said == "event at 3 months, predicted risk 0.90"
    assert examples_of("", survival, followed[3:], {}).note == "No patient had the event."


def test_a_slide_of_two_targets_is_drawn_once() -> None:
    rows = [row("a", 1, 0.9, 1), row("b", 0, 0.1, 0)]
    slides = {"a": ["s1"], "b": ["s2", "s3"]}
    sets = [examples_of(name, BINARY, rows, slides) for name in ("er", "pr")]
    assert [slide for slide, _ in slides_shown(sets)] == ["s1", "s2", "s3"]
