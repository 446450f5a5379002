"""What linear models are fitted to: the mean tile of each training slide, with its target value and its weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..mil.bag_tensors import Patient

ROUNDING = 1e-6
"""A feature whose standard deviation is less than this fraction of its mean varies by float32's rounding alone."""

Floats = NDArray[np.float64]


def slide_means(groups: Sequence[Sequence[Patient]], *, together: bool = False) -> tuple[Floats, Floats, Floats]:
    """Collect the means (rows, D), target values (rows, …) and weights (rows) of training slides.

    All groups have the same total weight, their patients the same each, and a patient's slides share it; weights sum to
    the number of patients.

    :param together: a row for each patient, the mean of their slides: the score of a linear model is then the mean of
        the slides' scores, as :meth:`.Task.join` takes it.
    """
    patients = sum(len(group) for group in groups)
    means: list[Floats] = []
    values, weights = [], []
    for group in groups:
        for patient in group:
            of_slides = [bag.read().features.float().mean(dim=0).double().cpu().numpy() for bag in patient.bags]
            own = [np.mean(of_slides, axis=0)] if together else of_slides
            means += own
            values += [patient.value] * len(own)
            weights += [patients / len(groups) / len(group) / len(own)] * len(own)
    return np.stack(means), np.array(values, dtype=np.float64), np.array(weights)


def centre_and_scale(means: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Compute the weighted mean and standard deviation (D) of slide means, 1 for features that do not vary."""
    centre = np.average(means, axis=0, weights=weights)
    scale = np.sqrt(np.average((means - centre) ** 2, axis=0, weights=weights))
    varies = scale > ROUNDING * np.abs(centre)
    return centre, np.where(varies, scale, 1.0)
