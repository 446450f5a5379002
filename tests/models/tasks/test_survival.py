"""The survival task and its figures, held against sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from wsipipe.data.cohort.outcomes import Survival, label_from_text
from wsipipe.data.cohort.splits import make_splits
from wsipipe.data.errors import BundleError, CohortError, UsageError
from wsipipe.models.evaluation.survival_metrics import (
    HARRELL,
    UNO,
    cox_loss,
    kaplan_meier,
    log_rank,
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
                left *= 1 - (~events & (times == time)).sum() / (times >= time).sum()
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
