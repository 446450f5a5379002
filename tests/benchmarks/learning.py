"""What the methods learn where the truth is known: planted cohorts, every method, differences in pairs.

    python tests/benchmarks/learning.py run results.jsonl --processes 2      # goes on where it stopped
    python tests/benchmarks/learning.py show results.jsonl --picture learning.png

Each line of the results is one method on one cohort: the AUC on 300 fresh patients, never seen in training, whose site
goes with nothing. Training, genes, soft targets, validation and the choice of the epoch are the product's own
(``train_fold``); all methods see the same patients, the same validation part, and the same settings.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from planted_cohorts import DESIGN_NAMES, DesignName, PlantedPatient, planted_cohort
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits
from wsipipe.data.cohort.splits import make_splits
from wsipipe.data.molecular.store import ExpressionTable
from wsipipe.models.mil.bag_tensors import BagTensors
from wsipipe.models.mil.tile_graph import knn_edges
from wsipipe.models.tasks.binary import BINARY
from wsipipe.models.training.fit import patient_scores
from wsipipe.models.training.rna_teacher import RnaTeacher
from wsipipe.stages.compare.variants import CEILING, REFERENCE, Variant, variants
from wsipipe.stages.train.fold import FoldCohort, patients_of
from wsipipe.stages.train.fold_training import FoldData, train_fold
from wsipipe.stages.train.molecular_data import MolecularData
from wsipipe.stages.train.settings import TrainSettings

COHORTS = 10
SETTINGS = TrainSettings(hidden=64, shared=32, slots=8, genes=64, epochs=10, patience=10)
"""Small sizes and few epochs, as the cohorts are small; everything else is the product's default."""


def measure(design: DesignName, seed: int, variant: Variant) -> dict[str, object]:
    """Train on one cohort, and ask about its fresh patients."""
    cohort = planted_cohort(design, seed)
    begin = time.perf_counter()
    patients = {p.id: p for p in cohort.train}
    labels = {p.id: p.label for p in cohort.train}
    splits = make_splits(labels, 2, seed)  # only its way of keeping a validation part is used
    validation = set(_validation(labels, splits.patients(0, "validation"), splits.patients(1, "validation")))
    genes = tuple(f"G{i:02d}" for i in range(len(cohort.train[0].expression)))
    everyone = [*cohort.train, *cohort.test]
    table = ExpressionTable(
        tuple(p.id for p in everyone), genes, np.stack([p.expression for p in everyone]), "log", "planted"
    )
    test = [p.id for p in cohort.test]
    truth = [p.label for p in cohort.test]
    if variant.settings is None:
        own = [p for p in labels if p not in validation]
        teacher = RnaTeacher(len(genes), seed=seed).fit(table.rows(own), genes, [labels[p] for p in own])
        scores = teacher.predict(table.rows(test), genes).tolist()
    else:
        bags = {p.id: bag_of(p) for p in everyone}
        parts = {
            name: {p: (labels[p], (p,)) for p in patients if (p in validation) == (name == "validation")}
            for name in ("train", "validation")
        }
        fold = FoldCohort(0, 1, "", parts["train"], parts["validation"], len(test), {}, {}, {})
        with tempfile.TemporaryDirectory() as partial:
            width = cohort.train[0].features.shape[1]
            task = FoldData(
                fold, bags, width, MolecularData(table), torch.device("cpu"), Path(partial), lambda _, __: None, BINARY
            )
            trained = train_fold(task, variant.settings.model_copy(update={"seed": seed}))
        asked = patients_of({p.id: (p.label, (p.id,)) for p in cohort.test}, bags, task=BINARY)
        logits = patient_scores(trained.network, asked, together=50)
        scores = [logits[p] for p in test]
    seconds = round(time.perf_counter() - begin, 1)
    auc = float(roc_auc_score(truth, scores))
    return {"design": design, "seed": seed, "method": variant.name, "auc": auc, "seconds": seconds}


def _validation(labels: dict[str, int], *parts: Sequence[str]) -> Iterator[str]:
    """A fifth of each class, out of patients drawn by hash."""
    for label in (0, 1):
        drawn = [p for part in parts for p in part if labels[p] == label]
        yield from drawn[: round(0.2 * sum(value == label for value in labels.values()))]


def bag_of(patient: PlantedPatient) -> BagTensors:
    """The bag of a patient's slide."""
    return BagTensors(patient.id, torch.from_numpy(patient.features), knn_edges(patient.coords).to(torch.int32))


def _all(names: Sequence[str]) -> list[Variant]:
    """Those of the names, or all."""
    return [variant for variant in variants(names, SETTINGS, rna=True) if not names or variant.name in names]


def _one(task: tuple[DesignName, int, str]) -> dict[str, object]:
    torch.set_num_threads(1)
    threadpool_limits(1)
    warnings.simplefilter("ignore")
    design, seed, name = task
    return measure(design, seed, _all([name])[0])


