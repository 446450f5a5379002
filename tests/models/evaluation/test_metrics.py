"""Metrics against hand-worked answers, scikit-learn on resampled patients, and coverage by simulation."""

from __future__ import annotations

import time

import numpy as np
import pytest
from drawn_patients import drawn_patients, patients
from hypothesis import given, settings
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score
from wsipipe.data.errors import UsageError
from wsipipe.models.evaluation import bootstrap as module
from wsipipe.models.evaluation.metrics import (
    Metrics,
    binary_metrics,
    roc_points,
    wilson_interval,
    youden_threshold,
)

NAMES = ("auc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity", "brier", "calibration_error")


def test_hand_worked_example() -> None:
    labels = [1, 1, 0, 1, 0, 0]
    probabilities = [0.9, 0.8, 0.7, 0.6, 0.6, 0.1]
    calls = [1, 1, 1, 0, 0, 0]
    m = binary_metrics(labels, probabilities, calls)
    # Of nine pairs: .9 and .8 win all three; .6 loses to .7, ties with .6, beats .1.
    assert m.auc.value == pytest.approx((3 + 3 + 0 + 0.5 + 1) / 9)
    # Precision at each distinct threshold that gains recall: 1/1, 2/2, and 3/5 where .6 and .6 come together.
    assert m.auprc.value == pytest.approx((1 + 1 + 3 / 5) / 3)
    assert (m.true_positives, m.false_positives, m.true_negatives, m.false_negatives) == (2, 1, 2, 1)
    assert m.sensitivity.value == pytest.approx(2 / 3)
    assert m.specificity.value == pytest.approx(2 / 3)
    assert m.balanced_accuracy.value == pytest.approx(2 / 3)
    assert m.f1.value == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert m.brier.value == pytest.approx((0.01 + 0.04 + 0.49 + 0.16 + 0.36 + 0.01) / 6)
    assert (m.n_patients, m.n_positive, m.n_negative) == (6, 3, 3)


def test_one_class_leaves_undefined_figures_none() -> None:
    negatives = binary_metrics([0, 0, 0], [0.2, 0.4, 0.6], [0, 0, 1])
    for name in ("auc", "auprc", "balanced_accuracy", "f1", "sensitivity"):
        assert getattr(negatives, name).value is None
    assert negatives.specificity.value == pytest.approx(2 / 3)
    assert negatives.brier.value == pytest.approx((0.04 + 0.16 + 0.36) / 3)

    positives = binary_metrics([1, 1], [0.2, 0.4], [0, 1])
    for name in ("auc", "auprc", "balanced_accuracy", "specificity"):
        assert getattr(positives, name).value is None
    assert positives.sensitivity.value == 0.5

    nobody = binary_metrics([], [], [])
    assert all(getattr(nobody, name).value is None for name in NAMES)
    assert "NaN" not in nobody.model_dump_json()


def test_one_patient_in_a_class_has_values_without_intervals() -> None:
    m = binary_metrics([1, 0, 0], [0.9, 0.1, 0.2], [1, 0, 0])
    assert m.auc.value == 1
    assert m.auc.low is None
    assert m.auc.high is None
    assert m.bootstrap_rounds == 0


@pytest.mark.parametrize(("n", "low"), [(2, 0.342), (10, 0.722), (100, 0.963)])
def test_shares_without_an_error_have_an_honest_interval(n: int, low: float) -> None:
    """Wilson's lower limit of n of n is n / (n + z²); the bootstrap's would be 1."""
    y = np.repeat([0, 1], n)
    m = binary_metrics(y, np.linspace(0.1, 0.9, 2 * n), y, rounds=20)
    for share in (m.sensitivity, m.specificity):
        assert (share.value, share.high) == (1, 1)
        assert share.low == pytest.approx(low, abs=1e-3)
    assert m.balanced_accuracy.high == 1
    assert m.balanced_accuracy.low == pytest.approx(1 - (1 - n / (n + 3.8414588)) / 2**0.5)
    none_right = binary_metrics(y, np.linspace(0.1, 0.9, 2 * n), 1 - y, rounds=20)
    assert none_right.sensitivity.low == 0
    assert none_right.sensitivity.high == pytest.approx(1 - low, abs=1e-3)


