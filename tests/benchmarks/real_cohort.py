"""Every method on the real cohort: 86 TCGA-BRCA regions of 81 patients, three questions, three seeds.

    python tests/benchmarks/real_cohort.py run FOLDER            # goes on where it stopped
    python tests/benchmarks/real_cohort.py show FOLDER

`wsipipe tile`, `extract`, `genomics` and `compare` with tests/brca/wsipipe.toml, a workspace a seed. A patient's score
is the mean of its three out-of-fold logits; intervals are bootstrap ones over patients, the test DeLong's.
Regions of four tiles and few patients: this shows that the chain holds on real data, and can show no method's worth.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from wsipipe.models.evaluation.metrics import binary_metrics
from wsipipe.models.evaluation.paired_tests import delong
from wsipipe.models.tasks.prediction import PatientPrediction
from wsipipe.stages.compare.variants import REFERENCE, variants
from wsipipe.stages.train.cross_validate import read_oof
from wsipipe.stages.train.settings import TrainSettings

SETTINGS = Path(__file__).resolve().parents[1] / "brca/wsipipe.toml"
SEEDS = (0, 1, 2)
QUESTIONS = ("odx", "er", "her2")


def wsipipe(*arguments: object) -> None:
    command = [sys.executable, "-c", "from wsipipe.pipeline.cli import main; main()", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def run(folder: Path, seeds: list[int], methods: list[str]) -> None:
    """Make a workspace a seed, and compare in it."""
    asked = [word for method in methods for word in ("--methods", method)]
    for seed in seeds:
        begin = time.monotonic()
        place = ("-c", SETTINGS, "-w", folder / f"seed-{seed}")
        for stage in ("tile", "extract", "genomics"):
            wsipipe(stage, *place)
        wsipipe("compare", *place, "--split-seed", seed, "--seed", seed, *asked)
        print(f"seed {seed}: {time.monotonic() - begin:.0f} s", flush=True)


def show(folder: Path) -> None:
    """A row a method: AUC of the mean over seeds with its interval, the seeds' own, and DeLong's test."""
    names = [variant.name for variant in variants([], TrainSettings(), rna=True)]
    for question in QUESTIONS:
        logits: dict[str, dict[str, list[float]]] = {}
        labels: dict[str, int] = {}
        by_seed: dict[str, list[float]] = {}
        for place in sorted(folder.glob(f"seed-*/comparisons/{question}")):
            for name in names:
                path = place / name / "oof_predictions.csv"
                rows = read_oof(path) if path.exists() else []
                for row in rows:
                    labels[row.patient_id] = row.label
                    logits.setdefault(name, {}).setdefault(row.patient_id, []).append(row.logit)
                if rows:
                    by_seed.setdefault(name, []).append(_auc(rows))
        reference = {patient: float(np.mean(values)) for patient, values in logits[REFERENCE].items()}
        print(f"\n{question}: {len(reference)} patients, {sum(labels[p] for p in reference)} positive\n")
        print("| method | AUC (95 %) | by seed | against MoMKD (95 %) | p |\n| --- | --- | --- | --- | --- |")
        for name, own in logits.items():
            mean = {patient: float(np.mean(values)) for patient, values in own.items()}
            scores = expit(list(mean.values()))
            metrics = binary_metrics([labels[p] for p in mean], scores, (scores >= 0.5).astype(int))
            auc = f"{metrics.auc.value:.3f} ({metrics.auc.low:.3f} to {metrics.auc.high:.3f})"
            both = [patient for patient in mean if patient in reference]
            test = delong([labels[p] for p in both], [mean[p] for p in both], [reference[p] for p in both])
            against, p_value = "–", "–"
            if name != REFERENCE and test is not None and test.p_value is not None:
                against = f"{test.difference:+.3f} ({test.low:+.3f} to {test.high:+.3f})"
                p_value = "< 0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}"
            seeds = ", ".join(f"{value:.3f}" for value in by_seed[name])
            print(f"| {name} | {auc} | {seeds} | {against} | {p_value} |")


def _auc(rows: list[PatientPrediction]) -> float:
    return float(roc_auc_score([row.label for row in rows], [row.logit for row in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("run", "show"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", default=[])
    given = parser.parse_args()
    if given.do == "run":
        run(given.folder, given.seeds, given.methods)
    else:
        show(given.folder)


if __name__ == "__main__":
    main()
