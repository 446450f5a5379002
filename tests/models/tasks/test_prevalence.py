"""The prevalence of a probability: known answers, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from wsipipe.data.errors import UsageError
from wsipipe.models.evaluation.metrics import binary_metrics
from wsipipe.models.tasks.binary import BINARY
from wsipipe.models.tasks.prediction import PatientPrediction, log_odds, threshold_at


def predicted(logits: dict[int, float], thresholds: dict[int, float], prevalence: float) -> PatientPrediction:
    return PatientPrediction.of("P", [logits], thresholds, BINARY, prevalence=prevalence)


def test_known_answers() -> None:
    assert log_odds(0.5) == 0
    assert log_odds(0.2) == pytest.approx(np.log(0.25))
    assert threshold_at(0.5, 0.2) == pytest.approx(0.2)
    assert threshold_at(0.8, 0.2) == pytest.approx(0.5)
    assert threshold_at(0.37, 0.5) == 0.37
    assert (threshold_at(0.0, 0.2), threshold_at(1.0, 0.2)) == (0.0, 1.0)
    # Bayes: a slide that is four times as likely if positive, where one in five is positive.
    one = predicted({0: float(np.log(4))}, {0: 0.5}, 0.2)
    assert one.probability == pytest.approx(0.5)
    assert one.threshold == pytest.approx(0.2)
    assert one.logit == np.log(4), "the score stays at even prevalence"
    assert one.prevalence == 0.2


def test_order_and_calls_are_the_same_at_every_prevalence() -> None:
    draw = np.random.default_rng(1)
    scores, thresholds = draw.normal(0, 3, (200, 3)), {0: 0.31, 1: 0.64, 2: 0.5}
    at = {
        prevalence: [predicted(dict(enumerate(own.tolist())), thresholds, prevalence) for own in scores]
        for prevalence in (0.5, 0.02, 0.15, 0.9)
    }
    even = at[0.5]
    for prevalence, rows in at.items():
        assert [row.call for row in rows] == [row.call for row in even]
        order = np.argsort([row.probability for row in rows])
        assert (order == np.argsort([row.probability for row in even])).all()
        for row in rows:
            assert row.call == (row.probability >= row.threshold)
            assert row.probability == pytest.approx(expit(row.logit + logit(prevalence)))


@pytest.mark.parametrize("prevalence", [0.0, 1.0, -0.1, 15.0, float("nan")])
def test_what_is_no_prevalence_is_refused(prevalence: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        log_odds(prevalence)


def test_the_training_patients_prevalence() -> None:
    assert BINARY.prevalence([1, 0, 0, 0]) == 0.25


def test_where_few_are_positive_the_brier_score_beats_chance_only_with_the_prior_put_back() -> None:
    """The measured case: 15 % positive, an AUC of about 0.87."""
    draw = np.random.default_rng(7)
    y = (np.arange(2000) % 20 < 3).astype(int)
    apart = 1.6
    scores = apart * draw.normal(apart * (y - 0.5), 1)  # the true log-odds at even prevalence
    found = {}
    for prevalence in (0.5, 0.15):
        rows = [predicted({0: float(score)}, {0: 0.5}, prevalence) for score in scores]
        calls = [row.call for row in rows]
        found[prevalence] = binary_metrics(y.tolist(), [row.probability for row in rows], calls, rounds=100, seed=0)
    even, put_back = found[0.5], found[0.15]
    assert even.brier.value is not None
    assert put_back.brier.value is not None
    assert put_back.chance_brier(0.15) == pytest.approx(0.1275)
    assert put_back.brier.value < 0.1
    assert even.chance_brier(0.5) == pytest.approx(0.25)
    assert 0.1275 < even.brier.value < 0.25, "worse than knowing the share of positives alone"
    assert put_back.calibration_in_the_large.low is not None
    assert put_back.calibration_in_the_large.high is not None
    assert put_back.calibration_in_the_large.low < 0 < put_back.calibration_in_the_large.high
    assert even.calibration_in_the_large.high is not None
    assert even.calibration_in_the_large.high < -1, "far too high on average"
    assert put_back.auc == even.auc
