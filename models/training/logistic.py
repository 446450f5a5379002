"""Logistic regression on the means of slides: the fit of mean pooling.

It uses scikit-learn; the strength of the penalty is chosen on the validation patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from ...data.errors import about
from ..mil.bag_tensors import Patient
from ..mil.mean_pooling import MeanPooling, MeanPoolingOfTargets
from ..tasks.multitask import MultiTask
from .convex import fit_convex
from .fit import Epoch, Fit, FitSettings, sampling_groups, validate
from .slide_means import Floats, centre_and_scale, slide_means

PENALTIES: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""C of scikit-learn, the inverse of the penalty, strongest penalty first."""
MAX_ITERATIONS = 10_000
"""Maximum number of solver iterations; hundreds are usual."""
TOLERANCE = 1e-6
"""The solver's tolerance on its gradient: weights then agree to about four digits for any order of the patients."""


def fit_mean(
    network: MeanPooling | MeanPoolingOfTargets,
    train: Sequence[Patient],
    validation: Sequence[Patient],
    settings: FitSettings,
    *,
    resume: Path | None = None,
    tell: Callable[[Epoch], None] = lambda _: None,
) -> Fit:
    """Fit ``network`` in place; the signature is that of :func:`~.fit.fit`. Nothing is random: the seed has no effect.

    Both classes have the same total weight, the patients of a class the same weight each, and a patient's slides share
    it. A patient with the soft target t counts twice, as positive with t and as negative with 1 − t times their weight.

    :param settings: batch size and arithmetic of the validation; the other settings concern gradient steps.
    :param resume: not used; the fit takes seconds.
    :param tell: called after every penalty.
    :returns: a history with an "epoch" for each of :data:`PENALTIES` (figure ``C``, no learning rate), the best chosen
        as :func:`~.fit.fit` chooses an epoch, of equals the strongest penalty.
    :raises CohortError: no training patient of one class, or no validation patient.
    """
    if isinstance(network, MeanPoolingOfTargets):
        return _fit_targets(network, train, validation, settings, tell)
    if network.task.name not in ("binary", "multiclass") or network.task.outputs != 2:
        return fit_convex(network, train, validation, settings, PENALTIES, tell)
    means, targets, weights = slide_means(sampling_groups(network.task, train))
    centre, scale = centre_and_scale(means, weights)
    x = (means - centre) / scale
    network.load_state_dict({**network.state_dict(), "centre": torch.tensor(centre), "scale": torch.tensor(scale)})
    sample_weights = np.concatenate([weights * targets, weights * (1 - targets)])
    counts = sample_weights > 0
    done = Fit()
    for C in PENALTIES:
        model = LogisticRegression(C=C, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
        is_positive = np.repeat([1, 0], len(x))
        model.fit(np.concatenate([x, x])[counts], is_positive[counts], sample_weight=sample_weights[counts])
        half = torch.tensor(np.append(model.coef_[0], model.intercept_) / 2)
        with torch.no_grad():
            network.head.weight.copy_(torch.stack([-half[:-1], half[:-1]]))
            network.head.bias.copy_(torch.stack([-half[-1], half[-1]]))
        task = _cross_entropy(model.decision_function(x), targets, weights)
        judged = validate(network, validation, together=settings.bags_per_step, precision=settings.precision)
        epoch = Epoch.of(len(done.history), {"task": task, "total": task}, judged, 0.0, {"C": C})
        done.add(epoch, network)
        tell(epoch)
    network.load_state_dict(done.state)
    return done


def _fit_targets(
    network: MeanPoolingOfTargets,
    train: Sequence[Patient],
    validation: Sequence[Patient],
    settings: FitSettings,
    tell: Callable[[Epoch], None],
) -> Fit:
    """Fit a model a target, each on the patients who have its label; each keeps the penalty that is best for itself.

    :returns: a history with the means over the targets.
    """
    task = network.task
    assert isinstance(task, MultiTask)
    fits = []
    for (name, own), model in zip(task.targets.items(), network.of_targets, strict=True):
        assert isinstance(model, MeanPooling)
        known, judged = (
            [
                replace(patient, label=label, task=own, target=task.soft_target_of(name, patient.target))
                for patient in patients
                if (label := task.label_of(name, patient.label)) is not None
            ]
            for patients in (train, validation)
        )
        with about(f"biomarkers.{name}"):
            fits.append(fit_mean(model, known, judged, settings))
    done = Fit()
    for epochs in zip(*(fit.history for fit in fits), strict=True):
        first, gain = epochs[0], float(np.mean([epoch.gain for epoch in epochs]))
        if len(epochs) > 1:
            losses = {name: float(np.mean([epoch.losses[name] for epoch in epochs])) for name in first.losses}
            loss = float(np.mean([epoch.validation_loss for epoch in epochs]))
            first = replace(first, losses=losses, validation_auc=gain, validation_loss=loss, validation_rank=None)
        done.add(first, network)
        tell(first)
    done.state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    return done


def _cross_entropy(logits: Floats, targets: Floats, weights: Floats) -> float:
    losses = targets * np.logaddexp(0, -logits) + (1 - targets) * np.logaddexp(0, logits)
    return float(np.average(losses, weights=weights))
