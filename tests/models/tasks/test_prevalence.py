"""The prevalence of a probability: known answers, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from wsipipe.data.errors import UsageError
from wsipipe.models.evaluation.metrics import binary_metrics
from wsipipe.models.tasks.binary import BINARY
from wsipipe.models.tasks.multiclass import MulticlassTask
from wsipipe.models.tasks.ordinal import OrdinalTask
from wsipipe.models.tasks.prediction import (
    EVEN,
    PatientPrediction,
    Prevalence,
    log_odds,
    prevalence_cell,
    read_prevalence,
    threshold_at,
)


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


THREE, GRADES = MulticlassTask(("a", "b", "c")), OrdinalTask(("low", "middle", "high"))


def of_classes(task: MulticlassTask, by_fold: list[tuple[float, ...]], prevalence: Prevalence) -> PatientPrediction:
    read = dict(enumerate(by_fold))
    return PatientPrediction.of("P", [read], dict.fromkeys(read, 0.0), task, prevalence=prevalence)


def test_two_of_several_classes_are_the_binary_task_at_every_prevalence_to_the_bit() -> None:
    draw, two = np.random.default_rng(3), MulticlassTask(("negative", "positive"))
    labels = [0] * 7 + [1] * 3
    (negative, positive), share = two.prevalence(labels), BINARY.prevalence(labels)
    assert positive == share
    for scores in draw.normal(0, 2, (50, 3)).tolist():
        one = predicted(dict(enumerate(scores)), {0: 0.5, 1: 0.5, 2: 0.5}, share)
        found = of_classes(two, [(-score, score) for score in scores], (negative, positive))
        assert (found.shares[1], found.call) == (one.probability, one.call)
        if found.call:
            assert (found.probability, found.spread) == (one.probability, one.spread)


def test_the_shares_of_several_classes_by_hand() -> None:
    shares = (0.7, 0.2, 0.1)
    # q of 1/7, 2/7 and 4/7 at equally frequent classes: the logarithms are logits.
    scores = tuple(THREE.score(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64).log()).tolist())
    found = of_classes(THREE, [scores], shares)
    assert found.shares == pytest.approx(np.array([0.7, 0.4, 0.4]) / 1.5)
    assert found.call == 2, "as at equally frequent classes, though the first is more probable"
    assert found.probability == found.shares[2]
    assert of_classes(THREE, [scores], ()).shares == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    assert of_classes(THREE, [scores], EVEN).shares == of_classes(THREE, [scores], ()).shares
    # Of grades P(y > low) = 0.8 and P(y > middle) = 0.4 at equally frequent ones: q of 0.2, 0.4 and 0.4.
    graded = of_classes(GRADES, [(float(logit(0.8)), float(logit(0.4)))], shares)
    assert graded.shares == pytest.approx(np.array([0.14, 0.08, 0.04]) / 0.26)
    assert graded.call == 1
    assert THREE.prevalence([0, 0, 2, 1]) == GRADES.prevalence([0, 0, 2, 1]) == (0.5, 0.25, 0.25)


def test_the_prevalence_in_a_table_is_read_back() -> None:
    for prevalence, classes in ((0.15, 0), ((0.7, 0.2, 0.1), 3), ((), 3)):
        assert read_prevalence(str(prevalence_cell(prevalence)), classes) == prevalence
    assert read_prevalence("", 0) == EVEN
    for text, classes in (("0.7;0.3", 3), ("0.7;0.3", 0), ("0.7;0.2;1.1", 3), ("0.7;nan;0.1", 3), ("x", 0)):
        with pytest.raises(ValueError, match=r"prevalence|could not convert"):
            read_prevalence(text, classes)


@pytest.mark.parametrize("task", [THREE, GRADES], ids=lambda task: task.name)
def test_where_a_class_is_rare_its_mean_probability_is_its_prevalence(task: MulticlassTask) -> None:
    """15 % of the patients are of the third class; scores are the true logits at equally frequent classes."""
    draw, shares = np.random.default_rng(7), (0.5, 0.35, 0.15)
    y = np.repeat([0, 1, 2], [1500, 1050, 450])
    x = 1.5 * y + draw.normal(0, 1, len(y))
    q = np.exp(-((x[:, None] - [0, 1.5, 3]) ** 2) / 2)  # the density of each class, all equally frequent
    q /= q.sum(axis=1, keepdims=True)
    logits = np.log(q) if task is THREE else logit(np.stack([q[:, 1] + q[:, 2], q[:, 2]], axis=1))
    found = {}
    for prevalence in ((), shares):
        rows = []
        for own, label in zip(logits, y.tolist(), strict=True):
            scores = THREE.score(torch.tensor(own)).tolist() if task is THREE else own.tolist()
            rows.append(replace(of_classes(task, [tuple(scores)], prevalence), label=label))
        found[prevalence] = (
            np.mean([row.shares for row in rows], axis=0),
            [row.call for row in rows],
            task.figures(rows, rounds=0, seed=0),
        )
    (even, calls, before), (put_back, again, after) = found[()], found[shares]
    assert put_back == pytest.approx(shares, abs=0.012)
    assert even[2] > 0.2, "far too high on average"
    assert again == calls, "calls are at equally frequent classes"
    sensitivity = np.mean(np.array(calls)[y == 2] == 2)
    assert sensitivity > 0.7, "the rare class is called"
    brier = {
        name: (m.figures["Brier score"].value, m.chance["Brier score"]) for name, m in (("q", before), ("p", after))
    }
    assert brier["p"][0] < brier["q"][0] < brier["q"][1] == pytest.approx(2 / 3)
    assert brier["p"][1] == pytest.approx(1 - 0.5**2 - 0.35**2 - 0.15**2)
