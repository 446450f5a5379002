"""What the methods learn of numbers, grades, classes and survival where the truth is known: planted cohorts.

    python tests/benchmarks/learning_tasks.py run results.jsonl --processes 2      # goes on where it stopped
    python tests/benchmarks/learning_tasks.py show results.jsonl

The slides, the RNA and the patients are those of the designs of ``planted_cohorts.py``; the label is made anew from the
state z with noise of its own, for training and fresh patients alike. ``number`` is 50 + 10 (z + noise); ``grade`` is
low, middle or high by two cuts of z + noise; ``class`` is common, other or rare by two further cuts, and nobody is told
their order. ``survival`` has a hazard of exp(z) times that of a patient whose median time to the event is 24 months, a
follow-up of 6 to 90 months, and is learned by both losses. Training is the product's own (``train_fold``), as in
``learning.py``. Probabilities are at equally frequent classes, as training shows them.
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
from typing import Final, Literal

import numpy as np
import torch
from learning import COHORTS, SETTINGS, bag_of, paired, read
from planted_cohorts import DESIGNS, DesignName, PlantedPatient, planted_cohort
from threadpoolctl import threadpool_limits
from wsipipe.data.cohort.outcomes import Label, Survival
from wsipipe.data.cohort.splits import make_splits
from wsipipe.data.molecular.store import ExpressionTable
from wsipipe.models.evaluation.survival_metrics import INTEGRATED, harrell
from wsipipe.models.evaluation.task_metrics import TaskMetrics
from wsipipe.models.tasks.prediction import EVEN, PatientPrediction
from wsipipe.models.tasks.task import Task, find_task
from wsipipe.models.training.fit import patient_scores
from wsipipe.stages.compare.variants import Variant, variants
from wsipipe.stages.train.fold import FoldCohort, patients_of
from wsipipe.stages.train.fold_training import FoldData, train_fold
from wsipipe.stages.train.molecular_data import MolecularData

CUTS: Final = {"grade": (-0.5, 0.5), "class": (0.0, 1.16)}
"""Of z + noise: with the noise of ``base`` about a third of the patients are of each grade, and 50, 35 and 15 % of each
class."""
MEDIAN_MONTHS, SHORTEST, LONGEST = 24.0, 6.0, 90.0
HORIZONS: Final = (12.0, 24.0, 48.0)
TRUTH: Final = "the true hazard"
REFERENCE: Final = "abmil"
"""The method that the others are compared with; it carries every question."""


@dataclass(frozen=True)
class Question:
    """A question, and the methods that are compared on it."""

    task: Literal["regression", "ordinal", "multiclass", "survival"]
    methods: tuple[str, ...]
    classes: tuple[str, ...] = ()
    loss: Literal["hazards", "cox"] = "hazards"
    epochs: int = SETTINGS.epochs
    bags_per_step: int = 1

    def asked(self) -> Task:
        """The task."""
        horizons = HORIZONS if self.task == "survival" else ()
        return find_task(self.task, self.classes, loss=self.loss, horizons=horizons)


QUESTIONS: Final = {
    "number": Question("regression", ("abmil", "transmil", "mean")),
    "grade": Question("ordinal", ("momkd", "abmil", "clam-sb", "transmil", "mean"), ("low", "middle", "high")),
    "class": Question("multiclass", ("momkd", "abmil", "clam-mb", "mean"), ("common", "other", "rare")),
    # Cox's likelihood needs several bags a step, and the hazards get the same.
    "survival, hazards": Question("survival", (TRUTH, "abmil", "mean"), epochs=15, bags_per_step=4),
    "survival, cox": Question("survival", ("abmil", "mean"), loss="cox", epochs=15, bags_per_step=4),
}
"""By name; each with methods that can carry it."""
DESIGNS_ASKED: Final[tuple[DesignName, ...]] = ("base",)
TRAIN_PATIENTS: Final = 100
"""Fewer than in ``learning.py``, as there are many questions."""


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
    kind = "survival" if question.startswith("survival") else question
    labels: dict[str, Label] = {}
    for part, patients in enumerate((cohort.train, cohort.test)):
        random = np.random.default_rng((seed, part, 77))
        if kind == "survival":
            labels |= follow_ups(patients, random)
            continue
        noise = random.standard_normal(len(patients))
        for patient, own in zip(patients, noise.tolist(), strict=True):
            shown = patient.state + DESIGNS[design].label_noise * own
            labels[patient.id] = 50 + 10 * shown if kind == "number" else sum(shown > cut for cut in CUTS[kind])
    return Asked(QUESTIONS[question].asked(), cohort.train, cohort.test, labels)


def follow_ups(patients: Sequence[PlantedPatient], random: np.random.Generator) -> dict[str, Survival]:
    """Times by proportional hazards in z, in tenths of a month, censored at the end of the follow-up."""
    z = np.array([p.state for p in patients])
    times = random.exponential(MEDIAN_MONTHS / np.log(2) / np.exp(z))
    ends = random.uniform(SHORTEST, LONGEST, len(z))
    seen = np.ceil(np.minimum(times, ends) * 10) / 10
    return {p.id: Survival(float(t), bool(e)) for p, t, e in zip(patients, seen, times <= ends, strict=True)}


def measure(question: str, design: DesignName, seed: int, method: str) -> dict[str, object]:
    """Train on one cohort, and ask about its fresh patients."""
    cohort = asked(question, design, seed)
    begin = time.perf_counter()
    row: dict[str, object] = {"question": question, "design": design, "seed": seed, "method": method}
    if method == TRUTH:
        known = [cohort.labels[p.id] for p in cohort.test]
        c = harrell([k.time for k in known], [k.event for k in known], [p.state for p in cohort.test])  # type: ignore[union-attr]
        return {**row, "measure": cohort.task.measure, "figure": c, "seconds": 0.0}
    variant = variant_of(question, method)
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
    row |= {"measure": metrics.measure, "figure": metrics.main.value}
    if INTEGRATED in metrics.figures:
        row |= {"brier": metrics.figures[INTEGRATED].value, "chance": metrics.chance[INTEGRATED]}
    return row | {"seconds": round(time.perf_counter() - begin, 1)}


def variant_of(question: str, name: str) -> Variant:
    """The method of this name, with the settings of the benchmark."""
    of = QUESTIONS[question]
    settings = SETTINGS
    if of.task == "survival":
        changes = {"epochs": of.epochs, "patience": of.epochs, "bags_per_step": of.bags_per_step, "learning_rate": 5e-4}
        settings = SETTINGS.model_copy(update=changes)
    known = variants([name], settings, rna=True, task=of.task)
    return next(variant for variant in known if variant.name == name)


def _one(task: tuple[str, DesignName, int, str]) -> dict[str, object]:
    torch.set_num_threads(1)
    threadpool_limits(1)
    warnings.simplefilter("ignore")
    return measure(*task)


def run(results: Path, seeds: Sequence[int], questions: Sequence[str], methods: Sequence[str], workers: int) -> None:
    """Measure what the file does not hold yet, and add it line by line."""
    there = {(row["question"], row["design"], row["seed"], row["method"]) for row in read(results)}
    wanted = [(q, d, s, m) for s in seeds for q in questions for d in DESIGNS_ASKED for m in QUESTIONS[q].methods]
    tasks = [one for one in wanted if one not in there and (not methods or one[3] in methods)]
    begin = time.perf_counter()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, results.open("a") as stream:
        for number, row in enumerate(pool.map(_one, tasks), start=1):
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            left = (time.perf_counter() - begin) / number * (len(tasks) - number) / 60
            print(f"{number}/{len(tasks)}  {row}  {left:.0f} min left", flush=True)


def show(results: Path) -> None:
    """A table a question in Markdown: mean over the cohorts, and the difference to ABMIL over the cohorts of both."""
    rows = read(results)
    figures = {name: _by_seed(rows, name, "figure") for name in QUESTIONS}
    for question, of in QUESTIONS.items():
        measures = {str(row["measure"]) for row in rows if row["question"] == question}
        own = figures[question]
        print(f"\n{question}: {' '.join(measures)} x 100, mean over cohorts; difference to {REFERENCE}\n")
        briers, chances = (_by_seed(rows, question, name) for name in ("brier", "chance"))
        brier = " integrated Brier score | its chance |" if briers else ""
        print(f"| method | cohorts | figure | difference to {REFERENCE} |{brier}")
        print("| --- | --- | --- | --- |" + " --- |" * brier.count("|"))
        for name in of.methods:
            if name not in own:
                continue
            gain, half, number = paired(own[name], own.get(REFERENCE, {}))
            difference = f"{gain:+.1f} ± {half:.1f} ({number})" if name != REFERENCE and number > 1 else ""
            further = [
                f"{np.mean(list(part[name].values())):.1f}" if name in part else ""
                for part in (briers, chances)
                if part
            ]
            cells = [name, str(len(own[name])), f"{np.mean(list(own[name].values())):.1f}", difference, *further]
            print(f"| {' | '.join(cells)} |")
    print("\nsurvival, Cox's minus the hazards' C-index, in pairs")
    for name, of_cox in figures["survival, cox"].items():
        gain, half, number = paired(of_cox, figures["survival, hazards"].get(name, {}))
        print(f"{name}: {gain:+.1f} ± {half:.1f} ({number} cohorts)")


def _by_seed(rows: Sequence[Mapping[str, object]], question: str, name: str) -> dict[str, dict[int, float]]:
    """Method → seed → a figure × 100."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["question"] == question and name in row:
            found.setdefault(str(row["method"]), {})[int(str(row["seed"]))] = 100 * float(str(row[name]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("results", type=Path)
    running.add_argument("--seeds", nargs="+", type=int, default=list(range(COHORTS)))
    running.add_argument("--questions", nargs="+", default=list(QUESTIONS), choices=QUESTIONS)
    running.add_argument("--methods", nargs="+", default=[])
    running.add_argument("--processes", type=int, default=2)
    showing = commands.add_parser("show")
    showing.add_argument("results", type=Path)
    given = parser.parse_args()
    if given.command == "run":
        run(given.results, given.seeds, given.questions, given.methods, given.processes)
    else:
        show(given.results)


if __name__ == "__main__":
    main()
