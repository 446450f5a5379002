"""The choice of folds that may predict a patient: those not trained on any of the patient's slides.

A fold counts as trained (or validated) on a patient if its bundle contains the hash of the patient's id, of the id of
one of the patient's slides, or of the bytes of one. A fold trained on one slide of a patient must not read any other
slide of that patient, including new ones. If another person happens to have the same id, only the user can know, and
says so with ``--other-patients``. Equal bytes are the same slide in any case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ...data.errors import UsageError
from ...models.bundle import BundleFacts

SAME_IDS: Final = (
    "If the patients of another cohort happen to have the same ids, add --other-patients (slides are still "
    "compared by their bytes), or give their ids a prefix in the table."
)
"""The hint for patients whom some folds may not read because of an id alone."""


@dataclass(frozen=True, kw_only=True)
class PatientSlides:
    """A patient with all their known slides, including those not to be read now."""

    patient_id: str
    slides: Mapping[str, str | None]
    """Slide id → digest of the slide's bytes; None if the slide is not available."""
    named: bool = True
    """Whether a table assigns the slide to a patient; if not, the slide counts as a patient of its own."""


@dataclass(frozen=True, kw_only=True)
class AllowedFolds:
    """The folds that may read a patient, and why the others may not."""

    patient_id: str
    folds: tuple[int, ...]
    why: str
    known_by: tuple[str, ...]
    """What matched in the bundles of the other folds: ``patient id``, ``slide id``, ``slide bytes``."""

    @property
    def by_id_alone(self) -> bool:
        """Whether folds are left out because of an id, but none because of a slide's bytes."""
        return bool(self.known_by) and "slide bytes" not in self.known_by

    def refusal(self) -> UsageError:
        """Build the error for a patient whom no fold may read."""
        what = f"every fold of the model was trained on patient {self.patient_id} (known by {_and(self.known_by)})"
        hint = "predictions for a model's own training patients are not meaningful."
        return UsageError(what, path=self.patient_id, hint=f"{hint} {SAME_IDS}" if self.by_id_alone else hint)


def allowed_folds(
    bundles: Sequence[BundleFacts], patient: PatientSlides, *, other_patients: bool = False
) -> AllowedFolds:
    """Find the folds that were not trained on any of the patient's slides.

    :param other_patients: equal ids belong to other people here, so that only the slides' bytes count.
    """
    matches = {facts.fold: _known_by(facts, patient) for facts in bundles}
    same_ids = any(set(kinds) - {"slide bytes"} for kinds in matches.values())
    if other_patients:
        matches = {fold: [kind for kind in kinds if kind == "slide bytes"] for fold, kinds in matches.items()}
    folds = tuple(fold for fold, kinds in matches.items() if not kinds)
    known_by = tuple(dict.fromkeys(kind for kinds in matches.values() for kind in kinds))
    why = _why(bundles, patient, [fold for fold, kinds in matches.items() if kinds], known_by)
    if other_patients and same_ids:
        why += "; the same ids are other patients' (--other-patients)"
    return AllowedFolds(patient_id=patient.patient_id, folds=folds, why=why, known_by=known_by)


def _known_by(facts: BundleFacts, patient: PatientSlides) -> list[str]:
    matches = {
        "patient id": facts.saw(patient.patient_id, None),
        "slide id": any(facts.saw(None, None, slide) for slide in patient.slides),
        "slide bytes": any(facts.saw(None, digest) for digest in patient.slides.values()),
    }
    return [kind for kind, matched in matches.items() if matched]


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
