"""Fitting a network to one fold: the loop, its schedule, and going on where a killed run stopped.

Recipe of DESIGN section 5: AdamW, classes drawn evenly with replacement, the gradient's norm clipped, the learning rate
lowered when the validation stalls. One bag a step as in the paper, or several. All that is random in an epoch is seeded
by the fit's seed and the epoch's number, so that a resumed fit gives the same numbers as an undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ...data.artifact import whole
from ...data.errors import CohortError
from ..mil.bag_tensors import BagBatch, BagTensors, Patient
from ..mil.mixed_precision import Precision, arithmetic
from ..mil.network import SlideNetwork, Targets, log_odds

PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.2, 5
"""The learning rate is multiplied by this after more than so many epochs without gain on the validation patients."""
MIN_RANKED_PATIENTS = 5
"""With fewer validation patients that have a soft target their ranks say too little, and the AUC decides."""

_DIVERGED_HINT = "take a lower --learning-rate, or --precision fp32"

Plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
Parts = Mapping[str, SlideNetwork | torch.optim.Optimizer | Plateau]
"""What a fit goes on with, beside its history."""
T = TypeVar("T")


@dataclass(frozen=True)
class FitSettings:
    """How long, how fast, and in what arithmetic."""

    epochs: int = 100
    """At most."""
    patience: int = 15
    """Epochs without gain on the validation patients after which it stops."""
    learning_rate: float = 2e-4
    weight_decay: float = 1e-4
    clip: float = 16.0
    """The gradient's norm at most."""
    bags_per_step: int = 1
    precision: Precision = "fp32"
    seed: int = 0


@dataclass(frozen=True)
class Validation:
    """How a network does on the validation patients."""

    auc: float | None
    """None where they are of one class."""
    loss: float
    """Mean cross entropy against their labels."""
    rank_correlation: float | None
    """Spearman's, with their soft targets; None without these, or with too few."""


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
    """Of the network itself, such as τ and how its slots are used."""

    @property
    def gain(self) -> float:
        """What should grow: the rank correlation, else the AUC, else the loss's negative; of one kind in all epochs."""
        values = (self.validation_rank, self.validation_auc, -self.validation_loss)
        return next(value for value in values if value is not None)

    @property
    def rank(self) -> tuple[float, float]:
        """The best epoch has the highest: of equal gains the lowest loss."""
        return self.gain, -self.validation_loss


@dataclass
class Fit:
    """What fitting gave. ``state`` is the best epoch's (:attr:`Epoch.rank`)."""

    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = -1
    state: dict[str, Tensor] = field(default_factory=dict)

    def add(self, epoch: Epoch, network: SlideNetwork) -> None:
        """Take an epoch in, and the network's state if none was better."""
        self.history.append(epoch)
        if self.best_epoch < 0 or epoch.rank > self.history[self.best_epoch].rank:
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
    """Fit ``network`` in place, from its start or from what ``resume`` holds; it ends in evaluation mode, at the best
    epoch's state.

    :param resume: file that keeps the fit's state after every epoch.
    :param tell: called after every epoch, also for those that a resumed fit finds done.
    :raises CohortError: no training patient of one class, no validation patient, or numbers that run away.
    """
    by_label = of_both_classes(train)
    optimiser = new_optimiser(network, settings)
    schedule = Plateau(
        optimiser,
        mode="max",
        factor=PLATEAU_FACTOR,
        patience=PLATEAU_PATIENCE,
        threshold=0,  # any gain is one, as for patience; torch's own is relative, and lets what is negative fall
    )
    parts: Parts = {"model": network, "optimiser": optimiser, "schedule": schedule}
    done = Fit()
    if resume is not None and resume.exists():
        done = _restore(resume, parts, network.device)
        for epoch in done.history:
            tell(epoch)
    else:
        network.init_memory(train, torch.Generator().manual_seed(settings.seed))
    bags = sum(len(patient.bags) for patient in train)
    while not _is_over(done, settings):
        number = len(done.history)
        losses = train_epoch(network, by_label, bags, optimiser, settings, number)
        seen = validate(network, validation, together=settings.bags_per_step, precision=settings.precision)
        rate = optimiser.param_groups[0]["lr"]
        epoch = Epoch(number, losses, seen.auc, seen.loss, seen.rank_correlation, rate, network.epoch_figures())
        schedule.step(epoch.gain)
        done.add(epoch, network)
        if resume is not None:
            _keep(resume, done, parts)
        tell(epoch)
    network.load_state_dict(done.state)
    network.eval()  # a resumed fit that was over has validated nothing
    return done


