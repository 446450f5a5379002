"""Units by all the evidence: odd cells and rows decide nothing, counts may have fractions, labels are no genes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from expression_frames import PATIENTS, close, counts, cpm, in_unit, log2, read, written
from wsipipe.data.errors import ExpressionError
from wsipipe.data.matrices.expression_units import Unit
from wsipipe.data.matrices.naming import Naming
from wsipipe.data.molecular.block_reading import read_block
from wsipipe.data.molecular.expression_reading import read_genomics

N = 24
GENES = ["ACTB", "ESR1", "ERBB2", "MKI67", *(f"GENE{i}" for i in range(240))]
COHORT = [f"P{i:02d}" for i in range(N)]


def cohort(unit: str = "counts") -> pd.DataFrame:
    """Genes × 24 patients, libraries of different sizes."""
    rng = np.random.default_rng(7)
    level = rng.lognormal(4, 2, (len(GENES), 1)) * rng.lognormal(0, 0.5, (len(GENES), N))
    frame = pd.DataFrame(rng.poisson(level * rng.uniform(0.4, 2.5, N)).astype(float), index=GENES, columns=COHORT)
    logs = log2(cpm(frame))
    return {
        "counts": frame,
        "tpm": cpm(frame),
        "log": logs,
        "ln": pd.DataFrame(np.log(cpm(frame) + 1)),
        "zscore": logs.sub(logs.mean(axis=1), axis=0).div(logs.std(axis=1), axis=0),
    }[unit]


AGES = np.random.default_rng(1).integers(31, 90, N).astype(float)
ER = (AGES > 60).astype(float)


# Codes for missing values


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("unit", "code"),
    [
        ("log", 9999), ("log", 999), ("log", 99999), ("log", -999), ("log", -9999), ("log", -99), ("log", 1e30),
        ("log", -9), ("ln", 9999), ("ln", -999), ("zscore", 9999), ("zscore", -999), ("zscore", 1e30), ("counts", -999),
        ("counts", -9), ("counts", 1e30), ("tpm", -99), ("tpm", 1e300),
    ],
)  # fmt: skip
def test_a_code_for_missing_decides_no_unit(tmp_path: Path, unit: str, code: float, turned: bool) -> None:
    frame = cohort(unit)
    clean, before = read_genomics(written(tmp_path, frame))
    frame.loc["GENE7", "P03"] = code
    frame.loc["GENE9", "P11"] = code
    table = frame.T if turned else frame
    result, facts = read_genomics(written(tmp_path, table, corner="patient_id" if turned else "gene"))
    assert result.uns["input_unit"] == clean.uns["input_unit"]
    assert facts.counts["missing_codes"] == 2
    assert any(f"cells with {code:g}, a code for a missing value, emptied: 2" in said for said in facts.sentences)
    assert np.argwhere(np.isnan(result.X)).tolist() == sorted(
        [result.obs_names.get_loc(patient), result.var_names.get_loc(gene)]
        for gene, patient in (("GENE7", "P03"), ("GENE9", "P11"))
    )
    if unit != "counts":  # a library's size is the sum of what is there
        same = ~np.isnan(result.X)
        np.testing.assert_array_equal(result.X[same], clean.X[same])
    assert before.counts["missing_codes"] == 0


def test_two_codes_side_by_side(tmp_path: Path) -> None:
    frame = cohort("log")
    frame.iloc[3, 3], frame.iloc[5, 5], frame.iloc[9, 9] = -99, -999, 9999
    result, facts = read_genomics(written(tmp_path, frame))
    assert (facts.counts["missing_codes"], int(np.isnan(result.X).sum())) == (3, 3)


def test_a_9999_among_counts_is_a_count(tmp_path: Path) -> None:
    frame = cohort()
    frame.loc["GENE7", "P03"] = 9999
    result, facts = read_genomics(written(tmp_path, frame))
    assert facts.counts["missing_codes"] == 0
    close(result.to_df(), log2(cpm(frame)).T)


# Cells and genes unlike all others


def test_one_odd_cell_is_named(tmp_path: Path) -> None:
    frame = cohort("log")
    frame.loc["GENE7", "P03"] = 412.7
    with pytest.raises(ExpressionError, match=r"the value 412\.7 of GENE7 in P03 is unlike all others") as caught:
        read_genomics(written(tmp_path, frame))
    assert "--drop-columns 'GENE7'" in caught.value.hint
    result, _ = read_genomics(written(tmp_path, frame), naming=Naming(drop=("GENE7",)))
    close(result.to_df(), frame.drop("GENE7").T)


ODD = {
    "ages among logarithms": ("log", AGES),
    "days among logarithms": ("log", AGES * 31.7),
    "a stain's share among logarithms": ("log", AGES % 7 * 15),
    "0 and 1 among logarithms": ("log", ER),
    "0 and 1 among TPM": ("tpm", ER),
    "ages among TPM": ("tpm", AGES),
    "ages among z-scores": ("zscore", AGES),
    "0 and 1 among z-scores": ("zscore", ER),
    "a score of 0 to 3 among z-scores": ("zscore", AGES % 4),
    "years with fractions among z-scores": ("zscore", AGES + 0.25),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ODD)
def test_a_row_unlike_all_others_is_named(tmp_path: Path, kind: str, turned: bool) -> None:
    unit, values = ODD[kind]
    frame = cohort(unit)
    frame.loc["WHAT"] = values
    path = written(tmp_path, frame.T if turned else frame, corner="patient_id" if turned else "gene")
    with pytest.raises(ExpressionError, match="WHAT") as caught:
        read_genomics(path)
    assert "--drop-columns 'WHAT'" in caught.value.hint
    assert "--keep-columns" in caught.value.hint
    result, _ = read_genomics(path, naming=Naming(drop=("WHAT",)))
    clean, _ = read_genomics(written(tmp_path, cohort(unit), name="clean.csv"))
    np.testing.assert_array_equal(result.X, clean.X)
    if values.max() < 4:
        kept, _ = read_genomics(path, naming=Naming(keep=("WHAT",)))
        assert "WHAT" in kept.var_names


NO_GENES = [
    "age",
    "Age at diagnosis",
    "ER_IHC",
    "er.status",
    "OS.time",
    "OS_MONTHS",
    "overallSurvivalDays",
    "label",
    "PAM50",
]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("unit", ["counts", "log", "tpm", "zscore"])
def test_known_names_of_patients_facts_are_no_genes(tmp_path: Path, unit: str, turned: bool) -> None:
    frame = cohort(unit)
    clean, _ = read_genomics(written(tmp_path, frame))
    for place, name in enumerate(NO_GENES):
        frame.loc[name] = [AGES, ER, AGES * 31.7][place % 3]
    result, facts = read_genomics(
        written(tmp_path, frame.T if turned else frame, corner="patient_id" if turned else "gene")
    )
    assert result.uns["input_unit"] == clean.uns["input_unit"]
    np.testing.assert_array_equal(result.X, clean.X)
    assert facts.counts["no_genes"] == len(NO_GENES)
    assert any("left out, because their names are not of genes (age, " in sentence for sentence in facts.sentences)


def test_words_about_patients_among_the_genes(tmp_path: Path) -> None:
    frame = cohort("log").astype(object)
    frame.loc["sex"] = ["female", "male"] * 12
    frame.loc["tumor_stage"] = "IIA"
    for table, corner in ((frame, "gene"), (frame.T, "patient_id")):
        result, facts = read_genomics(written(tmp_path, table, corner=corner))
        close(result.to_df(), cohort("log").T)
        assert any("not genes left out: sex, tumor_stage" in sentence for sentence in facts.sentences)


def test_a_panel_of_proteins_has_an_er(tmp_path: Path) -> None:
    frame = cohort("zscore").rename(index={"GENE1": "ER", "GENE2": "PR", "GENE3": "age"})
    result, _ = read_block(written(tmp_path, frame), "protein")
    assert {"ER", "PR"} <= set(result.var_names)
    assert "age" not in result.var_names


# Counts with fractions, and what is not


def salmon(depth: float) -> pd.DataFrame:
    """Gene counts of small libraries: about 65 in 100 are whole."""
    rng = np.random.default_rng(3)
    genes = [f"GENE{i}" for i in range(6000)]
    level = np.where(rng.random((6000, 1)) < 0.3, 0.02, rng.lognormal(3, 2, (6000, 1)))
    share = level / level.sum() * np.linspace(0.6, 4.6, 12) * depth
    frame = pd.DataFrame(rng.poisson(share).astype(float), index=genes, columns=[f"P{i}" for i in range(12)])
    return pd.DataFrame(np.where(rng.random((6000, 1)) < 0.65, frame, frame * 0.973), genes, frame.columns)


@pytest.mark.parametrize("depth", [2e5, 1e6, 4e6])
@pytest.mark.parametrize("told", [None, "counts"])
def test_counts_with_fractions_are_counts(tmp_path: Path, depth: float, told: Unit | None) -> None:
    frame = salmon(depth)
    result, facts = read_genomics(written(tmp_path, frame), told or "auto")
    assert result.uns["input_unit"] == "counts"
    close(result.to_df(), log2(cpm(frame)).T)
    if told is None:
        assert any("counts with fractions, as salmon and RSEM write them" in sentence for sentence in facts.sentences)


def test_scaled_counts_without_a_whole_number_are_asked_about(tmp_path: Path) -> None:
    """tximport's lengthScaledTPM: sums as those of libraries, which FPKM's never differ by."""
    frame = salmon(1e6) * 1.0137
    with pytest.raises(ExpressionError, match="cannot be recognised"):
        read(tmp_path, frame)
    result, facts = read_genomics(written(tmp_path, frame, name="tximport_counts.csv"))
    assert result.uns["input_unit"] == "counts"
    assert any("'counts' in the file's name" in sentence for sentence in facts.sentences)


def test_shares_of_the_library_are_no_logarithms(tmp_path: Path) -> None:
    with pytest.raises(ExpressionError, match="genes sum to 1"):
        read(tmp_path, cpm(counts()) / 1e6)


def test_a_name_that_mentions_a_unit_is_not_believed_against_the_values(tmp_path: Path) -> None:
    result, facts = read_genomics(written(tmp_path, cohort(), name="my_tpm.csv"))
    assert result.uns["input_unit"] == "counts"
    assert any("'tpm' in the file's name mentions tpm, which the values contradict" in said for said in facts.warnings)
    assert not read_genomics(written(tmp_path, cohort(), name="counts.csv"))[1].warnings[1:]


# Values slightly below zero


def corrected() -> pd.DataFrame:
    """RSEM's normalised counts after a batch correction: a few values down to -0.32, up to 395,654."""
    frame = cpm(cohort()) * 3.7
    frame *= 395_654 / frame.to_numpy().max()
    rng = np.random.default_rng(2)
    low = rng.choice(frame.size, 40, replace=False)
    values = frame.to_numpy().copy()
    values.flat[low] = -rng.uniform(0.01, 0.32, 40)
    values.flat[low[0]] = -0.32
    return pd.DataFrame(values, index=frame.index, columns=frame.columns)


