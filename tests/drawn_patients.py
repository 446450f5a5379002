"""Patients with labels, probabilities and calls, drawn for the tests of metrics."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from scipy.special import expit

patients = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 8).map(lambda n: n / 8), st.integers(0, 1)), min_size=1, max_size=40
)


def drawn_patients(n: int, slope: float, intercept: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities whose true calibration slope and intercept are these."""
    rng = np.random.default_rng(seed)
    told = rng.normal(0, 1.2, n)
    return (rng.random(n) < expit(intercept + slope * told)).astype(int), expit(told)