def of_both_classes(train: Sequence[Patient]) -> tuple[list[Patient], list[Patient]]:
    """The training patients with slides, negative and positive.

    :raises CohortError: there are none of one class.
    """
    negative, positive = ([p for p in train if p.label == label and p.bags] for label in (0, 1))
    if not negative or not positive:
        raise CohortError(
            "the training part of this fold has patients of one class only", hint="use fewer folds, or more patients"
        )
    return negative, positive


def _is_over(done: Fit, settings: FitSettings) -> bool:
    """All epochs done, or none of the last ``patience`` gained on the ones before."""
    if len(done.history) >= settings.epochs:
        return True
    gains = [epoch.gain for epoch in done.history]
    return bool(gains) and len(gains) - 1 - gains.index(max(gains)) >= settings.patience


def new_optimiser(network: SlideNetwork, settings: FitSettings) -> torch.optim.AdamW:
    """The optimiser of :func:`fit`, at the learning rate that it starts with."""
    return torch.optim.AdamW(
        network.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=network.device.type in ("cpu", "cuda"),  # one pass over the parameters instead of a dozen
    )


def train_epoch(
    network: SlideNetwork,
    by_label: Sequence[Sequence[Patient]],
    bags: int,
    optimiser: torch.optim.Optimizer,
    settings: FitSettings,
    number: int,
) -> dict[str, float]:
    """One epoch of :func:`fit`: bags drawn with replacement, a step for every few.

    :param by_label: patients with slides, negative and positive (:func:`of_both_classes`).
    :param bags: how many are drawn; in :func:`fit` as many as there are.
    :param number: the epoch's, from 0; with the settings' seed it decides all chance.
    :returns: the unweighted terms of the loss and its ``total``, means over the bags.
    :raises CohortError: a loss is not a finite number.
    """
    device = network.device
    draw = torch.Generator().manual_seed(_seed(settings.seed, number, 0))
    sums: dict[str, Tensor] = {}
    drawn = 0
    network.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_seed(settings.seed, number, 1))
        while drawn < bags:
            step = [_draw(by_label, draw) for _ in range(min(settings.bags_per_step, bags - drawn))]
            batch = BagBatch.of([bag for _, bag in step], device)
            targets = Targets.of([patient for patient, _ in step], device)
            with arithmetic(device, settings.precision):
                output = network(batch)
                losses = network.loss(output, targets)
            optimiser.zero_grad(set_to_none=True)
            losses.total.backward()  # type: ignore[no-untyped-call]
            clip_gradients(network, settings.clip)
            optimiser.step()
            network.update_memory(output, targets)
            for name, value in {**losses.terms, "total": losses.total}.items():
                sums[name] = sums.get(name, torch.zeros((), device=device)) + len(step) * value.detach()
            drawn += len(step)
    means = {name: float(total) / bags for name, total in sums.items()}
    if not math.isfinite(means["total"]):
        raise CohortError(f"the training loss of epoch {number + 1} is not a finite number", hint=_DIVERGED_HINT)
    return means


def clip_gradients(network: SlideNetwork, most: float) -> None:
    """As torch does, to the bit; but on a CPU what is within bounds is left alone, where torch writes it times one."""
    if network.device.type == "cpu":  # elsewhere asking would wait for the device
        norms = [torch.linalg.vector_norm(p.grad) for p in network.parameters() if p.grad is not None]
        if torch.stack(norms).norm() + 1e-6 <= most:  # torch's own small number
            return
    torch.nn.utils.clip_grad_norm_(network.parameters(), most)


