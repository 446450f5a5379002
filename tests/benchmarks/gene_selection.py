"""How long a fold's gene panel takes to fit: 768 of 20,000 genes for 800 patients, each way of choosing.

    OMP_NUM_THREADS=1 python tests/benchmarks/gene_selection.py --patients 800 --genes 20000

Prints the median of several fits and the most memory that the process took.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import numpy as np
from wsipipe.data.errors import UsageError
from wsipipe.models.training.gene_panel import GenePanel, Selection

SELECTIONS: tuple[Selection, ...] = ("anova", "variance", "xgboost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=800)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--chosen", type=int, default=768)
    parser.add_argument("--missing", type=float, default=0.0, help="fraction of values that is missing")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()

    rng = np.random.default_rng(0)
    matrix = rng.normal(5, 2, (asked.patients, asked.genes)).astype(np.float32)
    if asked.missing:
        matrix[rng.random(matrix.shape) < asked.missing] = np.nan
    genes = [f"g{index:06d}" for index in range(asked.genes)]
    labels = rng.integers(0, 2, asked.patients)
    for selection in SELECTIONS:
        try:
            seconds = [fitted(GenePanel(asked.chosen, selection), matrix, genes, labels) for _ in range(asked.rounds)]
        except UsageError as error:
            print(f"{selection:9} left out: {error}")
            continue
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        took = f"{statistics.median(seconds):6.2f} s (from {min(seconds):.2f} s)"
        print(f"{selection:9} {took}, {peak:,.0f} MiB so far")


def fitted(panel: GenePanel, matrix: np.ndarray, genes: list[str], labels: np.ndarray) -> float:
    start = time.perf_counter()
    panel.fit(matrix, genes, labels)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
