"""Fitting a network to one fold: the training loop, its schedule, and resuming after a killed run.

MoMKD's recipe (CVPR 2026) for all networks: AdamW, the groups of patients drawn equally often with replacement, the
gradient's norm clipped, the learning rate lowered when the validation score stalls; one bag per step as in the paper,
or several. Everything random in an epoch is seeded by the fit's seed and the epoch's number, so that a resumed fit
gives the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter
from torch import Tensor

from ...data.errors import CohortError
from ..mil.bag_tensors import AnyBag, Patient
from ..mil.mixed_precision import Precision, arithmetic
from ..mil.network import SlideNetwork, Targets
from ..mil.read_ahead import batches
from ..tasks.prediction import Score
from ..tasks.task import Task, Validation
from .resumed_fit import Parts, Plateau, keep_state, resume_from, same_form

PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.2, 5
"""The learning rate is multiplied by the factor after more than ``PLATEAU_PATIENCE`` epochs without a better
validation score."""

_DIVERGED_HINT = "take a lower --learning-rate, or --precision fp32"

T = TypeVar("T")


@dataclass(frozen=True)
class FitSettings:
    """Length, learning rate, arithmetic and seed of a fit."""

    epochs: int = 100
    """Maximum number of epochs."""
    patience: int = 15
    """Epochs without a better validation score after which the fit stops."""
    equal_is_gain: bool = False
    """Whether an equal validation score counts as a better one, whatever the loss; the later epoch is then kept."""
    least_epochs: int = 1
    """Epochs before which the fit does not stop."""
    learning_rate: float = 2e-4
    weight_decay: float = 1e-4
    clip: float = 16.0
    """Maximum norm of the gradient."""
    bags_per_step: int = 1
    precision: Precision = "fp32"
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """One line of the learning curve. Losses are means over the epoch's bags, before weighting."""

    epoch: int
    losses: Mapping[str, float]
    validation_auc: float | None
    validation_loss: float
    validation_rank: float | None
    learning_rate: float
    figures: Mapping[str, float]
    """The network's own figures, such as τ and the use of its slots."""

    @classmethod
    def of(
        cls, number: int, losses: Mapping[str, float], validation: Validation, rate: float, figures: Mapping[str, float]
    ) -> Epoch:
        """Combine an epoch's losses with its validation."""
        v = validation
        return cls(number, losses, v.auc, v.loss, v.rank_correlation, rate, figures)

    @property
    def gain(self) -> float:
        """The validation score, to be maximised; the same measure in all epochs of a fit."""
        return Validation(self.validation_auc, self.validation_loss, self.validation_rank).score

    @property
    def rank(self) -> tuple[float, float]:
        """The sort key of epochs, greatest for the best: by score, and for equal scores by the lower loss."""
        return self.gain, -self.validation_loss


@dataclass
class Fit:
    """A fit's history and result; ``state`` is the best epoch's: by :attr:`Epoch.rank`, or the last of the best."""

    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = -1
    state: dict[str, Tensor] = field(default_factory=dict)

    def add(self, epoch: Epoch, network: SlideNetwork, *, equal_is_gain: bool = False) -> None:
        """Append an epoch, and keep the network's state if it is the best so far."""
        self.history.append(epoch)
        best = self.history[self.best_epoch]
        better = epoch.gain >= best.gain if equal_is_gain else epoch.rank > best.rank
        if self.best_epoch < 0 or better:
            self.best_epoch = len(self.history) - 1
            self.state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def fit(
    network: SlideNetwork,
    train: Sequence[Patient],
    validation: Sequence[Patient],
    settings: FitSettings,
    *,
    resume: Path | None = None,
    tell: Callable[[Epoch], None] = lambda _: None,
) -> Fit:
    """Fit ``network`` in place; it ends in evaluation mode with the best epoch's state.

    :param resume: file for the fit's state, written after every epoch; if it exists the fit continues from it. If it is
        damaged, or of another fit, it is dropped with a warning.
    :param tell: called after every epoch, and for each earlier epoch of a resumed fit.
    :raises CohortError: no training patient of one class, no validation patient, or a loss that is not finite.
    """
    groups = sampling_groups(network.task, train)
    optimiser = new_optimiser(network, settings)
    schedule = Plateau(
        optimiser,
        mode="max",
        factor=PLATEAU_FACTOR,
        patience=PLATEAU_PATIENCE,
        threshold=0,  # any gain counts, as for patience; torch's default is relative, and wrong for negative scores
    )
    parts: Parts = {"model": network, "optimiser": optimiser, "schedule": schedule}
    done = Fit()
    restored = _restore(resume, parts) if resume is not None and resume.exists() else None
    if restored is not None:
        done = restored
        for epoch in done.history:
            tell(epoch)
    else:
        network.init_memory(train, torch.Generator().manual_seed(settings.seed))
    bags = sum(len(patient.bags) for patient in train)
    while not _is_over(done, settings):
        number = len(done.history)
        losses = train_epoch(network, groups, bags, optimiser, settings, number)
        judged = validate(network, validation, together=settings.bags_per_step, precision=settings.precision)
        rate = optimiser.param_groups[0]["lr"]
        epoch = Epoch.of(number, losses, judged, rate, network.epoch_figures())
        schedule.step(epoch.gain)
        done.add(epoch, network, equal_is_gain=settings.equal_is_gain)
        if resume is not None:
            _keep(resume, done, parts)
        tell(epoch)
    network.load_state_dict(done.state)
    network.eval()  # a resumed fit that was already over has not validated, which would do this
    return done