def _draw(by_label: Sequence[Sequence[Patient]], draw: torch.Generator) -> tuple[Patient, BagTensors]:
    """A class, a patient of it, one of the patient's slides: many slides do not make a patient weigh more."""
    patient = _one_of(by_label[int(torch.randint(2, (1,), generator=draw))], draw)
    return patient, _one_of(patient.bags, draw)


def _one_of(choices: Sequence[T], draw: torch.Generator) -> T:
    return choices[int(torch.randint(len(choices), (1,), generator=draw))]


def _seed(seed: int, epoch: int, purpose: int) -> int:
    return (seed * 1_000_003 + epoch) * 2 + purpose


def patient_logits(
    network: SlideNetwork, patients: Sequence[Patient], *, together: int = 1, precision: Precision = "fp32"
) -> dict[str, float]:
    """Log-odds of positive by patient: the mean over a patient's slides. One without slides is left out.

    :param together: slides read at a time.
    """
    network.eval()
    slides = [(patient.patient_id, bag) for patient in patients for bag in patient.bags]
    logits: dict[str, list[float]] = {}
    for begin in range(0, len(slides), together):
        part = slides[begin : begin + together]
        batch = BagBatch.of([bag for _, bag in part], network.device)
        with torch.inference_mode(), arithmetic(network.device, precision):
            read = log_odds(network(batch).logits.double())
        for (patient, _), logit in zip(part, read.tolist(), strict=True):
            logits.setdefault(patient, []).append(logit)
    return {patient: math.fsum(values) / len(values) for patient, values in logits.items()}


def validate(
    network: SlideNetwork, patients: Sequence[Patient], *, together: int = 1, precision: Precision = "fp32"
) -> Validation:
    """How a network does on validation patients; their soft targets, where they have some, are a teacher's words.

    Patients without slides do not count, as in training.

    :raises CohortError: there are no patients with slides, or what the network says is not a finite number.
    """
    by_patient = patient_logits(network, patients, together=together, precision=precision)
    read = [patient for patient in patients if patient.patient_id in by_patient]
    if not read:
        raise CohortError("the fold has no validation patient with slides", hint="use fewer folds, or more patients")
    logits = torch.tensor([by_patient[patient.patient_id] for patient in read], dtype=torch.float64)
    if not logits.isfinite().all():
        raise CohortError("what the network says of validation patients is not a finite number", hint=_DIVERGED_HINT)
    labels = torch.tensor([patient.label for patient in read], dtype=torch.float64)
    loss = float(torch.nn.functional.binary_cross_entropy_with_logits(logits, labels))
    auc = float(roc_auc_score(labels.numpy(), logits.numpy())) if 0 < labels.sum() < len(labels) else None
    taught = [(by_patient[p.patient_id], p.target) for p in read if p.target is not None]
    return Validation(auc, loss, _rank_correlation(taught))


def _rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Of logits with soft targets; 0 where all logits are equal."""
    logits, targets = [logit for logit, _ in pairs], [target for _, target in pairs]
    if len(pairs) < MIN_RANKED_PATIENTS or len(set(targets)) < 2:
        return None
    return float(spearmanr(logits, targets).statistic) if len(set(logits)) > 1 else 0.0


def _keep(file: Path, done: Fit, parts: Parts) -> None:
    content = {
        "history": [asdict(epoch) for epoch in done.history],
        "best_epoch": done.best_epoch,
        "best": done.state,
        **{name: part.state_dict() for name, part in parts.items()},
    }
    with whole(file) as scratch:
        torch.save(content, scratch)


def _restore(file: Path, parts: Parts, device: torch.device) -> Fit:
    content: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(content[name])
    history = [Epoch(**row) for row in content["history"]]
    return Fit(history, content["best_epoch"], {name: value.cpu() for name, value in content["best"].items()})
