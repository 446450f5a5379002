"""Conformal prediction: the classes, or the interval, in which a new patient's label lies at a stated level.

A class is left out of a patient's set if fewer than a share α of the held-out patients of that class looked as strange
for it. Each class is judged by its own patients (class-conditional or Mondrian: Vovk, Gammerman and Shafer,
*Algorithmic Learning in a Random World*, 2005), so that each is covered at 1 − α, however rare it is.

How strange a patient is for a class is 1 minus the probability of the class. A patient of cross-validation has it by
the one fold that was not trained on them, a new one by each fold, and is compared with the patients of that fold
(cross-conformal prediction: Vovk, Annals of Mathematics and Artificial Intelligence 74, 2015):

    p = (1 + number of held-out patients at least as strange, each by its own fold) / (1 + their number)

A class is in the set if p > α. With one fold that is the split-conformal rule: at most as strange as the
⌈(n + 1)(1 − α)⌉-th of n held-out patients. Of fewer than 1/α − 1 patients none can be called strange.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ...data.errors import UsageError

Strangeness = Mapping[int, Sequence[float]]
"""Fold → how strange its held-out patients of one class are for that class."""

_ROUNDING: Final = 1e-9
"""Of α (n + 1), which is a whole number for most levels that people ask for."""


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """What a patient's label is at a stated level."""

    classes: tuple[int, ...] | None = None
    """The classes that the patient may be of; None if nothing can be said."""
    between: tuple[float, float] | None = None
    """Of a number, the interval that holds it."""
    needed: str = ""
    """Why nothing can be said, as words that say what it needs; empty if something is."""
    there: str = ""
    """Where it needs more held-out patients: those that there are."""

    @property
    def why_not(self) -> str:
        """Why nothing can be said; empty if something is."""
        return why_no_set(self.needed, self.there)


NO_LABEL_SET: Final = LabelSet()


def why_no_set(needed: str, there: str) -> str:
    """Say what a set needs, and the held-out patients that there are, if that is the reason."""
    return f"{needed}, and there are {there}" if there else needed


def refuse_level(alpha: float) -> None:
    """Refuse a level that is none.

    :raises UsageError: it does not lie between 0 and 1.
    """
    if not 0 < alpha < 1:  # NaN fails too
        raise UsageError(f"--alpha lies between 0 and 1, not at {alpha}", hint="0.1 for sets that hold at 90 %")


def fewest_patients(alpha: float) -> int:
    """The number of held-out patients below which a class can never be left out of a set."""
    return math.ceil(1 / alpha - 1 - _ROUNDING)


def p_value(held_out: Strangeness, strangeness: Mapping[int, float]) -> float:
    """The share of held-out patients that are at least as strange as a new one, the new one counted among them.

    :param held_out: of one class.
    :param strangeness: fold → of the new patient for that class; folds that may not read the patient are left out.
    """
    own = {fold: held_out.get(fold, ()) for fold in strangeness}
    as_strange = sum(other >= strangeness[fold] for fold, others in own.items() for other in others)
    return (1 + as_strange) / (1 + sum(map(len, own.values())))


def label_set(
    held_out: Sequence[Strangeness], strangeness: Sequence[Mapping[int, float]], alpha: float
) -> tuple[int, ...] | None:
    """The classes that the patient may be of; None if a class has too few held-out patients for the level.

    :param held_out, strangeness: of each class.
    """
    refuse_level(alpha)
    chosen = []
    for label, (of_class, own) in enumerate(zip(held_out, strangeness, strict=True)):
        number = sum(len(of_class.get(fold, ())) for fold in own)
        if number < fewest_patients(alpha):
            return None
        if p_value(of_class, own) * (number + 1) > alpha * (number + 1) + _ROUNDING:
            chosen.append(label)
    return tuple(chosen)


def residual_limit(residuals: Sequence[float], alpha: float) -> float | None:
    """Half the width of the interval around a predicted number; None if there are too few held-out patients.

    :param residuals: distances of the held-out patients' predictions from their labels.
    """
    refuse_level(alpha)
    place = math.ceil((len(residuals) + 1) * (1 - alpha) - _ROUNDING)
    return sorted(residuals)[place - 1] if place <= len(residuals) else None
