"""The RNA teacher of ``--soft-targets``: out-of-fold probabilities of a label from molecular features.

A ridge logistic regression on a gene panel. Its probability for a patient whom it was not fitted on is a soft label: it
corrects labels that RNA contradicts, and is independent of what only the slide shows, such as the site. The same
teacher's prediction of test patients is the omics-only ceiling.

*Even prevalence.* The regression is fitted without weights; then the log-odds of the cohort's prevalence is subtracted
from the intercept (Prentice and Pyke, Biometrika 66:403, 1979, equation 2.3, there for case-control samples): the
probability is the one at equally frequent classes, and 0.5 is neutral. It becomes the target of a network that is
trained on both classes equally often; a probability at the cohort's prevalence would teach that network the prevalence,
against its own sampling. Weighting the classes in the fit serves the same end and performed worse. To calibrate to a
cohort, add the log-odds of its prevalence again.

*The ridge* is parameterised by the prior variance v of a patient's logit: a panel of p standardised genes with weights
from N(0, v / p). Scikit-learn's C is v / p, so that one grid serves panels of any size. v is chosen by
cross-validation, with the genes chosen anew in each fold, by the log-loss at even prevalence.

*Far values* are clipped at :data:`CLIP_SD` standard deviations: expression has heavy tails, and one patient's value of
20 would decide its own soft label alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ...data.errors import CohortError, ExpressionError, UsageError
from ...data.molecular.store import ExpressionTable
from ...data.wording import some
from ..tasks.prediction import SoftTarget
from .gene_panel import GenePanel, Selection

Floats = npt.NDArray[np.float64]
FOLDS = 5
"""Number of folds of the training patients; fewer if a class is smaller."""
VARIANCES = tuple(float(variance) for variance in np.logspace(-1, 1, 5))
"""Prior variances of a logit to choose from, the strongest ridge first."""
DEFAULT_VARIANCE = VARIANCES.index(1.0)
"""Index of the variance that is used if there are too few patients to choose."""
CLIP_SD = 3.0
"""Standardised values are clipped at plus and minus this."""


class RnaTeacher:
    """A gene panel with a ridge logistic regression on it, used like a scikit-learn estimator.

    The first three parameters and the seed are the panel's own (:class:`.gene_panel.GenePanel`); the seed also assigns
    the folds. Rows are patients in a fixed order (:func:`measured` sorts them), since folds are assigned by position.
    """

    def __init__(
        self, n_genes: int = 768, selection: Selection = "anova", gene_list: Sequence[str] = (), *, seed: int = 0
    ) -> None:
        self.seed = seed
        self._panel_settings = (n_genes, selection, tuple(gene_list))
        self.panel = self._new_panel()
        self.weights: Floats = np.zeros(0)
        """Weight of each of the panel's genes."""
        self.intercept = 0.0
        self.variance = VARIANCES[DEFAULT_VARIANCE]
        """The chosen prior variance of a logit."""

    def fit(self, matrix: npt.NDArray[np.float32], genes: Sequence[str], labels: npt.ArrayLike) -> Self:
        """Choose the ridge by cross-validation, then fit genes and weights on all rows.

        :param matrix: (n, g), NaN where missing.
        :param genes: g names.
        :param labels: (n,) 0 or 1.
        :raises CohortError: a class is missing, or labels are other than 0 and 1.
        :raises ExpressionError: a fold leaves no gene to choose (see the panel).
        """
        known = _Known.of(matrix, genes, labels)
        folds = deal_folds(known.labels, self.seed)
        best = _best(self._left_out_once(known, folds), known.labels) if folds.any() else DEFAULT_VARIANCE
        self._settle(known, best)
        return self

    def fit_out_of_fold(
        self,
        matrix: npt.NDArray[np.float32],
        genes: Sequence[str],
        labels: npt.ArrayLike,
        folds: npt.NDArray[np.intp] | None = None,
    ) -> Floats:
        """Fit as :meth:`fit` does, and return the (n,) logits of teachers fitted without the row's fold.

        Genes, weights and ridge of such a teacher all come from the other folds: given the folds, a patient's own
        label and values have no influence on its soft target. The ridge is chosen by a nested cross-validation over
        those folds. A teacher fitted without two folds is used for both of them, which halves the work.

        :param folds: (n,) the fold of each row, 0, 1, …, with both classes outside any two of them; assigned if None.
        :raises CohortError: fewer than two rows of a class.
        """
        known = _Known.of(matrix, genes, labels)
        y = known.labels
        if folds is None:
            folds = deal_folds(y, self.seed)
        number = int(folds.max()) + 1
        if number < 2:
            raise CohortError(
                f"{int((y == 1).sum())} positive and {int((y == 0).sum())} negative training patients have RNA:"
                " soft targets need two of each",
                hint=_WAY_OUT,
            )
        once = self._left_out_once(known, folds)
        twice = np.zeros((number, len(y), len(VARIANCES)))  # [k]: by teachers fitted without k and the row's own fold
        if number > 2:
            for pair in combinations(range(number), 2):
                model = self._fit_path(known.part(~np.isin(folds, pair)))
                for fold, other in (pair, pair[::-1]):
                    twice[other, folds == fold] = model.logits(matrix[folds == fold], genes)
        logits = np.zeros(len(y))
        for fold in range(number):
            own = folds == fold
            best = _best(twice[fold, ~own], y[~own]) if number > 2 else DEFAULT_VARIANCE
            logits[own] = once[own, best]
        self._settle(known, _best(once, y))
        return logits

    def predict(self, matrix: npt.NDArray[np.float32], genes: Sequence[str]) -> Floats:
        """(n,) log-odds of label 1 at even prevalence; a missing value counts as the training mean.

        :raises ExpressionError: the matrix lacks too many of the panel's genes.
        """
        return _Path(self.panel, self.weights[:, None], np.array([self.intercept])).logits(matrix, genes)[:, 0]

    def _new_panel(self) -> GenePanel:
        return GenePanel(*self._panel_settings, seed=self.seed)

    def _settle(self, known: _Known, best: int) -> None:
        """Fit all rows with the ridge that was best on left-out rows."""
        self.variance = VARIANCES[best]
        model = self._fit_path(known, (self.variance,))
        self.panel, self.weights, self.intercept = model.panel, model.weights[:, 0], float(model.intercepts[0])

    def _left_out_once(self, known: _Known, folds: npt.NDArray[np.intp]) -> Floats:
        """Compute the logits (n, variances) of each row by the teachers fitted on the other folds."""
        logits = np.zeros((len(folds), len(VARIANCES)))
        for fold in range(int(folds.max()) + 1):
            own = folds == fold
            logits[own] = self._fit_path(known.part(~own)).logits(known.matrix[own], known.genes)
        return logits

    def _fit_path(self, known: _Known, variances: Sequence[float] = VARIANCES) -> _Path:
        """Fit a panel to these rows, and a regression on it at each variance, starting from the previous one."""
        panel = self._new_panel().fit(known.matrix, known.genes, known.labels)
        values = _values(panel, known.matrix, known.genes)
        share = known.labels.mean()
        prior = float(np.log(share / (1 - share)))
        model = LogisticRegression(warm_start=True, max_iter=10_000)
        weights, intercepts = [], []
        for variance in variances:
            model.set_params(C=variance / len(panel.genes)).fit(values, known.labels)
            weights.append(model.coef_[0].copy())
            intercepts.append(float(model.intercept_[0]) - prior)
        return _Path(panel, np.stack(weights, axis=1), np.array(intercepts))


