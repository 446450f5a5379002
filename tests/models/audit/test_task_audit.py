"""The audit of classes, numbers and follow-ups: known answers, and what it finds in simulated cohorts."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binom, spearmanr
from sklearn.linear_model import LinearRegression, LogisticRegression
from sksurv.linear_model import CoxPHSurvivalAnalysis
from wsipipe.data.errors import UsageError
from wsipipe.models.audit.audited_outcomes import ClassOutcome, NumberOutcome, Outcome, SurvivalOutcome
from wsipipe.models.audit.confounding import audit
from wsipipe.models.audit.likelihood import fit_logistic, likelihood_ratio_p_value
from wsipipe.models.audit.regressions import class_design, fit_classes, fit_cox, fit_line
from wsipipe.models.audit.strata import Strata
from wsipipe.models.audit.task_audit import TaskAudit, audit_task
from wsipipe.models.evaluation.class_metrics import class_figures
from wsipipe.models.evaluation.number_metrics import number_figures
from wsipipe.models.evaluation.ordinal_metrics import CONCORDANCE, ordinal_figures
from wsipipe.models.evaluation.survival_metrics import HARRELL, cox_loss, survival_figures

COHORTS = 60
TASKS = ("multiclass", "ordinal", "regression", "survival")


def strata(name: str, values: list[object]) -> Strata:
    return Strata.of(name, ["" if value is None else str(value) for value in values], [False] * len(values))


def outcome_of(task: str, z: np.ndarray, shown: np.ndarray, draw: np.random.Generator) -> Outcome:
    """Labels that follow z, and scores of what the slide shows."""
    if task in ("multiclass", "ordinal"):
        y = np.searchsorted([-0.5, 0.7], z + draw.normal(0, 0.5, len(z)))
        shares = softmax(np.outer(shown, [-1, 0, 1]) - [0.5, 0, 0.7], axis=1)
        return ClassOutcome(y, shares, ordered=task == "ordinal")
    if task == "regression":
        return NumberOutcome(20 + 5 * z + draw.normal(0, 3, len(z)), shown)
    times, ends = draw.exponential(30 * np.exp(-z)), draw.uniform(10, 90, len(z))
    return SurvivalOutcome(np.ceil(np.minimum(times, ends)), times <= ends, shown)


def simulated(task: str, seed: int, *, own: float, n: int = 150, columns: bool = True, **how: int) -> TaskAudit:
    """A cohort whose label goes with grade; the slide shows grade, and the rest of z as much as ``own`` says."""
    draw = np.random.default_rng(seed)
    grade, rest, age = draw.integers(1, 4, n), draw.normal(0, 1, n), draw.normal(60, 9, n)
    z = (grade - 2) + 0.7 * rest
    shown = (grade - 2) + own * rest + draw.normal(0, 0.7, n)
    names = [strata("grade", grade.tolist()), strata("age", age.tolist())][: 2 if columns else 1]
    return audit_task(task, outcome_of(task, z, shown, draw), names, np.arange(n) % 5, **how)


@pytest.mark.parametrize("task", TASKS)
def test_a_slide_that_shows_the_confounder_alone_is_found_out(task: str) -> None:
    found = simulated(task, 4, own=0.0, n=300, columns=False, rounds=300, permutations=500)
    [grade] = found.columns
    assert found.score.low is not None
    assert found.score.low > found.chance + 0.1
    left = (grade.pooled.within.value - found.chance) / (grade.pooled.plain.value - found.chance)
    assert left < 0.4, "most of it goes along with grade"
    assert grade.pooled.p_value > 0.001
    assert found.alone is not None
    assert found.alone.p_value > 0.001
    assert found.alone.columns.value > found.chance + 0.1
    assert [group.stratum for group in grade.subgroups] == ["1", "2", "3"]


@pytest.mark.parametrize("task", TASKS)
def test_what_the_slide_adds_is_found(task: str) -> None:
    found = simulated(task, 2, own=1.0, n=300, rounds=300, permutations=500)
    assert found.together.within.low > found.chance
    assert found.together.p_value < 0.01
    assert found.alone is not None
    assert found.alone.p_value < 1e-4
    assert found.alone.rises
    assert found.alone.gain is not None
    assert found.alone.gain.low > 0
    assert found.alone.both.value > found.alone.columns.value
    assert found.alone.effect.value > 0


@pytest.mark.parametrize("task", TASKS)
def test_false_alarms_are_as_many_as_they_should_be(task: str) -> None:
    """Cohorts in which the score follows grade alone: the share of p < 0.05 is within its binomial interval."""
    found = [
        simulated(task, 1000 + seed, own=0.0, n=100, rounds=0, permutations=99, columns=False)
        for seed in range(COHORTS)
    ]
    low, high = binom.ppf([0.001, 0.999], COHORTS, 0.05)
    for p_values in (
        [own.alone.p_value for own in found if own.alone],
        [own.columns[0].pooled.p_value for own in found],
    ):
        assert len(p_values) > 0.9 * COHORTS
        alarms = sum(p is not None and p < 0.05 for p in p_values)
        assert low <= alarms <= high, (task, alarms)


def test_with_one_stratum_the_figures_are_those_of_the_other_pages() -> None:
    draw = np.random.default_rng(0)
    n = 80
    y, shares = draw.integers(0, 3, n), softmax(draw.normal(0, 1, (n, 3)), axis=1)
    weights = np.vstack([np.ones(n), draw.multinomial(n, [1 / n] * n, 20)]).astype(float)
    one, names = np.zeros(n, np.intp), ("a", "b", "c")
    times, events, risks = np.ceil(draw.exponential(20, n)), draw.random(n) < 0.6, np.round(draw.normal(0, 1, n), 1)
    numbers = np.round(draw.normal(0, 1, n), 1)
    for outcome, figures, name in (
        (ClassOutcome(y, shares, ordered=False), class_figures(y, shares, y, names), "AUC"),
        (ClassOutcome(y, shares, ordered=True), ordinal_figures(y, shares, y, names), CONCORDANCE),
        (SurvivalOutcome(times, events, risks), survival_figures(times, events, risks), HARRELL),
        (NumberOutcome(numbers, risks), number_figures(numbers, risks), "Spearman's ρ"),
    ):
        assert outcome.measure == name
        assert outcome.within(weights, one) == pytest.approx(figures(weights)[name], abs=1e-12)


def test_within_strata_by_brute_force() -> None:
    draw = np.random.default_rng(5)
    n = 60
    codes, times, events = draw.integers(0, 4, n), draw.integers(1, 12, n).astype(float), draw.random(n) < 0.6
    risks = draw.integers(0, 6, n).astype(float)
    right = pairs = 0.0
    for i, j in itertools.permutations(range(n), 2):
        if codes[i] == codes[j] and events[i] and (times[i] < times[j] or (times[i] == times[j] and not events[j])):
            pairs += 1
            right += 1.0 if risks[i] > risks[j] else 0.5 if risks[i] == risks[j] else 0.0
    everyone = np.ones((1, n))
    assert SurvivalOutcome(times, events, risks).within(everyone, codes)[0] == pytest.approx(right / pairs)
    rhos = [(sum(codes == c) - 1, spearmanr(times[codes == c], risks[codes == c]).statistic) for c in range(4)]
    expected = sum(size * rho for size, rho in rhos) / sum(size for size, _ in rhos)
    assert NumberOutcome(times, risks).within(everyone, codes)[0] == pytest.approx(expected)


@pytest.mark.parametrize("task", TASKS)
def test_the_permutations_are_those_of_the_scores_within_strata(task: str) -> None:
    draw = np.random.default_rng(6)
    n = 30
    codes, z = np.repeat([0, 1], [20, 10]), draw.normal(0, 1, n)
    outcome = outcome_of(task, z, z + draw.normal(0, 1, n), draw)
    drawn = outcome.permuted(codes, 3000, 0)
    assert drawn.mean() == pytest.approx(outcome.chance, abs=0.02)

    def score_of(order: np.ndarray) -> np.ndarray:
        for name in ("shares", "risks", "predictions"):
            if hasattr(outcome, name):
                return np.asarray(getattr(outcome, name)[order])
        raise AssertionError

    by_hand = []
    for _ in range(600):
        order = np.r_[draw.permutation(20), 20 + draw.permutation(10)]
        by_hand.append(outcome.scored(score_of(order)).within(np.ones((1, n)), codes)[0])
    assert drawn.std() == pytest.approx(np.std(by_hand), rel=0.1)
    assert np.quantile(drawn, 0.9) == pytest.approx(np.quantile(by_hand, 0.9), abs=0.04)


def test_two_classes_give_the_audit_of_two_classes() -> None:
    draw = np.random.default_rng(7)
    n = 150
    grade, y = draw.integers(1, 4, n), draw.integers(0, 2, n)
    score = (grade - 2) + y + draw.normal(0, 1, n)
    columns, folds = [strata("grade", grade.tolist())], np.arange(n) % 5
    usual = audit(y, score, columns, folds, rounds=0)
    shares = np.column_stack([1 / (1 + np.exp(score)), 1 / (1 + np.exp(-score))])
    for ordered in (False, True):
        found = audit_task("x", ClassOutcome(y, shares, ordered=ordered), columns, folds, rounds=0)
        assert found.score.value == pytest.approx(usual.score.value)
        assert found.together.within.value == pytest.approx(usual.together.within.value)
        assert found.alone is not None
        assert usual.alone is not None
        for part in ("score", "columns", "both"):
            assert getattr(found.alone, part).value == pytest.approx(getattr(usual.alone, part).value, abs=1e-6), part
        assert found.alone.likelihood_ratio == pytest.approx(usual.alone.likelihood_ratio, abs=1e-6)
        assert found.alone.p_value == pytest.approx(usual.alone.p_value, abs=1e-6)


def test_the_regressions_are_those_of_other_libraries() -> None:
    draw = np.random.default_rng(8)
    n = 200
    x = draw.normal(0, 1, (n, 2))
    y = np.searchsorted([-0.4, 0.8], x @ [0.9, -0.4] + draw.normal(0, 1, n))
    fitted = fit_classes(y, class_design(x, 3, None, ordered=False))
    other = LogisticRegression(C=np.inf, max_iter=5000, tol=1e-10).fit(x, y)
    a, b = fitted.coefficients[:2], fitted.coefficients[2:].reshape(2, 2)
    assert a == pytest.approx(other.intercept_[1:] - other.intercept_[0], abs=1e-4)
    assert b == pytest.approx(other.coef_[1:] - other.coef_[0], abs=1e-4)
    two = (y > 0).astype(np.intp)
    for ordered in (False, True):
        own, usual = fit_classes(two, class_design(x, 2, None, ordered=ordered)), fit_logistic(two > 0, x)
        assert own.coefficients == pytest.approx(usual.coefficients, abs=1e-6)
        assert own.errors == pytest.approx(usual.errors, abs=1e-6)
        assert own.log_likelihood == pytest.approx(usual.log_likelihood)

    times, events = np.ceil(draw.exponential(6 * np.exp(-x[:, 0]))), draw.random(n) < 0.7  # many ties
    cox = fit_cox(times, events, x)
    known = np.array(list(zip(events, times, strict=True)), dtype=[("e", bool), ("t", float)])
    reference = CoxPHSurvivalAnalysis(ties="efron", tol=1e-12).fit(x, known)
    assert cox.coefficients == pytest.approx(reference.coef_, abs=1e-6)
    assert cox.log_likelihood == pytest.approx(-cox_loss(times, events, x @ cox.coefficients) * events.sum())
    step = 1e-4  # the information is the curvature of the likelihood
    at = partial(cox_loss, times, events)
    up, down = (at(x @ (cox.coefficients + sign * np.array([step, 0]))) for sign in (1, -1))
    curvature = events.sum() * (up - 2 * at(x @ cox.coefficients) + down) / step**2
    alone = fit_cox(times, events, x[:, :1])
    assert cox.errors[0] ** -2 <= curvature * (1 + 1e-4)  # equal but for what the other column takes
    assert alone.errors[0] > 0

    line, usual_line = fit_line(x[:, 0] * 3 + draw.normal(0, 1, n), x), LinearRegression()
    assert line.coefficients[1] == pytest.approx(3, abs=0.3)
    assert usual_line.fit(x, times).coef_ == pytest.approx(fit_line(times, x).coefficients[1:], abs=1e-9)


def test_the_f_test_of_numbers_is_that_of_the_coefficient() -> None:
    """F with one degree of freedom is the square of t."""
    draw = np.random.default_rng(9)
    n = 60
    x, score = draw.normal(0, 1, (n, 2)), draw.normal(0, 1, n)
    outcome = NumberOutcome(x[:, 0] + 0.3 * score + draw.normal(0, 1, n), score)
    fewer, more = (outcome.fit(x, with_score=both) for both in (False, True))
    assert fewer is not None
    assert more is not None
    statistic, _ = outcome.gain_test(fewer, more)
    assert statistic == pytest.approx((more.coefficients[-1] / more.errors[-1]) ** 2)


def test_subgroups_that_are_too_small_are_counted_and_not_figured() -> None:
    draw = np.random.default_rng(10)
    n = 80
    site = ["a"] * 45 + ["b"] * 25 + ["c"] * 10
    times, events = draw.exponential(20, n), np.arange(n) % 3 == 0
    found = audit_task(
        "survival", SurvivalOutcome(times, events, draw.normal(0, 1, n)), [strata("site", site)], [0] * n
    )
    [column] = found.columns
    assert [(g.stratum, g.n_counted, g.figure.value is None) for g in column.subgroups] == [
        ("a", 15, False),
        ("b", 9, True),
        ("c", 3, True),
    ]
    assert found.too_few == "fewer than ten patients with the event"
    assert found.alone is None, "there is one fold only"
    assert "cannot be fitted" in found.why_none
    numbers = audit_task("regression", NumberOutcome(times, times), [strata("site", site)], np.arange(n) % 4, rounds=0)
    assert [g.figure.value is None for g in numbers.columns[0].subgroups] == [False, False, True]


def test_a_score_that_follows_from_the_columns_adds_nothing() -> None:
    draw = np.random.default_rng(11)
    n = 90
    grade = draw.integers(1, 4, n)
    for task in TASKS:
        outcome = outcome_of(task, grade - 2 + draw.normal(0, 1, n), (grade - 2.0), draw)
        found = audit_task(
            task, outcome, [strata("grade", grade.tolist())], np.arange(n) % 3, rounds=0, permutations=50
        )
        assert found.alone is not None
        assert (found.alone.p_value, found.alone.likelihood_ratio) == (None, 0.0), task
        assert found.together.within.value == pytest.approx(found.chance) or task == "regression"


def test_patients_without_a_value_are_in_no_pair_and_no_regression() -> None:
    draw = np.random.default_rng(12)
    n = 120
    grade = [None if i % 10 == 0 else int(g) for i, g in enumerate(draw.integers(1, 4, n))]
    outcome = outcome_of("ordinal", draw.normal(0, 1, n), draw.normal(0, 1, n), draw)
    found = audit_task("ordinal", outcome, [strata("grade", grade)], np.arange(n) % 3, rounds=0, permutations=50)
    assert (found.together.n_patients, found.n_patients) == (108, 120)
    assert found.alone is not None
    assert found.alone.n_patients == 108
    assert [(g.stratum, g.known) for g in found.columns[0].subgroups][-1] == ("missing", False)
    with pytest.raises(UsageError, match="no column"):
        audit_task("ordinal", outcome, [], np.arange(n))


def test_nested_fits_are_those_of_the_likelihood_ratio() -> None:
    draw = np.random.default_rng(13)
    x, y = draw.normal(0, 1, (100, 1)), draw.integers(0, 2, 100)
    fewer, more = fit_logistic(y > 0, x[:, :0]), fit_logistic(y > 0, x)
    statistic, _ = likelihood_ratio_p_value(fewer.log_likelihood, more.log_likelihood)
    both = [fit_classes(y, class_design(part, 2, None, ordered=False)) for part in (x[:, :0], x)]
    assert 2 * (both[1].log_likelihood - both[0].log_likelihood) == pytest.approx(statistic)