def test_a_share_of_one_class_alone_has_its_interval_too() -> None:
    m = binary_metrics([1, 1, 1, 1], [0.9, 0.1, 0.7, 0.8], [1, 0, 1, 1], rounds=20)
    assert (m.sensitivity.low, m.sensitivity.high) == wilson_interval(3, 4)
    assert (m.specificity.value, m.balanced_accuracy.value) == (None, None)


def test_json_round_trip() -> None:
    m = binary_metrics([1, 0, 1, 0], [0.9, 0.1, 0.4, 0.5], [1, 0, 0, 1])
    assert Metrics.model_validate_json(m.model_dump_json()) == m


@given(patients)
@settings(max_examples=60, deadline=None)
def test_every_figure_is_a_share_inside_its_interval_range(rows: list[tuple[int, float, int]]) -> None:
    labels, probabilities, calls = zip(*rows, strict=True)
    m = binary_metrics(labels, probabilities, calls, rounds=50)
    for name in NAMES:
        estimate = getattr(m, name)
        if estimate.value is not None:
            assert 0 <= estimate.value <= 1
        if estimate.low is not None:
            assert 0 <= estimate.low <= estimate.high <= 1
    total = m.true_positives + m.false_positives + m.true_negatives + m.false_negatives
    assert total == m.n_patients == len(rows)


@given(patients)
@settings(max_examples=40, deadline=None)
def test_swapping_the_classes_mirrors_the_figures(rows: list[tuple[int, float, int]]) -> None:
    labels, probabilities, calls = (np.array(column) for column in zip(*rows, strict=True))
    there = binary_metrics(labels, probabilities, calls, rounds=0)
    back = binary_metrics(1 - labels, 1 - probabilities, 1 - calls, rounds=0)
    assert there.auc.value == pytest.approx(back.auc.value) if there.auc.value is not None else back.auc.value is None
    assert there.sensitivity.value == back.specificity.value
    assert there.brier.value == pytest.approx(back.brier.value)


def test_bootstrap_rounds_equal_scikit_learn_on_the_drawn_patients() -> None:
    rng = np.random.default_rng(3)
    y = rng.random(30) < 0.4
    p = np.round(rng.random(30), 1)  # many ties
    call = p >= 0.5
    order = np.argsort(-p, kind="stable")
    y, p, call = y[order], p[order], call[order]
    groups = np.searchsorted([0.3, 0.6], p)
    weights = module.draws(y, 20, np.random.default_rng(11))
    drawn = module.figures_of_rounds(weights, y, p, call, groups)
    whole = module.bootstrap(y[::-1], p[::-1], call[::-1], groups[::-1], rounds=20, seed=11)
    assert whole["brier"].shape == (20,)
    assert whole.keys() == drawn.keys() == set(NAMES)
    weights = weights.astype(int)
    for i, weight in enumerate(weights):
        assert weight.sum() == 30
        assert weight[y].sum() == y.sum()
        ys, ps, calls = (np.repeat(a, weight) for a in (y, p, call))
        assert drawn["auc"][i] == pytest.approx(roc_auc_score(ys, ps))
        assert drawn["auprc"][i] == pytest.approx(average_precision_score(ys, ps))
        assert drawn["f1"][i] == pytest.approx(f1_score(ys, calls))
        assert drawn["brier"][i] == pytest.approx(brier_score_loss(ys, ps))
        assert drawn["sensitivity"][i] == pytest.approx(calls[ys].mean())
        assert drawn["specificity"][i] == pytest.approx(1 - calls[~ys].mean())
        distances = [abs((ys - ps)[np.repeat(groups, weight) == group].sum()) for group in range(3)]
        assert drawn["calibration_error"][i] == pytest.approx(sum(distances) / 30)


def test_interval_covers_the_true_auc_about_95_times_in_100() -> None:
    # Two unit normals 1 apart: AUC = Φ(1/√2) = 0.7602.
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(150):
        y = np.repeat([0, 1], 60)
        p = 1 / (1 + np.exp(-(rng.normal(size=120) + y)))
        auc = binary_metrics(y, p, p >= 0.5, rounds=400, seed=trial).auc
        assert auc.low is not None
        assert auc.high is not None
        hits += auc.low <= 0.7602 <= auc.high
    assert 0.88 <= hits / 150 <= 0.99


