"""Probes and the robustness index, on features of which it is known what they show."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from wsipipe.models.evaluation.feature_robustness import probe, robustness_index

ROUNDS = {"rounds": 200, "seed": 0}


def planted(of_label: float, of_site: float, patients: int = 120) -> tuple[np.ndarray, list[str], list[str]]:
    """Features with a direction of the label and one of each of three sites, which have nothing to do with it."""
    draw = np.random.default_rng(0)
    labels, sites = draw.integers(0, 2, patients), draw.integers(0, 3, patients)
    x = draw.normal(size=(patients, 20))
    x[:, 0] += of_label * (2 * labels - 1)
    x[np.arange(patients), 1 + sites] += of_site
    return x, [f"class {label}" for label in labels], [f"site {site}" for site in sites]


def test_features_of_the_label_and_features_of_the_site() -> None:
    for of_label, of_site in ((3.0, 0.0), (0.0, 4.0)):
        x, labels, sites = planted(of_label, of_site)
        label, site = (probe(x, values, **ROUNDS).auc.value for values in (labels, sites))
        index = robustness_index(x, labels, sites, neighbours=10, **ROUNDS)
        assert label is not None
        assert site is not None
        assert index.value.value is not None
        assert index.value.low is not None
        assert (label > 0.95, site < 0.65) if of_label else (label < 0.65, site > 0.95)
        assert index.at_random == pytest.approx(0.6, abs=0.1)  # the same label and another of three sites: 2 to 1
        assert index.value.value > 0.9 if of_label else index.value.value < 0.2
        assert index.value.low <= index.value.value


def test_the_index_by_hand() -> None:
    """Four patients on a line; the nearest of each is known."""
    x = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 1.0], [1.0, 1.1]])
    index = robustness_index(x, ["a", "a", "b", "a"], ["s", "t", "t", "t"], neighbours=1, rounds=0, seed=0)
    # 1 → 2: same label, another site. 2 → 1: the same. 3 → 4: another label, the same site. 4 → 3: so, too.
    assert index.value.value == 2 / 4
    # Of all pairs: 1-2 and 1-4 share the label alone, 2-3 and 3-4 the site alone (2-4 both, 1-3 nothing).
    assert index.at_random == 2 / 4
    assert (index.n_patients, index.neighbours) == (4, 1)


def test_a_probe_is_a_logistic_regression_on_other_patients() -> None:
    """Held against scikit-learn's AUC: noise is guessed, and adding the label as a feature makes it certain."""
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(200, 30)), draw.integers(0, 2, 200)
    noise = probe(x, [str(value) for value in y], **ROUNDS).auc
    assert noise.low is not None
    assert noise.high is not None
    assert noise.low < 0.5 < noise.high
    x[:, 3] = 10 * y
    assert probe(x, [str(value) for value in y], **ROUNDS).auc.value == 1 == roc_auc_score(y, x[:, 3])


def test_rare_classes_and_patients_without_a_value_are_counted() -> None:
    x = np.random.default_rng(2).normal(size=(40, 5))
    values = ["a"] * 15 + ["b"] * 15 + ["c"] * 4 + [""] * 6
    found = probe(x, values, **ROUNDS)
    assert (found.n_patients, found.classes, found.n_left_out) == (30, ("a", "b"), 4)
    alone = probe(x, ["a"] * 30 + ["b"] * 9 + [""], **ROUNDS)
    assert (alone.auc.value, alone.classes, alone.n_left_out) == (None, ("a",), 9)
    index = robustness_index(x, values, ["s"] * 40, neighbours=99, **ROUNDS)
    assert (index.n_patients, index.neighbours) == (34, 33)
    assert index.value.value == 0 == index.at_random  # one site: nobody has the same label and another site
    assert robustness_index(x, ["a"] * 40, ["s"] * 40, neighbours=5, **ROUNDS).value.value is None
    assert robustness_index(x[:1], ["a"], ["s"], neighbours=5, **ROUNDS).value.value is None
