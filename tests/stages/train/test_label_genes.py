"""A gene that is the label is refused where the labels are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import wsipipe
from planted_workspace import make_patients, plant
from wsipipe.data.errors import ExpressionError
from wsipipe.data.molecular.expression_reading import read_genomics
from wsipipe.data.molecular.store import ExpressionTable, read_expression, write_expression
from wsipipe.stages.train.label_genes import refuse_labels

N = 40
LABELS = {f"P{i:02d}": i % 2 for i in range(N)}
CLASS = np.array(list(LABELS.values()))


def table(gene: np.ndarray, unit: str = "log2(TPM + 1)") -> ExpressionTable:
    noise = np.random.default_rng(0).normal(8, 1, (N, 30)).astype(np.float32)
    noise[:, 7] = gene
    return ExpressionTable(tuple(LABELS), tuple(f"G{i}" for i in range(30)), noise, unit, "m.csv")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1, 0), (-1, 1), (2, 9.5)])
def test_a_gene_with_one_value_in_each_class(low: float, high: float) -> None:
    with pytest.raises(ExpressionError, match="G7 is not a gene but the label itself, in all 40 patients") as caught:
        refuse_labels([table(np.where(CLASS, high, low))], LABELS)
    assert "--drop-columns 'G7'" in caught.value.hint


def test_a_label_among_counts_is_found_though_it_was_divided_by_the_library(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    counts = pd.DataFrame(rng.poisson(rng.lognormal(3, 2, 200)[:, None] * np.ones(N)), columns=list(LABELS))
    counts.index = ["ACTB", "ESR1", *(f"GENE{i}" for i in range(198))]
    counts.loc["HER2Calc"] = CLASS
    counts.rename_axis("gene").to_csv(tmp_path / "m.csv")
    read = read_genomics(tmp_path / "m.csv")[0]
    store = ExpressionTable(tuple(read.obs_names), tuple(read.var_names), read.X, "log2(CPM + 1)", "m.csv")
    with pytest.raises(ExpressionError, match="HER2Calc is not a gene but the label itself"):
        refuse_labels([store], LABELS)


@pytest.mark.parametrize(("low", "high"), [(1, 3), (3, 1), (1, 2), (0, 100), (10, 20)])
def test_a_label_of_any_two_numbers_among_counts_is_found(tmp_path: Path, low: int, high: int) -> None:
    # R's as.numeric(factor(…)) writes 1 and 2; divided by the library, they differ in every patient.
    rng = np.random.default_rng(1)
    depth = rng.uniform(0.5, 4, N)
    counts = pd.DataFrame(rng.poisson(rng.lognormal(5, 2, 200)[:, None] * depth), columns=list(LABELS))
    counts.index = ["ACTB", "ESR1", *(f"GENE{i}" for i in range(198))]
    counts.loc["Rezeptor"] = np.where(CLASS, high, low)
    counts.rename_axis("gene").to_csv(tmp_path / "m.csv")
    write_expression(tmp_path / "e.zarr", read_genomics(tmp_path / "m.csv")[0])
    with pytest.raises(ExpressionError, match="Rezeptor is not a gene but the label itself"):
        refuse_labels([read_expression(tmp_path / "e.zarr")], LABELS)


def test_genes_that_teach_are_not_refused() -> None:
    rng = np.random.default_rng(2)
    assert refuse_labels([table(CLASS * 1.5 + rng.normal(0, 1, N))], LABELS) == []
    (note,) = refuse_labels([table(CLASS * 9 + rng.normal(0, 1, N))], LABELS)
    assert "separate the label's classes without an exception: G7" in note
    missing = np.where(np.arange(N) == 4, math.nan, CLASS)
    assert refuse_labels([table(missing)], LABELS) == []
    few = {patient: label for patient, label in LABELS.items() if patient < "P08"}
    assert refuse_labels([table(CLASS)], few) == []
    assert refuse_labels([table(CLASS)], dict.fromkeys(LABELS, 1)) == []


def test_train_and_compare_stop_at_a_label_among_the_genes(tmp_path: Path) -> None:
    planted = plant(tmp_path, make_patients(20))
    matrix = pd.read_csv(planted.folder / "rna.csv", index_col=0)
    answer = {patient.id: patient.label == "positive" for patient in planted.patients}
    matrix.loc["WHAT"] = [float(answer[patient]) * 0.7 + 0.15 for patient in matrix.columns]
    matrix.to_csv(planted.folder / "rna.csv")
    assert wsipipe("genomics", "-c", planted.settings).exit_code == 0
    for command in ("train", "compare"):
        refused = wsipipe(command, "-c", planted.settings)
        assert refused.exit_code == 1
        assert "WHAT is not a gene but the label itself" in " ".join(refused.output.split())
    assert wsipipe("genomics", "-c", planted.settings, "--drop-columns", "WHAT", "--replace").exit_code == 0
    assert wsipipe("train", "-c", planted.settings, "--epochs", "1").exit_code == 0
