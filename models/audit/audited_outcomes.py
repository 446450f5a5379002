"""What an audit needs of labels that are classes, numbers or follow-ups, and of a model's scores of them.

*Within strata.* Of classes, classes in order, and follow-ups: of all pairs of patients of one stratum that their labels
put in an order, the share in which the scores put them in the same one; ties count a half. Of classes that is a share
for each class against the rest, and their mean; of classes in order the concordance; of follow-ups Harrell's C. Of
numbers: the mean of Spearman's ρ in each stratum, weighted by its patients less one. With one stratum all are the
figures by which the tasks are judged.

*Permutation.* Scores are permuted among the patients of a stratum, which keeps all that goes along with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
from scipy.stats import f as fisher
from scipy.stats import rankdata

from ..evaluation.bootstrap import CELLS_AT_ONCE
from ..evaluation.number_metrics import number_figures
from ..evaluation.ordinal_metrics import CONCORDANCE
from ..evaluation.share_of_pairs import independent_pairs, lowest_share
from ..evaluation.survival_metrics import HARRELL
from ..evaluation.task_metrics import share
from .likelihood import Bools, Floats, depends_on, likelihood_ratio_p_value
from .regressions import Fitted, class_design, fit_classes, fit_cox, fit_line
from .within_strata import FEWEST

Codes = npt.NDArray[np.intp]
FEWEST_NUMBERS: Final = 2 * FEWEST
_LEAST_SHARE: Final = 1e-300


class Outcome(ABC):
    """The labels and scores of N patients."""

    measure: ClassVar[str]
    chance: ClassVar[float] = 0.5
    too_few: str
    """When there is no figure, in words."""
    effect: ClassVar[str]
    """What the coefficient of the score beside the columns is called."""
    ratio: ClassVar[bool] = False
    """Whether that is shown as a ratio, the exponential of the coefficient."""
    test: ClassVar[str] = "likelihood-ratio test, χ²"

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def bootstrap_strata(self) -> Codes:
        """(N,) within which the bootstrap draws."""
        return np.zeros(self.size, np.intp)

    @abstractmethod
    def take(self, rows: Codes) -> Outcome:
        """The outcome of some of the patients."""

    @abstractmethod
    def scored(self, predicted: Floats) -> Outcome:
        """The same labels with other scores, those of a regression's :meth:`predict`."""

    def standardised(self) -> Outcome:
        """With a score of mean 0 and standard deviation 1, which changes no figure; of probabilities as they are."""
        return self

    @abstractmethod
    def counted(self) -> int | None:
        """How many patients decide whether a figure can be given: those with the event, or of the smallest class."""

    @abstractmethod
    def enough(self) -> bool:
        """Whether these patients are enough for a figure."""

    @abstractmethod
    def compared(self, strata: Codes) -> Bools:
        """Which patients (N,) enter the figure within strata."""

    @abstractmethod
    def within(self, weights: Floats, strata: Codes) -> Floats:
        """Compute the figure within strata in rounds of the bootstrap; NaN where nothing can be compared.

        :param weights: (rounds, N), how often each patient was drawn.
        """

    def lowest(self, strata: Codes) -> float | None:
        """The lower limit of the figure where every pair is in the right order; None if it is not of pairs."""
        return None

    @abstractmethod
    def permuted(self, strata: Codes, permutations: int, seed: int) -> Floats:
        """Compute the figure within strata for permutations of the scores within them: (permutations,)."""

    @abstractmethod
    def fit(self, x: Floats, *, with_score: bool) -> Fitted | None:
        """Fit the regression on columns (N, K), and on the score, the last coefficient. None if it cannot be."""

    @abstractmethod
    def predict(self, fitted: Fitted, x: Floats, *, with_score: bool) -> Floats:
        """What a fit says of these patients."""

    @abstractmethod
    def follows(self, x: Floats) -> bool:
        """Whether the score follows from columns (N, K)."""

    def coefficients(self, columns: int) -> int:
        """How many coefficients of columns a regression has."""
        return columns

    def gain_test(self, fewer: Fitted, more: Fitted) -> tuple[float, float]:
        """The statistic and the p-value of the score beside the columns: twice the gain in log-likelihood."""
        return likelihood_ratio_p_value(fewer.log_likelihood, more.log_likelihood)


