"""A comparison of methods with planted figures, for its page and its plot."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from scipy.special import expit
from wsipipe.models.evaluation.metrics import binary_metrics, roc_points
from wsipipe.models.evaluation.paired_tests import delong
from wsipipe.stages.compare.results import ComparedMethod, Comparison
from wsipipe.stages.pages.asked_question import Question

FOLDS: Final = 5


GAINS: Final = {
    "momkd": ("MoMKD", 1.0),
    "momkd+soft": ("MoMKD", 1.5),
    "momkd-no-rna": ("MoMKD without RNA", 0.8),
    "abmil": ("ABMIL", 0.9),
    "transmil": ("TransMIL", 0.0),
    "omics": ("RNA alone", 3.0),
}


def compared(names: tuple[str, ...] = tuple(GAINS), n: int = 120, seed: int = 3) -> Comparison:
    """Methods on the same patients; the omics know three patients fewer."""
    rng = np.random.default_rng(seed)
    y, shared = (np.arange(n) % 3 == 0).astype(int), rng.normal(size=n)
    methods, reference = [], np.zeros(n)
    for name in names:
        title, gain = GAINS[name]
        p = expit(0.9 * shared + 0.6 * rng.normal(size=n) + gain * y - 0.8)
        known = np.arange(n) < (n - 3 if name == "omics" else n)
        reference = p if name == "momkd" else reference
        fold_aucs = [
            binary_metrics(y[known][i::FOLDS], p[known][i::FOLDS], p[known][i::FOLDS] > 0.5, rounds=0).auc.value
            for i in range(FOLDS)
        ]
        methods.append(
            ComparedMethod(
                name=name,
                title=title,
                soft_targets=name.endswith("+soft"),
                metrics=binary_metrics(y[known], p[known], p[known] > 0.45, rounds=300),
                fold_aucs=tuple(fold_aucs),
                roc=tuple((float(x), float(z)) for x, z in roc_points(y[known], p[known])),
                against_reference=None if name == "momkd" else delong(y[known], p[known], reference[known]),
                note=f"about {name}",
                seconds=75.0,
            )
        )
    return Comparison(
        prevalence=0.5,
        name="her2-compare",
        question=Question(label_column="HER2Calc", positive="yes", negative="no"),
        methods=tuple(methods),
        reference="momkd",
        facts=(("backbone", "efficientnet-lite0"), ("slides", "131")),
        versions=(("torch", "2.15"),),
    )


def undefined(method: ComparedMethod) -> ComparedMethod:
    metrics = binary_metrics([0] * 8, [0.1, 0.2, 0.3, 0.4] * 2, [0] * 8)
    return replace(method, metrics=metrics, fold_aucs=(None,) * FOLDS, roc=(), against_reference=None, seconds=None)
