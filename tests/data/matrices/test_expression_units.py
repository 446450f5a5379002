"""The unit of a matrix is recognised by its values, and a unit that the user says is held against them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from expression_frames import close, counts, cpm, in_unit, log2, read
from wsipipe.data.errors import ExpressionError
from wsipipe.data.matrices.expression_units import Unit, Values, check_unit, contradiction, unit_warnings


@pytest.mark.parametrize(
    ("values", "unit", "stored", "expected"),
    [
        ("counts", "counts", "log2(CPM + 1)", lambda v: log2(cpm(v))),
        ("tpm", "tpm", "log2(TPM + 1)", log2),
        ("fpkm", "fpkm", "log2(FPKM + 1)", log2),
        ("log", "log", "log values as given", lambda v: v),
        ("log with negatives", "log", "log values as given", lambda v: v),
        ("zscore", "zscore", "z-scores as given", lambda v: v),
    ],
)
def test_units_are_recognised_and_brought_to_logs(
    tmp_path: Path, values: str, unit: Unit, stored: str, expected: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    frame = in_unit(values)
    for told in (None, unit):
        result, facts = read(tmp_path, frame, told)
        close(result, expected(frame).T)
        assert sum(sentence.startswith(f"the unit is {unit}") for sentence in facts.sentences) == 1
        assert facts.sentences[-1] == f"8 patients × 63 genes kept, as {stored}"
        warned = {"zscore": "whole cohort", "counts": "63 genes only", "log with negatives": "not log2(x + 1)"}.get(
            values, ""
        )
        assert warned in "".join(facts.warnings)
        assert bool(facts.warnings) == bool(warned)


@pytest.mark.parametrize(
    ("values", "told", "message"),
    [
        ("zscore", "counts", "never negative"),
        ("zscore", "tpm", "never negative"),
        ("zscore", "log", "look like z-scores"),
        ("counts", "tpm", "look like counts"),
        ("counts", "fpkm", "look like counts"),
        ("counts", "log", "log values stay below 30"),
        ("counts", "zscore", "no value is negative"),
        ("tpm", "counts", "look like TPM"),
        ("rsem", "tpm", "TPM never exceed"),
        ("tpm", "log", "log values stay below 30"),
        ("log", "zscore", "no value is negative"),
    ],
)
def test_a_told_unit_is_contradicted(tmp_path: Path, values: str, told: Unit, message: str) -> None:
    with pytest.raises(ExpressionError, match=message) as caught:
        read(tmp_path, in_unit(values), told)
    assert caught.value.path == str(tmp_path / "matrix.csv")
    assert "--unit" in caught.value.hint


@pytest.mark.parametrize("told", ["counts", "tpm", "fpkm"])
def test_logs_of_a_whole_transcriptome_are_not_linear(tmp_path: Path, told: Unit) -> None:
    values = np.random.default_rng(0).uniform(0, 14, (6000, 3))
    frame = pd.DataFrame(values, index=[f"G{i}" for i in range(6000)], columns=list("abc"))
    with pytest.raises(ExpressionError, match="these look like log values"):
        read(tmp_path, frame, told)


def _whole_transcriptome() -> dict[str, npt.NDArray[np.float64]]:
    """12 patients × 6,000 genes in every unit."""
    rng = np.random.default_rng(0)
    level = np.where(rng.random(6000) < 0.2, 0, rng.lognormal(5, 2, 6000)) * rng.lognormal(0, 0.4, (12, 6000))
    counts = rng.poisson(level * rng.uniform(0.5, 2, (12, 1))).astype(float)
    tpm = counts / counts.sum(axis=1, keepdims=True) * 1e6
    logs = np.log2(tpm + 1)
    z = np.delete(logs, np.flatnonzero(logs.std(axis=0) == 0), axis=1)
    return {
        "counts": counts,
        "expected counts": np.where(rng.random(counts.shape) < 0.3, counts + 0.37, counts) * 4,
        "tpm": tpm,
        "fpkm": tpm / 3 * rng.uniform(0.5, 1.5, (12, 1)),
        "rsem": tpm * 20 * rng.uniform(0.8, 1.2, (12, 1)),
        "log": logs,
        "log with negatives": np.log2(tpm + 0.001),
        "log of counts": np.log2(counts + 1),
        "zscore": (z - z.mean(axis=0)) / z.std(axis=0),
    }


NEVER, LOGS, LARGE, SIDE = "never negative", "look like log values", "stay below 30", "no value is negative"
COUNTS, TPM, FPKM, MORE = "look like counts", "look like TPM", "look like FPKM", "TPM never exceed"
TOLD = ("counts", "tpm", "fpkm", "rsem", "log", "zscore")
TOLD_AND_SEEN = {
    # What speaks against each unit told; nothing where it is accepted, "warned" where it is with a warning.
    "counts": ("", COUNTS, COUNTS, COUNTS, LARGE, SIDE),
    "expected counts": ("", MORE, "", "", LARGE, SIDE),
    "tpm": (TPM, "", TPM, TPM, LARGE, SIDE),
    "fpkm": (FPKM, "warned", "", FPKM, LARGE, SIDE),
    "rsem": ("", MORE, "", "", LARGE, SIDE),
    "log": (LOGS, LOGS, LOGS, LOGS, "", SIDE),
    "log with negatives": (NEVER, NEVER, NEVER, NEVER, "warned", "look like logarithms"),
    "log of counts": (LOGS, LOGS, LOGS, LOGS, "warned", SIDE),
    "zscore": (NEVER, NEVER, NEVER, NEVER, "look like z-scores", "warned"),
}


@pytest.mark.parametrize("seen", TOLD_AND_SEEN)
def test_every_unit_told_is_held_against_every_unit_seen(seen: str) -> None:
    values = Values.of(_whole_transcriptome()[seen])
    assert get_args(Unit) == TOLD
    for told, message in zip(get_args(Unit), TOLD_AND_SEEN[seen], strict=True):
        against = contradiction(told, values)
        if message in ("", "warned"):
            check_unit(told, values)
            assert (told, against) == (told, "")
            assert (told, bool(unit_warnings(told, values, given=True))) == (told, message == "warned")
        else:
            assert message in against, (told, against)
            with pytest.raises(ExpressionError, match="contradicts the values") as caught:
                check_unit(told, values)
            assert "--unit" in caught.value.hint


def test_calls_are_no_logs_and_no_scores() -> None:
    calls = Values.of(np.random.default_rng(0).integers(-2, 3, (20, 300)).astype(float))
    assert "look like calls" in contradiction("log", calls)
    assert "look like calls" in contradiction("zscore", calls)


def test_logs_of_counts_are_turned_back(tmp_path: Path) -> None:
    frame = counts()
    result, facts = read(tmp_path, log2(frame).round(10))
    close(result, log2(cpm(frame)).T)
    assert any("2^x - 1 are whole numbers: log2(count + 1), converted back" in sentence for sentence in facts.sentences)
    kept, facts = read(tmp_path, log2(frame), "log")
    close(kept, log2(frame).T)
    assert any("not divided by library sizes" in warning for warning in facts.warnings)


def test_expected_counts_must_be_told(tmp_path: Path) -> None:
    frame = in_unit("rsem")
    with pytest.raises(ExpressionError, match="cannot be recognised") as caught:
        read(tmp_path, frame)
    assert "RSEM" in caught.value.hint
    close(read(tmp_path, frame, "counts")[0], log2(cpm(frame)).T)
