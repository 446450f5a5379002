"""The audit's statistics: equal to brute force and to published formulas, and right about simulated cohorts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binom, chi2, chi2_contingency
from wsipipe.data.errors import UsageError
from wsipipe.models.audit.confounding import Audit, audit
from wsipipe.models.audit.likelihood import fit_logistic, likelihood_ratio_p_value, out_of_fold_log_odds
from wsipipe.models.audit.regressions import fit_cox, fit_line
from wsipipe.models.audit.strata import Strata, crossed
from wsipipe.models.audit.within_strata import auc_within, permutation_p_value
from wsipipe.models.evaluation.metrics import binary_metrics

COHORTS = 100


def strata(name: str, values: list[object]) -> Strata:
    return Strata.of(name, ["" if value is None else str(value) for value in values], [False] * len(values))


def simulated(seed: int, *, own: float = 0.0, er: float = 0.0, n: int = 150, **how: int) -> Audit:
    """A cohort in which the slide shows grade, which goes with the label.

    :param own: how much of the label itself the slide shows.
    :param er: how much of a second column that goes with the label.
    """
    draw = np.random.default_rng(seed)
    grade, positive_er = draw.integers(1, 4, n), draw.integers(0, 2, n)
    y = (draw.random(n) < 1 / (1 + np.exp(-1.5 * (grade - 2) - 1.5 * (2 * positive_er - 1)))).astype(int)
    score = 1.5 * (grade - 2) + er * (2 * positive_er - 1) + own * (2 * y - 1) + draw.normal(0, 1, n)
    columns = [strata("grade", grade.tolist()), strata("er", positive_er.tolist())]
    return audit(y, score, columns, np.arange(n) % 5, **how)


def test_the_auc_within_strata_is_the_share_of_pairs_by_brute_force():
    draw = np.random.default_rng(0)
    for seed in range(20):
        y, codes = draw.integers(0, 2, 60).astype(bool), draw.integers(0, 4, 60)
        score = draw.integers(0, 6, 60).astype(float)  # many ties
        right = pairs = 0.0
        for i, j in itertools.product(np.flatnonzero(y), np.flatnonzero(~y)):
            if codes[i] == codes[j]:
                pairs += 1
                right += 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
        found = auc_within(y, score, codes, rounds=0, permutations=10, seed=seed)
        assert found.within.value == pytest.approx(right / pairs, abs=1e-15)


def test_with_one_stratum_value_and_interval_are_those_of_the_other_pages():
    draw = np.random.default_rng(1)
    y = draw.integers(0, 2, 80).astype(bool)
    p = draw.random(80)
    one = auc_within(y, p, np.zeros(80, dtype=np.intp), rounds=500, permutations=10, seed=0)
    assert one.within == one.plain
    usual = binary_metrics(y, p, p > 0.5, rounds=500, seed=0).auc
    assert one.plain.value == pytest.approx(usual.value, abs=1e-12)
    assert (one.plain.low, one.plain.high) == pytest.approx((usual.low, usual.high), abs=1e-12)


def test_the_permutation_is_that_of_all_orders_within_strata():
    y = np.array([1, 0, 0, 1, 1, 0, 0, 1], dtype=bool)
    codes = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    score = np.array([4.0, 1, 2, 3, 4, 3, 1, 2])
    first, second = (list(itertools.permutations(score[codes == code])) for code in (0, 1))

    def wins(order: np.ndarray) -> float:
        return sum(
            order[i] > order[j]
            for i, j in itertools.product(np.flatnonzero(y), np.flatnonzero(~y))
            if codes[i] == codes[j]
        )

    half = 4.0
    observed = abs(wins(score) - half)
    every = [abs(wins(np.array(one + other)) - half) >= observed for one in first for other in second]
    sampled = permutation_p_value(y, score, codes, permutations=20_000, seed=0)
    assert sampled == pytest.approx(np.mean(every), abs=0.015)


def test_coefficients_errors_and_likelihood_equal_those_of_a_general_optimiser():
    draw = np.random.default_rng(2)
    x = draw.normal(size=(200, 3)) * [1, 5, 0.1]
    y = draw.random(200) < 1 / (1 + np.exp(-(0.3 + x @ [0.8, -0.2, 4])))
    fit = fit_logistic(y, x)
    design = np.column_stack([np.ones(200), x])

    def minus(at: np.ndarray) -> float:
        return float(np.logaddexp(0, np.where(y, -design @ at, design @ at)).sum())

    best = minimize(minus, np.zeros(4), method="BFGS", options={"gtol": 1e-9, "maxiter": 1000})
    assert fit.coefficients == pytest.approx(best.x, abs=1e-4)
    assert fit.log_likelihood == pytest.approx(-best.fun, abs=1e-9)
    q = 1 / (1 + np.exp(-design @ fit.coefficients))
    assert design.T @ (y - q) == pytest.approx(np.zeros(4), abs=1e-6)  # the score equations
    by_hand = np.sqrt(np.diag(np.linalg.inv(design.T @ (design * (q * (1 - q))[:, None]))))
    assert fit.errors == pytest.approx(by_hand, rel=1e-9)


def test_of_a_four_field_table_the_fit_is_known_in_closed_form():
    """30 of 50 exposed and 20 of 70 others: log odds ratio, its standard error, and the G test."""
    x = np.r_[np.ones(50), np.zeros(70)]
    y = np.r_[np.ones(30), np.zeros(20), np.ones(20), np.zeros(50)].astype(bool)
    fit = fit_logistic(y, x[:, None])
    assert fit.coefficients == pytest.approx([np.log(20 / 50), np.log(30 * 50 / (20 * 20))], abs=1e-9)
    assert fit.errors is not None
    assert fit.errors[1] == pytest.approx(np.sqrt(1 / 30 + 1 / 20 + 1 / 20 + 1 / 50), abs=1e-9)
    without = fit_logistic(y, np.zeros((120, 0)))
    statistic, p_value = likelihood_ratio_p_value(without.log_likelihood, fit.log_likelihood)
    table = chi2_contingency([[30, 20], [20, 50]], correction=False, lambda_="log-likelihood")
    assert (statistic, p_value) == pytest.approx((table.statistic, table.pvalue), abs=1e-9)


def test_the_fit_of_separated_classes_has_the_limit_of_the_likelihood_and_no_errors():
    y = np.r_[np.zeros(20), np.ones(20)].astype(bool)
    fit = fit_logistic(y, y[:, None] * 1.0)
    assert fit.errors is None
    assert fit.log_likelihood == pytest.approx(0, abs=1e-7)
    without = fit_logistic(y, np.zeros((40, 0)))
    statistic, p_value = likelihood_ratio_p_value(without.log_likelihood, fit.log_likelihood)
    assert statistic == pytest.approx(2 * 40 * np.log(2), abs=1e-6)
    assert p_value == pytest.approx(chi2.sf(statistic, 1))


def test_columns_that_repeat_each_other_change_nothing():
    draw = np.random.default_rng(3)
    x = draw.normal(size=(100, 2))
    y = draw.random(100) < 1 / (1 + np.exp(-x[:, 0]))
    once, twice = fit_logistic(y, x), fit_logistic(y, np.column_stack([x, x[:, 0], x @ [1, 1]]))
    assert twice.log_likelihood == pytest.approx(once.log_likelihood, abs=1e-9)


def test_a_patient_is_read_by_a_regression_of_the_other_folds():
    draw = np.random.default_rng(4)
    x, folds = draw.normal(size=(60, 1)), np.arange(60) % 3
    y = draw.random(60) < 1 / (1 + np.exp(-x[:, 0]))
    odds = out_of_fold_log_odds(y, x, folds)
    assert odds is not None
    other = y.copy()
    other[0] = not other[0]  # of fold 0: its own figures stay
    again = out_of_fold_log_odds(other, x, folds)
    assert again is not None
    assert (again[folds == 0] == odds[folds == 0]).all()
    assert (again[folds != 0] != odds[folds != 0]).all()
    assert out_of_fold_log_odds(y, x, y.astype(int)) is None  # the others are of one class


def test_a_confounder_is_found():
    found = simulated(1, n=300, rounds=500)
    assert found.score.low > 0.6
    grade = next(column for column in found.columns if column.column == "grade")
    assert grade.pooled.within.low < 0.5 < grade.pooled.within.high
    assert found.together.within.low < 0.5 < found.together.within.high
    assert found.alone.columns.value > 0.75
    assert found.alone.p_value > 0.05
    assert found.together.p_value > 0.05


def test_two_confounders_are_found_together_where_neither_alone_explains_the_score():
    found = simulated(0, er=1.5, n=400, rounds=300)
    assert all(column.pooled.within.low > 0.5 for column in found.columns)
    assert found.together.within.low < 0.5 < found.together.within.high
    assert found.alone.p_value > 0.05


def test_a_slide_that_shows_the_label_itself_is_cleared():
    found = simulated(0, own=1.0, rounds=300)
    assert all(column.pooled.within.low > 0.5 for column in found.columns)
    assert found.together.p_value < 0.01
    assert found.alone.p_value < 1e-4
    assert found.alone.odds_ratio.low > 1
    assert found.alone.gain.difference > 0


def test_false_alarms_are_as_rare_as_their_level_says():
    """Over 100 cohorts in which the slide shows the columns and nothing else."""
    found = [simulated(1000 + seed, er=1.0, rounds=0, permutations=200) for seed in range(COHORTS)]
    few, many = binom.interval(0.99, COHORTS, 0.05)
    assert few <= sum(a.alone.p_value < 0.05 for a in found) <= many
    assert few <= sum(a.together.p_value <= 0.05 for a in found) <= many
    p_values = np.sort([a.alone.p_value for a in found])
    assert np.abs(p_values - (np.arange(COHORTS) + 0.5) / COHORTS).max() < 0.163  # Kolmogorov and Smirnov, 1 %


def test_patients_without_a_value_are_counted_and_in_no_pair():
    draw = np.random.default_rng(5)
    n = 200
    grade = draw.integers(1, 3, n)
    y = (draw.random(n) < np.where(grade == 1, 0.2, 0.8)).astype(int)
    score = grade + draw.normal(0, 0.5, n)
    written = [None if i % 4 == 0 else grade[i] for i in range(n)]
    found = audit(y, score, [strata("grade", written)], np.arange(n) % 5, rounds=200)
    missing = found.columns[0].subgroups[-1]
    assert (missing.stratum, missing.known, missing.n_patients) == ("missing", False, 50)
    assert missing.auc.low > 0.6  # their grade is unknown, and still read off the slide
    assert found.columns[0].pooled.n_patients == found.together.n_patients == found.alone.n_patients == 150
    assert found.columns[0].pooled.within.low < 0.5 < found.columns[0].pooled.within.high


def test_a_subgroup_with_fewer_than_ten_of_a_class_is_named_and_not_figured():
    y = np.r_[np.ones(9), np.zeros(30), np.ones(10), np.zeros(10)].astype(int)
    column = strata("grade", [1] * 39 + [2] * 20)
    found = audit(y, np.arange(59.0), [column], np.arange(59) % 3, rounds=0)
    assert [(s.stratum, s.n_positive, s.n_negative, s.auc.value is None) for s in found.columns[0].subgroups] == [
        ("1", 9, 30, True),
        ("2", 10, 10, False),
    ]
    assert [s.stratum for s in found.columns[0].too_small] == ["1"]
    few = audit([1, 0] * 9, range(18), [strata("grade", [1, 2] * 9)], [0, 1] * 9)
    assert (few.score.value, few.alone) == (None, None)
    assert "9 positive and 9 negative patients have a value in every column" in few.why_none


def test_a_column_that_is_the_label_by_another_name_is_said():
    y = np.arange(60) % 2
    found = audit(y, np.arange(60.0), [strata("her2_copy", y.tolist())], np.arange(60) // 2 % 3, rounds=0)
    assert found.columns[0].decides
    assert (found.together.within.value, found.together.p_value) == (None, None)
    assert found.alone.p_value == pytest.approx(1, abs=1e-3)


@pytest.mark.filterwarnings("error")
def test_a_coefficient_that_the_columns_leave_open_has_no_error_and_the_others_keep_theirs():
    """A column of zeros, as a category has whose patients were all left out, and one that repeats others."""
    draw = np.random.default_rng(11)
    x = draw.normal(size=(90, 2))
    y = draw.random(90) < 1 / (1 + np.exp(-x[:, 0]))
    alone = fit_logistic(y, x)
    found = fit_logistic(y, np.column_stack([x[:, :1], 0 * x[:, :1], x[:, 1:]]))
    assert np.isnan(found.errors[2])
    assert found.errors[[0, 1, 3]] == pytest.approx(alone.errors, rel=1e-6)
    large = fit_logistic(y, x * [1, 1e4])  # the same in another unit
    assert large.errors == pytest.approx(alone.errors / [1, 1, 1e4], rel=1e-6)
    twice = fit_logistic(y, np.column_stack([x, x[:, 1]]))
    assert np.isnan(twice.errors).tolist() == [False, False, True, True]
    assert twice.errors[:2] == pytest.approx(alone.errors[:2], rel=1e-6)
    line, zero = draw.normal(size=90), np.column_stack([x, 0 * x[:, 0], x[:, 0] + x[:, 1]])
    assert np.isnan(fit_line(line, zero).errors).tolist() == [False, True, True, True, True]
    assert np.isnan(fit_cox(np.arange(90.0), y, zero).errors).tolist() == [True, True, True, True]
    assert fit_cox(np.arange(90.0), y, zero[:, :3]).errors[:2] == pytest.approx(fit_cox(np.arange(90.0), y, x).errors)


@pytest.mark.filterwarnings("error")
def test_a_variance_that_rounding_made_negative_is_none():
    """A category that nobody is of, beside one that is nearly separated and a column in another unit."""
    draw = np.random.default_rng(196)
    draw.integers(20, 80), draw.integers(2, 7)
    indicators = np.eye(6)[draw.integers(0, 6, 35)][:, 1:]
    score = draw.normal(size=35)
    draw.uniform(3, 40), draw.normal(size=5)
    odds = 20 * indicators @ draw.normal(size=5) + score
    draw.random(35)
    y = draw.random(35) < 1 / (1 + np.exp(-odds))
    assert not indicators[:, 0].any()
    errors = fit_logistic(y, np.column_stack([indicators, 1e4 * score])).errors
    assert np.isnan(errors).tolist() == [False, True, False, False, False, False, False]
    without = fit_logistic(y, np.column_stack([indicators[:, 1:], 1e4 * score])).errors
    assert errors[[0, 2, 3, 4, 5, 6]] == pytest.approx(without, rel=1e-6)


@pytest.mark.filterwarnings("error")
def test_a_score_that_is_the_same_for_all_whom_no_column_separates_has_no_odds_ratio():
    draw = np.random.default_rng(12)
    site = np.array(["A"] * 60 + ["B"] * 30)
    y = np.r_[draw.integers(0, 2, 60), np.ones(30, int)]
    score = np.r_[np.zeros(60), draw.normal(size=30)]
    found = audit(y, score, [strata("site", site.tolist())], np.arange(90) % 5, rounds=0)
    assert found.alone.odds_ratio.value is None
    assert audit(y, np.zeros(90), [strata("site", site.tolist())], np.arange(90) % 5, rounds=0).alone.odds_ratio == (
        found.alone.odds_ratio
    )


def test_the_odds_ratio_of_the_score_is_that_of_patients_whom_no_column_separates():
    """Site B is positive throughout: its patients say nothing about the score, and leave its odds ratio as it is."""
    draw = np.random.default_rng(7)
    score = draw.normal(size=120)
    y = (draw.random(120) < 1 / (1 + np.exp(-score))).astype(int)
    site = np.array(["A"] * 100 + ["B"] * 20)
    y[100:] = 1
    found = audit(y, score, [strata("site", site.tolist())], np.arange(120) % 5, rounds=0)
    alone = fit_logistic(y[:100].astype(bool), ((score - score.mean()) / score.std())[:100, None])
    assert found.alone.odds_ratio.value == pytest.approx(np.exp(alone.coefficients[1]), abs=1e-6)
    assert found.alone.rises
    assert not audit(y, -score, [strata("site", site.tolist())], np.arange(120) % 5, rounds=0).alone.rises
    whole = audit(y, y + 0.0, [strata("site", site.tolist())], np.arange(120) % 5, rounds=0).alone
    assert (whole.odds_ratio.value, whole.rises) == (None, True)


def test_a_score_that_follows_from_the_columns_adds_nothing():
    draw = np.random.default_rng(6)
    age = draw.normal(60, 10, 100)
    y = (draw.random(100) < 1 / (1 + np.exp(-(age - 60) / 10))).astype(int)
    found = audit(y, 3 * age, [strata("age", age.tolist())], np.arange(100) % 5, rounds=0)
    assert (found.alone.p_value, found.alone.likelihood_ratio) == (None, 0.0)


def test_what_is_no_audit_is_refused():
    column = strata("grade", [1, 2])
    with pytest.raises(UsageError, match="no column"):
        audit([0, 1], [0, 1], [], [0, 1])
    with pytest.raises(UsageError, match="lengths differ"):
        audit([0, 1, 1], [0, 1, 2], [column], [0, 1, 1])
    with pytest.raises(UsageError, match="no finite number"):
        audit([0, 1], [0, np.nan], [column], [0, 1])


def test_numbers_of_many_values_are_cut_into_thirds_and_few_are_categories():
    ages = strata("age", [40, 41, 50, 51, 60, 61, None])
    assert ages.names == ("up to 41", "over 41 to 51", "over 51", "missing")
    assert ages.codes.tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert ages.cuts == (41, 51)
    assert ages.design(ages.known).std() == pytest.approx(1)
    grades = strata("grade", ["3", "1", "2", "10", "1"])
    assert (grades.names, grades.numbers) == (("1", "2", "3", "10"), None)
    words = strata("er", ["pos", "neg", "1"])
    assert words.names == ("1", "neg", "pos")
    sites = Strata.of("site", [str(n) for n in range(9)], [False] * 9, is_code=True)
    assert (len(sites.names), sites.numbers) == (9, None)
    skewed = strata("age", [1, 2, 3, 4, 5, *[6] * 40])
    assert (skewed.names, skewed.cuts) == (("up to 5", "over 5"), (5,))


def test_several_values_of_a_patient_are_a_stratum_of_their_own():
    column = Strata.of("scanner", ["A", "", "", "several values"], [False, False, True, False])
    assert column.names == ("A", "several values", "missing", "several values")
    assert column.codes.tolist() == [0, 2, 3, 1]
    assert column.known.tolist() == [True, False, False, True]


def test_rare_categories_share_an_indicator():
    column = strata("site", ["A"] * 20 + ["B"] * 12 + ["C"] * 3 + ["D"] * 4)
    x = column.design(column.known)
    assert (x.shape, column.rare(column.known)) == ((39, 2), 2)
    assert sorted(x.sum(axis=0)) == [7, 12]
    assert strata("site", ["A", "B"]).design(np.array([True, True])).shape == (2, 0)


def test_crossed_strata_hold_patients_alike_in_every_column():
    one, other = strata("a", [1, 1, 2, 2]), strata("b", ["x", "y", "x", "x"])
    codes = crossed([one, other])
    assert codes[2] == codes[3]
    assert len(set(codes.tolist())) == 3