def sampling_groups(task: Task, train: Sequence[Patient]) -> list[list[Patient]]:
    """Group the training patients with slides; groups are drawn equally often (of a binary task, the classes).

    :raises CohortError: a group is empty.
    """
    with_slides = [patient for patient in train if patient.bags]
    groups = task.sampling_groups([patient.label for patient in with_slides])
    return [[with_slides[place] for place in group] for group in groups]


def _is_over(done: Fit, settings: FitSettings) -> bool:
    """Whether all epochs are done, or none of the last ``patience`` was better than the ones before."""
    gains = [epoch.gain for epoch in done.history]
    if len(gains) >= settings.epochs:
        return True
    if len(gains) < settings.least_epochs or not gains:
        return False
    since = gains[::-1].index(max(gains)) if settings.equal_is_gain else len(gains) - 1 - gains.index(max(gains))
    return since >= settings.patience


def new_optimiser(network: SlideNetwork, settings: FitSettings) -> torch.optim.AdamW:
    """Build the optimiser of :func:`fit`, with its initial learning rate."""
    return torch.optim.AdamW(
        network.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=network.device.type in ("cpu", "cuda"),  # one pass over the parameters instead of a dozen
    )


def train_epoch(
    network: SlideNetwork,
    groups: Sequence[Sequence[Patient]],
    bags: int,
    optimiser: torch.optim.Optimizer,
    settings: FitSettings,
    number: int,
) -> dict[str, float]:
    """Train one epoch of :func:`fit`: bags are drawn with replacement, ``bags_per_step`` for each step.

    Of a task whose loss compares patients (:meth:`.Task.step_sampler`) those of a step are drawn together.

    :param groups: patients with slides (:func:`sampling_groups`).
    :param bags: number of bags to draw; in :func:`fit` the number of all training bags.
    :param number: the epoch's number, from 0; with the settings' seed it seeds everything random.
    :returns: the unweighted terms of the loss and its ``total``, means over the bags.
    :raises CohortError: a loss is not a finite number.
    """
    device = network.device
    draw = torch.Generator().manual_seed(_seed(settings.seed, number, 0))
    sampler = network.task.step_sampler([patient.label for patient in groups[0]])
    sums: dict[str, Tensor] = {}
    drawn = 0

    def steps() -> Iterator[tuple[list[Patient], list[AnyBag]]]:
        begun = 0
        while begun < bags:
            size = min(settings.bags_per_step, bags - begun)
            if sampler is None:
                step = [_draw(groups, draw) for _ in range(size)]
            else:
                together = [groups[0][place] for place in sampler(max(2, size), draw)]
                step = [(patient, _one_of(patient.bags, draw)) for patient in together]
            begun += len(step)
            yield [patient for patient, _ in step], [bag for _, bag in step]

    network.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_seed(settings.seed, number, 1))
        for patients, batch in batches(steps(), device):
            targets = Targets.of(patients, device)
            with arithmetic(device, settings.precision):
                output = network(batch)
                losses = network.loss(output, targets)
            optimiser.zero_grad(set_to_none=True)
            losses.total.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            optimiser.step()
            network.update_memory(output, targets)
            for name, value in {**losses.terms, "total": losses.total}.items():
                sums[name] = sums.get(name, torch.zeros((), device=device)) + len(patients) * value.detach()
            drawn += len(patients)
    means = {name: float(total) / drawn for name, total in sums.items()}
    if not math.isfinite(means["total"]):
        raise CohortError(f"the training loss of epoch {number + 1} is not a finite number", hint=_DIVERGED_HINT)
    return means


