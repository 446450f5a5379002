"""How long a step of training takes, against a straightforward one with PyTorch Geometric and a file a slide.

    python tests/benchmarks/training_step.py --threads 2

All figures are of one run on one machine, by turns, the best round of each: compare the ratios with those of another
machine, not the times. The network is MoMKD at the public code's sizes, the arithmetic float32 everywhere but in the
last row.

plain      PyG's GATv2Conv; each step opens an HDF5 file (float32 features and coordinates), finds each tile's nearest
           tiles with scikit-learn, and uses AdamW as it comes
in memory  the same network, PyG's layers, in the loop of ``fit``: bags in memory, graphs made once
ours       the loop of ``fit`` with our layers, so many bags a step
products   the step's matrix products alone, forward and back, as ``torch.mm`` and through ``nn.Linear``

Rows give milliseconds a bag. The processor's time counts all threads; where others compute on the same cores it says
more than the clock, with one thread, as threads that wait for each other count as computing. On CUDA each row also says
how much of the time the GPU computes: the rest is waiting for launches and for data. All bags are of the same size;
labels and expression are random, as nothing is to be learnt.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch
from sklearn.neighbors import kneighbors_graph
from torch import Tensor, nn
from torch.nn import functional
from wsipipe.models.mil.bag_tensors import BagBatch, BagTensors, Patient
from wsipipe.models.mil.momkd import HEADS, HistologyEncoder, MoMKD, preset
from wsipipe.models.mil.network import Targets
from wsipipe.models.mil.tile_graph import knn_edges
from wsipipe.models.training.fit import FitSettings, new_optimiser, train_epoch

try:
    from torch_geometric.nn import GATv2Conv
except ImportError:  # gpu_training.py measures the rest without it
    GATv2Conv = None


class PyGEncoder(nn.Module):
    """:class:`HistologyEncoder` as one would write it with PyTorch Geometric; the state dict is the same."""

    def __init__(self, like: HistologyEncoder, hidden: int, in_features: int, dropout: float) -> None:
        super().__init__()
        self.graph1 = GATv2Conv(in_features, hidden // HEADS, heads=HEADS, dropout=dropout)
        self.norm1 = nn.LayerNorm(hidden)
        self.residual1 = nn.Linear(in_features, hidden)
        self.graph2 = GATv2Conv(hidden, hidden // HEADS, heads=HEADS, dropout=dropout)
        self.norm2 = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.load_state_dict(like.state_dict())

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h1 = self.dropout(functional.elu(self.norm1(self.graph1(x, edge_index)))) + self.residual1(x)
        h2 = self.dropout(functional.elu(self.norm2(self.graph2(h1, edge_index)))) + h1
        return torch.maximum(h1, h2)


@dataclass
class Cohort:
    """Slides that lie in files and in memory, each of one patient."""

    files: list[Path]
    patients: list[Patient]


@dataclass
class Way:
    """One way to train: call it with a number of bags."""

    name: str
    network: MoMKD
    train: Callable[[int], None]
    seconds: list[float] = field(default_factory=list)
    """A bag, of each round."""
    busy: list[float] = field(default_factory=list)
    """The same in the processor's seconds, of all threads."""