def test_values_that_a_batch_correction_pushed_below_zero(tmp_path: Path) -> None:
    frame = corrected()
    result, facts = read_genomics(written(tmp_path, frame), "rsem")
    close(result.to_df(), log2(frame.clip(lower=0)).T)
    assert facts.counts["negatives"] == 40
    assert any("down to -0.32" in sentence for sentence in facts.sentences)
    for told in ("log", "zscore"):
        with pytest.raises(ExpressionError, match="contradicts the values"):
            read_genomics(written(tmp_path, frame), told)
    with pytest.raises(ExpressionError, match=r"look like counts|TPM never exceed"):
        read_genomics(written(tmp_path, frame * 3), "tpm")
    named, _ = read_genomics(written(tmp_path, frame, name="rsem.csv"))
    assert named.uns["input_unit"] in ("rsem", "fpkm")
    np.testing.assert_array_equal(named.X, result.X)


@pytest.mark.parametrize("least", [-60.0, -4000.0])
def test_values_far_below_zero_are_not_cut(tmp_path: Path, least: float) -> None:
    frame = corrected()
    frame.iloc[0, 0] = least
    for told in ("auto", "rsem", "fpkm", "zscore", "log"):
        with pytest.raises(ExpressionError):
            read_genomics(written(tmp_path, frame), told)  # type: ignore[arg-type]


def test_z_scores_have_bounds(tmp_path: Path) -> None:
    logs = cohort("log") - 0.5
    with pytest.raises(ExpressionError, match=r"z-scores rarely are|look like logarithms"):
        read(tmp_path, logs, "zscore")
    outlier = cohort("zscore")
    outlier.iloc[5, 5] = 36_893.3  # as cBioPortal's have them
    assert read(tmp_path, outlier)[1].counts["missing_codes"] == 0


def test_no_fault_is_found_where_none_is(tmp_path: Path) -> None:
    for unit in ("counts", "tpm", "log", "ln", "zscore"):
        _, facts = read_genomics(written(tmp_path, cohort(unit)))
        assert (facts.counts["no_genes"], facts.counts["missing_codes"]) == (0, 0)
    for unit in ("counts", "tpm", "fpkm", "log", "zscore"):
        assert read(tmp_path, in_unit(unit))[0].index.tolist() == PATIENTS
    rounded = cohort("tpm").round(1)
    assert read_genomics(written(tmp_path, rounded))[0].shape == (N, len(GENES))
    assert read_genomics(written(tmp_path, cohort("log").round(2)))[0].shape == (N, len(GENES))
