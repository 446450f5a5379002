"""Figures of several classes, held against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, roc_auc_score
from wsipipe.models.evaluation.class_metrics import class_figures, class_metrics, macro_auc
from wsipipe.models.evaluation.metrics import binary_metrics
from wsipipe.models.evaluation.task_metrics import paired_difference

NAMES = ("zero", "low", "high")


def predictions(n: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    y = np.arange(n) % 3
    logits = np.round(draw.normal(size=(n, 3)) + np.eye(3)[y], 1)  # rounded, so that there are ties
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return y, shares, shares.argmax(axis=1)


def test_every_figure_is_that_of_scikit_learn() -> None:
    y, p, call = predictions()
    found = class_metrics("multiclass", y, p, call, NAMES, rounds=0, seed=0)
    assert found.main.value == pytest.approx(roc_auc_score(y, p, multi_class="ovr"), abs=1e-12)
    for place, name in enumerate(NAMES):
        assert found.figures[f"AUC of {name}"].value == pytest.approx(roc_auc_score(y == place, p[:, place]), abs=1e-12)
    assert found.figures["balanced accuracy"].value == pytest.approx(balanced_accuracy_score(y, call))
    assert found.figures["F1"].value == pytest.approx(f1_score(y, call, average="macro"))
    assert found.figures["accuracy"].value == pytest.approx(accuracy_score(y, call))
    assert found.figures["Brier score"].value == pytest.approx(((p - np.eye(3)[y]) ** 2).sum(axis=1).mean())
    assert found.confusion == confusion_matrix(y, call).tolist()
    assert found.counts == {"zero": 30, "low": 30, "high": 30}


def test_weights_give_what_the_drawn_patients_give() -> None:
    y, p, call = predictions()
    weights = np.random.default_rng(1).multinomial(len(y), np.full(len(y), 1 / len(y)), size=4).astype(float)
    by_weights = class_figures(y, p, call, NAMES)(weights)
    for i, drawn in enumerate(weights):
        rows = np.repeat(np.arange(len(y)), drawn.astype(int))
        of_rows = class_figures(y[rows], p[rows], call[rows], NAMES)(np.ones((1, len(rows))))
        for name, values in by_weights.items():
            assert values[i] == pytest.approx(of_rows[name][0], abs=1e-12), name


def test_two_classes_have_the_binary_figures() -> None:
    y, p, _ = predictions()
    y, p = (y > 0).astype(int), p[:, 1] + p[:, 2]
    call = (p > 0.6).astype(int)
    binary = binary_metrics(y, p, call, rounds=0)
    found = class_metrics("multiclass", y, np.column_stack([1 - p, p]), call, ("no", "yes"), rounds=0, seed=0)
    assert found.main.value == pytest.approx(binary.auc.value, abs=1e-12)
    assert found.figures["balanced accuracy"].value == pytest.approx(binary.balanced_accuracy.value)
    assert found.figures["Brier score"].value == pytest.approx(2 * (binary.brier.value or 0))


def test_a_class_without_patients_has_no_figure() -> None:
    y, p, call = predictions()
    some = y < 2
    found = class_metrics("multiclass", y[some], p[some], call[some], NAMES, rounds=5, seed=0)
    assert found.main.value is None
    assert found.figures["AUC of zero"].value is not None
    assert macro_auc(y[some], p[some]) is None


def test_a_difference_is_paired() -> None:
    y, p, call = predictions(300)
    noise = np.random.default_rng(2).permutation(p)
    good, bad = (class_figures(y, q, call, NAMES) for q in (p, noise))
    same = paired_difference(good, good, "AUC", y, rounds=100, seed=0)
    assert same is not None
    assert (same.difference, same.low, same.high, same.p_value) == (0, None, None, 1), "no round differs"
    apart = paired_difference(good, bad, "AUC", y, rounds=200, seed=0)
    assert apart is not None
    assert apart.low is not None
    assert apart.difference > apart.low > 0
    assert apart.p_value == pytest.approx(2 / 201)
