"""The survival task with Cox's partial likelihood: each event is compared with those who were at risk at its time.

The logit is the log of a patient's hazard, relative to the average training patient's (Cox, J. R. Stat. Soc. B 34:187,
1972). Where all patients are together, as in the linear model and in validation, ties are Efron's (J. Am. Stat. Assoc.
72:557, 1977): of d events at one time, the l-th (from 0) is held against the sum over those at risk minus l / d of the
sum over the d, which is the mean over the orders in which they may have happened.

*The risk set of a step.* All patients at risk do not fit into a step of gradient descent, and patients drawn at random
may hold no event, or nobody who was still at risk at one. So a step is a nested case–control sample (Goldstein and
Langholz, Ann. Stat. 20:1903, 1992; for networks Kvamme, Borgan and Scheike, JMLR 20:129, 2019): one event, drawn evenly
from those at which somebody else was at risk, and for the other bags different patients at risk at its time, drawn
evenly without replacement. Given who was sampled, the chance that it was this one of them who had the event is exp(g)
over the sum of exp(g) over the sample, whatever the baseline hazard and the size of the sample. The gradient of its
logarithm has mean 0 at the true g, so that the maximum is consistent with two bags a step as with all. Those of the
sample who had the event later are compared with the ones of the sample who were still at risk then, for the same
reason. The sum is divided by the number of bags, not of events: a weight may depend on what was known at the time of an
event, not on what happened afterwards. For tied events a step draws one of their orders, since Efron's weights are made
for all at risk: in a small sample, of which tied events are a large part, they pull the hazards together.

The baseline is Breslow's, of the training patients, at the horizons of the question (Breslow, J. R. Stat. Soc. B
34:216, 1972): the share without the event at time h is exp(−H(h) exp(g)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ...data.cohort.outcomes import Label, Survival
from ...data.errors import CohortError, UsageError
from .binary import one_number
from .prediction import Score, SoftTarget
from .survival import SurvivalTask, columns_of, follow_up

LARGEST_LOG_HAZARD = 50.0
"""Beyond it a share without the event is 0 or 1 to any digit; it keeps exp within the range of numbers."""


class CoxTask(SurvivalTask):
    """Labels are follow-ups; the logit is a log hazard.

    :param centre: the mean log hazard of the training patients.
    :param baseline: the cumulative baseline hazard at each horizon, of a patient whose log hazard is the centre; None
        before the end of training.
    """

    compares_patients: ClassVar[bool] = True
    outputs = 1

    def __init__(
        self,
        centre: float = 0.0,
        baseline: Sequence[float] | None = None,
        *,
        horizons: Sequence[float] = (),
        time_unit: str = "",
    ) -> None:
        super().__init__(horizons=horizons, time_unit=time_unit)
        self.outputs = 1
        self.centre = float(centre)
        self.baseline = None if baseline is None else tuple(float(hazard) for hazard in baseline)
        known = self.baseline or ()
        if not math.isfinite(self.centre) or not all(0 <= hazard < math.inf for hazard in known):
            raise ValueError(f"log hazards cannot begin at {self.centre}, with the baseline {known}")
        if self.baseline is not None and len(known) != len(self.horizons):
            raise ValueError(f"the baseline {known} is not that of the horizons {self.horizons}")

    def fitted(self, labels: Sequence[Label]) -> Self:
        """Refuse training patients nobody of whom has an event, or who were not followed as far as a horizon.

        :raises CohortError: they are such.
        """
        self.refuse_short_follow_up(labels)
        return type(self)(horizons=self.horizons, time_unit=self.time_unit)

    def after_fit(self, labels: Sequence[Label], scores: Sequence[Score]) -> Self:
        """Centre the log hazards on the training patients, and take Breslow's baseline of them."""
        risks = np.array(one_number(scores))
        centre = float(risks.mean())
        times, events = (np.asarray(column) for column in columns_of(labels))
        hazards = np.exp(np.clip(risks - centre, -LARGEST_LOG_HAZARD, LARGEST_LOG_HAZARD))
        rises = [
            (time, float((events & (times == time)).sum() / hazards[times >= time].sum()))
            for time in np.unique(times[events])
        ]
        baseline = [math.fsum(rise for time, rise in rises if time <= horizon) for horizon in self.horizons]
        return type(self)(centre, baseline, horizons=self.horizons, time_unit=self.time_unit)

    def state(self) -> dict[str, Any]:
        """The centre and the baseline."""
        return {"centre": self.centre, "baseline": list(self.baseline or ())}

    def sampling_groups(self, labels: Sequence[Label]) -> list[list[int]]:
        """All patients are one group.

        :raises CohortError: nobody has an event, or nobody else was at risk at one.
        """
        groups = super().sampling_groups(labels)
        if self.step_sampler(labels) is None:
            what = "no training patient of this fold had the event while another was still followed"
            raise CohortError(what, hint="use fewer folds, or more patients")
        return groups

    def step_sampler(self, labels: Sequence[Label]) -> Callable[[int, torch.Generator], list[int]] | None:
        """Draw an event, and others of those who were at risk at its time; None if no event can be compared."""
        known = [follow_up(label) for label in labels]
        times = torch.tensor([one.time for one in known], dtype=torch.float64)
        events = torch.tensor([one.event for one in known])
        cases = [i for i in events.nonzero()[:, 0].tolist() if int((times >= times[i]).sum()) > 1]

        def draw(bags: int, generator: torch.Generator) -> list[int]:
            others: list[int] = []
            while not others:
                case = cases[int(torch.randint(len(cases), (1,), generator=generator))]
                rank = torch.rand(len(known), generator=generator)  # the order of events at one time
                before = events & (times == times[case]) & (rank < rank[case])
                others = [j for j in ((times >= times[case]) & ~before).nonzero()[:, 0].tolist() if j != case]
            drawn = torch.randperm(len(others), generator=generator)[: max(1, bags - 1)]
            step = [case, *(others[j] for j in drawn.tolist())]
            return sorted(step, key=lambda j: (float(times[j]), not events[j], float(rank[j])))

        return draw if cases else None

    def value(self, patient_id: str, label: Label, soft_target: SoftTarget | None) -> tuple[float, ...]:
        """The time, and 1 if there was an event."""
        if soft_target is not None:
            raise UsageError("soft targets are for the binary task", path=patient_id)
        if not isinstance(label, Survival) or not 0 <= label.time < math.inf:
            raise UsageError(f"a label is a time of 0 or more and an event, not {label}", path=patient_id)
        return label.time, float(label.event)

    def losses(self, logits: Tensor, values: Tensor) -> Tensor:
        """Minus each event's log partial likelihood among all patients (N, 1), 0 for censored ones; (N)."""
        return efron_terms(_risks(logits), values[:, 0], values[:, 1] > 0)

    def loss(self, logits: Tensor, values: Tensor) -> Tensor:
        """Minus the log partial likelihood of a step's patients (B, 1), divided by their number.

        Events at one time have happened in the order of the bags (:meth:`step_sampler`).
        """
        order = values[:, 1].argsort(descending=True, stable=True)  # events before censorings at the same time
        order = order[values[order, 0].argsort(stable=True)]
        risks, event = _risks(logits)[order], values[order, 1] > 0
        at_risk = risks.flip(0).logcumsumexp(0).flip(0)
        return ((at_risk - risks) * event).mean()

    def score(self, logits: Tensor) -> Tensor:
        """The log hazard relative to the average training patient; (…, 1) → (…)."""
        return logits[..., 0] - self.centre

    def no_event(self, logits: Tensor) -> Tensor:
        """The share without the event at each horizon, exp(−H exp(g)); (…, 1) → (…, horizons)."""
        if self.baseline is None:
            return torch.ones((*logits.shape[:-1], len(self.horizons)), dtype=logits.dtype, device=logits.device)
        hazards = self.score(logits).clamp(-LARGEST_LOG_HAZARD, LARGEST_LOG_HAZARD).exp()
        baseline = torch.tensor(self.baseline, dtype=logits.dtype, device=logits.device)
        return (-baseline * hazards[..., None]).exp()


