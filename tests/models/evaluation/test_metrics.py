"""Metrics against hand-worked answers, scikit-learn on resampled patients, and coverage by simulation."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score
from wsipipe.data.errors import UsageError
from wsipipe.models.evaluation import bootstrap as module
from wsipipe.models.evaluation.metrics import (
    Estimate,
    Metrics,
    binary_metrics,
    calibration_bins,
    roc_points,
    wilson_interval,
    youden_threshold,
)

NAMES = ("auc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity", "brier", "calibration_error")

patients = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 8).map(lambda n: n / 8), st.integers(0, 1)), min_size=1, max_size=40
)


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
    monkeypatch.setattr(module, "_CELLS_AT_ONCE", 50 * 7)
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


def test_calibration_bins_hold_every_patient_once() -> None:
    p = np.array([0.1] * 6 + [0.4, 0.5, 0.6, 0.9])
    y = np.array([0] * 5 + [1] + [0, 1, 1, 1])
    bins = calibration_bins(y, p, bins=5)
    assert [b.n for b in bins] == [6, 2, 2]
    assert [b.mean_probability for b in bins] == pytest.approx([0.1, 0.45, 0.75])
    assert [b.share_positive for b in bins] == pytest.approx([1 / 6, 0.5, 1])
    assert calibration_bins([], []) == ()


@given(patients)
@settings(max_examples=60, deadline=None)
def test_calibration_keeps_counts_and_means(rows: list[tuple[int, float, int]]) -> None:
    labels, probabilities, _ = (np.array(column) for column in zip(*rows, strict=True))
    bins = calibration_bins(labels, probabilities)
    assert sum(b.n for b in bins) == len(rows)
    assert sum(b.n * b.mean_probability for b in bins) == pytest.approx(probabilities.sum())
    assert sum(b.n * b.share_positive for b in bins) == pytest.approx(labels.sum())


def expected_calibration_error(y: np.ndarray, p: np.ndarray) -> float:
    return sum(b.n * abs(b.share_positive - b.mean_probability) for b in calibration_bins(y, p)) / len(y)


def test_calibration_error_on_a_worked_example() -> None:
    p = [0.1] * 6 + [0.4, 0.5, 0.6, 0.9]
    y = [0] * 5 + [1] + [0, 1, 1, 1]
    error = binary_metrics(y, p, y).calibration_error
    # Groups of 6, 2 and 2: 6 · |1/6 − .1| + 2 · |1/2 − .45| + 2 · |1 − .75|.
    assert error.value == pytest.approx((0.4 + 0.1 + 0.5) / 10)
    assert binary_metrics([0, 1], [0.0, 1.0], [0, 1]).calibration_error.value == 0
    assert binary_metrics([1, 1], [0.2, 0.4], [0, 0]).calibration_error == Estimate(value=0.7)


def drawn_patients(n: int, slope: float, intercept: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities whose true calibration slope and intercept are these."""
    rng = np.random.default_rng(seed)
    told = rng.normal(0, 1.2, n)
    return (rng.random(n) < expit(intercept + slope * told)).astype(int), expit(told)


def test_calibration_intervals_hold_the_truth() -> None:
    slope, intercept = 0.6, 0.4
    many = drawn_patients(200_000, slope, intercept, 0)
    truth = expected_calibration_error(*many)
    large = binary_metrics(*many, many[1] > 0.5, rounds=0).calibration_in_the_large.value
    assert large is not None
    hits = np.zeros(3)
    for trial in range(1, 201):
        y, p = drawn_patients(150, slope, intercept, trial)
        m = binary_metrics(y, p, p > 0.5, rounds=300)
        for i, (estimate, value) in enumerate(
            [(m.calibration_slope, slope), (m.calibration_in_the_large, large), (m.calibration_error, truth)]
        ):
            assert estimate.value is not None
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low <= estimate.value <= estimate.high
            hits[i] += estimate.low <= value <= estimate.high
    assert (hits[:2] / 200 > 0.91).all()
    assert hits[2] / 200 > 0.75, "the interval of a biased figure is known to be short"


