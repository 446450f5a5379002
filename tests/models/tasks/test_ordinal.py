"""The ordinal task and its figures, held against scikit-learn and sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from wsipipe.models.evaluation.ordinal_metrics import CONCORDANCE, DISTANCE, KAPPA, ordinal_figures, ordinal_metrics
from wsipipe.models.tasks.ordinal import OrdinalTask
from wsipipe.models.tasks.task import find_task

GRADES = OrdinalTask(("one", "two", "three", "four"))


def test_probabilities_and_loss_by_hand() -> None:
    logits = torch.tensor([[0.4, -1.0, 2.0], [30.0, -40.0, 20.0]], dtype=torch.float64, requires_grad=True)
    a = GRADES.score(logits).detach().numpy()
    softplus = [float(np.logaddexp(0, x)) for x in (-1.0, 2.0)]
    assert a[0] == pytest.approx([0.4, 0.4 - softplus[0], 0.4 - softplus[0] - softplus[1]])
    shares = GRADES.shares(a)
    above = 1 / (1 + np.exp(-a[0]))
    assert shares[0] == pytest.approx([1 - above[0], above[0] - above[1], above[1] - above[2], above[2]])
    assert shares.sum(axis=1) == pytest.approx([1, 1])
    assert (shares >= 0).all()
    for y in range(4):
        loss = GRADES.losses(logits, torch.full((2,), float(y)))
        assert float(loss[0].detach()) == pytest.approx(-np.log(shares[0, y]))
    (gradient,) = torch.autograd.grad(GRADES.loss(logits, torch.tensor([1.0, 1.0])), logits)
    assert gradient.isfinite().all()  # also where two logits are almost the same


def test_the_call_is_the_median_class_and_means_stay_in_order() -> None:
    by_fold = [(2.0, 1.0, -3.0), (1.0, -0.5, -1.0)]
    answer = GRADES.answer(by_fold, [0, 0])
    assert answer.call == 2  # means 1.5, 0.25, −2
    assert min(answer.shares) > 0
    assert sum(answer.shares) == pytest.approx(1)
    assert GRADES.join(by_fold) == (1.5, 0.25, -2.0)
    assert find_task("ordinal", ("a", "b", "c")).outputs == 2


def test_every_figure_is_that_of_scikit_learn_or_counted() -> None:
    draw = np.random.default_rng(0)
    y = np.arange(60) % 4
    latent = np.round(y + draw.normal(0, 1.2, 60), 1)
    shares = GRADES.shares(latent[:, None] - np.array([0.5, 1.5, 2.5]))
    call = (latent[:, None] > np.array([0.5, 1.5, 2.5])).sum(axis=1)
    found = ordinal_metrics(y, shares, call, GRADES.classes, rounds=20, seed=0).figures
    assert found[KAPPA].value == pytest.approx(cohen_kappa_score(y, call, weights="quadratic"))
    assert found[DISTANCE].value == pytest.approx(np.abs(y - call).mean())
    pairs = [(i, j) for i in range(60) for j in range(60) if y[i] > y[j]]
    wins = sum(1.0 if latent[i] > latent[j] else 0.5 if latent[i] == latent[j] else 0.0 for i, j in pairs)
    assert found[CONCORDANCE].value == pytest.approx(wins / len(pairs))
    two = y < 2
    of_two = ordinal_figures(y[two], shares[two][:, :2], call[two] > 0, ("a", "b"))(np.ones((1, int(two.sum()))))
    assert of_two[CONCORDANCE][0] == pytest.approx(roc_auc_score(y[two], shares[two][:, 1]))
    weights = draw.multinomial(60, np.full(60, 1 / 60), size=3).astype(float)
    by_weights = ordinal_figures(y, shares, call, GRADES.classes)(weights)
    for i, drawn in enumerate(weights):
        rows = np.repeat(np.arange(60), drawn.astype(int))
        alone = ordinal_figures(y[rows], shares[rows], call[rows], GRADES.classes)(np.ones((1, len(rows))))
        for name, values in by_weights.items():
            assert values[i] == pytest.approx(alone[name][0]), name
