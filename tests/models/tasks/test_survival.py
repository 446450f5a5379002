"""The survival task and its figures, held against sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sksurv.compare import compare_survival
from sksurv.metrics import (
    brier_score,
    concordance_index_censored,
    concordance_index_ipcw,
    cumulative_dynamic_auc,
    integrated_brier_score,
)
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv
from wsipipe.data.cohort.outcomes import Survival, label_from_text
from wsipipe.data.cohort.splits import make_splits
from wsipipe.data.errors import BundleError, CohortError, UsageError
from wsipipe.models.evaluation.survival_metrics import (
    HARRELL,
    INTEGRATED,
    UNO,
    cox_loss,
    event_quartiles,
    kaplan_meier,
    log_rank,
    median_follow_up,
    survival_figures,
    survival_metrics,
)
from wsipipe.models.tasks.survival import SurvivalTask
from wsipipe.models.tasks.task import find_task

# Freireich et al., Blood 21:699 (1963): weeks of remission with 6-mercaptopurine and with placebo, in every textbook.
TREATED = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
TREATED_EVENTS = [1] * 9 + [0] * 12
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
TIMES, EVENTS = [*TREATED, *PLACEBO], [*TREATED_EVENTS, *[1] * 21]
GROUPS = [0] * 21 + [1] * 21


def test_the_textbook_trial() -> None:
    steps = dict(kaplan_meier(TREATED, TREATED_EVENTS))
    wanted = {6: 0.8571, 7: 0.8067, 10: 0.7529, 13: 0.6902, 16: 0.6275, 22: 0.5378, 23: 0.4482}
    assert {time: steps[time] for time in wanted} == pytest.approx(wanted, abs=1e-4)
    p = log_rank(TIMES, EVENTS, GROUPS)
    assert p == pytest.approx(4.17e-5, rel=0.01)  # chi² 16.79
    assert log_rank(TREATED, TREATED_EVENTS, [0] * 21) is None
    # Efron's partial likelihood is least at the log hazard ratio of 1.5721 that R's coxph gives.
    losses = [cox_loss(TIMES, EVENTS, [ratio * g for g in GROUPS]) for ratio in (1.5621, 1.5721, 1.5821)]
    assert losses[1] == min(losses)


def test_ties_of_events_are_efrons() -> None:
    times, events, risks = [1, 1, 2], [1, 1, 0], [0.3, -0.2, 0.5]
    a, b, c = (math.exp(risk) for risk in risks)
    by_hand = -(0.3 - 0.2) + math.log(a + b + c) + math.log(a + b + c - (a + b) / 2)
    assert cox_loss(times, events, risks) == pytest.approx(by_hand / 2)
    assert cox_loss(times, [0, 0, 0], risks) == 0


def test_concordance_by_counting_pairs() -> None:
    draw = np.random.default_rng(0)
    times, events = draw.integers(1, 9, 40), draw.random(40) < 0.6
    risks = np.round(-times + draw.normal(0, 3, 40))
    counted = []
    for censored_weights in (False, True):
        wins = pairs = 0.0
        for i in range(40):
            left = 1.0
            for time in np.unique(times[~events & (times < times[i])]):
                censored = (~events & (times == time)).sum()
                left *= 1 - censored / ((times > time).sum() + censored)  # events come first
            weight = 1 / left**2 if censored_weights else 1.0
            for j in range(40):
                if events[i] and (times[i] < times[j] or (times[i] == times[j] and not events[j])):
                    pairs += weight
                    wins += weight * (1.0 if risks[i] > risks[j] else 0.5 if risks[i] == risks[j] else 0.0)
        counted.append(wins / pairs)
    found = survival_metrics(times, events, risks, rounds=20, seed=0)
    assert found.figures[HARRELL].value == pytest.approx(counted[0])
    assert found.figures[UNO].value == pytest.approx(counted[1])
    assert found.counts == {"with the event": int(events.sum()), "censored": int((~events).sum())}
    weights = draw.multinomial(40, np.full(40, 1 / 40), size=3).astype(float)
    by_weights = survival_figures(times, events, risks)(weights)[HARRELL]
    for i, drawn in enumerate(weights):
        rows = np.repeat(np.arange(40), drawn.astype(int))
        alone = survival_figures(times[rows], events[rows], risks[rows])(np.ones((1, len(rows))))[HARRELL]
        assert by_weights[i] == pytest.approx(alone[0])


@pytest.mark.filterwarnings("ignore:`trapz` is deprecated")  # by scikit-survival before 0.26
def test_figures_are_those_of_scikit_survival() -> None:
    """Events at whole times, censorings between them, as scikit-survival counts a tie of both the other way."""
    for seed in range(4):
        draw = np.random.default_rng(seed)
        events = draw.random(80) < 0.6
        times = draw.integers(1, 15, 80) + np.where(events, 0, 0.5)
        risks = np.round(-times / 4 + draw.normal(0, 1.5, 80), 1)
        alive = -np.sort(-draw.random((80, 3)), axis=1)
        horizons, y = (3.2, 7.2, 10.2), Surv.from_arrays(events, times)
        found = survival_metrics(
            times, events, risks, horizons=horizons, shares=alive.tolist(), time_unit="months", rounds=0, seed=0
        )
        left = dict(zip(*kaplan_meier_estimator(events, times), strict=True))
        by_chance = np.array([[next(left[t] for t in sorted(left, reverse=True) if t <= h) for h in horizons]] * 80)
        names = [f"{name} at {h:g} months" for name in ("AUC", "Brier score") for h in horizons]
        assert list(found.figures) == [HARRELL, UNO, *names, INTEGRATED]
        wanted = [
            concordance_index_censored(events, times, risks)[0],
            concordance_index_ipcw(y, y, risks)[0],
            *cumulative_dynamic_auc(y, y, risks, horizons)[0],
            *brier_score(y, y, alive, horizons)[1],
            integrated_brier_score(y, y, alive, horizons),
        ]
        assert [estimate.value for estimate in found.figures.values()] == pytest.approx(wanted)
        chance = [*brier_score(y, y, by_chance, horizons)[1], integrated_brier_score(y, y, by_chance, horizons)]
        assert [found.chance[name] for name in [*names[3:], INTEGRATED]] == pytest.approx(chance)
        groups = (risks > np.median(risks)).astype(int)
        assert log_rank(times, events, groups) == pytest.approx(compare_survival(y, groups)[1])


def test_weights_where_events_and_censorings_are_tied() -> None:
    """Who has the event at the time at which another is censored was still followed then: G just before counts."""
    times, events, risks = [1.0, 2.0, 2.0, 3.0, 4.0], [0, 1, 0, 1, 0], [0.0, 3.0, 1.0, 2.0, 0.5]
    alive = [[0.9], [0.2], [0.7], [0.4], [0.8]]
    found = survival_metrics(times, events, risks, horizons=(3.0,), shares=alive, rounds=0, seed=0)
    first = 4 / 5  # not censored before 2; of the three left at 2 after the event one is censored
    then = first * 2 / 3
    by_hand = (0.2**2 / first + 0.4**2 / then + (1 - 0.8) ** 2 / then) / 5
    assert found.figures["Brier score at 3"].value == pytest.approx(by_hand)
    assert found.figures["AUC at 3"].value == 1
    assert median_follow_up(times, events) == 4.0
    assert median_follow_up([1.0, 2.0], [1, 1]) is None


def test_rounds_are_the_drawn_patients_at_the_weights_of_all() -> None:
    draw = np.random.default_rng(3)
    times, events = draw.integers(1, 9, 40).astype(float), draw.random(40) < 0.6
    risks, alive = draw.normal(0, 1, 40), draw.random((40, 2))
    figures = survival_figures(times, events, risks, horizons=(3, 5), shares=alive.tolist())
    weights = draw.multinomial(40, np.full(40, 1 / 40), size=5).astype(float)
    everyone = figures(np.ones((1, 40)))
    for name, values in figures(weights).items():
        assert values.shape == (5,)
        twice = figures(np.full((1, 40), 2.0))[name]  # everybody twice is everybody once
        assert twice == pytest.approx(everyone[name])


def test_times_that_nobody_has_given_are_quartiles_and_those_beyond_the_follow_up_have_no_figure() -> None:
    times, events, risks = [1.0, 2.0, 3.0, 4.0, 9.0], [1, 1, 1, 1, 0], [5.0, 4.0, 3.0, 2.0, 1.0]
    assert event_quartiles(times, events) == (1.75, 2.5, 3.25)
    names = ["AUC at 1.75 years", "AUC at 2.5 years", "AUC at 3.25 years"]
    assert list(survival_metrics(times, events, risks, time_unit="years", rounds=5, seed=0).figures)[2:] == names
    late = survival_metrics(times, events, risks, horizons=(2, 9), shares=[[0.5, 0.1]] * 5, rounds=5, seed=0)
    nothing = {name for name, estimate in late.figures.items() if estimate.value is None}
    assert nothing == {"AUC at 9", "Brier score at 9", INTEGRATED}
    assert event_quartiles([1.0], [0]) == ()


def test_the_share_without_the_event_follows_from_the_hazards() -> None:
    task = SurvivalTask((2.0, 4.0, 8.0), 16.0, horizons=(1.0, 4.0, 6.0, 16.0), time_unit="months")
    logits = torch.tensor([0.5, -1.0, 0.2, 0.7], dtype=torch.float64)
    h = (1 - torch.sigmoid(logits)).tolist()
    wanted = [h[0] ** 0.5, h[0] * h[1], h[0] * h[1] * h[2] ** 0.5, h[0] * h[1] * h[2] * h[3]]
    assert task.no_event(logits).tolist() == pytest.approx(wanted)
    scores = task.slide_scores(logits[None]).tolist()
    assert scores[0] == pytest.approx([float(task.score(logits)), *wanted])
    joined = task.join([tuple(scores[0]), (0.0, 0.0, 0.0, 0.0, 0.0)])
    assert joined == pytest.approx([value / 2 for value in scores[0]])
    answer = task.answer([joined, joined], [0.0, 0.0])
    assert answer.shares == pytest.approx([value / 2 for value in wanted])
    assert task.share_names[0] == "no event by 1 months"


def test_the_likelihood_by_hand() -> None:
    task = SurvivalTask((2.0, 4.0, 8.0), end=16.0)
    assert task.value("P", Survival(1.0, True), None) == (0, 1)
    assert task.value("P", Survival(2.0, True), None) == (1, 1)  # an interval begins at its edge
    assert task.value("P", Survival(20.0, True), None) == (3, 1)
    assert task.value("P", Survival(2.9, False), None) == (1, 0)  # left in the first half of the second interval
    assert task.value("P", Survival(3.0, False), None) == (2, 0)
    assert task.value("P", Survival(11.9, False), None) == (3, 0)
    assert task.value("P", Survival(12.0, False), None) == (4, 0)
    logits = torch.tensor([[0.5, -1.0, 0.2, 0.7]] * 2, dtype=torch.float64)
    h = torch.sigmoid(logits[0])
    losses = task.losses(logits, torch.tensor([[2.0, 1.0], [2.0, 0.0]], dtype=torch.float64))
    assert float(losses[0]) == pytest.approx(float(-torch.log((1 - h[0]) * (1 - h[1]) * h[2])))
    assert float(losses[1]) == pytest.approx(float(-torch.log((1 - h[0]) * (1 - h[1]))))
    assert float(task.score(logits)[0]) == pytest.approx(float(-(1 - h).cumprod(0).sum()))


def test_the_gradient_of_all_patients_is_the_mean_of_the_single_ones() -> None:
    task = SurvivalTask((2.0, 4.0, 8.0), end=16.0)
    labels = [Survival(1.0, True), Survival(5.0, False), Survival(9.0, True), Survival(15.0, False)]
    values = torch.tensor([task.value("P", label, None) for label in labels], dtype=torch.float64)
    logits = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (together,) = torch.autograd.grad(task.loss(logits, values), logits)
    for i in range(4):
        (alone,) = torch.autograd.grad(task.loss(logits[i : i + 1], values[i : i + 1]), logits)
        assert torch.allclose(together[i], alone[i] / 4)


def test_time_is_cut_at_quartiles_of_the_events() -> None:
    labels = [Survival(float(t), t % 2 == 1) for t in range(1, 10)]  # events at 1, 3, 5, 7, 9
    task = SurvivalTask().fitted(labels)
    assert task.state() == {"edges": [3.0, 5.0, 7.0], "end": 9.0}
    assert find_task("survival", state=task.state()).outputs == 4
    assert SurvivalTask().fitted([Survival(2.0, True)] * 5).outputs == 2  # all at one time
    with pytest.raises(CohortError, match="no training patient of this fold has an event"):
        SurvivalTask().fitted([Survival(2.0, False)])
    with pytest.raises(UsageError):
        task.value("P", 3.0, None)
    with pytest.raises(BundleError):
        find_task("survival", state={"edges": [3.0, 1.0], "end": 4.0})


def test_every_fold_has_patients_with_and_without_an_event() -> None:
    labels = {f"P{n:02d}": Survival(float(n), n % 4 == 0) for n in range(60)}
    splits = make_splits(labels, 5, 0, strata=SurvivalTask().strata_of_split(labels))
    for fold in range(5):
        for role in ("train", "validation", "test"):
            assert {labels[patient].event for patient in splits.patients(fold, role)} == {True, False}
    nobody = {patient: Survival(label.time, False) for patient, label in labels.items()}
    with pytest.raises(CohortError, match="no patient has an event"):
        SurvivalTask().strata_of_split(nobody)


def test_labels_are_read_as_they_are_written() -> None:
    for label in (Survival(12.5, True), Survival(0.0, False), 3, 3.0, -1.5, 1e-7):
        again = label_from_text(str(label))
        assert again == label
        assert type(again) is type(label)
    for text in ("", "event", "event at x", "nan", "inf", "-", "censored at nan"):
        assert label_from_text(text) is None
