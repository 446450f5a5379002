"""Which folds of a model may read a patient's slides: those that trained on none of them.

A fold was trained (or validated) on a patient if its bundle knows the patient's id, the id of one of the patient's
slides, or the bytes of one. One slide that a fold knows keeps it from all slides of that patient, also from new ones.
An id may be another person's who happens to be called the same: only the user can know, and says so with
``--other-patients``.
Equal bytes are the same slide in any case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ...data.errors import UsageError
from ...models.bundle import BundleFacts

SAME_IDS: Final = (
    "Where another cohort's patients only happen to be numbered alike, say so with --other-patients (slides are still "
    "compared by their bytes), or give their ids a prefix in the table."
)
"""The way out for patients whom some folds do not read for their id's sake."""


@dataclass(frozen=True, kw_only=True)
class PatientSlides:
    """A patient, and all slides that are known to be theirs, whether they are to be read now or not."""

    patient_id: str
    slides: Mapping[str, str | None]
    """Slide id → digest of the slide's bytes; None where the slide is not at hand."""
    named: bool = True
    """Whether anybody says whose slide it is; if not, the slide is taken for a patient of its own."""


@dataclass(frozen=True, kw_only=True)
class AllowedFolds:
    """The folds that may read a patient, and why not the others."""

    patient_id: str
    folds: tuple[int, ...]
    why: str
    known_by: tuple[str, ...]
    """By what the other folds know the patient: ``patient id``, ``slide id``, ``slide bytes``."""

    @property
    def by_id_alone(self) -> bool:
        """Whether folds are left out for an id, and none for a slide's bytes."""
        return bool(self.known_by) and "slide bytes" not in self.known_by

    def refusal(self) -> UsageError:
        """What to say of a patient whom no fold may read."""
        what = f"every fold of the model was trained on patient {self.patient_id} (known by {_and(self.known_by)})"
        hint = f"a model says nothing honest of its own training patients. {SAME_IDS if self.by_id_alone else ''}"
        return UsageError(what, path=self.patient_id, hint=hint.strip())


def allowed_folds(
    bundles: Sequence[BundleFacts], patient: PatientSlides, *, other_patients: bool = False
) -> AllowedFolds:
    """The folds that were trained on none of the patient's slides.

    :param other_patients: ids that the model knows are other people's here: only the slides' bytes count.
    """
    known = {facts.fold: _known_by(facts, patient) for facts in bundles}
    same_ids = any(set(by) - {"slide bytes"} for by in known.values())
    if other_patients:
        known = {fold: [by for by in names if by == "slide bytes"] for fold, names in known.items()}
    folds = tuple(fold for fold, by in known.items() if not by)
    known_by = tuple(dict.fromkeys(by for names in known.values() for by in names))
    why = _why(bundles, patient, [fold for fold, by in known.items() if by], known_by)
    if other_patients and same_ids:
        why += "; the same ids are other patients' (--other-patients)"
    return AllowedFolds(patient_id=patient.patient_id, folds=folds, why=why, known_by=known_by)


def _known_by(facts: BundleFacts, patient: PatientSlides) -> list[str]:
    by = {
        "patient id": facts.saw(patient.patient_id, None),
        "slide id": any(facts.saw(None, None, slide) for slide in patient.slides),
        "slide bytes": any(facts.saw(None, digest) for digest in patient.slides.values()),
    }
    return [name for name, known in by.items() if known]


def _why(
    bundles: Sequence[BundleFacts], patient: PatientSlides, left_out: Sequence[int], known_by: Sequence[str]
) -> str:
    if left_out:
        which = f"fold{'s' if len(left_out) > 1 else ''} {_and([str(fold) for fold in left_out])} of {len(bundles)}"
        return f"{which} trained or validated on this patient (known by {_and(known_by)}): left out"
    if not all(facts.seen for facts in bundles):
        return "the model does not say who trained it"
    if not patient.named:
        return "no fold was trained on this slide; no table says whose it is"
    return "no fold was trained on this patient"


def _and(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