def test_same_seed_same_figures_and_chunks_do_not_lose_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    y, p = rng.integers(0, 2, 50), rng.random(50)
    assert binary_metrics(y, p, p > 0.5) == binary_metrics(y, p, p > 0.5)
    assert binary_metrics(y, p, p > 0.5, seed=1).auc.low != binary_metrics(y, p, p > 0.5, seed=2).auc.low
    monkeypatch.setattr(module, "CELLS_AT_ONCE", 50 * 7)
    drawn = module.bootstrap(y == 1, p, p > 0.5, np.zeros(50, dtype=int), rounds=100, seed=0)
    assert len(drawn["auc"]) == 100


def test_a_thousand_patients_take_less_than_a_second() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 1000), rng.random(1000)
    binary_metrics(y[:20], p[:20], p[:20] > 0.5)
    start = time.process_time()  # not wall time: other tests may share the core
    binary_metrics(y, p, p > 0.5, rounds=2000)
    assert time.process_time() - start < 1.5


@pytest.mark.parametrize(
    ("labels", "probabilities", "calls"),
    [
        ([0, 1, 2], [0.1, 0.2, 0.3], [0, 0, 0]),
        ([0, 1], [0.1, 1.2], [0, 0]),
        ([0, 1], [0.1, float("nan")], [0, 0]),
        ([0, 1], [0.1, 0.2], [0, 0.5]),
        ([0, 1], [0.1, 0.2, 0.3], [0, 0]),
        ([[0, 1]], [0.1, 0.2], [0, 0]),
    ],
)
def test_nonsense_is_refused(labels: list[int], probabilities: list[float], calls: list[int]) -> None:
    with pytest.raises(UsageError):
        binary_metrics(labels, probabilities, calls)


def test_youden_on_worked_examples() -> None:
    assert youden_threshold([0, 0, 1, 1], [0.1, 0.3, 0.5, 0.9]) == pytest.approx(0.4)
    # .2|.3 and .6|.7 both reach 1/2; .65 is nearer to a half than .25.
    assert youden_threshold([0, 1, 0, 1], [0.2, 0.3, 0.6, 0.7]) == pytest.approx(0.65)
    assert youden_threshold([0, 1], [0.5, 0.5]) is None
    assert youden_threshold([1, 1], [0.1, 0.9]) is None
    assert youden_threshold([], []) is None
    assert youden_threshold([1, 0], [0.1, 0.9]) is None, "worse than chance everywhere"


def test_youden_between_adjacent_floats_still_separates() -> None:
    low = 0.3
    high = float(np.nextafter(low, 1))
    threshold = youden_threshold([0, 1], [low, high])
    assert threshold is not None
    assert low < threshold <= high


@given(patients)
@settings(max_examples=100, deadline=None)
def test_no_threshold_beats_youdens(rows: list[tuple[int, float, int]]) -> None:
    labels, probabilities, _ = (np.array(column) for column in zip(*rows, strict=True))

    def j(threshold: float) -> float:
        call = probabilities >= threshold
        return float(call[labels == 1].mean() - call[labels == 0].mean())

    threshold = youden_threshold(labels, probabilities)
    if 0 < labels.sum() < len(labels):
        best = max(j(t) for t in np.arange(-1, 11) / 8 + 1 / 16)
        assert (j(threshold) if threshold is not None else 0) == pytest.approx(max(best, 0))
    else:
        assert threshold is None


def test_area_under_the_roc_points_is_the_auc() -> None:
    rng = np.random.default_rng(2)
    y, p = rng.integers(0, 2, 80), np.round(rng.random(80), 1)
    points = roc_points(y, p)
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    auc = binary_metrics(y, p, p > 0.5, rounds=0).auc.value
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(auc)
    assert roc_points([1, 1], [0.2, 0.3]).shape == (0, 2)


def test_wilson_known_values() -> None:
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)


def test_chance_of_the_brier_score_is_at_the_same_prevalence() -> None:
    m = binary_metrics([1] * 3 + [0] * 17, [0.5] * 20, [0] * 20, rounds=0)
    assert m.chance_brier(0.5) == m.brier.value == 0.25
    assert m.chance_brier(0.15) == pytest.approx(0.15 * 0.85)
    assert binary_metrics([], [], []).chance_brier(0.5) is None


def test_without_rounds_there_are_no_intervals() -> None:
    y, p = drawn_patients(60, 1, 0, 3)
    m = binary_metrics(y, p, p > 0.5, rounds=0)
    for name in (*NAMES, "calibration_slope", "calibration_in_the_large"):
        assert getattr(m, name).value is not None
        assert getattr(m, name).low is None
