"""What the methods learn of numbers and grades where the truth is known: planted cohorts with other labels.

    python tests/benchmarks/learning_tasks.py run results.jsonl --processes 2      # goes on where it stopped
    python tests/benchmarks/learning_tasks.py show results.jsonl

The slides, the RNA and the patients are those of the designs of ``planted_cohorts.py``; the label is made anew from the
state z with noise of its own, for training and fresh patients alike. ``number`` is 50 + 10 (z + noise); ``grade`` is
low, middle or high by two cuts of z + noise. Training is the product's own (``train_fold``), as in ``learning.py``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import torch
from learning import COHORTS, SETTINGS, bag_of, paired, read
from planted_cohorts import DESIGNS, DesignName, PlantedPatient, planted_cohort
from threadpoolctl import threadpool_limits
from wsipipe.data.cohort.outcomes import Label
from wsipipe.data.cohort.splits import make_splits
from wsipipe.data.molecular.store import ExpressionTable
from wsipipe.models.evaluation.task_metrics import TaskMetrics
from wsipipe.models.tasks.ordinal import OrdinalTask
from wsipipe.models.tasks.prediction import EVEN, PatientPrediction
from wsipipe.models.tasks.regression import RegressionTask
from wsipipe.models.tasks.task import Task
from wsipipe.models.training.fit import patient_scores
from wsipipe.stages.compare.variants import Variant, reference_of, variants
from wsipipe.stages.train.fold import FoldCohort, patients_of
from wsipipe.stages.train.fold_training import FoldData, train_fold
from wsipipe.stages.train.molecular_data import MolecularData

CUTS: Final = (-0.5, 0.5)
"""Of z + noise; with the noise of ``base`` a third of the patients are of each grade, about."""
COMPARED: Final = {
    "number": ("abmil", "transmil", "mean"),
    "grade": ("momkd", "abmil", "clam-sb", "transmil", "mean"),
}
"""Question → methods that can carry it."""
DESIGNS_ASKED: Final[tuple[DesignName, ...]] = ("base",)
TRAIN_PATIENTS: Final = 100
"""Fewer than in ``learning.py``: ten cohorts of both questions take some ten minutes on two cores."""


@dataclass(frozen=True)
class Asked:
    """A planted cohort with the labels of a question."""

    task: Task
    train: list[PlantedPatient]
    test: list[PlantedPatient]
    labels: Mapping[str, Label]


def asked(question: str, design: DesignName, seed: int) -> Asked:
    """The cohort of a design, its labels made anew."""
    cohort = planted_cohort(design, seed)
    cohort = replace(cohort, train=cohort.train[:TRAIN_PATIENTS])
    labels: dict[str, Label] = {}
    for part, patients in enumerate((cohort.train, cohort.test)):
        noise = np.random.default_rng((seed, part, 77)).standard_normal(len(patients))
        for patient, own in zip(patients, noise.tolist(), strict=True):
            shown = patient.state + DESIGNS[design].label_noise * own
            labels[patient.id] = 50 + 10 * shown if question == "number" else sum(shown > cut for cut in CUTS)
    task: Task = RegressionTask() if question == "number" else OrdinalTask(("low", "middle", "high"))
    return Asked(task, cohort.train, cohort.test, labels)


def measure(question: str, design: DesignName, seed: int, variant: Variant) -> dict[str, object]:
    """Train on one cohort, and ask about its fresh patients."""
    cohort = asked(question, design, seed)
    begin = time.perf_counter()
    assert variant.settings is not None  # RNA alone is for two classes
    everyone = [*cohort.train, *cohort.test]
    genes = tuple(f"G{i:02d}" for i in range(len(everyone[0].expression)))
    table = ExpressionTable(
        tuple(p.id for p in everyone), genes, np.stack([p.expression for p in everyone]), "log", "planted"
    )
    own = {p.id: cohort.labels[p.id] for p in cohort.train}
    splits = make_splits(own, 5, seed, strata=cohort.task.strata_of_split(own))
    validation = set(splits.patients(0, "test"))  # a fifth, stratified; the other roles are not used
    parts = {
        name: {p: (own[p], (p,)) for p in own if (p in validation) == (name == "validation")}
        for name in ("train", "validation")
    }
    bags = {p.id: bag_of(p) for p in everyone}
    fold = FoldCohort(0, 1, "", parts["train"], parts["validation"], len(cohort.test), {}, {}, {})
    molecular = MolecularData(table) if variant.settings.use_rna else None
    with tempfile.TemporaryDirectory() as partial:
        width = everyone[0].features.shape[1]
        data = FoldData(
            fold, bags, width, molecular, torch.device("cpu"), Path(partial), lambda _, __: None, cohort.task
        )
        trained = train_fold(data, variant.settings.model_copy(update={"seed": seed}))
    task = trained.network.task
    fresh = patients_of({p.id: (cohort.labels[p.id], (p.id,)) for p in cohort.test}, bags, task=task)
    scores = patient_scores(trained.network, fresh, together=50)
    threshold = {0: trained.threshold()[0]}
    rows = [
        PatientPrediction.of(p.id, [{0: scores[p.id]}], threshold, task, prevalence=EVEN, label=cohort.labels[p.id])
        for p in cohort.test
    ]
    metrics = task.figures(rows, rounds=0, seed=0)
    assert isinstance(metrics, TaskMetrics)
    seconds = round(time.perf_counter() - begin, 1)
    figure = metrics.main.value
    return {
        "question": question, "design": design, "seed": seed, "method": variant.name, "measure": metrics.measure,
        "figure": figure, "seconds": seconds,
    }  # fmt: skip


def variant_of(question: str, name: str) -> Variant:
    """The method of this name, with the settings of the benchmark."""
    task = "regression" if question == "number" else "ordinal"
    known = variants([name], SETTINGS, rna=True, task=task)
    return next(variant for variant in known if variant.name == name)


def _one(task: tuple[str, DesignName, int, str]) -> dict[str, object]:
    torch.set_num_threads(1)
    threadpool_limits(1)
    warnings.simplefilter("ignore")
    question, design, seed, name = task
    return measure(question, design, seed, variant_of(question, name))


def run(results: Path, seeds: Sequence[int], workers: int) -> None:
    """Measure what the file does not hold yet, and add it line by line."""
    there = {(row["question"], row["design"], row["seed"], row["method"]) for row in read(results)}
    wanted = [(q, d, s, m) for s in seeds for q, methods in COMPARED.items() for d in DESIGNS_ASKED for m in methods]
    tasks = [one for one in wanted if one not in there]
    begin = time.perf_counter()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, results.open("a") as stream:
        for number, row in enumerate(pool.map(_one, tasks), start=1):
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            left = (time.perf_counter() - begin) / number * (len(tasks) - number) / 60
            print(f"{number}/{len(tasks)}  {row}  {left:.0f} min left", flush=True)


def show(results: Path) -> None:
    """A table a question in Markdown: mean over the cohorts, and the difference to the reference in pairs."""
    figures: dict[tuple[str, str, str], dict[int, float]] = {}
    measures: dict[str, str] = {}
    for row in read(results):
        key = (str(row["question"]), str(row["design"]), str(row["method"]))
        figures.setdefault(key, {})[int(str(row["seed"]))] = 100 * float(str(row["figure"]))
        measures[str(row["question"])] = str(row["measure"])
    for question, methods in COMPARED.items():
        reference = reference_of("regression" if question == "number" else "ordinal")
        print(f"\n{question}: {measures.get(question)} x 100, mean over cohorts; difference to {reference}\n")
        print("| method | " + " | ".join(f"{d} | difference" for d in DESIGNS_ASKED) + " |")
        print("| --- |" + " --- | --- |" * len(DESIGNS_ASKED))
        for name in methods:
            cells = []
            for design in DESIGNS_ASKED:
                own, other = figures.get((question, design, name), {}), figures.get((question, design, reference), {})
                gain, half, _ = paired(own, other)
                cells += [f"{np.mean(list(own.values())):.1f}" if own else ""]
                cells += [f"{gain:+.1f} ± {half:.1f}" if own and name != reference else ""]
            print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("results", type=Path)
    running.add_argument("--seeds", nargs="+", type=int, default=list(range(COHORTS)))
    running.add_argument("--processes", type=int, default=2)
    showing = commands.add_parser("show")
    showing.add_argument("results", type=Path)
    given = parser.parse_args()
    if given.command == "run":
        run(given.results, given.seeds, given.processes)
    else:
        show(given.results)


if __name__ == "__main__":
    main()