def run(results: Path, designs: Sequence[DesignName], seeds: Sequence[int], names: Sequence[str], workers: int) -> None:
    """Measure what the file does not hold yet, and add it line by line."""
    there = {(row["design"], row["seed"], row["method"]) for row in read(results)}
    tasks = [(d, s, v.name) for s in seeds for d in designs for v in _all(names) if (d, s, v.name) not in there]
    begin = time.perf_counter()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, results.open("a") as stream:
        for number, row in enumerate(pool.map(_one, tasks), start=1):
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            left = (time.perf_counter() - begin) / number * (len(tasks) - number) / 60
            print(f"{number}/{len(tasks)}  {row}  {left:.0f} min left", flush=True)


def read(results: Path) -> list[dict[str, object]]:
    """The lines of a results file; none where there is none."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def paired(one: dict[int, float], other: dict[int, float]) -> tuple[float, float, int]:
    """Mean difference over the cohorts of both, half of its 95 % interval (Student's t), and their number."""
    both = sorted(one.keys() & other.keys())
    gains = np.array([one[seed] - other[seed] for seed in both])
    if len(gains) < 2:
        return float(gains.mean()) if len(gains) else float("nan"), float("nan"), len(gains)
    half = student.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    return float(gains.mean()), float(half), len(gains)


def show(results: Path, picture: Path | None) -> None:
    """Tables of AUC × 100 and of differences to MoMKD and to ABMIL, in Markdown; a picture of the former."""
    aucs: dict[tuple[str, str], dict[int, float]] = {}
    for row in read(results):
        aucs.setdefault((str(row["design"]), str(row["method"])), {})[int(str(row["seed"]))] = 100 * float(
            str(row["auc"])
        )
    designs = [d for d in DESIGN_NAMES if any(d == design for design, _ in aucs)]
    names = [v.name for v in _all([]) if any(v.name == method for _, method in aucs)]
    print("AUC x 100, mean over cohorts\n")
    print("| method | " + " | ".join(designs) + " |\n| --- |" + " --- |" * len(designs))
    for name in names:
        cells = [f"{np.mean(list(aucs[d, name].values())):.1f}" if (d, name) in aucs else "" for d in designs]
        print(f"| {name} | " + " | ".join(cells) + " |")
    for reference in (REFERENCE, "abmil", "abmil+soft"):
        print(f"\nDifference to {reference}, mean ± half of the 95 % interval, over the same cohorts\n")
        print("| method | " + " | ".join(designs) + " |\n| --- |" + " --- |" * len(designs))
        for name in names:
            if name == reference:
                continue
            gains = [paired(aucs.get((d, name), {}), aucs.get((d, reference), {})) for d in designs]
            cells = [f"{mean:+.1f} ± {half:.1f}" if number > 1 else "" for mean, half, number in gains]
            print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"\ncohorts: {', '.join(f'{d} {max(len(aucs[d, n]) for n in names if (d, n) in aucs)}' for d in designs)}")
    if picture is not None:
        draw(aucs, designs, names, picture)


def draw(
    aucs: dict[tuple[str, str], dict[int, float]], designs: list[DesignName], names: list[str], path: Path
) -> None:
    """A panel a design: each cohort a dot, the mean a bar; soft targets filled, hard labels open."""
    from matplotlib.figure import Figure

    plain = [name for name in names if not name.endswith("+soft")]
    figure = Figure(figsize=(2.6 * len(designs), 0.36 * len(plain) + 1.4), layout="constrained")
    panels = figure.subplots(1, len(designs), sharey=True, squeeze=False)[0]
    for panel, design in zip(panels, designs, strict=True):
        for place, name in enumerate(plain):
            for shown, colour, shift in ((name, "#5b6770", 0.16), (f"{name}+soft", "#b3541e", -0.16)):
                values = list(aucs.get((design, shown), {}).values())
                if values:
                    panel.plot(values, [place - shift] * len(values), "o", color=colour, ms=3, alpha=0.35, mew=0)
                    panel.plot(
                        [np.mean(values)] * 2, [place - shift - 0.15, place - shift + 0.15], color=colour, lw=2.2
                    )
        if (design, CEILING) in aucs:
            ceiling = float(np.mean(list(aucs[design, CEILING].values())))
            panel.axvline(ceiling, color="#888888", lw=0.8, ls=":")
        panel.axvline(50, color="#bbbbbb", lw=0.8)
        panel.set_title(design, fontsize=10)
        panel.set_xlim(45, 95)
        panel.grid(axis="x", color="#eeeeee")
        panel.set_axisbelow(True)
        panel.set_xlabel("AUC × 100", fontsize=8)
        panel.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(plain)), plain)
    panels[0].set_ylim(len(plain) - 0.5, -0.5)
    figure.suptitle(
        "Fresh patients of planted cohorts: labels (grey), soft targets (brown), RNA alone (dotted)", fontsize=10
    )
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("results", type=Path)
    running.add_argument("--designs", nargs="+", default=list(DESIGN_NAMES), choices=DESIGN_NAMES)
    running.add_argument("--seeds", nargs="+", type=int, default=list(range(COHORTS)))
    running.add_argument("--methods", nargs="+", default=[])
    running.add_argument("--processes", type=int, default=2)
    showing = commands.add_parser("show")
    showing.add_argument("results", type=Path)
    showing.add_argument("--picture", type=Path)
    given = parser.parse_args()
    if given.command == "run":
        run(given.results, given.designs, given.seeds, given.methods, given.processes)
    else:
        show(given.results, given.picture)


if __name__ == "__main__":
    main()
