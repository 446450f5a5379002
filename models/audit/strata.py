"""Strata of patients by one column, and the columns of a regression on it.

A column of numbers with more than :data:`FEW_VALUES` different values is cut into thirds for the strata, and enters a
regression as a number. Any other is of categories: each value is a stratum, and has an indicator in a regression.
Patients without a value, or with several, are in strata of their own and in no regression.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Final

import numpy as np
import numpy.typing as npt

FEW_VALUES: Final = 5
"""Up to so many different numbers are categories, such as grade 1, 2 and 3."""
RARE: Final = 10
"""Categories of fewer patients share one indicator in a regression."""
MISSING: Final = "missing"
SEVERAL: Final = "several values"

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Strata:
    """N patients by one column.

    :param name: of the column.
    :param names: of the strata, in the order in which they are shown; :data:`MISSING` and :data:`SEVERAL` last.
    :param codes: (N,) each patient's stratum, an index of ``names``.
    :param known: (N,) whether the patient has one value.
    :param numbers: (N,) the values of a column of numbers, nan where there is none; None for categories.
    :param cuts: where a column of numbers was cut; the limits belong to the lower third.
    """

    name: str
    names: tuple[str, ...]
    codes: npt.NDArray[np.intp]
    known: Bools
    numbers: Floats | None = None
    cuts: tuple[float, ...] = ()

    @classmethod
    def of(cls, name: str, values: Sequence[str], several: Sequence[bool], *, is_code: bool = False) -> Strata:
        """Sort patients into strata.

        :param values: a value for each patient; empty where it is missing.
        :param several: whether the patient has several values.
        :param is_code: values that look like numbers are names.
        """
        known = np.array([bool(value) and not more for value, more in zip(values, several, strict=True)], dtype=bool)
        unknown = np.where(np.asarray(several, dtype=bool), SEVERAL, MISSING)
        distinct = list(dict.fromkeys(value for value, there in zip(values, known, strict=True) if there))
        as_numbers = {value: _number(value) for value in distinct}
        of_numbers = all(number is not None for number in as_numbers.values())
        numbers: Floats | None = None
        cuts: tuple[float, ...] = ()
        if of_numbers and not is_code and len(distinct) > FEW_VALUES:
            numbers = np.array(
                [as_numbers[v] if k else np.nan for v, k in zip(values, known, strict=True)], dtype=float
            )
            thirds, cuts, order = _thirds(numbers, known)
            labels = np.where(known, thirds, unknown)
        else:
            labels = np.where(known, np.asarray(values, dtype=object), unknown)
            order = sorted(distinct, key=lambda value: (as_numbers[value] or 0.0 if of_numbers else 0.0, value))
        rest = [word for word in (MISSING, SEVERAL) if (unknown[~known] == word).any()]
        place = {(True, label): i for i, label in enumerate(order)}
        place |= {(False, word): i for i, word in enumerate(rest, start=len(order))}
        codes = [place[there, label] for there, label in zip(known.tolist(), labels.tolist(), strict=True)]
        return cls(name, (*order, *rest), np.array(codes, dtype=np.intp), known, numbers, cuts)

    def design(self, rows: Bools) -> Floats:
        """The columns of a regression for some of the patients, all of them known: (rows, columns).

        A number is standardised; categories have an indicator each, but the most frequent. Categories of fewer than
        :data:`RARE` patients share one.
        """
        if self.numbers is not None:
            x = self.numbers[rows]
            return ((x - x.mean()) / x.std())[:, None] if np.ptp(x) > 0 else np.zeros((len(x), 0))
        codes = self.codes[rows]
        sizes = Counter(codes.tolist())
        groups = np.array([code if sizes[code] >= RARE else -1 for code in codes.tolist()], dtype=np.intp)
        of_groups = Counter(groups.tolist())
        baseline = max(sorted(of_groups), key=lambda group: of_groups[group], default=-1)
        columns = [groups == group for group in sorted(of_groups) if group != baseline]
        return np.column_stack(columns).astype(np.float64) if columns else np.zeros((len(codes), 0))

    def rare(self, rows: Bools) -> int:
        """The number of categories that share an indicator in :meth:`design`."""
        if self.numbers is not None:
            return 0
        return sum(size < RARE for size in Counter(self.codes[rows].tolist()).values())


def crossed(columns: Sequence[Strata]) -> npt.NDArray[np.intp]:
    """Codes of the strata of all columns together: patients that are alike in each of them have one code (N,)."""
    _, codes = np.unique(np.stack([column.codes for column in columns]), axis=1, return_inverse=True)
    return codes.reshape(-1).astype(np.intp)


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if isfinite(number) else None


def _thirds(numbers: Floats, known: Bools) -> tuple[npt.NDArray[np.object_], tuple[float, ...], list[str]]:
    """Name the third of each patient (N,), the limits between thirds, and all names; equal values stay together."""
    distinct = np.unique(numbers[known])
    limits = np.quantile(numbers[known], [1 / 3, 2 / 3], method="inverted_cdf")
    cuts = tuple(sorted({min(float(limit), float(distinct[-2])) for limit in limits}))  # no third is empty
    texts = [f"{cut:g}" for cut in cuts]
    names = [f"up to {texts[0]}", *(f"over {low} to {high}" for low, high in pairwise(texts)), f"over {texts[-1]}"]
    place = np.searchsorted(cuts, np.where(known, numbers, cuts[0]), side="left")
    return np.array(names, dtype=object)[place], cuts, names