def _risks(logits: Tensor) -> Tensor:
    """The log hazards (N), in float32 at least."""
    return logits[:, 0].to(torch.promote_types(logits.dtype, torch.float32))


def efron_terms(risks: Tensor, times: Tensor, events: Tensor) -> Tensor:
    """Compute minus each event's term of the log partial likelihood, with Efron's ties; 0 for censored patients.

    :param risks: (N) log hazards.
    :param times: (N).
    :param events: (N) bool.
    :returns: (N); the sum is minus the log partial likelihood, up to a constant where there are ties.
    """
    if not bool(events.any()):
        return risks * 0
    order = times.argsort(descending=True, stable=True)
    g, event = risks[order], events[order]
    _, group, sizes = torch.unique_consecutive(times[order], return_inverse=True, return_counts=True)
    last = sizes.cumsum(0) - 1  # of each time: those up to its last patient were at risk
    at_risk = g.logcumsumexp(0)[last][group]
    case = event.nonzero()[:, 0]
    number = torch.zeros_like(sizes).index_add(0, group[case], torch.ones_like(case))
    place = torch.arange(len(case), device=g.device) - (number.cumsum(0) - number)[group[case]]  # l, from 0
    highest = torch.full_like(g[: len(sizes)], -torch.inf).scatter_reduce(0, group[case], g[case].detach(), "amax")
    tied = torch.zeros_like(highest).index_add(0, group[case], (g[case] - highest[group[case]]).exp())
    log_tied = tied[group[case]].log() + highest[group[case]]
    share = (place / number[group[case]]).to(g.dtype)
    terms = at_risk[case] - g[case] + torch.log1p(-share * (log_tied - at_risk[case]).exp())
    return torch.zeros_like(g).index_add(0, order[case], terms)
