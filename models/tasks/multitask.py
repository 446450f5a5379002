"""The multi-task question: several targets, such as ER, PR and HER2, that one network learns together.

A target is any other task; a patient's label has one of each, or none where it is missing. The outputs of the network,
the scores of a slide and the target values are those of the targets, one after the other.

*Sampling.* A step draws a target, then one of its sampling groups (of a binary target a class), then a patient: target
t draws patient i with probability p_ti = 1 / (groups of t × patients in the group). The drawn patient trains all
targets that are known of them, and their loss is the mean of these targets' losses l_t, weighted by p_ti:
Σ_t p_ti l_t / Σ_t p_ti. A patient is drawn with probability Σ_t p_ti / T, so the expected loss of a step is the mean
over the targets of Σ_i p_ti l_t: each target is learned exactly as by itself, from all its classes equally often,
whoever is drawn for the sake of another one. So the probabilities of a binary target are at even prevalence, and its
own prevalence is put back as in a model of one target. Of one target the weight is 1. A missing label has neither a
term nor a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ...data.cohort.outcomes import Classes, Label, TargetLabels
from ...data.cohort.splits import Strata
from ...data.cohort.target_splits import TargetStrata
from ...data.errors import CohortError, UsageError, about
from ..evaluation.task_metrics import TaskMetrics
from .prediction import EVEN, Answer, PatientPrediction, Prevalence, Score, SoftTarget
from .task import Task, Validation


class MultiTask(Task):
    """Labels are those of the targets.

    :param targets: name → task, in the order of the outputs.
    """

    name: ClassVar[str] = "multitask"
    measure: ClassVar[str] = "mean of the targets"
    answer_columns: ClassVar[Mapping[str, str]] = {}

    def __init__(self, targets: Mapping[str, Task]) -> None:
        if not targets:
            raise ValueError("a model of several targets needs one at least")
        self.targets = dict(targets)
        self.outputs = sum(task.outputs for task in targets.values())
        self.classes = tuple(f"{name} {one}" for name, task in targets.items() for one in task.classes)
        self._drawn: dict[str, dict[Label | None, float]] | None = None

    @property
    def number_of_classes(self) -> Classes:
        """That of each target."""
        return tuple(len(task.classes) for task in self.targets.values())

    @property
    def share_names(self) -> tuple[str, ...]:
        """None: predictions are shown for each target."""
        return ()

    @property
    def score_names(self) -> tuple[str, ...]:
        """What each score is of, with the target's name."""
        return tuple(f"{name}: {one}" for name, task in self.targets.items() for one in task.score_names or ("score",))

    def of_target(self, name: str, score: Score) -> Score:
        """The part of a slide's, or a patient's, score that is one target's."""
        start = 0
        for other, task in self.targets.items():
            end = start + max(1, len(task.score_names))
            if other == name:
                return vector(score)[start:end] if task.score_names else vector(score)[start]
            start = end
        raise UsageError(f"{name} is none of the targets {', '.join(self.targets)}")

    def fitted(self, labels: Sequence[Label]) -> Self:
        """Each target as it learns from its own patients, and how likely each draws a patient of a label.

        :raises CohortError: a target cannot be trained by these patients; the message names it.
        """
        learned, drawn = {}, {}
        for name, task in self.targets.items():
            known = [own for label in labels if (own := self.label_of(name, label)) is not None]
            with about(f"biomarkers.{name}"):
                learned[name] = task.fitted(known)
                groups = task.sampling_groups(known)
            chances = {place: 1 / (len(groups) * len(group)) for group in groups for place in group}
            drawn[name] = {_kind(known[place]): chance for place, chance in chances.items()}
        task_of_all = type(self)(learned)
        task_of_all._drawn = drawn
        return task_of_all

    def state(self) -> dict[str, Any]:
        """What each target has learned."""
        return {name: task.state() for name, task in self.targets.items()}

    def label_of(self, name: str, label: Label) -> Label | None:
        """The label of one target; None if it is missing.

        :raises UsageError: the label is not of these targets.
        """
        if not isinstance(label, TargetLabels) or len(label) != len(self.targets):
            raise UsageError(f"a label is of the targets {', '.join(self.targets)}, not {label}")
        return label[list(self.targets).index(name)]

    def soft_target_of(self, name: str, soft_target: SoftTarget | None) -> float | None:
        """The soft target of one target; None if it has none."""
        return soft_target[list(self.targets).index(name)] if isinstance(soft_target, tuple) else soft_target

    def known(self, name: str, labels: Mapping[str, Label]) -> dict[str, Label]:
        """The patients who have a label of one target: patient → that label."""
        return {patient: own for patient, label in labels.items() if (own := self.label_of(name, label)) is not None}

    def strata(self, labels: Mapping[str, Label]) -> dict[str, int]:
        """The combinations of the targets' strata."""
        of: Mapping[str, Any] = self.strata_of_split(labels).of
        places = {own: place for place, own in enumerate(sorted(set(of.values())))}
        return {patient: places[own] for patient, own in of.items()}

    def strata_of_split(self, labels: Mapping[str, Label]) -> Strata | TargetStrata:
        """The strata of each target, with its name before theirs; of one target its own."""
        of: dict[str, list[int]] = {patient: [] for patient in labels}
        names: list[str] = []
        for name, task in self.targets.items():
            with about(f"biomarkers.{name}"):
                own = task.strata_of_split(self.known(name, labels))
            if len(self.targets) == 1:
                return own
            assert isinstance(own, Strata)  # no target has targets
            for patient, place in own.of.items():
                of[patient].append(len(names) + place)
            names += [f"{name} {one}" for one in own.names]
        return TargetStrata({patient: tuple(places) for patient, places in of.items()}, tuple(names))

    def sampling_groups(self, labels: Sequence[Label]) -> list[list[int]]:
        """The groups of every target, repeated where it has fewer than others, so that targets are drawn evenly.

        :raises CohortError: a target has no patient of a class; the message names it.
        """
        of_targets = []
        for name, task in self.targets.items():
            places = [place for place, label in enumerate(labels) if self.label_of(name, label) is not None]
            known = [self.label_of(name, labels[place]) for place in places]
            with about(f"biomarkers.{name}"):
                groups = task.sampling_groups([label for label in known if label is not None])
            of_targets.append([[places[place] for place in group] for group in groups])
        of_each = math.lcm(*map(len, of_targets))
        return [group for groups in of_targets for group in groups * (of_each // len(groups))]

    def value(self, patient_id: str, label: Label, soft_target: SoftTarget | None) -> tuple[float, ...]:
        """Each target's weight, 0 where the label is missing, and its value; the weights add up to 1."""
        labels = {name: self.label_of(name, label) for name in self.targets}
        chances = [self._chance(name, own) for name, own in labels.items()]
        if not any(chances):
            raise UsageError("no target has a label", path=patient_id)
        values: list[float] = []
        for (name, own), chance in zip(labels.items(), chances, strict=True):
            task, target = self.targets[name], self.soft_target_of(name, soft_target)
            value = (0.0,) * task.value_width if own is None else vector(task.value(patient_id, own, target))
            values += [chance / sum(chances), *value]
        return tuple(values)

    def losses(self, logits: Tensor, values: Tensor) -> Tensor:
        """The weighted mean of the targets' losses for each bag: logits (B, outputs), values (B, …) → (B)."""
        total = logits.new_zeros(len(logits))
        for task, own, weights, wanted in self._of_targets(logits, values):
            known = weights > 0
            if known.any():
                terms = weights[known].to(logits.dtype) * task.losses(own[known], wanted[known])
                total = total.index_add(0, known.nonzero()[:, 0], terms)
        return total

    def loss(self, logits: Tensor, values: Tensor) -> Tensor:
        """Their mean; of one target the loss that it computes itself, to the bit."""
        if len(self.targets) > 1:
            return self.losses(logits, values).mean()
        [(task, own, _, wanted)] = self._of_targets(logits, values)
        return task.loss(own, wanted)

    def class_shares(self, values: Tensor) -> Tensor:
        """How much each class of each target is the target, by the target's weight; 0 where a label is missing."""
        parts = [
            weights[:, None] * task.class_shares(wanted) for task, _, weights, wanted in self._of_targets(None, values)
        ]
        return torch.cat(parts, dim=1)

    def score(self, logits: Tensor) -> Tensor:
        """The scores of all targets; (…, outputs) → (…, scores)."""
        tasks = list(self.targets.values())
        parts = torch.split(logits, [task.outputs for task in tasks], dim=-1)
        scores = [task.score(own) for task, own in zip(tasks, parts, strict=True)]
        several = [own if task.score_names else own[..., None] for task, own in zip(tasks, scores, strict=True)]
        return torch.cat(several, dim=-1)

    def join(self, scores: Sequence[Score]) -> tuple[float, ...]:
        """Each target's own rule for the slides of a patient."""
        joined: list[float] = []
        for name, task in self.targets.items():
            joined += vector(task.join([self.of_target(name, score) for score in scores]))
        return tuple(joined)

    def validate(
        self,
        labels: Sequence[Label],
        scores: Sequence[Score],
        soft_targets: Sequence[SoftTarget | None],
    ) -> Validation:
        """The means over the targets of their scores (in the place of the AUC) and losses; of one target its own."""
        judged: list[Validation] = []
        for name, task in self.targets.items():
            known = [n for n, label in enumerate(labels) if self.label_of(name, label) is not None]
            own = [label for n in known if (label := self.label_of(name, labels[n])) is not None]
            soft = [self.soft_target_of(name, soft_targets[n]) for n in known]
            if own:
                judged.append(task.validate(own, [self.of_target(name, scores[n]) for n in known], soft))
        if not judged:
            hint = "use fewer folds, or more patients"
            raise CohortError("no validation patient of this fold has a label of any target", hint=hint)
        if len(self.targets) == 1:
            return judged[0]
        score, loss = (sum(values) / len(judged) for values in zip(*((v.score, v.loss) for v in judged), strict=True))
        return Validation(score, loss, None)

    def threshold(self, labels: Sequence[Label], scores: Sequence[Score]) -> tuple[float, str]:
        """There is none of all targets together."""
        return 0.0, "none: each target has its own"

    def answer(self, by_fold: Sequence[Score], thresholds: Sequence[float], *, prevalence: Prevalence = EVEN) -> Answer:
        """Each target answers for itself.

        :raises UsageError: always.
        """
        raise UsageError(f"a model of several targets answers for one of them: {', '.join(self.targets)}")

    def figures(self, rows: Sequence[PatientPrediction], *, rounds: int, seed: int) -> TaskMetrics:
        """Each target has its own; see :mod:`~wsipipe.models.evaluation.target_metrics` for their mean.

        :raises UsageError: always.
        """
        raise UsageError(f"a model of several targets is judged for one of them: {', '.join(self.targets)}")

    def _chance(self, name: str, label: Label | None) -> float:
        """How likely a target draws a patient of this label; before :meth:`fitted`, the same for all who have one."""
        if label is None:
            return 0.0
        if self._drawn is None:
            return 1.0
        of_target = self._drawn[name]
        return of_target.get(_kind(label), min(of_target.values()))  # of another's patients, none of whom is drawn

    def _of_targets(self, logits: Tensor | None, values: Tensor) -> list[tuple[Task, Tensor, Tensor, Tensor]]:
        """Each target's task, logits, weights (B), and values (B, …) as the task expects them."""
        parts, start, output = [], 0, 0
        for task in self.targets.values():
            end = start + 1 + task.value_width
            wanted = values[:, start + 1] if task.value_width == 1 else values[:, start + 1 : end]
            own = values[:, :0] if logits is None else logits[..., output : output + task.outputs]
            parts.append((task, own, values[:, start], wanted))
            start, output = end, output + task.outputs
        return parts


def vector(score: Score) -> tuple[float, ...]:
    """One number, or several, as several."""
    return score if isinstance(score, tuple) else (score,)


def _kind(label: Label) -> Label | None:
    """What decides how likely a patient is drawn: the class; None where all are drawn equally."""
    return label if isinstance(label, int) else None
