"""The patients whose slides a report shows: chosen by a rule that stands beside the pictures.

Of classes: of each of the first four the patient who is rightly called of it with most certainty, the patient who is
wrongly called with most, and the one whose certainty is the median of all. Of numbers those with the smallest, the
median and the largest error; of follow-ups, among patients with the event, those with the highest, the median and the
lowest predicted risk. Equal ones by patient id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from ...data.cohort.outcomes import Survival
from ...data.manifest import Record
from ...models.evaluation.survival_metrics import at
from ...models.tasks.prediction import PatientPrediction
from ..pages.asked_question import Question
from ..pages.numbers import TEMPLATES, figure
from ..pages.paper_parts import NOTHING
from ..pages.slot_page import ReportedSlots, jpeg_address

SLIDES_OF_A_PATIENT: Final = 2
"""At most so many slides of a patient are shown, the first by id."""
MOST_CLASSES: Final = 4
"""Of so many classes a rightly called patient is shown."""
MOST_BYTES: Final = 6_000_000
"""Of all pictures of example slides together; those that come after are left out, and said to be."""
PICTURES: Final = ("heatmap", "evidence")
"""What is drawn of a slide, as the outputs of the stage are named: ``heatmap S1``."""

Rows = Sequence[PatientPrediction]


@dataclass(frozen=True)
class Example:
    """A patient whose slides are shown.

    :param why: what they are an example of.
    :param said: label and prediction, in words.
    :param row: their prediction by the one fold that was not trained on them.
    :param slides: those that are shown, of ``of_slides``.
    """

    why: str
    said: str
    row: PatientPrediction
    slides: tuple[str, ...]
    of_slides: int


@dataclass(frozen=True)
class Examples:
    """Those of one target.

    :param target: its name; empty of a model of one.
    :param rule: how they were chosen, in words.
    :param note: what there is no example of; empty if there is one of each.
    """

    target: str
    rule: str
    note: str
    shown: tuple[Example, ...]


def examples_of(target: str, question: Question, rows: Rows, slides: Mapping[str, Sequence[str]]) -> Examples:
    """Choose the examples of one target among its out-of-fold predictions.

    :param slides: patient → slides.
    """
    ordered = sorted(rows, key=lambda row: row.patient_id)
    rule, note, chosen = _of_task(question, ordered)
    examples: dict[str, Example] = {}
    for why, row in chosen:
        earlier = examples.get(row.patient_id)
        own = sorted(slides.get(row.patient_id, ()))
        words = f"{earlier.why}; {why}" if earlier else why
        shown = tuple(own[:SLIDES_OF_A_PATIENT])
        examples[row.patient_id] = Example(words, _said(question, row), row, shown, len(own))
    return Examples(target, rule, note, tuple(examples.values()))


def slides_shown(sets: Sequence[Examples]) -> Iterator[tuple[str, Example]]:
    """Each slide once, with the first example that it is of."""
    seen: set[str] = set()
    for example in (example for one in sets for example in one.shown):
        for slide in example.slides:
            if slide not in seen:
                seen.add(slide)
                yield slide, example


def examples_part(sets: Sequence[Examples], drawn: Record | None, workspace: Path) -> Markup:
    """The section with the heatmaps; empty where the method has no task with examples.

    :param drawn: the record of the stage that drew them, if it has.
    """
    if not any(one.shown for one in sets):
        return NOTHING
    macros: Any = TEMPLATES.get_template("examples.html").module
    missing: Mapping[str, str] = drawn.stats.get("missing", {}) if drawn else {}
    spread: Mapping[str, str] = drawn.stats.get("concentration", {}) if drawn else {}
    outputs = drawn.outputs if drawn else {}
    shown: set[str] = set()

    def pictures(slide: str) -> list[tuple[str, str]] | None:
        """Kinds and addresses; None of a slide that is shown above."""
        if slide in shown:
            return None
        shown.add(slide)
        kinds = [kind for kind in PICTURES if f"{kind} {slide}" in outputs]
        return [(kind, jpeg_address((workspace / outputs[f"{kind} {slide}"].path).read_bytes())) for kind in kinds]

    not_drawn = (
        ""
        if drawn
        else (
            "No picture was drawn: the slides' files were not there, or wsipipe train has said what else was wrong. "
            "It draws them when it can."
        )
    )
    evidence = any(name.startswith("evidence ") for name in outputs)
    part: Markup = macros.examples(sets, pictures, missing, spread, not_drawn, evidence)
    return part


def slots_part(slots: ReportedSlots) -> Markup:
    """The galleries of a few slots of each fold."""
    macros: Any = TEMPLATES.get_template("examples.html").module
    part: Markup = macros.slots(slots)
    return part


def _of_task(question: Question, rows: Rows) -> tuple[str, str, list[tuple[str, PatientPrediction]]]:
    """The rule, what there is no example of, and the examples with what each is one of."""
    if any(isinstance(row.label, Survival) for row in rows):
        had = [row for row in rows if isinstance(row.label, Survival) and row.label.event]
        rule = "Of the patients with the event those with the highest, the median and the lowest predicted risk."
        chosen = _ends(had, lambda row: -row.probability, "risk", ("highest", "median", "lowest"))
        return rule, "" if had else "No patient had the event.", chosen
    if question.task == "binary" or question.classes:
        return _of_classes(question, rows)
    known = [row for row in rows if isinstance(row.label, int | float)]
    rule = "The patients whose prediction has the smallest, the median and the largest error."
    return rule, "", _ends(known, _error, "error", ("smallest", "median", "largest"))


def _ends(
    rows: Rows, of: Callable[[PatientPrediction], float], what: str, names: tuple[str, str, str]
) -> list[tuple[str, PatientPrediction]]:
    """The first, the middle and the last of the patients in an order."""
    ordered = sorted(rows, key=of)
    places = (0, (len(ordered) - 1) // 2, len(ordered) - 1) if ordered else ()
    return [(f"{name} {what}", ordered[place]) for name, place in zip(names, places, strict=False)]


def _of_classes(question: Question, rows: Rows) -> tuple[str, str, list[tuple[str, PatientPrediction]]]:
    names = [*question.classes] or [question.name_of(1), question.name_of(0)]
    places = range(len(names)) if question.classes else (1, 0)
    limit = f" (the first {MOST_CLASSES})" if len(names) > MOST_CLASSES else ""
    sure = (
        "the distance of the probability from the threshold"
        if question.task == "binary"
        else "the probability of the call"
    )
    rule = (
        f"Of each class{limit} the patient who is rightly called of it with most certainty; of all patients the one "
        f"who is wrongly called with most certainty, and the one whose certainty is the median. Certainty is {sure}."
    )

    def least_certain_first(row: PatientPrediction) -> float:
        return abs(row.probability - row.threshold) if question.task == "binary" else row.probability

    def most(among: Rows) -> list[PatientPrediction]:
        return [max(among, key=least_certain_first)] if among else []  # the first of equal ones

    chosen, none = [], []
    for name, place in [*zip(names, places, strict=True)][:MOST_CLASSES]:
        right = most([row for row in rows if row.label == row.call == place])
        chosen += [(f"most certain of those rightly called {name}", row) for row in right]
        none += [] if right else [f"rightly called {name}"]
    wrong = most([row for row in rows if row.label != row.call])
    chosen += [("most certain of those wrongly called", row) for row in wrong]
    none += [] if wrong else ["wrongly called"]
    ordered = sorted(rows, key=least_certain_first)
    chosen += [("median certainty", ordered[(len(ordered) - 1) // 2])] if ordered else []
    return rule, f"Nobody is {', nor '.join(none)}." if none else "", chosen


def _error(row: PatientPrediction) -> float:
    assert isinstance(row.label, int | float)
    return abs(row.probability - row.label)


def _said(question: Question, row: PatientPrediction) -> str:
    """Label and prediction in words."""
    if isinstance(row.label, Survival):
        how = "event" if row.label.event else "censored"
        return f"{how} at {at(row.label.time, question.time_unit)}, predicted risk {figure(row.probability)}"
    label = question.name_of(row.label)
    if question.task == "binary":
        return (
            f"{label}, called {question.name_of(row.call)}; probability {figure(row.probability, 3)}, "
            f"threshold {figure(row.threshold, 3)}"
        )
    if question.classes:
        return f"{label}, called {question.name_of(row.call)}; probability {figure(row.probability, 3)}"
    return f"{label}, predicted {row.probability:.4g}"
