"""Cox's partial likelihood, held against sums by hand, scikit-survival, and numbers that lifelines gave."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv
from wsipipe.data.cohort.outcomes import Survival
from wsipipe.data.errors import BundleError, CohortError, UsageError
from wsipipe.models.evaluation.survival_metrics import cox_loss
from wsipipe.models.tasks.cox import CoxTask, efron_terms
from wsipipe.models.tasks.task import find_task
from wsipipe.models.training.convex import solve

TASK = CoxTask()


def drawn(number: int, seed: int, coarse: float, effects: tuple[float, ...]) -> tuple[np.ndarray, list[Survival]]:
    """Features and follow-ups by proportional hazards, with times rounded up to whole ones of ``1 / coarse``."""
    draw = np.random.default_rng(seed)
    x = draw.normal(0, 1, (number, len(effects)))
    times, ends = draw.exponential(1 / np.exp(x @ effects)), draw.exponential(1.5, number)
    return x, [Survival(float(np.ceil(min(t, c) * coarse)), bool(t <= c)) for t, c in zip(times, ends, strict=True)]


def values_of(labels: list[Survival]) -> torch.Tensor:
    return torch.tensor([TASK.value("P", label, None) for label in labels], dtype=torch.float64)


def coefficients(x: np.ndarray, labels: list[Survival], C: float) -> np.ndarray:
    start = np.zeros((1, x.shape[1] + 1))
    found = solve(TASK, torch.tensor(x), values_of(labels), torch.ones(len(x), dtype=torch.float64), C, start)
    assert abs(found[0, -1]) < 1e-9  # nothing determines the bias
    return np.asarray(found[0, :-1])


def test_the_likelihood_of_all_is_efrons() -> None:
    _, labels = drawn(60, 2, 5, (0.8,))
    times, events = torch.tensor([one.time for one in labels]), torch.tensor([one.event for one in labels])
    assert len(set(times[events].tolist())) < int(events.sum())  # there are ties
    risks = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    terms = efron_terms(risks, times, events)
    assert float(terms.detach().sum()) == pytest.approx(cox_loss(times, events, risks.detach()) * int(events.sum()))
    assert (terms[~events] == 0).all()
    assert torch.autograd.gradcheck(lambda g: efron_terms(g, times, events), risks)
    far = (100 * risks.detach()).float().requires_grad_()
    efron_terms(far, times, events).sum().backward()
    assert far.grad is not None
    assert far.grad.isfinite().all()
    assert float(efron_terms(far.detach(), times, events & False).sum()) == 0


@pytest.mark.parametrize("C", [0.01, 0.3, 10.0])
def test_the_linear_model_is_that_of_scikit_survival(C: float) -> None:
    x, labels = drawn(60, 2, 5, (0.8, -0.5, 0.0))
    outcome = Surv.from_arrays([one.event for one in labels], [one.time for one in labels])
    wanted = CoxPHSurvivalAnalysis(alpha=1 / C, ties="efron", tol=1e-12).fit(x, outcome).coef_
    assert coefficients(x, labels, C) == pytest.approx(wanted, abs=1e-6)


def test_the_linear_model_is_that_of_lifelines() -> None:
    """lifelines 0.30.3: CoxPHFitter(penalizer=1 / C / 12), whose features have standard deviation 1 (of n − 1)."""
    x = np.array([0.5, -1.2, 0.3, 1.9, -0.4, -0.8, 1.1, 0.2, -1.6, 0.7, -0.1, 0.9])
    x = ((x - x.mean()) / x.std(ddof=1))[:, None]
    times, events = [3, 9, 3, 1, 5, 8, 2, 5, 9, 3, 6, 2], [1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1]
    labels = [Survival(float(t), bool(e)) for t, e in zip(times, events, strict=True)]
    wanted = {0.1: 0.50600922, 1.0: 1.70091032, 10.0: 2.70664813}
    assert {C: coefficients(x, labels, C)[0] for C in wanted} == pytest.approx(wanted, abs=1e-6)


def test_a_step_by_hand() -> None:
    """The patients of a step are compared as they are at risk; events at one time in the order of the bags."""
    logits = torch.tensor([[0.3], [-0.2], [0.5], [1.0]], dtype=torch.float64)
    values = values_of([Survival(4.0, False), Survival(2.0, True), Survival(2.0, True), Survival(3.0, True)])
    a, b, c, d = logits.exp()[:, 0].tolist()
    by_hand = math.log((a + b + c + d) / b) + math.log((a + c + d) / c) + math.log((a + d) / d)
    assert float(TASK.loss(logits, values)) == pytest.approx(by_hand / 4)
    tied = values_of([Survival(2.0, False), Survival(2.0, True)])  # who left at the time of the event was at risk at it
    assert float(TASK.loss(logits[:2], tied)) == pytest.approx(math.log((a + b) / b) / 2)


def test_every_step_has_an_event_and_others_who_were_at_risk() -> None:
    _, labels = drawn(80, 4, 3, (1.0,))
    sampler = TASK.step_sampler(labels)
    assert sampler is not None
    generator = torch.Generator().manual_seed(0)
    firsts = set()
    for bags in (2, 3, 8):
        for _ in range(200):
            step = sampler(bags, generator)
            assert len(set(step)) == len(step)
            assert 2 <= len(step) <= bags
            assert labels[step[0]].event
            assert all(labels[other].time >= labels[step[0]].time for other in step)
            times = [(labels[j].time, not labels[j].event) for j in step]
            assert times == sorted(times)
            firsts.add(step[0])
    assert len(firsts) > 30
    assert len(sampler(1000, generator)) <= 80


@pytest.mark.parametrize("bags", [2, 6])
@pytest.mark.parametrize("coarse", [1e6, 8])
def test_the_steps_have_the_minimum_of_all_patients(bags: int, coarse: float) -> None:
    """The mean loss of many steps is least near the effect that all patients together give, with ties and without."""
    x, labels = drawn(300, 7, coarse, (1.0,))
    of_all = coefficients(x, labels, 1e6)[0]
    sampler = TASK.step_sampler(labels)
    assert sampler is not None
    generator = torch.Generator().manual_seed(1)
    steps = [sampler(bags, generator) for _ in range(6000)]
    values = values_of(labels)
    # All steps at once: the bags of a step in a row, those that are missing at the end with no weight.
    places = torch.tensor([step + [step[0]] * (bags - len(step)) for step in steps])
    there = torch.tensor([[True] * len(step) + [False] * (bags - len(step)) for step in steps])
    event = (values[places, 1] > 0) & there

    def losses(effect: torch.Tensor) -> torch.Tensor:
        risks = (effect * torch.tensor(x[:, 0]))[places]
        at_risk = risks.masked_fill(~there, -torch.inf).flip(1).logcumsumexp(1).flip(1)
        return torch.where(event, at_risk - risks, 0.0).sum(dim=1) / there.sum(dim=1)

    one = torch.tensor(1.0, dtype=torch.float64)
    single = [float(TASK.loss(one * torch.tensor(x[step]), values[step])) for step in steps[:50]]
    assert losses(one)[:50].tolist() == pytest.approx(single)

    def slope(effect: float) -> float:
        b = torch.tensor(effect, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(losses(b).sum(), b)
        return float(gradient)

    assert slope(of_all - 0.1) < 0 < slope(of_all + 0.1)


def test_the_baseline_is_breslows_and_the_level_does_not_matter() -> None:
    x, labels = drawn(50, 3, 10, (0.9,))
    outcome = Surv.from_arrays([one.event for one in labels], [one.time for one in labels])
    model = CoxPHSurvivalAnalysis(alpha=1e-9, ties="breslow").fit(x, outcome)
    risks = model.predict(x)
    horizons = (2.5, 7.5)
    task = CoxTask(horizons=horizons).fitted(labels).after_fit(labels, [(risk, 1.0, 1.0) for risk in risks])
    wanted = [[step(time) for time in horizons] for step in model.predict_survival_function(x)]
    logits = torch.tensor(risks)[:, None]
    assert task.no_event(logits).numpy() == pytest.approx(np.array(wanted), abs=1e-9)
    assert float(task.score(logits).mean()) == pytest.approx(0)
    higher = CoxTask(horizons=horizons).fitted(labels).after_fit(labels, [(risk + 3, 1.0, 1.0) for risk in risks])
    assert torch.allclose(task.slide_scores(logits), higher.slide_scores(logits + 3))
    again = find_task("survival", state=task.state(), loss="cox", horizons=horizons)
    assert torch.equal(again.slide_scores(logits), task.slide_scores(logits))
    assert again.share_names == ("no event by 2.5", "no event by 7.5")


def test_what_cannot_be_trained_is_refused() -> None:
    nobody = [Survival(2.0, False), Survival(3.0, False)]
    with pytest.raises(CohortError, match="no training patient of this fold has an event"):
        TASK.fitted(nobody)
    with pytest.raises(CohortError, match="while another was still followed"):
        TASK.sampling_groups([Survival(1.0, False), Survival(2.0, True)])
    with pytest.raises(CohortError, match="followed for 60: the longest is 3"):
        CoxTask(horizons=(60.0,)).fitted([Survival(2.0, True), Survival(3.0, False)])
    with pytest.raises(UsageError):
        TASK.value("P", 3.0, None)
    with pytest.raises(BundleError):
        find_task("survival", state={"centre": math.nan}, loss="cox")
    with pytest.raises(BundleError):
        find_task("survival", state={"centre": 0.0, "baseline": [0.1]}, loss="cox")
    with pytest.raises(BundleError):
        find_task("survival", state={"centre": 0.0, "baseline": []}, loss="cox", horizons=(3.0,))
    with pytest.raises(BundleError):
        find_task("survival", state={"centre": 0.0, "baseline": [-0.1]}, loss="cox", horizons=(3.0,))