@dataclass(frozen=True)
class _Known:
    """Patients with known RNA and label: matrix (n, g), g genes, labels (n) of both classes."""

    matrix: npt.NDArray[np.float32]
    genes: Sequence[str]
    labels: npt.NDArray[np.intp]

    @classmethod
    def of(cls, matrix: npt.NDArray[np.float32], genes: Sequence[str], labels: npt.ArrayLike) -> Self:
        given = np.asarray(labels)
        if given.shape != (len(matrix),):
            raise ExpressionError(f"{len(matrix)} patients of expression cannot have labels of shape {given.shape}")
        found = sorted(set(given.tolist()))
        if found != [0, 1]:
            what = f"the teacher needs patients with RNA of both classes, 0 and 1; {len(given)} patients have {found}"
            raise CohortError(what, hint=_WAY_OUT)
        return cls(matrix, genes, given.astype(np.intp))

    def part(self, rows: npt.NDArray[np.bool_]) -> _Known:
        """Select some of the patients."""
        return _Known(self.matrix[rows], self.genes, self.labels[rows])


@dataclass(frozen=True)
class _Path:
    """A fitted panel with regressions at several strengths: weights (genes, strengths), intercepts (strengths)."""

    panel: GenePanel
    weights: Floats
    intercepts: Floats

    def logits(self, matrix: npt.NDArray[np.float32], genes: Sequence[str]) -> Floats:
        """Compute the logits (n, strengths)."""
        logits: Floats = _values(self.panel, matrix, genes) @ self.weights + self.intercepts
        return logits


