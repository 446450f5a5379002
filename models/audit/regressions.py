"""Regressions of classes, numbers and follow-ups on columns, by maximum likelihood without a penalty, for the audit.

*Classes*: logits u_c = a_c + x · b_c of C classes (a_0 = 0, b_0 = 0), and of classes in order u_c = a_c + c x · b, the
adjacent-category logits (Agresti, Categorical Data Analysis, 2013, section 8.3). A model's score adds one term, its own
log-probability of each class times one coefficient, as an attribute of the choice enters McFadden's conditional logit:
one degree of freedom, and with two classes logistic regression on the columns and the log-odds. *Numbers*: least
squares. *Follow-ups*: Cox's model, events at one time by Efron's rule (J. Am. Stat. Assoc. 72:557, 1977).

As in :mod:`.likelihood`, where columns separate the patients the likelihood has a limit, and coefficients no error.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, softmax

from .likelihood import NEGLIGIBLE, Bools, Floats, Likelihood, maximum, standard_errors

_SEPARATED: Final = 15.0  # size of a coefficient of standardised columns from which the fit has no finite maximum


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fit to patients.

    :param coefficients: (P,), the shortest of those that fit equally well.
    :param errors: (P,) standard errors; NaN of coefficients that grow without bounds, as columns separate patients, and
        of those that the columns do not determine.
    :param log_likelihood: at its maximum, or its limit.
    """

    coefficients: Floats
    errors: Floats
    log_likelihood: float


def class_design(x: Floats, classes: int, log_shares: Floats | None, *, ordered: bool) -> Floats:
    """Build what the logits of N patients are linear in: (N, C, P).

    :param x: (N, K) columns.
    :param log_shares: (N, C) the score's log-probabilities, the last of the terms; None without a score.
    :param ordered: whether the classes are in order.
    """
    n, k = x.shape
    places = np.arange(classes)
    is_class = np.broadcast_to(np.eye(classes)[:, 1:], (n, classes, classes - 1))
    if ordered:
        of_columns = places[:, None] * x[:, None, :]
    else:
        of_columns = (is_class[..., None] * x[:, None, None, :]).reshape(n, classes, (classes - 1) * k)
    score = [] if log_shares is None else [log_shares[..., None]]
    return np.concatenate([is_class, of_columns, *score], axis=2)


def fit_classes(y: npt.NDArray[np.intp], design: Floats) -> Fitted:
    """Fit the logits of classes.

    :param y: (N,) places of the classes.
    :param design: (N, C, P) of :func:`class_design`.
    """
    chosen = design[np.arange(len(y)), y]

    def at(coefficients: Floats) -> tuple[float, Floats, Floats]:
        logits = design @ coefficients
        p = softmax(logits, axis=1)
        means = np.einsum("nc,ncp->np", p, design)
        information = np.einsum("nc,ncp,ncq->pq", p, design, design, optimize=True) - means.T @ means
        height = float(log_softmax(logits, axis=1)[np.arange(len(y)), y].sum())
        return height, (chosen - means).sum(axis=0), information

    return _fitted(at, design.shape[2])


def fit_cox(times: Floats, events: Bools, x: Floats) -> Fitted:
    """Fit Cox's model.

    :param times, events: (N,), some of them events.
    :param x: (N, K) columns.
    """
    order = np.argsort(-times, kind="stable")
    t, e, rows = times[order], events[order], x[order]
    cases = np.flatnonzero(e)
    _, starts, sizes = np.unique(-t[cases], return_index=True, return_counts=True)
    last = np.repeat(np.searchsorted(-t, -t[cases][starts], side="right") - 1, sizes)  # those up to it were at risk
    part = (np.arange(len(cases)) - np.repeat(starts, sizes)) / np.repeat(sizes, sizes)
    squares = rows[:, :, None] * rows[:, None, :]

    def at_risk(hazard: Floats, values: Floats) -> Floats:
        """For each event: the sum over those at risk, less its part of the sum over those with an event then."""
        column = (-1, *[1] * (values.ndim - 1))
        weighted = hazard.reshape(column) * values
        tied = np.repeat(np.add.reduceat(weighted[cases], starts, axis=0), sizes, axis=0)
        return np.asarray(weighted.cumsum(axis=0)[last] - part.reshape(column) * tied)

    def at(coefficients: Floats) -> tuple[float, Floats, Floats]:
        g = rows @ coefficients
        g = g - g.max(initial=-np.inf)
        hazard = np.exp(g)
        total = at_risk(hazard, np.ones(len(g)))
        means = at_risk(hazard, rows) / total[:, None]
        information = (at_risk(hazard, squares) / total[:, None, None]).sum(axis=0) - means.T @ means
        height = float(g[cases].sum() - np.log(total).sum())
        return height, (rows[cases] - means).sum(axis=0), information

    return _fitted(at, x.shape[1])


def fit_line(y: Floats, x: Floats) -> Fitted:
    """Fit least squares; the first coefficient is the intercept.

    :param y: (N,).
    :param x: (N, K) columns.
    """
    design = np.column_stack([np.ones(len(y)), x])
    coefficients = np.linalg.lstsq(design, y, rcond=NEGLIGIBLE)[0]
    squares = max(float(np.square(y - design @ coefficients).sum()), np.finfo(float).tiny)
    left = len(y) - np.linalg.matrix_rank(design)
    none = np.full(len(coefficients), np.nan)
    errors = standard_errors(design.T @ design, squares=squares, left=left) if left > 0 else none
    return Fitted(np.asarray(coefficients), errors, -len(y) / 2 * log(squares / len(y)))


def _fitted(at: Likelihood, size: int) -> Fitted:
    coefficients, height, information = maximum(at, size)
    bounded = np.abs(coefficients) < _SEPARATED
    errors = standard_errors(information) if size else coefficients
    return Fitted(coefficients, np.where(bounded, errors, np.nan), height)
