"""Training on a GPU: the authors' numbers, the same bits twice and after a break, the CPU's but for rounding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measured_figures import Figure
from wsipipe.data.cohort.outcomes import Label, Survival, TargetLabels
from wsipipe.data.features.bag_file import BagFile
from wsipipe.models.mil.bag_tensors import BagBatch, BagTensors, Patient
from wsipipe.models.mil.momkd import MoMKD
from wsipipe.models.mil.momkd_checkpoint import read_momkd_checkpoint
from wsipipe.models.mil.network import SlideNetwork, Targets
from wsipipe.models.mil.tile_graph import knn_edges
from wsipipe.models.tasks.cox import CoxTask
from wsipipe.models.tasks.multiclass import MulticlassTask
from wsipipe.models.tasks.multitask import MultiTask
from wsipipe.models.tasks.ordinal import OrdinalTask
from wsipipe.models.tasks.regression import RegressionTask
from wsipipe.models.tasks.survival import SurvivalTask
from wsipipe.models.tasks.task import Task
from wsipipe.models.training.fit import Fit, FitSettings, validate
from wsipipe.models.training.methods import METHODS

pytestmark = pytest.mark.gpu

TERMS = {
    "task": "task",
    "histology": "align_wsi",
    "omics": "align_rna",
    "reconstruction": "reconstruction",
    "memory": "memory",
    "total": "total",
}
WIDTH, GENES = 32, 24


@pytest.mark.parametrize("label", [0, 1])
def test_momkd_gives_the_authors_numbers(shared: Path, device: torch.device, label: int, figure: Figure) -> None:
    """Outputs, every term of the loss, every gradient."""
    folder = shared / "momkd_reference"
    with np.load(folder / "expected.npz") as content:
        arrays = {name: torch.from_numpy(content[name]) for name in content.files}
    figures = json.loads((folder / "expected.json").read_text())
    config, state = read_momkd_checkpoint(folder / "checkpoint.pt")
    model = MoMKD(config.model_copy(update={"histology_dropout": 0.0, "omics_dropout": 0.0, "head_dropout": 0.0}))
    model.load_state_dict(state)
    model.to(device).train()
    bag = BagTensors("reference", arrays["features"], arrays["edge_index"])
    output = model(BagBatch.of([bag], device))
    losses = model.loss(output, Targets.of([Patient("reference", label, [], arrays["rna"][0])], device))
    for name in ("logits", "contextual", "attention"):
        off = (getattr(output, name).detach().cpu() - arrays[name]).abs().max().item()
        figure(f"MoMKD's {name} against the authors', class {label}", largest_difference=off)
        assert off < 1e-4
    expected = figures["losses_by_label"][str(label)]
    assert losses.values() == {term: pytest.approx(expected[name], rel=1e-4, abs=1e-4) for term, name in TERMS.items()}
    losses.total.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    wanted = torch.stack([g.norm() for name, g in arrays.items() if name.startswith(f"grad_y{label}/")]).norm()
    assert norm.item() == pytest.approx(wanted.item(), rel=1e-3)


def patient(number: int) -> Patient:
    """Positive ones have, in every second tile, features that the negative ones lack."""
    draw = torch.Generator().manual_seed(number)
    label, tiles = number % 2, 120 + 7 * (number % 5)
    features = torch.randn(tiles, WIDTH, generator=draw)
    features[::2, :4] += label
    coords = np.stack([np.arange(tiles) % 12, np.arange(tiles) // 12], axis=1)
    expression = torch.randn(GENES, generator=draw) + label
    bag = BagTensors(f"P{number}", features.half(), knn_edges(coords).int())
    return Patient(f"P{number}", label, [bag], expression if number % 3 else None)


TRAIN, VALIDATION = [patient(n) for n in range(12)], [patient(n) for n in range(100, 106)]


def network_of(name: str, device: torch.device) -> SlideNetwork:
    method = METHODS[name]
    config = {"in_features": WIDTH, "n_genes": GENES if method.uses_rna else 0}
    torch.manual_seed(0)
    return method.network(method.network.Config.model_validate(config)).to(device)


def trained(name: str, device: torch.device, epochs: int = 3, file: Path | None = None, **changes: Any) -> Fit:
    settings = FitSettings(epochs=epochs, **{"bags_per_step": 3, **changes})
    return METHODS[name].fit(network_of(name, device), TRAIN, VALIDATION, settings, resume=file)


def same(one: Fit, other: Fit) -> bool:
    """Whether two fits are equal to the last bit."""
    return (one.history, one.best_epoch) == (other.history, other.best_epoch) and all(
        torch.equal(tensor, other.state[name]) for name, tensor in one.state.items()
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_training_twice_gives_the_same_numbers(
    method: str, precision: str, device: torch.device, figure: Figure
) -> None:
    one, other = (trained(method, device, precision=precision) for _ in range(2))
    figure(f"{method}, {precision}, trained twice", same=same(one, other))
    assert same(one, other)


@pytest.mark.parametrize("bags_per_step", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_bags_of_a_file_train_the_same_model(
    method: str, bags_per_step: int, tmp_path: Path, device: torch.device, figure: Figure
) -> None:
    """Bags that do not fit into memory are read while the step before is computed."""
    file = BagFile(tmp_path / "bags")
    train, validation = (
        [replace(own, bags=[one.filed(file) for one in own.bags if isinstance(one, BagTensors)]) for own in patients]
        for patients in (TRAIN, VALIDATION)
    )
    settings = FitSettings(epochs=3, bags_per_step=bags_per_step)
    read = METHODS[method].fit(network_of(method, device), train, validation, settings)
    kept = trained(method, device, bags_per_step=bags_per_step)
    figure(f"{method}, {bags_per_step} a step, from a file as from memory", same=same(read, kept))
    assert same(read, kept)


CLASSES = ("low", "middle", "high")
TARGETS: dict[str, Task] = {"grade": OrdinalTask(CLASSES), "score": RegressionTask(), "time": SurvivalTask()}
TASKS: dict[str, Task] = {
    "multiclass": MulticlassTask(CLASSES),
    "ordinal": TARGETS["grade"],
    "regression": TARGETS["score"],
    "hazards": TARGETS["time"],
    "cox": CoxTask(),
    "multitask": MultiTask(TARGETS),
}


def label_of(task: Task, number: int) -> Label:
    labels: dict[str, int | float | Survival] = {
        "ordinal": number % 3,
        "regression": number % 7 / 3,
        "survival": Survival(1.0 + number % 5, number % 4 > 0),
    }
    if isinstance(task, MultiTask):
        known = [labels[own.name] for own in task.targets.values()]
        return TargetLabels([*known[:2], None if number % 4 == 1 else known[2]])
    return labels.get(task.name, number % 3)


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name in TASKS for method in ("momkd", "abmil", "clam-mb", "mean")]
)
def test_other_tasks_are_trained_as_on_the_cpu(name: str, method: str, device: torch.device, figure: Figure) -> None:
    """An epoch of descent is the CPU's but for rounding, as dropout is off; and a GPU repeats itself to the bit."""
    task, chosen = TASKS[name], METHODS[method]
    kinds = [task.name, *(own.name for own in task.targets.values())] if isinstance(task, MultiTask) else [task.name]
    if refused := [chosen.not_for[kind] for kind in kinds if kind in chosen.not_for]:
        pytest.skip(refused[0])
    labels = [label_of(task, number) for number in range(18)]
    fitted = task.fitted(labels)
    bags = [*TRAIN, *VALIDATION]
    patients = [replace(p, label=labels[n], task=fitted) for n, p in enumerate(bags)]
    fits: list[Fit] = []
    for where in (torch.device("cpu"), device, device):
        torch.manual_seed(0)
        kind = chosen.network_for(task)
        config = dict.fromkeys((name for name in kind.Config.model_fields if "dropout" in name), 0.0)
        config |= {"in_features": WIDTH} | ({"n_genes": GENES} if chosen.uses_rna else {})
        network = kind(kind.Config.model_validate(config), fitted).to(where)
        fits.append(chosen.fit(network, patients[:12], patients[12:], FitSettings(epochs=1, bags_per_step=3)))
    here, there, again = fits
    off = abs(here.history[0].validation_loss - there.history[0].validation_loss)
    figure(f"{name}, {method}: validation loss after an epoch against the CPU's", difference=off)
    assert off < 1e-3
    assert same(there, again)


@pytest.mark.parametrize("method", ["momkd", "evidence", "transmil"])
def test_resumed_training_gives_the_same_numbers(method: str, device: torch.device, tmp_path: Path) -> None:
    trained(method, device, epochs=2, file=tmp_path / "state.pt")
    resumed = trained(method, device, epochs=4, file=tmp_path / "state.pt")
    assert len(resumed.history) == 4
    assert same(resumed, trained(method, device, epochs=4))


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_is_not_trained_yet_judges_as_on_the_cpu(
    method: str, device: torch.device, figure: Figure
) -> None:
    """Trained ones differ: dropout draws other numbers on a GPU."""
    losses = []
    for where in (torch.device("cpu"), device):
        network = network_of(method, where)
        network.init_memory(TRAIN, torch.Generator().manual_seed(0))
        losses.append(validate(network, VALIDATION, together=3).loss)
    figure(f"{method}: validation loss against the CPU's", difference=abs(losses[0] - losses[1]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