def _values(panel: GenePanel, matrix: npt.NDArray[np.float32], genes: Sequence[str]) -> Floats:
    return np.clip(panel.transform(matrix, genes).astype(np.float64), -CLIP_SD, CLIP_SD)


@dataclass(frozen=True)
class SoftTargets:
    """The probabilities of label 1 that a fold's networks are trained on, and figures for the report.

    :param train: every training patient; out of fold if the patient has RNA, else the mean out-of-fold probability of
        the patient's class.
    :param validation: every validation patient; by the teacher fitted on all training patients, without any
        validation patient's label. None if the patient has no RNA.
    :param description: JSON values.
    """

    train: Mapping[str, SoftTarget]
    validation: Mapping[str, SoftTarget | None]
    description: dict[str, Any]

    @classmethod
    def fitted(
        cls,
        table: ExpressionTable,
        train: Mapping[str, int],
        validation: Collection[str],
        *,
        n_genes: int = 768,
        selection: Selection = "anova",
        gene_list: Sequence[str] = (),
        seed: int = 0,
    ) -> Self:
        """Fit the teacher on the training patients in the table, and on no other row.

        :param table: RNA, or joined blocks, of these patients and any others.
        :param train: patient → label.
        :raises CohortError: fewer than two training patients of a class have RNA.
        :raises ExpressionError: in a fold of the training patients no gene of a block is left to choose.
        """
        both = sorted(set(train) & set(validation))
        if both:
            raise UsageError(f"{some(both)} cannot be in training and in validation")
        patients = measured(table, train)
        labels = np.array([train[patient] for patient in patients], dtype=np.intp)
        teacher = RnaTeacher(n_genes, selection, gene_list, seed=seed)
        try:
            logits = teacher.fit_out_of_fold(table.rows(patients), table.genes, labels)
        except ExpressionError as error:
            what = f"the RNA teacher of the soft targets, fitted to folds of the training patients: {error.what}"
            raise ExpressionError(what, path=table.source, hint=error.hint or _WAY_OUT) from error
        probabilities = expit(logits)
        class_means = [float(probabilities[labels == label].mean()) for label in (0, 1)]
        out_of_fold = dict(zip(patients, probabilities.tolist(), strict=True))
        with_rna = measured(table, validation)
        predicted = expit(teacher.predict(table.rows(with_rna), table.genes)).tolist()
        validation_targets = dict(zip(with_rna, predicted, strict=True))
        description = {
            "train_patients": len(train),
            "train_patients_with_rna": len(patients),
            "validation_patients": len(validation),
            "validation_patients_with_rna": len(with_rna),
            "genes": len(teacher.panel.genes),
            "prior_variance": teacher.variance,
            "out_of_fold_auc": float(roc_auc_score(labels, logits)),
            "class_means": class_means,
        }
        return cls(
            {patient: out_of_fold.get(patient, class_means[label]) for patient, label in sorted(train.items())},
            {patient: validation_targets.get(patient) for patient in sorted(validation)},
            description,
        )


def measured(table: ExpressionTable, patients: Collection[str]) -> tuple[str, ...]:
    """List the patients, sorted, for whom the table holds any value."""
    there = sorted(patient for patient in set(patients) if patient in table)
    return tuple(patient for patient in there if not np.isnan(table.rows([patient])).all())


def deal_folds(labels: npt.NDArray[np.intp], seed: int) -> npt.NDArray[np.intp]:
    """Assign each row to a fold (n,), both classes evenly, with :data:`FOLDS` folds or the size of the smaller class.

    Rows are ordered by a hash of seed and position, as :mod:`wsipipe.data.cohort.splits` does with patients.
    """
    folds = min(FOLDS, *(int((labels == label).sum()) for label in (0, 1)))
    keys = [hashlib.sha256(f"{seed}\0teacher\0{row}".encode()).digest() for row in range(len(labels))]
    order = sorted(range(len(labels)), key=lambda row: (labels[row], keys[row]))
    assigned = np.zeros(len(labels), dtype=np.intp)
    assigned[order] = np.arange(len(labels)) % max(folds, 1)
    return assigned


_WAY_OUT = "train without soft targets, use fewer folds, or find more patients with RNA"


def _best(logits: Floats, labels: npt.NDArray[np.intp]) -> int:
    """Find the column of (n, variances) with the least log-loss at even prevalence; of equals the strongest ridge."""
    losses = np.logaddexp(0.0, np.where(labels == 1, -1.0, 1.0)[:, None] * logits)
    return int(np.argmin(losses[labels == 1].mean(axis=0) + losses[labels == 0].mean(axis=0)))