def _draw(groups: Sequence[Sequence[Patient]], draw: torch.Generator) -> tuple[Patient, AnyBag]:
    """Draw a group, then a patient of it, then one of their slides, so that many slides give no extra weight."""
    patient = _one_of(_one_of(groups, draw), draw)
    return patient, _one_of(patient.bags, draw)


def _one_of(choices: Sequence[T], draw: torch.Generator) -> T:
    return choices[int(torch.randint(len(choices), (1,), generator=draw))]


def _seed(seed: int, epoch: int, purpose: int) -> int:
    return (seed * 1_000_003 + epoch) * 2 + purpose


def patient_scores(
    network: SlideNetwork, patients: Sequence[Patient], *, together: int = 1, precision: Precision = "fp32"
) -> dict[str, Score]:
    """Compute each patient's score, combined from their slides by the task; patients without slides are left out.

    :param together: slides per batch.
    """
    network.eval()
    slides = [(patient.patient_id, bag) for patient in patients for bag in patient.bags]
    scores: dict[str, list[Score]] = {}
    parts = (slides[begin : begin + together] for begin in range(0, len(slides), together))
    steps = (([patient for patient, _ in part], [bag for _, bag in part]) for part in parts)
    for of_patients, batch in batches(steps, network.device):
        with torch.inference_mode(), arithmetic(network.device, precision):
            computed = network.task.slide_scores(network(batch).logits.double())
        for patient, score in zip(of_patients, computed.tolist(), strict=True):
            scores.setdefault(patient, []).append(tuple(score) if isinstance(score, list) else score)
    return {patient: network.task.join(own) for patient, own in scores.items()}


def validate(
    network: SlideNetwork, patients: Sequence[Patient], *, together: int = 1, precision: Precision = "fp32"
) -> Validation:
    """Validate a network on patients' labels, and on their soft targets if they have some.

    Patients without slides are ignored, as in training.

    :raises CohortError: no patient has slides, or a score is not finite.
    """
    scores = patient_scores(network, patients, together=together, precision=precision)
    judged = [patient for patient in patients if patient.patient_id in scores]
    if not judged:
        raise CohortError("the fold has no validation patient with slides", hint="use fewer folds, or more patients")
    if not all(math.isfinite(part) for own in scores.values() for part in (own if isinstance(own, tuple) else (own,))):
        raise CohortError("the network's output for validation patients is not a finite number", hint=_DIVERGED_HINT)
    return network.task.validate(
        [patient.label for patient in judged],
        [scores[patient.patient_id] for patient in judged],
        [patient.target for patient in judged],
    )


def _keep(file: Path, done: Fit, parts: Parts) -> None:
    history = [asdict(epoch) for epoch in done.history]
    keep_state(file, {"history": history, "best_epoch": done.best_epoch, "best": done.state}, parts)


def _restore(file: Path, parts: Parts) -> Fit | None:
    """Set all parts to their saved state; None if it cannot be used, and the parts are then as they were."""

    def fit_of(content: Mapping[str, Any]) -> Fit:
        history, best = TypeAdapter(list[Epoch]).validate_python(content["history"]), content["best_epoch"]
        if best not in range(len(history)) or [epoch.epoch for epoch in history] != [*range(len(history))]:
            raise ValueError("its epochs do not follow each other")
        if not same_form(content["best"], parts["model"].state_dict()):
            raise ValueError("its best epoch is of another network")
        return Fit(history, best, {name: value.cpu() for name, value in content["best"].items()})

    return resume_from(file, parts, fit_of)
