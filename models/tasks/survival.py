"""The survival task: who has the event sooner, where the follow-up of some patients ends without it?

Discrete-time hazards (Zadeh and Schmid, IEEE TPAMI 43:3126, 2021; Gensheimer and Narasimhan, PeerJ 7:e6257, 2019). Time
is cut at the quartiles of the training patients' event times into four intervals at most; logit k is that of the hazard
of interval k, the probability of the event in it for a patient who has come to its beginning.

*The risk set is right for any step.* The likelihood is a product over patients: each counts in the intervals that they
were at risk in, with the event or without. So the gradient of one bag a step, or of several, is an unbiased part of
that of all patients, for one bag a step too. Cox's partial likelihood compares patients: :mod:`.cox`.

A censored patient counts as having come through the interval in which their follow-up ends if it ends in the second
half of it (Gensheimer and Narasimhan). Events at one time are simply in the same interval: ties need no rule. The risk
that is shown is minus the expected number of intervals that a patient comes through, Σ_k S_k, between minus their
number and 0. The share without the event at a time within an interval follows from a constant hazard in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...data.cohort.outcomes import Label, Survival
from ...data.cohort.splits import Strata
from ...data.errors import CohortError, UsageError
from ..audit.audited_outcomes import Outcome, SurvivalOutcome
from ..evaluation.survival_metrics import HARRELL, at, cox_loss, harrell, survival_figures, survival_metrics
from ..evaluation.task_metrics import Figures, TaskMetrics
from .binary import one_number
from .prediction import EVEN, Answer, PatientPrediction, Prevalence, Score, SoftTarget
from .task import Task, Validation

INTERVALS = 4
FEW_CENSORED = 10
"""With fewer censored patients than this they are no stratum of their own."""


class SurvivalTask(Task):
    """Labels are follow-ups; the logits are those of the intervals' hazards.

    :param edges: the times between the intervals, rising.
    :param end: the longest follow-up of a training patient, where the last interval ends.
    :param horizons: times at which the share without the event is given, rising.
    :param time_unit: of times, for the names of figures; empty if nobody has given it.
    """

    name: ClassVar[str] = "survival"
    answer_columns: ClassVar[Mapping[str, str]] = {"risk": "probability", "threshold": "threshold", "call": "call"}
    measure: ClassVar[str] = HARRELL
    value_width: ClassVar[int] = 2

    def __init__(
        self,
        edges: Sequence[float] = (1.0, 2.0, 3.0),
        end: float = 4.0,
        *,
        horizons: Sequence[float] = (),
        time_unit: str = "",
    ) -> None:
        self.horizons, self.time_unit = tuple(float(time) for time in horizons), time_unit
        self.edges, self.end = tuple(float(edge) for edge in edges), float(end)
        if not all(a < b for a, b in zip((0.0, *self.edges), (*self.edges, math.inf), strict=True)):
            raise ValueError(f"the intervals' edges {self.edges} do not rise from 0")
        self.outputs = len(self.edges) + 1

    def fitted(self, labels: Sequence[Label]) -> Self:
        """Cut time at the quartiles of the training patients' event times.

        :raises CohortError: nobody has an event, or nobody was followed as far as a horizon.
        """
        self.refuse_short_follow_up(labels)
        known = [follow_up(label) for label in labels]
        times = [one.time for one in known if one.event]
        quartiles = np.quantile(times, [k / INTERVALS for k in range(1, INTERVALS)]).tolist()
        edges = sorted({edge for edge in quartiles if edge > 0})
        end = max(one.time for one in known)
        return type(self)(edges, end, horizons=self.horizons, time_unit=self.time_unit)

    def refuse_short_follow_up(self, labels: Sequence[Label]) -> None:
        """Refuse training patients nobody of whom has an event, or was followed as far as a horizon.

        :raises CohortError: they are such.
        """
        known = [follow_up(label) for label in labels]
        if not any(one.event for one in known):
            what = "no training patient of this fold has an event"
            raise CohortError(what, hint="use fewer folds, or look at the event column: 1 is an event")
        longest = max(one.time for one in known)
        if self.horizons and self.horizons[-1] > longest:
            what = (
                f"no training patient of this fold was followed for {self.horizons[-1]:g}: the longest is {longest:g}"
            )
            raise CohortError(what, hint="leave this horizon out: nothing is known of that time")

    @property
    def share_names(self) -> tuple[str, ...]:
        """The share without the event at each horizon."""
        return tuple(f"no event by {at(time, self.time_unit)}" for time in self.horizons)

    @property
    def score_length(self) -> int:
        """The risk and the shares; 0 if there are no horizons."""
        return 1 + len(self.horizons) if self.horizons else 0

    def state(self) -> dict[str, Any]:
        """The intervals."""
        return {"edges": list(self.edges), "end": self.end}

    def strata(self, labels: Mapping[str, Label]) -> dict[str, int]:
        """Patients without and with an event."""
        known = {patient: follow_up(label).event for patient, label in labels.items()}
        apart = sum(not event for event in known.values()) >= FEW_CENSORED
        return {patient: int(event and apart) for patient, event in known.items()}

    def strata_of_split(self, labels: Mapping[str, Label]) -> Strata:
        """Patients without and with an event; one stratum where hardly anybody is censored.

        :raises CohortError: nobody has an event.
        """
        if not any(follow_up(label).event for label in labels.values()):
            raise CohortError("no patient has an event", hint="look at the event column: 1 is an event, 0 is censored")
        of = self.strata(labels)
        return Strata(of, ("censored", "event") if any(of.values()) else ("labelled",))

    def sampling_groups(self, labels: Sequence[Label]) -> list[list[int]]:
        """All patients are one group: drawing events more often would change the hazards.

        :raises CohortError: nobody has an event.
        """
        if not any(follow_up(label).event for label in labels):
            what = "no training patient of this fold has an event and a slide"
            raise CohortError(what, hint="use fewer folds, or more patients")
        return [list(range(len(labels)))]

    def value(self, patient_id: str, label: Label, soft_target: SoftTarget | None) -> tuple[float, ...]:
        """The number of intervals that the patient came through, and 1 if the event was in the next one."""
        if soft_target is not None:
            raise UsageError("soft targets are for the binary task", path=patient_id)
        if not isinstance(label, Survival) or not 0 <= label.time < math.inf:
            raise UsageError(f"a label is a time of 0 or more and an event, not {label}", path=patient_id)
        place = int(np.searchsorted(self.edges, label.time, side="right"))
        if label.event:
            return float(place), 1.0
        begin, end = (0.0, *self.edges)[place], (*self.edges, max(self.end, label.time))[place]
        return float(place + (label.time >= (begin + end) / 2)), 0.0

    def losses(self, logits: Tensor, values: Tensor) -> Tensor:
        """Minus the log likelihood of the hazards' logits (B, K) for the values (B, 2)."""
        place = torch.arange(self.outputs, device=logits.device)
        through, had_event = values[:, :1], values[:, 1:]
        came_through = functional.softplus(logits) * (place < through)
        event = functional.softplus(-logits) * ((place == through) * had_event)
        return (came_through + event).sum(dim=1)

    def score(self, logits: Tensor) -> Tensor:
        """The risk, −Σ_k S_k; (…, K) → (…)."""
        return -functional.softplus(logits).cumsum(dim=-1).neg().exp().sum(dim=-1)

    def slide_scores(self, logits: Tensor) -> Tensor:
        """The risk, and the share without the event at each horizon; (…, K) → (…), or (…, 1 + horizons)."""
        risk = self.score(logits)
        return torch.cat([risk[..., None], self.no_event(logits)], dim=-1) if self.horizons else risk

    def no_event(self, logits: Tensor) -> Tensor:
        """The share without the event at each horizon; (…, K) → (…, horizons)."""
        ends = (*self.edges, self.end)
        passed = [
            [min(1.0, max(0.0, (time - begin) / (end - begin))) if end > begin else 0.0 for time in self.horizons]
            for begin, end in zip((0.0, *self.edges), ends, strict=True)
        ]
        share = torch.tensor(passed, dtype=logits.dtype, device=logits.device)
        return (-functional.softplus(logits) @ share).exp()

    def join(self, scores: Sequence[Score]) -> Score:
        """The means of the slides' risks and shares, independent of their order."""
        columns = list(zip(*(score if isinstance(score, tuple) else (score,) for score in scores), strict=True))
        means = tuple(math.fsum(column) / len(column) for column in columns)
        return means if self.horizons else means[0]

    def validate(
        self, labels: Sequence[Label], scores: Sequence[Score], soft_targets: Sequence[SoftTarget | None]
    ) -> Validation:
        """Harrell's C, and minus the log partial likelihood of the risks."""
        times, events = columns_of(labels)
        risks = one_number(scores)
        c = harrell(times, events, risks)
        return Validation(None if math.isnan(c) else c, cox_loss(times, events, risks), None)

    def threshold(self, labels: Sequence[Label], scores: Sequence[Score]) -> tuple[float, str]:
        """The median risk of the validation patients: it parts them into halves."""
        return float(np.median(one_number(scores))), "median risk of the validation patients"

    def answer(self, by_fold: Sequence[Score], thresholds: Sequence[float], *, prevalence: Prevalence = EVEN) -> Answer:
        """The means of the folds' risks, shares and thresholds; a patient at or above is called high."""
        risks = one_number(by_fold)
        risk, threshold = float(np.mean(risks)), float(np.mean(thresholds))
        spread = float(np.std(risks, ddof=1)) if len(risks) > 1 else None
        shares = np.mean([score[1:] for score in by_fold if isinstance(score, tuple)], axis=0) if self.horizons else ()
        return Answer(
            probability=risk,
            logit=risk,
            spread=spread,
            threshold=threshold,
            call=int(risk >= threshold),
            shares=tuple(float(share) for share in shares),
        )

    def bootstrap_strata(self, rows: Sequence[PatientPrediction]) -> list[int]:
        """Patients without and with an event."""
        return [int(follow_up(row.label).event) for row in rows if row.label is not None]

    def figures_of(self, rows: Sequence[PatientPrediction]) -> Figures:
        """Those of :func:`~wsipipe.models.evaluation.survival_metrics.survival_figures`."""
        return survival_figures(**self._judged(rows))

    def outcome(self, rows: Sequence[PatientPrediction]) -> Outcome:
        """Follow-ups and risks."""
        judged = self._judged(rows)
        return SurvivalOutcome(judged["times"], judged["events"], judged["risks"])

    def figures(self, rows: Sequence[PatientPrediction], *, rounds: int, seed: int) -> TaskMetrics:
        """Order, AUC and Brier scores at times: :mod:`~wsipipe.models.evaluation.survival_metrics`."""
        return survival_metrics(**self._judged(rows), rounds=rounds, seed=seed)

    def _judged(self, rows: Sequence[PatientPrediction]) -> dict[str, Any]:
        """What the figures are computed from."""
        known = [row for row in rows if row.label is not None]
        times, events = columns_of([row.label for row in known if row.label is not None])
        return {
            "times": times,
            "events": events,
            "risks": [row.probability for row in known],
            "horizons": self.horizons,
            "shares": [row.shares for row in known],
            "time_unit": self.time_unit,
        }


def follow_up(label: Label) -> Survival:
    """The label of a task with follow-ups.

    :raises UsageError: it is none.
    """
    if not isinstance(label, Survival):
        raise UsageError(f"a label is a time and an event, not {label}")
    return label


def columns_of(labels: Sequence[Label]) -> tuple[list[float], list[bool]]:
    """Times and events."""
    known = [follow_up(label) for label in labels]
    return [one.time for one in known], [one.event for one in known]
