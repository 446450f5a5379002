"""When a slide or a patient gets no call: the decision, from what the model knows of its training slides.

A slide gets none if its features lie far from those of the training slides, if it has too little tissue, if it is
blurred or damaged; a patient, if one of their slides gets none, or if the held-out patients of cross-validation do not
leave exactly one class. The numbers stay as they are. A model that knows nothing of its training slides cannot judge.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ...data.tiling.sharpness import BLURRED
from ...data.wording import in_words
from ...models.applicability import Applicability, Fitness, Held
from ...models.evaluation.conformal import LabelSet, why_no_set
from ...models.label_sets import label_set_of
from ...models.tasks.prediction import PatientPrediction
from ...models.tasks.task import Task
from ..pages.asked_question import Question
from ..pages.doubt_words import blurred_words, far_words, few_tiles_words, not_one_words, undecoded_words
from ..pages.numbers import percent
from .reading import SlideOutput

MOST_BAD_TILES: Final = 0.01
"""Share of a slide's tiles that may be missing in any case: what extraction lets through by default."""
CANNOT_JUDGE: Final = (
    "this model cannot say when it should not answer: it was trained by an earlier version of wsipipe or imported, or "
    "its file applicability.json is missing. wsipipe train adds it, and trains no fold again"
)


def doubts_of(fitness: Fitness | None, known: Applicability | None) -> tuple[str, ...]:
    """Say why a slide gets no call; empty if it gets one."""
    if fitness is None or known is None:
        return ()
    measured = (
        ("its mean feature lies", fitness.slide_distance, known.slide_spread),
        ("its tiles lie", fitness.tile_distance, known.tile_spread),
    )
    far = [
        (what, distance, spread)
        for what, distance, spread in measured
        if distance is not None and spread is not None and distance > spread.limit
    ]
    doubts = [far_words(far)] if far else []
    # Fewer than any training slide, since a cohort of large slides says nothing against one of half their size.
    if known.tiles_limit is not None and fitness.tiles < min(known.tiles_limit, known.fewest_tiles):
        doubts.append(few_tiles_words(fitness.tiles, known))
    sharp = BLURRED if known.sharpness_limit is None else min(known.sharpness_limit, BLURRED)
    if fitness.sharpness is not None and fitness.sharpness < sharp:
        doubts.append(blurred_words(fitness.sharpness, known))
    if fitness.bad_tiles > max(MOST_BAD_TILES, known.most_bad_tiles):
        doubts.append(undecoded_words(fitness))
    return tuple(doubts)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Decides who gets no call on one question.

    :param known: what the model knows of its training slides; None if nothing.
    :param alpha: share of patients whose label set may miss their class.
    """

    known: Applicability | None
    task: Task
    question: Question
    target: str = ""
    alpha: float

    @property
    def held(self) -> Held | None:
        """What cross-validation says of the question."""
        return None if self.known is None else self.known.held.get(self.target)

    def patient(self, prediction: PatientPrediction, slides: Sequence[SlideOutput]) -> PatientPrediction:
        """A patient's prediction with the doubts of all their slides and of their label set."""
        if self.known is None:
            return prediction
        several = len(slides) > 1
        doubts = [
            f"{slide.slide_id}: {doubt}" if several else doubt
            for slide in slides
            for doubt in doubts_of(slide.fitness, self.known)
        ]
        by_fold = {fold: self.task.join([slide.logits[fold] for slide in slides]) for fold in prediction.folds}
        label_set = label_set_of(self.task, self.held, by_fold, prediction, self.alpha)
        return replace(prediction, doubts=(*doubts, *self._of_set(label_set)), label_set=label_set)

    def slide(self, prediction: PatientPrediction, slide: SlideOutput, patient: PatientPrediction) -> PatientPrediction:
        """A slide's prediction with its own doubts and those of its patient's label set."""
        doubts = (*doubts_of(slide.fitness, self.known), *self._of_set(patient.label_set))
        return replace(prediction, doubts=doubts, label_set=patient.label_set)

    def _of_set(self, label_set: LabelSet) -> tuple[str, ...]:
        if label_set.classes is None or len(label_set.classes) == 1:
            return ()
        return (not_one_words(self.question, label_set, self.alpha),)

    def facts(self, patients: Sequence[PatientPrediction]) -> tuple[tuple[str, str], ...]:
        """Rows for the page: how it was decided, or why it was not."""
        known = self.known
        if known is None:
            return (("calls", f"each slide gets one: {CANNOT_JUDGE}"),)
        far = [s for s in (known.slide_spread, known.tile_spread) if s is not None]
        compared = f"compared with {known.slides:,} training slides; 1 % of these would be called far when held out"
        rows = [
            ("uncertain slides", compared if far else f"not compared: {known.slides:,} training slides are too few")
        ]
        return (*rows, ("label sets", self._sets(patients)))

    def _sets(self, patients: Sequence[PatientPrediction]) -> str:
        """What label sets hold, and who has none: such as training patients, whom few folds may read."""
        without = [patient for patient in patients if patient.label_set.why_not]
        by_need: dict[str, dict[str, set[int]]] = {}
        for patient in without:
            own = patient.label_set
            by_need.setdefault(own.needed, {}).setdefault(own.there, set()).update(patient.folds)
        whys = []
        for needed, counts in by_need.items():
            listed = [f"{there} by {_folds(folds)}" for there, folds in counts.items() if there]
            whys.append(why_no_set(needed, "; ".join(listed)))
        if without and len(without) == len(patients):
            return "; ".join(whys)
        of_each = "" if self.task.name == "regression" else " of each class"
        hold = f"hold the label of {percent(1 - self.alpha)} of the patients{of_each} (--alpha)"
        if not without:
            return hold
        return f"{hold}; {len(without)} of {len(patients)} patients are called without one: {'; '.join(whys)}"


def _folds(folds: Collection[int]) -> str:
    """The held-out patients of which folds these are."""
    return f"fold{'s' if len(folds) > 1 else ''} {in_words([str(fold) for fold in sorted(folds)], most=20)}"
