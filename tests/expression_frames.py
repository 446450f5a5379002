"""Matrices that tests of genomics write and read: 63 genes of 8 patients, in every unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from wsipipe.data.matrices.expression_units import Unit
from wsipipe.data.matrices.reading_facts import ReadingFacts
from wsipipe.data.molecular.expression_reading import read_genomics

PATIENTS = [f"P{i}" for i in range(8)]
GENES = ["ACTB", "ESR1", "ERBB2", *(f"GENE{i}" for i in range(60))]


def counts() -> pd.DataFrame:
    """Genes × patients."""
    rng = np.random.default_rng(0)
    level = rng.lognormal(5, 2, (len(GENES), 1))
    return pd.DataFrame(rng.poisson(level * rng.uniform(0.5, 2, len(PATIENTS))), index=GENES, columns=PATIENTS)


def cpm(frame: pd.DataFrame) -> pd.DataFrame:
    return frame / frame.sum() * 1e6


def log2(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(np.log2(frame + 1))


def written(folder: Path, frame: pd.DataFrame, name: str = "matrix.csv", corner: str = "gene") -> Path:
    path = folder / name
    frame.rename_axis(corner).to_csv(path, sep="\t" if ".tsv" in name else ",")
    return path


def read(
    folder: Path, frame: pd.DataFrame, unit: Unit | None = None, **naming: str
) -> tuple[pd.DataFrame, ReadingFacts]:
    """Patients × genes."""
    result, facts = read_genomics(written(folder, frame, **naming), unit or "auto")
    assert result.X.dtype == np.float32
    return result.to_df(), facts


def close(frame: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(
        frame, expected.sort_index().sort_index(axis=1), check_dtype=False, check_names=False, rtol=1e-6
    )


def in_unit(unit: str) -> pd.DataFrame:
    frame = counts().astype(float)
    spread = np.random.default_rng(2).uniform(0.5, 1.5, frame.shape[1])
    values: dict[str, pd.DataFrame] = {
        "counts": frame,
        "rsem": frame * 50_000 + 0.25,
        "tpm": cpm(frame),
        "fpkm": cpm(frame) / 3 * spread,
        "log": log2(cpm(frame)),
        "log with negatives": pd.DataFrame(np.log2(cpm(frame) + 0.001)),
        "zscore": frame.sub(frame.mean(axis=1), axis=0).div(frame.std(axis=1), axis=0),
    }
    return values[unit]


def cbioportal(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.rename_axis("Hugo_Symbol")
    frame.insert(0, "Entrez_Gene_Id", range(1, len(frame) + 1))
    return frame.rename(columns={name: f"TCGA-A1-A0S{index}-01" for index, name in enumerate(PATIENTS)})