def make_cohort(folder: Path, slides: int, tiles: int, width: int, genes: int) -> Cohort:
    """Tiles on about half the places of a square, as in a small biopsy."""
    draw = np.random.default_rng(0)
    side = int(np.ceil((2 * tiles) ** 0.5))
    files, patients = [], []
    for slide in range(slides):
        places = np.sort(draw.choice(side**2, tiles, replace=False))
        coords = np.stack([places % side, places // side], axis=1) * 448
        features = draw.standard_normal((tiles, width), np.float32).astype(np.float16)
        files.append(folder / f"{slide}.h5")
        with h5py.File(files[-1], "w") as file:
            file["features"], file["coords"] = features.astype(np.float32), coords
        bag = BagTensors(f"{slide}", torch.from_numpy(features), knn_edges(coords).int())
        rna = torch.from_numpy(draw.standard_normal(genes, np.float32))
        patients.append(Patient(f"{slide}", slide % 2, [bag], rna))
    return Cohort(files, patients)


def plain(network: MoMKD, cohort: Cohort, settings: FitSettings) -> Callable[[int], None]:
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    draw = np.random.default_rng(0)

    def train(bags: int) -> None:
        network.train()
        for _ in range(bags):
            slide = draw.integers(len(cohort.files))
            with h5py.File(cohort.files[slide]) as file:
                x, coords = torch.from_numpy(file["features"][:]), file["coords"][:]
            near = kneighbors_graph(coords, 8).tocoo()
            edges = torch.from_numpy(np.stack([near.row, near.col]).astype(np.int64))
            bag = BagBatch(x.to(network.device), edges.to(network.device), (len(x),))
            targets = Targets.of([cohort.patients[slide]], network.device)
            output = network(bag)
            losses = network.loss(output, targets)
            optimiser.zero_grad()
            losses.total.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            optimiser.step()
            losses.total.item()

    return train


def of_fit(network: MoMKD, cohort: Cohort, settings: FitSettings) -> Callable[[int], None]:
    """The loop of ``fit`` itself, with its optimiser."""
    optimiser = new_optimiser(network, settings)
    by_label = [[patient for patient in cohort.patients if patient.label == label] for label in (0, 1)]

    def train(bags: int) -> None:
        train_epoch(network, by_label, bags, optimiser, settings, 0)

    return train


def products(network: MoMKD, cohort: Cohort, bags: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """The matrix products of a step of so many bags, on stand-ins of the same shapes, in two ways."""
    seen: list[tuple[nn.Linear, int, bool]] = []

    def note(layer: nn.Linear, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        [x] = inputs
        seen.append((layer, x.numel() // layer.in_features, x.requires_grad))

    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in linear]
    some = cohort.patients[:bags]
    targets = Targets.of(some, network.device)
    network.train()
    network.loss(network(BagBatch.of([patient.bags[0] for patient in some], network.device)), targets)
    for hook in hooks:
        hook.remove()

    stand_ins = []
    for layer, rows, back in seen:
        x = torch.randn(rows, layer.in_features, device=network.device, requires_grad=back)
        stand_ins.append((layer, x, torch.randn(rows, layer.out_features, device=network.device)))

    def multiply() -> None:
        for layer, x, gradient in stand_ins:
            weight = layer.weight.detach()
            torch.mm(x.detach(), weight.T)
            torch.mm(gradient.T, x.detach())
            if x.requires_grad:
                torch.mm(gradient, weight)

    def pass_layers() -> None:
        for layer, x, gradient in stand_ins:
            torch.autograd.grad(layer(x), [layer.weight, *([x] if x.requires_grad else [])], gradient)

    return multiply, pass_layers


def timed(work: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started, busy = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, time.process_time() - busy


def computing(work: Callable[[], None]) -> float:
    """Seconds that the GPU's kernels and copies take."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in seen.key_averages()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=325, help="of every bag")
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--genes", type=int, default=768)
    parser.add_argument("--slides", type=int, default=32)
    parser.add_argument("--bags", type=int, nargs="+", default=[1, 4, 16], help="a step")
    parser.add_argument("--round", type=int, default=16, help="bags of a round")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, help="where the files are to lie; a temporary one by default")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = torch.device(asked.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    lines = [
        f"{asked.tiles} tiles × {asked.width}, {asked.genes} genes; {device.type} ({name}), {asked.threads} threads, "
        f"torch {torch.__version__}; load before: {os.getloadavg()[0]:.1f}"
    ]
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        cohort = make_cohort(Path(folder), asked.slides, asked.tiles, asked.width, asked.genes)
        ways = make_ways(cohort, asked, device)
        floors = {bags: products(ways[-1].network, cohort, bags) for bags in asked.bags}
        least: dict[int, tuple[list[float], list[float]]] = {bags: ([], []) for bags in asked.bags}
        for way in ways:
            way.train(asked.round)  # allocates what is kept: the optimiser's state, the device's memory
        for _ in range(asked.rounds):
            for way in ways:
                seconds, busy = timed(lambda way=way: way.train(asked.round), device)  # type: ignore[misc]
                way.seconds.append(seconds / asked.round)
                way.busy.append(busy / asked.round)
            for bags, kinds in floors.items():
                for of_kind, kind in zip(least[bags], kinds, strict=True):
                    of_kind.append(timed(kind, device)[0] / bags)
        reference, busiest = min(ways[0].seconds), min(ways[0].busy)
        for way in ways:
            line = (
                f"{way.name:28} {min(way.seconds) * 1e3:7.2f} ms a bag {min(way.seconds) / reference:6.2f} of plain"
                f"   processor {min(way.busy) * 1e3:7.2f} ms {min(way.busy) / busiest:6.2f}"
            )
            if device.type == "cuda":
                busy = computing(lambda way=way: way.train(asked.round)) / asked.round  # type: ignore[misc]
                line += f"   {1 / min(way.seconds):7.0f} bags/s, the GPU computes {busy / min(way.seconds):4.0%} of it"
            lines.append(line)
        for bags, (by_torch, by_layers) in least.items():
            what = f"products, {bags} bags a step"
            lines.append(f"{what:28} {min(by_torch) * 1e3:7.2f} ms a bag, by nn.Linear {min(by_layers) * 1e3:.2f}")
    lines.append(f"load after: {os.getloadavg()[0]:.1f}")
    print("\n".join(lines))


def make_ways(cohort: Cohort, asked: argparse.Namespace, device: torch.device) -> Sequence[Way]:
    """All start from the same parameters."""
    config = preset("official", asked.width, asked.genes)

    def make(pyg: bool) -> MoMKD:
        torch.manual_seed(0)
        network = MoMKD(config)
        if pyg:
            encoder = PyGEncoder(network.histology_encoder, config.hidden, asked.width, config.histology_dropout)
            network.histology_encoder = encoder  # type: ignore[assignment]
        return network.to(device)

    one = FitSettings()
    kept = cohort
    if device.type == "cuda":
        kept = Cohort(cohort.files, [on_device(patient, device) for patient in cohort.patients])
    ways = [Way("plain", network := make(True), plain(network, cohort, one))]
    ways.append(Way("in memory", network := make(True), of_fit(network, kept, one)))
    for bags in asked.bags:
        settings = FitSettings(bags_per_step=bags)
        ways.append(Way(f"ours, {bags} bags a step", network := make(False), of_fit(network, kept, settings)))
    settings = FitSettings(bags_per_step=max(asked.bags), precision="bf16")
    name = f"ours, {max(asked.bags)} bags a step, bf16"
    ways.append(Way(name, network := make(False), of_fit(network, kept, settings)))
    return ways


def on_device(patient: Patient, device: torch.device) -> Patient:
    assert patient.expression is not None
    bags = [bag.to(device) for bag in patient.bags]
    return Patient(patient.patient_id, patient.label, bags, patient.expression.to(device))


if __name__ == "__main__":
    main()
