"""Fitting MoMKD to one fold: the loop, its schedule, and going on where a killed run stopped.

Recipe of DESIGN section 5: AdamW, one bag a step, classes drawn evenly with replacement, the gradient's norm
clipped, the learning rate lowered when the validation AUC stalls. All that is random in an epoch is seeded by the fit's
seed and the epoch's number, so that a resumed fit gives the same numbers as an undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ..data.artifact import whole
from ..data.errors import CohortError
from .bag_tensors import BagTensors
from .memory import slot_usage
from .momkd import MoMKD

PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.2, 5
"""The learning rate is multiplied by this after so many epochs without a better validation AUC."""


@dataclass(frozen=True)
class PatientBags:
    """A patient as training sees it: label, slides, and expression where there is any (n_genes)."""

    patient_id: str
    label: int
    bags: Sequence[BagTensors]
    expression: Tensor | None = None


@dataclass(frozen=True)
class FitSettings:
    """How long and how fast."""

    epochs: int = 100
    patience: int = 15
    learning_rate: float = 2e-4
    weight_decay: float = 1e-4
    clip: float = 16.0
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """One line of the learning curve. Losses are means over the epoch's bags, before weighting."""

    epoch: int
    losses: Mapping[str, float]
    validation_auc: float | None
    validation_loss: float
    learning_rate: float
    tau: float


@dataclass
class Fit:
    """What fitting gave. ``state`` is the best epoch's: highest validation AUC, of equals the lowest loss; the lowest
    loss where the validation patients are of one class and have no AUC."""

    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = -1
    state: dict[str, Tensor] = field(default_factory=dict)


def fit(
    model: MoMKD,
    train: Sequence[PatientBags],
    validation: Sequence[PatientBags],
    settings: FitSettings,
    *,
    resume: Path | None = None,
    tell: Callable[[Epoch], None] = lambda _: None,
) -> Fit:
    """Fit ``model`` in place, from its start or from what ``resume`` holds, and load the best epoch's state.

    :param resume: file that keeps the fit's state after every epoch.
    :param tell: called after every epoch, also for those that a resumed fit finds done.
    :raises CohortError: no training patient of one class.
    """
    by_label = [[p for p in train if p.label == label and p.bags] for label in (0, 1)]
    if not all(by_label):
        raise CohortError(
            "the training part of this fold has patients of one class only", hint="use fewer folds, or more patients"
        )
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, mode="max", factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE
    )
    done = Fit()
    if resume is not None and resume.exists():
        done = _restore(resume, model, optimiser, schedule)
        for epoch in done.history:
            tell(epoch)
    else:
        _start_memory(model, train, settings.seed)
    while not _is_over(done, settings):
        number = len(done.history)
        losses = _one_epoch(model, by_label, sum(len(p.bags) for p in train), optimiser, settings, number)
        auc, loss = _validate(model, validation)
        rate = optimiser.param_groups[0]["lr"]
        epoch = Epoch(number, losses, auc, loss, rate, float(model.tau.detach()))
        schedule.step(_gain(epoch))
        done.history.append(epoch)
        if done.best_epoch < 0 or _rank(epoch) > _rank(done.history[done.best_epoch]):
            done.best_epoch = number
            done.state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        if resume is not None:
            _keep(resume, done, model, optimiser, schedule)
        tell(epoch)
    model.load_state_dict(done.state)
    return done


def _gain(epoch: Epoch) -> float:
    """What should grow: the validation AUC, or where one class alone validates, the loss's negative."""
    return -epoch.validation_loss if epoch.validation_auc is None else epoch.validation_auc


def _rank(epoch: Epoch) -> tuple[float, float]:
    return _gain(epoch), -epoch.validation_loss


def _is_over(done: Fit, settings: FitSettings) -> bool:
    """All epochs done, or none of the last ``patience`` gained on the ones before."""
    if len(done.history) >= settings.epochs:
        return True
    gains = [_gain(epoch) for epoch in done.history]
    return bool(gains) and len(gains) - 1 - gains.index(max(gains)) >= settings.patience


def _start_memory(model: MoMKD, train: Sequence[PatientBags], seed: int) -> None:
    device = next(model.parameters()).device
    pairs = [(bag, patient.label) for patient in train for bag in patient.bags]
    bags = ((bag.features.to(device).float(), bag.edges.to(device)) for bag, _ in pairs)
    model.start_memory(bags, [label for _, label in pairs], torch.Generator().manual_seed(seed))