def test_calibration_line_is_logistic_regression_on_the_logit() -> None:
    y, p = drawn_patients(120, 0.5, -0.3, 5)
    m = binary_metrics(y, p, p > 0.5)
    x = logit(p)[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(x, y)
    assert m.calibration_slope.value == pytest.approx(fitted.coef_[0, 0], rel=1e-5)
    # At the maximum of the other fit, with the slope fixed at 1, as many are expected as there are.
    assert m.calibration_in_the_large.value is not None
    assert expit(m.calibration_in_the_large.value + x[:, 0]).sum() == pytest.approx(y.sum(), abs=1e-9)


def test_recalibration_is_that_of_statsmodels() -> None:
    """GLM(binomial, offset=logit p) with a constant, and Logit(constant, logit p), statsmodels 0.14."""
    y, p = [0, 0, 1, 0, 1, 0, 1, 1, 0, 1], [0.05, 0.1, 0.15, 0.2, 0.35, 0.4, 0.5, 0.7, 0.8, 0.9]
    m = binary_metrics(y, p, [0] * 10, rounds=10)
    for estimate, known in (
        (m.calibration_in_the_large, (0.51982092, -1.00265647, 2.04229832)),
        (m.calibration_slope, (0.58507397, -0.37462063, 1.54476857)),
    ):
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx(known, abs=1e-7)


def test_another_prevalence_moves_calibration_in_the_large_by_its_log_odds_and_nothing_of_the_ranks() -> None:
    y, p = drawn_patients(200, 1, 0, 4)
    there, here = (binary_metrics(y, q, p > 0.5, rounds=50) for q in (p, expit(logit(p) + logit(0.15))))
    assert there.calibration_in_the_large.value is not None
    moved = there.calibration_in_the_large.value - logit(0.15)
    assert here.calibration_in_the_large.value == pytest.approx(moved)
    assert here.calibration_slope.value == pytest.approx(there.calibration_slope.value)
    for name in ("auc", "auprc", "sensitivity", "specificity", "f1", "balanced_accuracy"):
        assert getattr(here, name) == getattr(there, name)


def test_chance_of_the_brier_score_is_at_the_same_prevalence() -> None:
    m = binary_metrics([1] * 3 + [0] * 17, [0.5] * 20, [0] * 20, rounds=0)
    assert m.chance_brier(0.5) == m.brier.value == 0.25
    assert m.chance_brier(0.15) == pytest.approx(0.15 * 0.85)
    assert binary_metrics([], [], []).chance_brier(0.5) is None


def test_too_extreme_probabilities_have_a_slope_below_one() -> None:
    y, p = drawn_patients(400, 1, 0, 9)
    there = binary_metrics(y, p, p > 0.5)
    extreme = binary_metrics(y, expit(2 * logit(p) + 1), p > 0.5)
    assert there.calibration_slope.value is not None
    assert extreme.calibration_slope.value == pytest.approx(there.calibration_slope.value / 2)
    assert extreme.auc == there.auc, "order alone does not see it"


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),  # apart
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]),  # apart, the wrong way round
        ([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9]),  # meet in one point
        ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3]),
        ([1, 1], [0.3, 0.4]),
        ([], []),
        ([0, 1, 0, 0], [0.5, 1.0, 0.5 + 1e-15, 0.0]),
        ([0, 1, 0, 1], [0.0, 0.5, 0.5 + 1e-15, 1.0]),  # overlap by a hair
    ],
)
def test_no_calibration_line_where_the_classes_do_not_overlap(labels: list[int], probabilities: list[float]) -> None:
    m = binary_metrics(labels, probabilities, [0] * len(labels))
    assert m.calibration_slope == Estimate(value=None)
    assert (m.calibration_in_the_large.value is None) is (len(set(labels)) < 2), "one class alone says nothing"


def test_certain_and_wrong_still_has_a_calibration_line() -> None:
    m = binary_metrics([0, 1, 0, 1, 1], [0.5, 0.0, 1.0, 1.0, 0.2], [0] * 5)
    assert m.calibration_slope.value is not None
    assert abs(m.calibration_slope.value) < 1


def test_without_rounds_there_are_no_intervals() -> None:
    y, p = drawn_patients(60, 1, 0, 3)
    m = binary_metrics(y, p, p > 0.5, rounds=0)
    for name in (*NAMES, "calibration_slope", "calibration_in_the_large"):
        assert getattr(m, name).value is not None
        assert getattr(m, name).low is None
