"""How a page, a table and a viewer say that a slide or a patient gets no call, and why."""

from __future__ import annotations

from collections.abc import Sequence

from ...data.wording import in_words
from ...models.applicability import Applicability, Fitness, Spread
from ...models.evaluation.conformal import LabelSet
from .asked_question import Question
from .numbers import figure, percent

UNCERTAIN = "uncertain"
"""In place of a call."""


def far_words(far: Sequence[tuple[str, float, Spread]]) -> str:
    """Say that a slide is unlike the training slides.

    :param far: what lies far, its distance, and how far that of training slides lies.
    """
    how = [
        f"{what} {distance / spread.usual:.1f} times as far away as theirs (limit {spread.limit / spread.usual:.1f})"
        for what, distance, spread in far
    ]
    return f"unlike the training slides: {in_words(how)}"


def few_tiles_words(tiles: int, known: Applicability) -> str:
    """Say that a slide has too little tissue."""
    there = f"{tiles:,} {'tile' if tiles == 1 else 'tiles'}"
    return f"too little tissue: {there}, and the training slides have {known.fewest_tiles:,} to {known.most_tiles:,}"


def blurred_words(sharpness: float, known: Applicability) -> str:
    """Say that a slide is blurred."""
    usual = "" if known.sharpness_usual is None else f", of the training slides {figure(known.sharpness_usual, 1)}"
    return f"blurred: sharpness {figure(sharpness, 1)}{usual}"


def undecoded_words(fitness: Fitness) -> str:
    """Say that too many tiles of a slide are missing."""
    return f"damaged: {percent(fitness.bad_tiles)} of its tiles could not be decoded"


def set_words(question: Question, label_set: LabelSet) -> str:
    """The classes that a patient may be of, or the interval of their number; empty if nothing is known."""
    if label_set.between is not None:
        low, high = label_set.between
        return f"{figure(low)} to {figure(high)}"
    if label_set.classes is None:
        return ""
    return " or ".join(question.name_of(label) for label in label_set.classes) or "none"


def not_one_words(question: Question, label_set: LabelSet, alpha: float) -> str:
    """Say that the held-out patients do not leave one class alone."""
    at = f"at {percent(1 - alpha)}"
    if not label_set.classes:
        return f"no class fits {at}: held-out patients of any class rarely look like this"
    names = [question.name_of(label) for label in label_set.classes]
    return f"{in_words(names)} are {'both ' if len(names) == 2 else 'all '}possible {at}"
