"""The regression task and its figures, held against scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import linregress, pearsonr, spearmanr
from sklearn.linear_model import HuberRegressor, Ridge
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from wsipipe.data.cohort.outcomes import Survival
from wsipipe.data.cohort.splits import make_splits
from wsipipe.data.errors import BundleError, CohortError, UsageError
from wsipipe.models.evaluation.number_metrics import number_figures, number_metrics
from wsipipe.models.tasks.regression import RegressionTask
from wsipipe.models.tasks.task import find_task
from wsipipe.models.training.convex import solve


def test_every_figure_is_that_of_scikit_learn_and_scipy() -> None:
    draw = np.random.default_rng(0)
    y = np.round(draw.normal(20, 8, 70))  # rounded, so that there are ties
    p = np.round(y + draw.normal(0, 6, 70))
    found = number_metrics(y, p, rounds=50, seed=0)
    wanted = {
        "Spearman's ρ": spearmanr(y, p).statistic,
        "Pearson's r": pearsonr(y, p).statistic,
        "R²": r2_score(y, p),
        "mean absolute error": mean_absolute_error(y, p),
        "root mean squared error": root_mean_squared_error(y, p),
        "slope": linregress(p, y).slope,
    }
    assert {name: figure.value for name, figure in found.figures.items()} == pytest.approx(wanted)
    for figure in found.figures.values():
        assert figure.value is not None
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low < figure.value < figure.high
    weights = draw.multinomial(70, np.full(70, 1 / 70), size=3).astype(float)
    by_weights = number_figures(y, p)(weights)
    for i, drawn in enumerate(weights):
        rows = np.repeat(np.arange(70), drawn.astype(int))
        for name, values in number_figures(y[rows], p[rows])(np.ones((1, len(rows)))).items():
            assert by_weights[name][i] == pytest.approx(values[0]), name


def test_a_constant_prediction_has_no_correlation() -> None:
    found = number_metrics([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], rounds=0, seed=0)
    assert found.main.value is None
    assert found.figures["R²"].value == pytest.approx(0)


def test_labels_are_scaled_by_the_training_patients() -> None:
    task = RegressionTask().fitted([10.0, 20.0, 30.0])
    assert task.state() == pytest.approx({"centre": 20, "scale": np.std([10, 20, 30])})
    logit = task.value("P", 40.0, None)
    assert float(task.score(torch.tensor([logit], dtype=torch.float64))) == pytest.approx(40)
    again = find_task("regression", state=task.state())
    assert again.value("P", 40.0, None) == logit
    robust = RegressionTask(robust=True).fitted([1.0, 2.0, 3.0, 4.0, 1000.0])
    assert robust.state() == pytest.approx({"centre": 3, "scale": 1.4826})
    with pytest.raises(CohortError, match="same label, 7"):
        RegressionTask().fitted([7.0, 7.0])
    with pytest.raises(UsageError):
        task.value("P", Survival(1.0, True), None)
    with pytest.raises(BundleError):
        find_task("regression", state={"centre": 0.0, "scale": 0.0})


def test_the_linear_models_are_ridge_and_huber_regression() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(50, 3))
    y = x @ [1.0, -2.0, 0.5] + draw.normal(size=50) * 0.3
    weights = torch.ones(50, dtype=torch.float64)
    found = solve(RegressionTask(), torch.tensor(x), torch.tensor(y), weights, 0.1, np.zeros((1, 4)))
    ridge = Ridge(alpha=1 / (2 * 0.1)).fit(x, y)  # C Σ e² + ½ ‖w‖² is C (Σ e² + alpha ‖w‖²)
    assert found[0] == pytest.approx([*ridge.coef_, ridge.intercept_], abs=1e-6)
    y[:3] += 100
    robust = solve(RegressionTask(robust=True), torch.tensor(x), torch.tensor(y), weights, 10, np.zeros((1, 4)))
    huber = HuberRegressor(epsilon=1.35, alpha=0.01).fit(x, y)  # its scale is fitted too: about the same, not equal
    assert robust[0, :3] == pytest.approx(huber.coef_, abs=0.2)


def test_folds_have_the_same_spread_of_values() -> None:
    labels = {f"P{n:02d}": float(n) for n in range(80)}
    splits = make_splits(labels, 4, 0, strata=RegressionTask().strata_of_split(labels))
    for fold in range(4):
        own = [labels[patient] for patient in splits.patients(fold, "test")]
        assert [sum(20 * q <= y < 20 * (q + 1) for y in own) for q in range(4)] == [5, 5, 5, 5]
    few = {f"P{n}": float(n) for n in range(6)}
    assert set(RegressionTask().strata(few).values()) == {0}
    names = RegressionTask().strata_of_split(labels).names
    assert (names[0], names[3]) == ("in the lowest quarter by value", "in the highest quarter by value")
    assert RegressionTask().strata_of_split(few).names == ("in the whole range by value",)