def _one_epoch(
    model: MoMKD,
    by_label: Sequence[Sequence[PatientBags]],
    steps: int,
    optimiser: torch.optim.Optimizer,
    settings: FitSettings,
    number: int,
) -> dict[str, float]:
    device = next(model.parameters()).device
    draw = torch.Generator().manual_seed(_seed(settings.seed, number, 0))
    sums: dict[str, float] = {}
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_seed(settings.seed, number, 1))
        for _ in range(steps):
            # A class, a patient of it, one of the patient's slides: many slides do not make a patient weigh more.
            patient = _one_of(by_label[int(torch.randint(2, (1,), generator=draw))], draw)
            bag = _one_of(patient.bags, draw)
            reading = model.read(bag.features.to(device).float(), bag.edges.to(device))
            omics = None if patient.expression is None else model.teach(patient.expression.to(device))
            losses = model.loss(reading, omics, patient.label)
            optimiser.zero_grad(set_to_none=True)
            losses.total.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimiser.step()
            model.remember(reading, omics, patient.label)
            for name, value in losses.values().items():
                sums[name] = sums.get(name, 0.0) + value
    return {name: total / steps for name, total in sums.items()}


def _one_of(choices: Sequence[Any], draw: torch.Generator) -> Any:
    return choices[int(torch.randint(len(choices), (1,), generator=draw))]


def _seed(seed: int, epoch: int, purpose: int) -> int:
    return (seed * 1_000_003 + epoch) * 2 + purpose


def slide_logit(model: MoMKD, bag: BagTensors) -> float:
    """Log-odds of positive for one slide."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model.read(bag.features.to(device).float(), bag.edges.to(device)).logits
    return float(logits[1] - logits[0])


def patient_logits(model: MoMKD, patients: Sequence[PatientBags]) -> dict[str, float]:
    """Log-odds of positive: the mean over a patient's slides."""
    model.eval()
    return {p.patient_id: math.fsum(slide_logit(model, bag) for bag in p.bags) / len(p.bags) for p in patients}


def _validate(model: MoMKD, patients: Sequence[PatientBags]) -> tuple[float | None, float]:
    logits = torch.tensor(list(patient_logits(model, patients).values()), dtype=torch.float64)
    labels = torch.tensor([p.label for p in patients], dtype=torch.float64)
    loss = float(torch.nn.functional.binary_cross_entropy_with_logits(logits, labels))
    both = 0 < labels.sum() < len(labels)
    return (float(roc_auc_score(labels.numpy(), logits.numpy())) if both else None), loss


def memory_usage(model: MoMKD, patients: Sequence[PatientBags]) -> dict[str, dict[str, Any]]:
    """How the tiles of each class's patients share its slots: active slots, entropy (nats) and the shares."""
    model.eval()
    device = next(model.parameters()).device
    usage = {}
    with torch.inference_mode():
        for label, name in ((0, "negative"), (1, "positive")):
            bags = [bag for p in patients if p.label == label for bag in p.bags]
            tiles = (model.project(model.encode(b.features.to(device).float(), b.edges.to(device))) for b in bags)
            assigned = torch.cat([model.memory.assigned(p, label) for p in tiles]).cpu()
            shares = torch.bincount(assigned, minlength=model.config.slots) / len(assigned)
            usage[name] = {**asdict(slot_usage(assigned, model.config.slots)), "shares": shares.tolist()}
    return usage


def _keep(
    file: Path,
    done: Fit,
    model: MoMKD,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.ReduceLROnPlateau,
) -> None:
    content = {
        "history": [asdict(epoch) for epoch in done.history],
        "best_epoch": done.best_epoch,
        "best": done.state,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
    }
    with whole(file) as scratch:
        torch.save(content, scratch)


def _restore(
    file: Path,
    model: MoMKD,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.ReduceLROnPlateau,
) -> Fit:
    content = torch.load(file, map_location=next(model.parameters()).device, weights_only=True)
    model.load_state_dict(content["model"])
    optimiser.load_state_dict(content["optimiser"])
    schedule.load_state_dict(content["schedule"])
    history = [Epoch(**row) for row in content["history"]]
    return Fit(history, content["best_epoch"], {name: value.cpu() for name, value in content["best"].items()})