class PairOutcome(Outcome):
    """Labels that put pairs of patients in an order, in one way or several.

    :param above: (ways, N, N) whether the first patient of a pair is above the second.
    :param scores: (ways, N).
    """

    above: Bools
    scores: Floats

    def compared(self, strata: Codes) -> Bools:
        """Those in a pair of one stratum."""
        pairs = (self.above & (strata[:, None] == strata)).any(axis=0)
        found: Bools = (pairs | pairs.T).any(axis=0)
        return found

    def within(self, weights: Floats, strata: Codes) -> Floats:
        """The mean over the ways of the share of pairs in the right order."""
        same = strata[:, None] == strata
        shares = []
        for above, s in zip(self.above, self.scores, strict=True):
            pairs = (above & same).astype(np.float64)
            right = pairs * ((s[:, None] > s) + (s[:, None] == s) / 2)
            won, every = (((weights @ matrix) * weights).sum(axis=1) for matrix in (right, pairs))
            shares.append(share(won, every))
        return np.asarray(np.mean(shares, axis=0))

    def lowest(self, strata: Codes) -> float | None:
        """The mean over the ways; None if one of them compares nobody."""
        pairs = [independent_pairs(above & (strata[:, None] == strata)) for above in self.above]
        return float(np.mean([lowest_share(one) for one in pairs])) if all(pairs) else None

    def permuted(self, strata: Codes, permutations: int, seed: int) -> Floats:
        """The same share for each permutation."""
        rng, ways = np.random.default_rng(seed), len(self.above)
        won, every = np.zeros((ways, permutations)), np.zeros((ways, 1))
        for code in np.unique(strata):
            members = np.flatnonzero(strata == code)
            pairs = [np.nonzero(above[np.ix_(members, members)]) for above in self.above]
            step = max(1, CELLS_AT_ONCE // max(len(members), *(len(first) for first, _ in pairs)))
            for start in range(0, permutations, step):
                rows = np.tile(members, (min(step, permutations - start), 1))
                orders = rng.permuted(rows, axis=1)
                for way, (first, second) in enumerate(pairs):
                    s = self.scores[way][orders]
                    one, other = s[:, first], s[:, second]
                    won[way, start : start + step] += (one > other).sum(axis=1) + (one == other).sum(axis=1) / 2
            every += np.array([[len(first)] for first, _ in pairs])
        return np.asarray(share(won, np.broadcast_to(every, won.shape)).mean(axis=0))


class ClassOutcome(PairOutcome):
    """Classes, in order or not.

    :param labels: (N,) places of the classes.
    :param shares: (N, C) probabilities, at any prevalence: the regression's intercepts make up for it.
    """

    effect: ClassVar[str] = "Weight of the slide's log-probabilities beside the columns (1: as they are, 0: none)"

    def __init__(self, labels: npt.ArrayLike, shares: npt.ArrayLike, *, ordered: bool) -> None:
        self.labels, self.shares = np.asarray(labels, np.intp), np.asarray(shares, np.float64)
        self.ordered = ordered
        super().__init__(len(self.labels))
        self.classes = self.shares.shape[1]
        self.measure = CONCORDANCE if ordered else "AUC"  # type: ignore[misc]
        self.too_few = (
            "fewer than ten patients of each of two classes" if ordered else "fewer than ten patients of a class"
        )
        if ordered:
            self.above = (self.labels[:, None] > self.labels)[None]
            self.scores = (self.shares @ np.arange(self.classes))[None]
        else:
            held = range(1, 2) if self.classes == 2 else range(self.classes)  # of two classes both have the same
            self.above = np.stack([(self.labels[:, None] == c) & (self.labels != c) for c in held])
            self.scores = np.stack([self.shares[:, c] for c in held])

    @property
    def bootstrap_strata(self) -> Codes:
        """The classes."""
        return self.labels

    def take(self, rows: Codes) -> ClassOutcome:
        """The outcome of some of the patients."""
        return ClassOutcome(self.labels[rows], self.shares[rows], ordered=self.ordered)

    def scored(self, predicted: Floats) -> ClassOutcome:
        """With the probabilities of a regression."""
        return ClassOutcome(self.labels, predicted, ordered=self.ordered)

    def counted(self) -> int | None:
        """Patients of the smallest class, or of classes in order of the second largest."""
        sizes = sorted(np.bincount(self.labels, minlength=self.classes).tolist())
        return int(sizes[-2] if self.ordered else sizes[0])

    def enough(self) -> bool:
        """Ten of every class, or of classes in order of two."""
        return (self.counted() or 0) >= FEWEST

    def fit(self, x: Floats, *, with_score: bool) -> Fitted | None:
        """Logits of classes; None if one has no patient."""
        if len(np.unique(self.labels)) < self.classes:
            return None
        return fit_classes(self.labels, self._design(x, with_score))

    def predict(self, fitted: Fitted, x: Floats, *, with_score: bool) -> Floats:
        """Probabilities (N, C)."""
        logits = self._design(x, with_score) @ fitted.coefficients
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    def follows(self, x: Floats) -> bool:
        """Whether the log-odds of every class against the first follow from the columns."""
        logs = self._logs()
        return all(depends_on(logs[:, c] - logs[:, 0], x) for c in range(1, self.classes))

    def coefficients(self, columns: int) -> int:
        """One a column, or of classes without an order one for each class but the first."""
        return columns if self.ordered else columns * (self.classes - 1)

    def _logs(self) -> Floats:
        return np.asarray(np.log(np.maximum(self.shares, _LEAST_SHARE)))

    def _design(self, x: Floats, with_score: bool) -> Floats:
        return class_design(x, self.classes, self._logs() if with_score else None, ordered=self.ordered)


class SurvivalOutcome(PairOutcome):
    """Follow-ups.

    :param times, events, risks: (N,); a higher risk means an earlier event.
    """

    measure: ClassVar[str] = HARRELL
    effect: ClassVar[str] = "Hazard ratio for one standard deviation of the slide's risk, the columns equal"
    ratio: ClassVar[bool] = True
    too_few = "fewer than ten patients with the event"

    def __init__(self, times: npt.ArrayLike, events: npt.ArrayLike, risks: npt.ArrayLike) -> None:
        self.times, self.events = np.asarray(times, np.float64), np.asarray(events, np.bool_)
        self.risks = np.asarray(risks, np.float64)
        super().__init__(len(self.times))
        later = (self.times[:, None] < self.times) | ((self.times[:, None] == self.times) & ~self.events)
        self.above, self.scores = (self.events[:, None] & later)[None], self.risks[None]

    @property
    def bootstrap_strata(self) -> Codes:
        """Patients without and with the event."""
        return self.events.astype(np.intp)

    def take(self, rows: Codes) -> SurvivalOutcome:
        """The outcome of some of the patients."""
        return SurvivalOutcome(self.times[rows], self.events[rows], self.risks[rows])

    def scored(self, predicted: Floats) -> SurvivalOutcome:
        """With the log hazards of a regression."""
        return SurvivalOutcome(self.times, self.events, predicted)

    def standardised(self) -> SurvivalOutcome:
        """With standardised risks."""
        return self.scored(_standardised(self.risks))

    def counted(self) -> int | None:
        """Patients with the event."""
        return int(self.events.sum())

    def enough(self) -> bool:
        """Ten with the event."""
        return (self.counted() or 0) >= FEWEST

    def fit(self, x: Floats, *, with_score: bool) -> Fitted | None:
        """Cox's model; None without an event."""
        return fit_cox(self.times, self.events, _beside(x, self.risks, with_score)) if self.events.any() else None

    def predict(self, fitted: Fitted, x: Floats, *, with_score: bool) -> Floats:
        """Log hazards (N,)."""
        return np.asarray(_beside(x, self.risks, with_score) @ fitted.coefficients)

    def follows(self, x: Floats) -> bool:
        """Whether the risk follows from the columns."""
        return depends_on(self.risks, x)


class NumberOutcome(Outcome):
    """Numbers.

    :param labels, predictions: (N,).
    """

    measure: ClassVar[str] = "Spearman's ρ"
    chance: ClassVar[float] = 0.0
    effect: ClassVar[str] = "Change of the label with a standard deviation of the slide's prediction, the columns equal"
    test: ClassVar[str] = "F test of both linear models, F"
    too_few = f"fewer than {FEWEST_NUMBERS} patients"

    def __init__(self, labels: npt.ArrayLike, predictions: npt.ArrayLike) -> None:
        self.labels, self.predictions = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
        super().__init__(len(self.labels))

    def take(self, rows: Codes) -> NumberOutcome:
        """The outcome of some of the patients."""
        return NumberOutcome(self.labels[rows], self.predictions[rows])

    def scored(self, predicted: Floats) -> NumberOutcome:
        """With the predictions of a regression."""
        return NumberOutcome(self.labels, predicted)

    def standardised(self) -> NumberOutcome:
        """With standardised predictions."""
        return self.scored(_standardised(self.predictions))

    def counted(self) -> int | None:
        """None: all patients count."""
        return None

    def enough(self) -> bool:
        """Twenty, with labels that differ."""
        return self.size >= FEWEST_NUMBERS and bool(np.ptp(self.labels) > 0)

    def compared(self, strata: Codes) -> Bools:
        """Those in strata of three or more."""
        sizes = np.bincount(strata, minlength=int(strata.max(initial=0)) + 1)
        found: Bools = sizes[strata] >= 3
        return found

    def within(self, weights: Floats, strata: Codes) -> Floats:
        """The weighted mean of ρ over the strata."""
        total, patients = np.zeros(len(weights)), np.zeros(len(weights))
        for code in np.unique(strata[self.compared(strata)]):
            members = np.flatnonzero(strata == code)
            own = weights[:, members]
            some = own.sum(axis=1) >= 3
            if some.any():
                rho = number_figures(self.labels[members], self.predictions[members])(own[some])[self.measure]
                size = np.where(np.isfinite(rho), own[some].sum(axis=1) - 1, 0.0)
                total[some] += size * np.nan_to_num(rho)
                patients[some] += size
        return share(total, patients)

    def permuted(self, strata: Codes, permutations: int, seed: int) -> Floats:
        """The same mean for each permutation."""
        rng, total, patients = np.random.default_rng(seed), np.zeros(permutations), 0
        for code in np.unique(strata[self.compared(strata)]):
            members = np.flatnonzero(strata == code)
            one, other = (rankdata(values[members]) for values in (self.labels, self.predictions))
            if np.ptp(one) == 0 or np.ptp(other) == 0:
                continue
            one, other = ((ranks - ranks.mean()) / ranks.std() for ranks in (one, other))
            step = max(1, CELLS_AT_ONCE // len(members))
            for start in range(0, permutations, step):
                rows = np.tile(other, (min(step, permutations - start), 1))
                total[start : start + step] += (len(members) - 1) * (rng.permuted(rows, axis=1) @ one) / len(members)
            patients += len(members) - 1
        return total / patients if patients else np.full(permutations, np.nan)

    def fit(self, x: Floats, *, with_score: bool) -> Fitted | None:
        """Least squares; None if there is one patient."""
        return fit_line(self.labels, _beside(x, self.predictions, with_score)) if self.size > 1 else None

    def predict(self, fitted: Fitted, x: Floats, *, with_score: bool) -> Floats:
        """Numbers (N,)."""
        design = np.column_stack([np.ones(self.size), _beside(x, self.predictions, with_score)])
        return np.asarray(design @ fitted.coefficients)

    def follows(self, x: Floats) -> bool:
        """Whether the prediction follows from the columns."""
        return depends_on(self.predictions, x)

    def gain_test(self, fewer: Fitted, more: Fitted) -> tuple[float, float]:
        """F of one further column: the likelihood ratio of normal errors, with its exact distribution."""
        left = self.size - len(more.coefficients)
        ratio = float(np.exp(2 * (more.log_likelihood - fewer.log_likelihood) / self.size)) - 1
        statistic = max(0.0, ratio * left)
        return statistic, float(fisher.sf(statistic, 1, left)) if left > 0 else 1.0


def _standardised(score: Floats) -> Floats:
    return np.asarray((score - score.mean()) / (float(score.std()) or 1.0))


def _beside(x: Floats, score: Floats, with_score: bool) -> Floats:
    return np.column_stack([x, score]) if with_score else x
