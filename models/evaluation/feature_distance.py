"""The distance of feature vectors from those of training, in units of their own spread.

It is the Mahalanobis distance under a covariance shrunk towards a sphere (Ledoit and Wolf, Journal of Multivariate
Analysis 88, 2004), since there are often fewer slides than features. Of the covariance the largest :data:`COMPONENTS`
directions are kept, and one variance for all others (probabilistic PCA: Tipping and Bishop, JRSS B 61, 1999): what
lies off these directions is far as soon as training never went there. Divided by the square root of the width, the
distance of an ordinary vector is about 1, whatever the backbone.

What is kept are a mean and variances: no vector of a slide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.covariance import ledoit_wolf_shrinkage

COMPONENTS: Final = 32
FEWEST: Final = 5
"""Vectors below which there is no spread to speak of."""
MOST: Final = 8192
"""Vectors that a spread is computed from; of more, every second, third and so on."""
_SMALLEST: Final = 1e-12
"""Share of the largest variance below which a direction has none but rounding."""

Vectors = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class FeatureSpread:
    """Where vectors of D features lie, and how far they spread."""

    mean: NDArray[np.float64]
    """(D,)"""
    components: NDArray[np.float64]
    """(r, D), orthogonal unit vectors."""
    variances: NDArray[np.float64]
    """(r,), along the components."""
    rest: float
    """Variance in each of the other directions."""

    @classmethod
    def of(cls, vectors: Vectors) -> Self | None:
        """The spread of vectors (n, D); None of too few, or if all are equal."""
        x = np.asarray(vectors[:: -(-len(vectors) // MOST) if len(vectors) > MOST else 1], dtype=np.float64)
        n, width = x.shape
        if n < FEWEST:
            return None
        mean = x.mean(axis=0)
        x = x - mean
        total = float((x**2).sum()) / n
        if total <= 0:
            return None
        shrinkage = float(ledoit_wolf_shrinkage(x, assume_centered=True))
        kept = min(COMPONENTS, n - 1, width)
        # Of the two products the smaller one has the same eigenvalues.
        product = x.T @ x / n if width <= n else x @ x.T / n
        values, directions = eigh(product, subset_by_index=[len(product) - kept, len(product) - 1])
        real = values > _SMALLEST * values.max()  # equal vectors span fewer directions than there are vectors
        values, directions = values[real], directions[:, real]
        components = directions.T if width <= n else directions.T @ x
        components = components / np.linalg.norm(components, axis=1, keepdims=True)
        sphere = total / width
        left = max(total - float(values.sum()), 0.0) / max(width - len(values), 1)
        floor = _SMALLEST * float(values.max())
        shrunk = np.maximum((1 - shrinkage) * values + shrinkage * sphere, floor)
        return cls(mean, components, shrunk, max((1 - shrinkage) * left + shrinkage * sphere, floor))

    def distances(self, vectors: Vectors) -> NDArray[np.float64]:
        """How far each vector lies, (n, D) → (n,); about 1 for those of training."""
        x = np.asarray(vectors, dtype=np.float64) - self.mean
        along = x @ self.components.T
        off = np.maximum((x**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        squared: NDArray[np.float64] = ((along**2 / self.variances).sum(axis=1) + off / self.rest) / x.shape[1]
        return np.sqrt(squared)
