"""The audit on planted cohorts, where it is known what the slide shows.

    python tests/benchmarks/audit.py --cohorts 10

Logistic regression on the mean tile (the method ``mean``, its penalty fixed) is read out of fold on the training part
of each cohort, and audited against grade and ER; a row a design, means over the cohorts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from planted_cohorts import DESIGN_NAMES, DesignName, PlantedPatient, planted_cohort
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from wsipipe.data.cohort.splits import make_splits
from wsipipe.models.audit.confounding import Audit, audit
from wsipipe.models.audit.strata import Strata

COLUMNS = ("grade", "er")
FOLDS = 5
DESIGNS: tuple[DesignName, ...] = ("base", "noisy", "grade", "two_confounders")


def audited(design: DesignName, seed: int, columns: Sequence[str] = COLUMNS, *, rounds: int = 500) -> Audit:
    """Audit out-of-fold scores of the mean tile on one planted cohort."""
    patients = planted_cohort(design, seed).train
    splits = make_splits({p.id: p.label for p in patients}, FOLDS, seed)
    folds = np.array([splits.test_fold(p.id) for p in patients])
    y = np.array([p.label for p in patients])
    return audit(y, _out_of_fold(patients, y, folds), strata_of(patients, columns), folds, rounds=rounds)


def strata_of(patients: Sequence[PlantedPatient], columns: Sequence[str]) -> list[Strata]:
    """The patients by each column."""
    none = [False] * len(patients)
    return [Strata.of(name, [str(getattr(p, name)) for p in patients], none) for name in columns]


def _out_of_fold(patients: Sequence[PlantedPatient], y: np.ndarray, folds: np.ndarray) -> np.ndarray:
    x = np.stack([p.features.mean(axis=0) for p in patients]).astype(np.float64)
    odds = np.zeros(len(y))
    for fold in range(FOLDS):
        here = folds == fold
        scale = StandardScaler().fit(x[~here])
        model = LogisticRegression(C=0.01, max_iter=1000).fit(scale.transform(x[~here]), y[~here])
        odds[here] = model.decision_function(scale.transform(x[here]))
    return odds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=10)
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS), choices=DESIGN_NAMES)
    given = parser.parse_args()
    print(
        "| design | AUC | within grade | within ER | within both | columns alone | slide adds, p < 0.05 | permutation |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for design in given.designs:
        found = [audited(design, seed, rounds=0) for seed in range(given.cohorts)]
        figures = [
            [a.score.value, *(c.pooled.within.value for c in a.columns), a.together.within.value, a.alone.columns.value]
            for a in found
            if a.alone is not None
        ]
        means = " | ".join(f"{value:.2f}" for value in np.mean(figures, axis=0))
        adds = sum(a.alone is not None and a.alone.p_value is not None and a.alone.p_value < 0.05 for a in found)
        permuted = sum(a.together.p_value is not None and a.together.p_value < 0.05 for a in found)
        print(f"| {design} | {means} | {adds} of {len(found)} | {permuted} of {len(found)} |")


if __name__ == "__main__":
    main()
