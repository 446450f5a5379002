"""How fast MoMKD trains on a GPU, most important first, until the time is over. A part of ``gpu.sh``.

    python tests/benchmarks/gpu_training.py FILE --device cuda --seconds 80

plain    PyG's layers, and each step opens its file, as in ``training_step.py``: the public code's way
in memory PyG's layers in the loop of ``fit``
gather   a gather of each tile's neighbours in plain PyTorch, in the loop of ``fit``
ours     the loop of ``fit`` with our layers

Bags of 325 and of 10,000 tiles, one and sixteen a step. On a GPU each line says how much of the time it computes.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import training_step
from gpu_record import Record, parser_of_a_part
from torch import Tensor, nn
from torch.nn import functional
from training_step import Cohort, PyGEncoder, computing, make_cohort, of_fit, on_device, plain, timed
from wsipipe.models.backbones.devices import choose_device
from wsipipe.models.mil.gatv2 import NEGATIVE_SLOPE, GATv2, Graph
from wsipipe.models.mil.mixed_precision import Precision
from wsipipe.models.mil.momkd import MoMKD, preset
from wsipipe.models.training.fit import FitSettings

WIDTH, GENES = 1536, 768


class Gathered(nn.Module):
    """GATv2 as a table: each tile's neighbours side by side, empty places masked; the state dict is :class:`GATv2`'s.

    The arrays are of N × places × H numbers, and autograd keeps several of them.
    """

    def __init__(self, like: GATv2) -> None:
        super().__init__()
        self.lin_l, self.lin_r, self.att, self.bias, self.dropout = (
            getattr(like, name) for name in ("lin_l", "lin_r", "att", "bias", "dropout")
        )

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        places = len(x) * graph.width
        table = graph.source.new_zeros(places).index_copy(0, graph.place, graph.source).view(-1, graph.width)
        empty = torch.ones(places, dtype=torch.bool, device=x.device).index_fill(0, graph.place, False)
        left, right = self.lin_l(x), self.lin_r(x)
        rows = functional.embedding(table, left).unflatten(2, self.att.shape[1:])
        sums = functional.leaky_relu(rows + right.unflatten(1, self.att.shape[1:])[:, None], NEGATIVE_SLOPE)
        scores = (sums * self.att).sum(dim=3)
        scores = scores.masked_fill(empty.view(-1, graph.width, 1), -torch.inf)
        shares = self.dropout(scores.softmax(dim=1))
        received: Tensor = (shares[..., None] * rows).sum(dim=1).flatten(1) + self.bias
        return received


class Bench:
    """A cohort of bags of one size, and networks that start from the same parameters."""

    def __init__(self, folder: Path, tiles: int, asked: argparse.Namespace) -> None:
        self.device = choose_device(asked.device)
        self.tiles, self.small = tiles, asked.small
        self.width, self.genes = (32, 24) if asked.small else (WIDTH, GENES)
        slides = 4 if tiles > 1000 else 32
        self.cohort = make_cohort(folder, 4 if asked.small else slides, tiles, self.width, self.genes)
        self.kept = Cohort(self.cohort.files, [on_device(patient, self.device) for patient in self.cohort.patients])

    def network(self, layers: str) -> MoMKD:
        torch.manual_seed(0)
        config = preset("official", self.width, self.genes)
        if self.small:
            sizes = {"hidden": 16, "shared": 8, "slots": 3, "omics_hidden": 16, "omics_embedding": 8, "head_hidden": 8}
            config = config.model_copy(update=sizes)
        network = MoMKD(config)
        encoder = network.histology_encoder
        if layers == "PyG's":
            network.histology_encoder = PyGEncoder(  # type: ignore[assignment]
                encoder, config.hidden, self.width, config.histology_dropout
            )
        if layers == "gathered":
            encoder.graph1, encoder.graph2 = Gathered(encoder.graph1), Gathered(encoder.graph2)  # type: ignore[assignment]
        return network.to(self.device)

    def way(self, name: str, bags: int, precision: Precision) -> Callable[[int], None]:
        settings = FitSettings(bags_per_step=bags, precision=precision)
        if name == "plain":
            return plain(self.network("PyG's"), self.cohort, settings)
        layers = {"in memory": "PyG's", "gather": "gathered", "ours": "ours"}[name]
        return of_fit(self.network(layers), self.kept, settings)


def measure(bench: Bench, record: Record, name: str, bags: int, precision: Precision, seconds: float) -> float | None:
    """Bags a second, the best of a few rounds; None where the memory does not suffice."""
    what = f"{bench.tiles} tiles, {name}, {bags} bags a step, {precision}"
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
    try:
        train = bench.way(name, bags, precision)
        train(bags)  # allocates what is kept: the optimiser's state, the device's memory
        number = bags
        once = timed(lambda: train(number), bench.device)[0]
        number = max(bags, round(seconds / 3 / once) // bags * bags)
        rounds, until = [], time.perf_counter() + seconds
        while not rounds or time.perf_counter() < until:
            rounds.append(timed(lambda: train(number), bench.device)[0] / number)
    except torch.OutOfMemoryError:
        record.add(what, failed="out of memory")
        return None
    best = min(rounds)
    figures = {"bags_per_second": 1 / best, "milliseconds_a_bag": best * 1e3}
    if bench.device.type == "cuda":
        figures["gpu_computes"] = computing(lambda: train(bags)) / bags / best
        figures["gibibytes"] = torch.cuda.max_memory_allocated(bench.device) / 2**30
    record.add(what, **figures)
    return 1 / best


def agree(bench: Bench, record: Record) -> None:
    """The layers give the same numbers, so that their speeds can be held against each other."""
    bags = training_step.BagBatch.of([bench.kept.patients[0].bags[0]], bench.device)
    outputs = {}
    for layers in ("ours", "gathered", *(["PyG's"] if training_step.GATv2Conv else [])):
        with torch.inference_mode():
            outputs[layers] = bench.network(layers).eval().histology_encoder(bags.x, bags.edges)
    ours = outputs.pop("ours")
    for layers, its in outputs.items():
        off = (its - ours).abs().max().item() / ours.abs().max().item()
        record.add(f"{layers} layers against ours", largest_relative_difference=off)


def main() -> None:
    parser = parser_of_a_part(__doc__, seconds=80)
    asked = parser.parse_args()
    torch.set_num_threads(2)
    sizes = (40, 120) if asked.small else (325, 10_000)
    each = 0.05 if asked.small else 2.0
    with_pyg = ("plain", "in memory") if training_step.GATv2Conv else ()
    for tiles in sizes:
        record = Record(asked.file, "training", asked.seconds / len(sizes))
        if not with_pyg:
            record.add("PyG's layers", left_out="torch-geometric is not here")
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), tiles, asked)
            agree(bench, record)
            rates: dict[str, float] = {}
            for name, bags, precision in ways(with_pyg, 4 if asked.small else 16):
                if not record.has_time(f"{tiles} tiles, {name}, {bags} bags a step, {precision}", 3 * each):
                    continue
                found = measure(bench, record, name, bags, precision, each)
                if found is not None:
                    rates[f"{name}, {bags} bags a step, {precision}"] = found
                gc.collect()
            if "plain, 1 bags a step, fp32" in rates:
                reference = rates["plain, 1 bags a step, fp32"]
                against = {way.replace(" ", "_"): its / reference for way, its in rates.items()}
                record.add(f"{tiles} tiles, against plain", **against)


def ways(with_pyg: tuple[str, ...], many: int) -> list[tuple[str, int, Precision]]:
    """Most important first."""
    first: list[tuple[str, int, Precision]] = [("ours", 1, "fp32"), ("ours", many, "fp32")]
    first += [(name, 1, "fp32") for name in with_pyg]
    first += [("gather", 1, "fp32"), ("gather", many, "fp32"), ("ours", many, "bf16"), ("gather", many, "bf16")]
    return first + [(name, many, "fp32") for name in with_pyg if name == "in memory"]


if __name__ == "__main__":
    main()
