"""What the methods learn of survival where the truth is known: planted cohorts with censored follow-ups, both losses.

    python tests/benchmarks/learning_survival.py run results.jsonl --processes 2      # goes on where it stopped
    python tests/benchmarks/learning_survival.py show results.jsonl

The patients are those of the design ``base`` (planted_cohorts.py); their hazard is exp(z) times that of a patient whose
median time to the event is 24 months, and they are followed for 6 to 90 months. Each line of the results is one method
on one cohort: figures on 300 fresh patients. All methods see the same patients, validation part and settings.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from learning import COHORTS, _bag, paired, read
from planted_cohorts import PlantedPatient, planted_cohort
from threadpoolctl import threadpool_limits
from wsipipe.data.cohort.outcomes import Survival
from wsipipe.models.evaluation.survival_metrics import HARRELL, INTEGRATED
from wsipipe.models.tasks.prediction import EVEN, PatientPrediction
from wsipipe.models.tasks.task import find_task
from wsipipe.models.training.fit import patient_scores
from wsipipe.stages.train.fold import FoldCohort, patients_of
from wsipipe.stages.train.fold_training import FoldData, train_fold
from wsipipe.stages.train.settings import TrainSettings

MEDIAN_MONTHS, SHORTEST, LONGEST = 24.0, 6.0, 90.0
HORIZONS = (12.0, 24.0, 48.0)
SETTINGS = TrainSettings(hidden=64, epochs=15, patience=15, bags_per_step=4, learning_rate=5e-4)
"""Small and few, as the cohorts are small; Cox's likelihood needs several bags a step, and both losses get the same."""
METHODS = ("abmil", "transmil", "mean")
LOSSES: tuple[Literal["hazards", "cox"], ...] = ("hazards", "cox")
TRUTH = "the true hazard"


def follow_ups(patients: Sequence[PlantedPatient], seed: int) -> dict[str, Survival]:
    """Times by proportional hazards in z, in tenths of a month, censored at the end of the follow-up."""
    draw = np.random.default_rng(seed)
    z = np.array([p.state for p in patients])
    times = draw.exponential(MEDIAN_MONTHS / np.log(2) / np.exp(z))
    ends = draw.uniform(SHORTEST, LONGEST, len(z))
    seen = np.ceil(np.minimum(times, ends) * 10) / 10
    return {p.id: Survival(float(t), bool(e)) for p, t, e in zip(patients, seen, times <= ends, strict=True)}


def measure(seed: int, method: str, loss: Literal["hazards", "cox"]) -> dict[str, object]:
    """Train on one cohort, and ask about its fresh patients."""
    cohort = planted_cohort("base", seed)
    begin = time.perf_counter()
    labels = follow_ups(cohort.train, 1000 + seed) | follow_ups(cohort.test, 2000 + seed)
    task = find_task("survival", loss=loss, horizons=HORIZONS)
    row = {"seed": seed, "method": method, "loss": loss, "events": sum(labels[p.id].event for p in cohort.train)}
    if method == TRUTH:
        scores = {p.id: (p.state, 1.0, 1.0, 1.0) for p in cohort.test}
    else:
        bags = {p.id: _bag(p) for p in [*cohort.train, *cohort.test]}
        parts = {
            name: {p.id: (labels[p.id], (p.id,)) for n, p in enumerate(cohort.train) if (n % 5 == 0) == is_validation}
            for name, is_validation in (("train", False), ("validation", True))
        }
        fold = FoldCohort(0, 1, "", parts["train"], parts["validation"], len(cohort.test), {}, {}, {})
        settings = SETTINGS.model_copy(update={"method": method, "seed": seed})
        with tempfile.TemporaryDirectory() as partial:
            width = cohort.train[0].features.shape[1]
            data = FoldData(fold, bags, width, None, torch.device("cpu"), Path(partial), lambda _, __: None, task)
            network = train_fold(data, settings).network
        task = network.task
        asked = patients_of({p.id: (labels[p.id], (p.id,)) for p in cohort.test}, bags, task=task)
        scores = patient_scores(network, asked, together=50)  # type: ignore[assignment]
    rows = [
        PatientPrediction.of(p.id, [{0: scores[p.id]}], {0: 0.0}, task, prevalence=EVEN, label=labels[p.id])
        for p in cohort.test
    ]
    found = task.figures(rows, rounds=0, seed=0)
    figures = {HARRELL: found.main.value}
    if method != TRUTH:
        figures[INTEGRATED] = found.figures[INTEGRATED].value  # type: ignore[union-attr]
        figures["chance"] = found.chance[INTEGRATED]  # type: ignore[union-attr]
    return {**row, **figures, "seconds": round(time.perf_counter() - begin, 1)}


def _one(task: tuple[int, str, Literal["hazards", "cox"]]) -> dict[str, object]:
    torch.set_num_threads(1)
    threadpool_limits(1)
    warnings.simplefilter("ignore")
    return measure(*task)


def run(results: Path, seeds: Sequence[int], workers: int) -> None:
    """Measure what the file does not hold yet, and add it line by line."""
    there = {(row["seed"], row["method"], row["loss"]) for row in read(results)}
    asked = [(TRUTH, LOSSES[0]), *((m, loss) for m in METHODS for loss in LOSSES)]
    tasks = [(s, m, loss) for s in seeds for m, loss in asked if (s, m, loss) not in there]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, results.open("a") as stream:
        for number, row in enumerate(pool.map(_one, tasks), start=1):
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            print(f"{number}/{len(tasks)}  {row}", flush=True)


def show(results: Path) -> None:
    """A table in Markdown: the figures of each method and loss, and Cox's minus the hazards' C in pairs."""
    rows = read(results)
    seeds = sorted({int(str(row["seed"])) for row in rows})
    c = {
        (m, loss): {
            int(str(r["seed"])): 100 * float(str(r[HARRELL])) for r in rows if (r["method"], r["loss"]) == (m, loss)
        }
        for m in (TRUTH, *METHODS)
        for loss in LOSSES
    }
    print(
        f"{len(seeds)} cohorts; events among 150 training patients: {sorted({int(str(r['events'])) for r in rows})}\n"
    )
    print("| method | loss | Harrell's C × 100 | integrated Brier score × 100 | its chance |")
    print("| --- | --- | --- | --- | --- |")
    for (method, loss), values in c.items():
        own = [r for r in rows if (r["method"], r["loss"]) == (method, loss)]
        if own:
            brier = [
                f"{100 * np.mean([float(str(r[n])) for r in own]):.2f}" if n in own[0] else ""
                for n in (INTEGRATED, "chance")
            ]
            print(f"| {method} | {loss} | {np.mean(list(values.values())):.1f} | {brier[0]} | {brier[1]} |")
    print("\nCox's minus the hazards' C, mean ± half of the 95 % interval over the cohorts of both")
    for method in METHODS:
        mean, half, number = paired(c[method, "cox"], c[method, "hazards"])
        print(f"{method}: {mean:+.1f} ± {half:.1f} ({number})")


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
