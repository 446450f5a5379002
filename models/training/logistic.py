"""Logistic regression on the means of slides: how mean pooling is fitted.

scikit-learn fits it; how strong the penalty is, the validation patients choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from ..mil.bag_tensors import Patient
from ..mil.mean_pooling import MeanPooling
from .fit import Epoch, Fit, FitSettings, of_both_classes, validate

PENALTIES: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""C of scikit-learn, the inverse of the penalty, strongest penalty first."""
MAX_ITERATIONS = 10_000
"""Of the solver. Hundreds are usual."""
TOLERANCE = 1e-6
"""Of the solver, for its gradient: weights then agree to some four digits whatever the order of patients."""
ROUNDING = 1e-6
"""A feature whose standard deviation is less than this of its mean varies by float32's rounding alone."""

Floats = NDArray[np.float64]


def fit_mean(
    network: MeanPooling,
    train: Sequence[Patient],
    validation: Sequence[Patient],
    settings: FitSettings,
    *,
    resume: Path | None = None,
    tell: Callable[[Epoch], None] = lambda _: None,
) -> Fit:
    """Fit ``network`` in place, to be called as :func:`~.fit.fit` is. Nothing is drawn: the seed makes no difference.

    Both classes weigh the same in all, the patients of a class the same, and a patient's slides share its weight. A
    patient with the soft target t counts twice, as positive with t and as negative with 1 − t times its weight.

    :param settings: how many slides are read at a time to validate, and in what arithmetic; the rest is of steps.
    :param resume: left alone; it takes seconds.
    :param tell: called after every penalty.
    :returns: a history with an "epoch" for each of :data:`PENALTIES` (figure ``C``, no learning rate), the best chosen
        as :func:`~.fit.fit` chooses an epoch, of equals the strongest penalty.
    :raises CohortError: no training patient of one class, or no validation patient.
    """
    by_label = of_both_classes(train)
    means, targets, weights = _slides(by_label)
    centre, scale = _standard(means, weights)
    x = (means - centre) / scale
    network.load_state_dict({**network.state_dict(), "centre": torch.tensor(centre), "scale": torch.tensor(scale)})
    taught = np.concatenate([weights * targets, weights * (1 - targets)])
    counts = taught > 0
    done = Fit()
    for C in PENALTIES:
        model = LogisticRegression(C=C, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
        is_positive = np.repeat([1, 0], len(x))
        model.fit(np.concatenate([x, x])[counts], is_positive[counts], sample_weight=taught[counts])
        half = torch.tensor(np.append(model.coef_[0], model.intercept_) / 2)
        with torch.no_grad():
            network.head.weight.copy_(torch.stack([-half[:-1], half[:-1]]))
            network.head.bias.copy_(torch.stack([-half[-1], half[-1]]))
        task = _cross_entropy(model.decision_function(x), targets, weights)
        seen = validate(network, validation, together=settings.bags_per_step, precision=settings.precision)
        losses = {"task": task, "total": task}
        epoch = Epoch(len(done.history), losses, seen.auc, seen.loss, seen.rank_correlation, 0.0, figures={"C": C})
        done.add(epoch, network)
        tell(epoch)
    network.load_state_dict(done.state)
    return done


def _slides(by_label: Sequence[Sequence[Patient]]) -> tuple[Floats, Floats, Floats]:
    """The means (slides, D), targets and weights of training slides; the weights sum to the number of patients."""
    patients = sum(len(of_class) for of_class in by_label)
    means, targets, weights = [], [], []
    for of_class in by_label:
        for patient in of_class:
            for bag in patient.bags:
                means.append(bag.features.float().mean(dim=0).double().cpu().numpy())
                targets.append(patient.label if patient.target is None else patient.target)
                weights.append(patients / 2 / len(of_class) / len(patient.bags))
    return np.stack(means), np.array(targets, dtype=np.float64), np.array(weights)


def _standard(means: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weighted mean and standard deviation (D) of slide means, 1 where a feature does not vary."""
    centre = np.average(means, axis=0, weights=weights)
    scale = np.sqrt(np.average((means - centre) ** 2, axis=0, weights=weights))
    varies = scale > ROUNDING * np.abs(centre)
    return centre, np.where(varies, scale, 1.0)


def _cross_entropy(logits: Floats, targets: Floats, weights: Floats) -> float:
    losses = targets * np.logaddexp(0, -logits) + (1 - targets) * np.logaddexp(0, logits)
    return float(np.average(losses, weights=weights))
