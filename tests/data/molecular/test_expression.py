"""From matrices as labs have them to the expression store."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem
from scipy import sparse
from wsipipe.data.artifact import digest_of
from wsipipe.data.errors import ExpressionError, StoreError, UsageError
from wsipipe.data.molecular.block_reading import read_block
from wsipipe.data.molecular.expression_reading import read_genomics
from wsipipe.data.molecular.expression_units import Unit, Values, check_unit, contradiction, unit_warnings
from wsipipe.data.molecular.gene_aliases import shipped_aliases
from wsipipe.data.molecular.reading_facts import ReadingFacts
from wsipipe.data.molecular.store import ExpressionTable, read_expression, write_expression

DATA = Path(__file__).resolve().parents[3] / "../shared/data"

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


# Forms of file


def _parquet_with_index(frame: pd.DataFrame, path: Path) -> None:
    frame.to_parquet(path)


def _parquet_with_column(frame: pd.DataFrame, path: Path) -> None:
    frame.rename_axis("gene").reset_index().to_parquet(path)


def _h5ad(frame: pd.DataFrame, path: Path) -> None:
    matrix = sparse.csr_matrix(frame.T.to_numpy(dtype=np.float32))
    anndata.AnnData(matrix, obs=pd.DataFrame(index=frame.columns), var=pd.DataFrame(index=frame.index)).write_h5ad(path)


FORMS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    "m.csv": lambda frame, path: frame.rename_axis("gene").to_csv(path),
    "m.tsv.gz": lambda frame, path: frame.rename_axis("gene").to_csv(path, sep="\t"),
    "gz-without-its-name.csv": lambda frame, path: path.write_bytes(gzip.compress(frame.to_csv().encode())),
    "transposed.csv": lambda frame, path: frame.T.rename_axis("patient_id").to_csv(path),
    "bom-and-crlf.csv": lambda frame, path: frame.to_csv(path, encoding="utf-8-sig", lineterminator="\r\n"),
    "comment.txt": lambda frame, path: path.write_text("# version 1\n\n" + frame.to_csv(sep="\t")),
    "r-without-corner.txt": lambda frame, path: path.write_text(frame.to_csv(sep=" ").lstrip()),
    "index.parquet": _parquet_with_index,
    "column.parquet": _parquet_with_column,
    "m.h5ad": _h5ad,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_matrix(tmp_path: Path, form: str) -> None:
    FORMS[form](counts(), tmp_path / form)
    result, _ = read_genomics(tmp_path / form)
    close(result.to_df(), log2(cpm(counts())).T)
    assert result.uns["unit"] == "log2(CPM + 1)"
    assert result.uns["source"] == form
    np.testing.assert_allclose(result.obs["library_size"], counts().sum())


@pytest.mark.parametrize(
    ("rows", "columns", "corner", "evidence"),
    [
        (
            [f"X{i}" for i in range(9)],
            [f"TCGA-A1-A0B{i}" for i in range(5)],
            "",
            "5 of 5 column names are TCGA barcodes",
        ),
        ([f"ENSG0000000000{i}" for i in range(9)], list("abcde"), "", "9 of 9 row names are Ensembl ids"),
        (["esr1", *map(str, range(8))], list("abcde"), "id", "1 well-known genes are among the row names"),
        ([f"X{i}" for i in range(9)], list("abcde"), "Hugo_Symbol", "the first column is called 'Hugo_Symbol'"),
        ([f"X{i}" for i in range(30)], list("abcde"), "id", "a guess, as the row names are the longer side (30 to 5)"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_orientation_and_its_evidence(
    tmp_path: Path, rows: list[str], columns: list[str], corner: str, evidence: str, turned: bool
) -> None:
    values = np.random.default_rng(1).uniform(0, 15, (len(rows), len(columns)))
    frame = pd.DataFrame(values, index=rows, columns=columns)
    if turned:
        corner = "patient_id" if corner == "Hugo_Symbol" else corner
        evidence = evidence.replace("Hugo_Symbol", "patient_id")
        swap = {"row names": "column names", "column names": "row names"}
        old = next(old for old in swap if old in evidence) if "names" in evidence else ""
        evidence = evidence.replace(old, swap.get(old, ""))
    result, facts = read(tmp_path, frame.T if turned else frame, corner=corner)
    close(result, frame.T)
    side = "patients" if turned else "genes"
    assert f"{side} are in the rows: {evidence}" in facts.sentences


def test_orientation_that_cannot_be_told_must_be(tmp_path: Path) -> None:
    frame = pd.DataFrame(np.random.default_rng(1).uniform(0, 15, (5, 6)), index=list("abcde"), columns=list("uvwxyz"))
    path = written(tmp_path, frame, corner="id")
    with pytest.raises(ExpressionError, match="cannot be told whether rows or columns are genes"):
        read_genomics(path)
    assert read_genomics(path, orientation="patients-in-rows")[0].shape == (5, 6)


def test_the_same_content_either_way_round_is_the_same_matrix(tmp_path: Path) -> None:
    frame = counts()
    one, _ = read(tmp_path, frame)
    other, _ = read(tmp_path, frame.sample(frac=1, random_state=1).sample(frac=1, axis=1, random_state=2))
    assert one.equals(other)


# Units


def _values(unit: str) -> pd.DataFrame:
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
    frame = _values(values)
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
        read(tmp_path, _values(values), told)
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
            assert (told, bool(unit_warnings(told, values, told=True))) == (told, message == "warned")
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
    assert any("2^x - 1 are whole numbers: log2(count + 1), turned back" in sentence for sentence in facts.sentences)
    kept, facts = read(tmp_path, log2(frame), "log")
    close(kept, log2(frame).T)
    assert any("not divided by library sizes" in warning for warning in facts.warnings)


def test_expected_counts_must_be_told(tmp_path: Path) -> None:
    frame = _values("rsem")
    with pytest.raises(ExpressionError, match="cannot be recognised") as caught:
        read(tmp_path, frame)
    assert "RSEM" in caught.value.hint
    close(read(tmp_path, frame, "counts")[0], log2(cpm(frame)).T)


# Whose download it is


def _cbioportal(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.rename_axis("Hugo_Symbol")
    frame.insert(0, "Entrez_Gene_Id", range(1, len(frame) + 1))
    return frame.rename(columns={name: f"TCGA-A1-A0S{index}-01" for index, name in enumerate(PATIENTS)})


@pytest.mark.parametrize(
    ("name", "unit", "stored"),
    [
        ("data_mrna_seq_v2_rsem.txt", "rsem", "log2(normalised count + 1)"),
        ("data_mrna_seq_v2_rsem_zscores_ref_all_samples.txt", "zscore", "z-scores as given"),
        ("data_mrna_seq_tpm.txt", "tpm", "log2(TPM + 1)"),
    ],
)
def test_cbioportals_matrices(tmp_path: Path, name: str, unit: str, stored: str) -> None:
    frame = cpm(counts()) * 20.5 if unit == "rsem" else _values(unit)
    _cbioportal(frame.copy()).to_csv(tmp_path / name, sep="\t")
    result, facts = read_genomics(tmp_path / name)
    expected = frame if unit == "zscore" else log2(frame)
    close(result.to_df(), expected.set_axis([f"TCGA-A1-A0S{index}" for index in range(8)], axis=1).T)
    assert (result.uns["unit"], result.uns["input_unit"]) == (stored, unit)
    assert result.uns["input_unit_was"] == ("recognised" if unit == "tpm" else "stated")
    assert "a matrix of cBioPortal's, by its first column" in facts.sentences
    assert "columns that describe genes left out: Entrez_Gene_Id" in facts.sentences


def test_a_file_name_that_the_values_contradict(tmp_path: Path) -> None:
    path = tmp_path / "data_mrna_seq_v2_rsem_zscores.txt"
    _cbioportal(_values("tpm")).to_csv(path, sep="\t")
    result, facts = read_genomics(path)
    assert result.uns["input_unit"] == "tpm"
    assert "the file's name says zscore, which the values contradict" in facts.warnings
    _, facts = read_genomics(path, "tpm")
    assert "the unit was told to be tpm, though the file's name says zscore" in facts.warnings


@pytest.mark.parametrize(
    ("name", "corner", "said"),
    [
        ("HiSeqV2.gz", "sample", ", by its name log2(normalised count + 1)"),
        ("TCGA-BRCA.star_tpm.tsv.gz", "Ensembl_ID", ", by its name log2(TPM + 1)"),
        ("download.tsv", "sample", ""),
    ],
)
def test_xenas_matrices(tmp_path: Path, name: str, corner: str, said: str) -> None:
    frame = log2(cpm(counts()))
    barcodes = [f"TCGA-A1-A0S{index}-01A" for index in range(8)]
    frame.set_axis(barcodes, axis=1).rename_axis(corner).to_csv(tmp_path / name, sep="\t")
    result, facts = read_genomics(tmp_path / name)
    close(result.to_df(), frame.set_axis([barcode[:12] for barcode in barcodes], axis=1).T)
    assert result.uns["input_unit"] == "log"
    assert f"a matrix of UCSC Xena's, genes in rows{said}" in facts.sentences


def test_gct(tmp_path: Path) -> None:
    frame = cpm(counts())
    table = frame.rename_axis("Name").reset_index()
    table.insert(1, "Description", "a gene")
    text = f"#1.2\n{len(frame)}\t{len(PATIENTS)}\n" + table.to_csv(sep="\t", index=False)
    (tmp_path / "m.gct").write_text(text)
    result, facts = read_genomics(tmp_path / "m.gct")
    close(result.to_df(), log2(frame).T)
    assert "genes are in the rows: a GCT file" in facts.sentences
    assert "columns that describe genes left out: Description" in facts.sentences
    (tmp_path / "cut.gct").write_text("\n".join(text.splitlines()[:-2]))
    with pytest.raises(ExpressionError, match="its second line says '63\\\\t8' rows and columns, there are 61, 8"):
        read_genomics(tmp_path / "cut.gct")


# Names


def test_former_names_become_approved_symbols(tmp_path: Path) -> None:
    rows = {
        "CTSL2": 1.5,
        "STK15": 2.5,
        "STK6": 2.25,
        "HER2": 3.5,
        "ERBB2": 3.25,
        "SEPT9": 4.5,
        "MKI67": 5.5,
        "MINE": 6.5,
    }
    frame = pd.DataFrame({"a": rows, "b": rows})
    result, facts = read(tmp_path, frame, "log")
    # ERBB2 is there itself: HER2 stays; of two former names of AURKA the larger stands.
    assert result.loc["a"].to_dict() == {
        "AURKA": 2.5, "CTSV": 1.5, "ERBB2": 3.25, "HER2": 3.5, "MINE": 6.5, "MKI67": 5.5, "SEPTIN9": 4.5,
    }  # fmt: skip
    assert {"aliases": 4, "duplicate_genes": 1}.items() <= facts.counts.items()
    shown = "CTSL2 → CTSV, SEPT9 → SEPTIN9, STK15 → AURKA and 1 more"
    assert f"former names brought to approved symbols ({shown}): 4" in facts.sentences


def test_own_aliases_go_first(tmp_path: Path) -> None:
    (tmp_path / "aliases.csv").write_text("# mine\nENSG00000091831,ESR1\nSEPT9,NINE\n")
    path = written(tmp_path, pd.DataFrame({"a": [1.5, 2.5], "b": [1, 2]}, index=["ENSG00000091831.24", "SEPT9"]))
    result, _ = read_genomics(path, "log", aliases=tmp_path / "aliases.csv")
    assert result.var["source_id"].to_dict() == {"ESR1": "ENSG00000091831.24", "NINE": "SEPT9"}


def test_the_shipped_aliases() -> None:
    aliases = shipped_aliases()
    assert len(aliases) > 400
    assert not set(aliases) & set(aliases.values())  # no chains
    for gene in ("MKI67", "BIRC5", "GRB7", "ESR1", "ERBB2", "ACTB"):
        assert gene not in aliases
    assert (aliases["CTSL2"], aliases["MARCH1"], aliases["SEPT14"]) == ("CTSV", "MARCHF1", "SEPTIN14")


def test_gene_lengths_make_counts_tpm(tmp_path: Path) -> None:
    frame = counts()
    lengths = pd.Series(np.arange(500, 500 + len(GENES) * 100, 100), index=GENES)
    lengths.drop("GENE7").rename_axis("gene").rename("bp").to_csv(tmp_path / "bp.csv")
    result, facts = read_genomics(written(tmp_path, frame), gene_lengths=tmp_path / "bp.csv")
    kept = frame.drop("GENE7")
    rates = kept.div(lengths.drop("GENE7"), axis=0)
    close(result.to_df(), log2(rates / rates.sum() * 1e6).T)
    assert result.uns["unit"] == "log2(TPM + 1)"
    assert result.uns["input_unit"] == "counts"
    np.testing.assert_allclose(result.obs["library_size"], frame.sum())
    assert "genes without a length left out: 1" in facts.sentences
    _, facts = read_genomics(written(tmp_path, _values("tpm")), gene_lengths=tmp_path / "bp.csv")
    assert "the gene lengths are not used: the values are tpm, not counts" in facts.warnings


BAD_TABLES = {
    "lengths of nothing": ("gene_lengths", "other,500\n", "only 0 of 63 genes have a length"),
    "a length of zero": ("gene_lengths", "ACTB,0\n", "a gene's length must be above zero \\(ACTB: '0'\\)"),
    "lengths in words": ("gene_lengths", "ACTB,5\nESR1,long\n", "must be above zero \\(ESR1: 'long'\\)"),
    "two lengths": ("gene_lengths", "ACTB,5\nACTB,6\n", "ACTB has two lengths, 5 and 6"),
    "three columns": ("gene_lengths", "ACTB,5,6\nESR1,5,6\n", "no table of two columns: line 'ACTB,5,6'"),
    "empty lengths": ("gene_lengths", "", "the gene lengths are empty"),
    "two meanings": ("aliases", "A,B\nA,C\n", "A stands for both B and C"),
    "one column of aliases": ("aliases", "A\nB\n", "no table of two columns: line 'A'"),
    "empty aliases": ("aliases", "# nothing\n", "the aliases are empty"),
}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_bad_tables_beside_the_matrix(tmp_path: Path, kind: str) -> None:
    option, content, message = BAD_TABLES[kind]
    table = tmp_path / "table.csv"
    table.write_text(content)
    with pytest.raises(ExpressionError, match=message) as caught:
        read_genomics(written(tmp_path, counts()), **{option: table})
    assert caught.value.path in (str(table), str(tmp_path / "matrix.csv"))
    assert caught.value.hint
    with pytest.raises(ExpressionError, match="could not be read"):
        read_genomics(written(tmp_path, counts()), **{option: tmp_path / "none.csv"})


def test_patients_by_a_pattern(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"site1_PT-07_r1": [1.5], "site1_PT-07_r2": [2.5], "PT-12": [3.5], "cell line": [4.5]}, index=["ESR1"]
    )
    path = written(tmp_path, frame)
    result, facts = read_genomics(path, "log", patient_pattern=r"PT-(\d+)")
    assert result.to_df()["ESR1"].to_dict() == {"07": 2.5, "12": 3.5}  # of two samples the name that sorts last
    assert {"pattern_not_found": 1, "extra_aliquots": 1, "names_cut": 3}.items() <= facts.counts.items()
    assert "further aliquots left out, the name that sorts last stands: 1" in facts.sentences
    assert any("left out (cell line): 1" in sentence for sentence in facts.sentences)
    whole, facts = read_genomics(path, "log", patient_pattern=r"PT-\d+")
    assert whole.obs_names.tolist() == ["PT-07", "PT-12"]
    assert facts.counts["names_cut"] == 2
    with pytest.raises(ExpressionError, match="no sample has the pattern 'XX'") as caught:
        read_genomics(path, "log", patient_pattern="XX")
    assert "site1_PT-07_r1" in caught.value.hint
    for pattern in ("(PT", "PT-[", "*"):
        with pytest.raises(UsageError, match="is no pattern"):
            read_genomics(path, "log", patient_pattern=pattern)
    # A pattern that can match nothing names nobody by it.
    assert read_genomics(path, "log", patient_pattern=r"(PT-\d+)?$")[0].obs_names.tolist() == ["PT-12"]


def test_a_pattern_goes_before_barcodes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"TCGA-A1-A0SB-01A": [1.5], "TCGA-A1-A0SB-06A": [2.5]}, index=["ESR1"])
    result, _ = read_genomics(written(tmp_path, frame), "log", patient_pattern=r"(TCGA-..-....)-06")
    assert result.to_df()["ESR1"].to_dict() == {"TCGA-A1-A0SB": 2.5}


def test_ensembl_versions_and_duplicate_genes(tmp_path: Path) -> None:
    rows = {
        "ENSG00000000003.15": [1.5, 2.5],
        "ENSG00000000005.6": [3.25, np.nan],
        "ENSG00000000005.6_PAR_Y": [3.0, 3.0],
        "RP11-34P13.7": [4.0, 4.5],
        "TP53": [1.0, 9.0],
        "TP53 ": [4.0, 5.0],
        "": [7.0, 7.0],
        "__no_feature": [8.0, 8.0],
    }
    result, facts = read(tmp_path, pd.DataFrame(rows, index=["a", "b"]).T, "log")
    assert result.columns.tolist() == ["ENSG00000000003", "ENSG00000000005", "RP11-34P13.7", "TP53"]
    assert result["ENSG00000000005"].iloc[0] == 3.25  # its mean over what is there is the larger
    assert result["TP53"].tolist() == [1.0, 9.0]
    wanted = {"ensembl_versions": 3, "duplicate_genes": 2, "unnamed_rows": 1, "summary_rows": 1, "missing": 1}
    assert wanted.items() <= facts.counts.items()
    assert "missing values, kept (they are imputed in the fold): 1" in facts.sentences


def test_library_sizes_leave_out_the_aligners_summary(tmp_path: Path) -> None:
    frame = counts()
    frame.loc["N_unmapped"] = 1_000_000
    close(read(tmp_path, frame)[0], log2(cpm(counts())).T)


def test_names_that_a_spreadsheet_made_dates(tmp_path: Path) -> None:
    _, facts = read(tmp_path, counts().rename(index={"GENE1": "1-Mar", "GENE2": "Sep-02"}))
    assert any("turned into dates: 2 (1-Mar, Sep-02)" in warning for warning in facts.warnings)


def test_tcga_aliquots(tmp_path: Path) -> None:
    aliquots = {
        "TCGA-A1-A0SB-01A-11R-A115-07": 1.5,
        "TCGA-A1-A0SB-01A-11R-A215-07": 2.5,  # stands: later plate
        "TCGA-A1-A0SB-01B-11R-A999-07": 3.5,  # a later vial, often from paraffin
        "TCGA-A1-A0SB-11A-11R-A115-07": 4.5,
        "TCGA-A1-A0SD-06A-11R-A115-07": 5.5,
        "tcga.a1.a0se.01a.11r": 6.5,  # R's dots
        "OTHER-1": 7.5,
    }
    frame = pd.DataFrame({name: [value, 1.25] for name, value in aliquots.items()}, index=["ESR1", "PGR"])
    result, facts = read(tmp_path, frame, "log")
    assert result["ESR1"].to_dict() == {"OTHER-1": 7.5, "TCGA-A1-A0SB": 2.5, "TCGA-A1-A0SE": 6.5}
    wanted = {
        "sample_type_11": 1,
        "sample_type_06": 1,
        "extra_aliquots": 2,
        "barcodes_cut": 4,
        "patients": 3,
        "samples": 7,
    }
    assert wanted.items() <= facts.counts.items()
    assert "samples of type 06 (metastasis) left out, not primary tumours: 1" in facts.sentences


def test_one_name_twice(tmp_path: Path) -> None:
    path = tmp_path / "matrix.csv"
    path.write_text("gene,P1,P1,P2\nESR1,1.5,1.5,2\nPGR,3,3,4.5\n")
    result, facts = read_genomics(path)
    assert result.shape == (2, 2)
    assert facts.counts["extra_aliquots"] == 1
    path.write_text("gene,P1,P1,P2\nESR1,1.5,1.6,2\nPGR,3,3,4.5\n")
    with pytest.raises(ExpressionError, match="P1 is there 2 times under one name"):
        read_genomics(path)


def test_patients_without_values_are_counted(tmp_path: Path) -> None:
    frame = counts()
    frame["P3"] = 0
    result, facts = read(tmp_path, frame.astype(float).assign(P5=np.nan))
    assert result.index.tolist() == ["P0", "P1", "P2", "P4", "P6", "P7"]
    assert "patients without any value left out (P3, P5): 2" in facts.sentences


def test_values_in_a_row_that_is_left_out_do_not_make_a_patient_measured(tmp_path: Path) -> None:
    """P2 has a value in the weaker row of ESR1 alone."""
    path = tmp_path / "m.csv"
    path.write_text("protein,P1,P2,P3\nESR1,9,,8\nPGR,1.5,,2.5\nESR1,2,1.25,\n")
    rna, facts = read_genomics(path, "log", "genes-in-rows")
    block, block_facts = read_block(path, "protein", "auto", "genes-in-rows")
    for result in (rna, block):
        assert list(result.obs_names) == ["P1", "P3"]
        np.testing.assert_array_equal(result.X, [[9, 1.5], [8, 2.5]])
    assert "patients with values only in rows left out (P2): 1" in facts.sentences
    assert "2 patients × 2 genes kept, as log values as given" in facts.sentences
    assert facts.counts["patients"] == 2
    assert "patients without any value left out (P2): 1" in block_facts.sentences


def test_columns_that_describe_genes_are_left_out(tmp_path: Path) -> None:
    frame = counts()
    frame.insert(0, "gene_type", "protein_coding")
    frame.insert(1, "Entrez Gene ID", range(len(frame)))
    result, facts = read(tmp_path, frame)
    close(result, log2(cpm(counts())).T)
    assert "columns that describe genes left out: gene_type, Entrez Gene ID" in facts.sentences


def test_no_value_depends_on_other_patients(tmp_path: Path) -> None:
    for unit in ("counts", "tpm", "fpkm", "log"):
        frame = _values(unit)
        everybody, _ = read(tmp_path, frame, unit)
        some, _ = read(tmp_path, frame[PATIENTS[:3]], unit)
        assert everybody.loc[PATIENTS[:3]].equals(some)


# What is refused

BAD = {
    "empty file": (b"", "empty"),
    "header only": (b"gene,P1,P2\n", "header only"),
    "one column": (b"gene\nESR1\nPGR\n", "one column only"),
    "no names": (b"1.5,2.5,3\n2,3,4\n", "first row holds numbers"),
    "nothing but NA": (b"gene,P1,P2\nESR1,NA,\nPGR,,NA\n", "no numeric values"),
    "text in a cell": (b"gene,P1,P2\nESR1,1.5,2\nPGR,n.d.,3\nTP53,1,2\n", "'n.d.' in row PGR, column P1"),
    "a column of words": (b"gene,batch,P2,P3,P4\nESR1,a,2,1,1\nPGR,b,3,1,1\n", r"column batch holds words \('a'"),
    "labels": (
        b"patient_id,ER,HER2\nP1,positive,negative\nP2,negative,\n",
        "table of labels, not of expression: ER, HER2",
    ),
    "decimal commas": (b"gene;P1;P2\nESR1;1,5;2,5\nPGR;0,1;3,1\n", "commas"),
    "negative counts": (b"gene,P1,P2\nESR1,-12,50\nPGR,200,3\n", "whole numbers below zero"),
    "mutation calls": (b"gene,P1,P2\nESR1,0,1\nPGR,1,0\n", "look like labels, mutations or copy numbers"),
    "infinite": (b"gene,P1,P2\nESR1,-inf,1.5\nPGR,1,2\n", "1 values are infinite, first in ESR1 of P1"),
    "cut off": (b"gene,P1,P2\nESR1,1.5,2.5\nPGR,3.", "line 3 has 2 cells, the header has 3"),
    "a longer line": (b"gene,P1,P2\nESR1,1.5,2.5\nPGR,1,2,3\n", "line 3"),
    "a first line longer by one": (b"gene,P1,P2\nESR1,1.5,2.5,2\n", "line 2 has 4 cells"),
    "a longer first line": (b"gene,P1,P2\nESR1,1.5,2.5,2,2\n", "line 2 has 5 cells"),
    "cut gzip": (gzip.compress(b"gene,P1,P2\nESR1,1.5,2.5\n" * 50)[:45], "cut off"),
    "spreadsheet": (b"PK\x03\x04...", "spreadsheet"),
    "damaged parquet": (b"PAR1 and no more", "Parquet file is damaged"),
    "damaged h5ad": (b"\x89HDF\r\n\x1a\n and no more", "no readable .h5ad"),
    "binary": (b"\x00\x01\xff\xfe\x99" * 20, "not UTF-8"),
    "no tumour": (b"gene,TCGA-A1-A0SB-11A,TCGA-A1-A0SD-11A\nESR1,1.5,2\nPGR,1,2\n", "no sample is a primary tumour"),
    "no gene": (b"gene,P1,P2\n__no_feature,1.5,2\n__ambiguous,1,2\n", "no row has a gene's name"),
    "unit unknown": (b"gene,P1,P2\nESR1,-1.5,90.5\nPGR,1,2\n", "cannot be recognised"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_say_what_and_where(tmp_path: Path, kind: str) -> None:
    content, message = BAD[kind]
    path = tmp_path / "matrix.csv"
    path.write_bytes(content)
    with pytest.raises(ExpressionError, match=message) as caught:
        read_genomics(path)
    assert caught.value.path == str(path)
    assert caught.value.hint


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ExpressionError, match="no such file"):
        read_genomics(tmp_path / "none.csv")
    with pytest.raises(ExpressionError, match="folder"):
        read_genomics(tmp_path)


# The store


def stored(values: npt.NDArray[np.float32]) -> anndata.AnnData:
    obs = pd.DataFrame(
        {"source_id": [f"s{i}" for i in range(len(values))]}, index=[f"p{i}" for i in range(len(values))]
    )
    var = pd.DataFrame(index=[f"g{i}" for i in range(values.shape[1])])
    return anndata.AnnData(values, obs=obs, var=var, uns={"unit": "log2(CPM + 1)", "source": "m.csv"})


def values() -> npt.NDArray[np.float32]:
    matrix = np.random.default_rng(3).normal(size=(20, 30)).astype(np.float32)
    matrix[3, 4] = np.nan
    return matrix


def test_the_store_gives_back_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "expression.zarr"
    write_expression(path, stored(values()))
    table = read_expression(path)
    assert isinstance(table, ExpressionTable)
    assert table.matrix.dtype == np.float32
    np.testing.assert_array_equal(table.matrix, values())
    assert (table.patients[:2], table.genes[-1], table.unit, table.source) == (
        ("p0", "p1"),
        "g29",
        "log2(CPM + 1)",
        "m.csv",
    )
    np.testing.assert_array_equal(table.rows(["p7", "p3"]), values()[[7, 3]])
    assert "p19" in table
    assert "p20" not in table
    with pytest.raises(ExpressionError, match="1 patients have no expression: p20"):
        table.rows(["p1", "p20"])


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    path = written(tmp_path, counts())
    digests = set()
    for name in ("a.zarr", "b.zarr", "a.zarr"):
        write_expression(tmp_path / name, read_genomics(path)[0])
        digests.add(digest_of(tmp_path / name))
    assert len(digests) == 1
    write_expression(tmp_path / "c.zarr", read_genomics(path)[0][:, ::-1].copy())
    assert digest_of(tmp_path / "c.zarr") not in digests


def test_any_anndata_reads_it(tmp_path: Path) -> None:
    expression, facts = read_genomics(written(tmp_path, counts()))
    write_expression(tmp_path / "e.zarr", expression)
    again = anndata.io.read_zarr(tmp_path / "e.zarr")
    assert again.obs.columns.tolist() == ["source_id", "missing_genes", "library_size"]
    assert again.var.columns.tolist() == ["source_id", "rows"]
    assert again.uns["input_unit"] == "counts"
    assert again.uns["encoding_version"] == "0.1.0"
    assert again.uns["steps"].tolist() == facts.sentences + facts.warnings


@pytest.mark.parametrize("fault", ["lost chunk", "damaged chunk", "lost metadata", "other AnnData", "later version"])
def test_a_damaged_store_is_refused(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "expression.zarr"
    write_expression(path, stored(values()))
    chunk = next(file for file in sorted((path / "X" / "c").rglob("*")) if file.is_file())
    version = next(file for file in (path / "uns" / "encoding_version").rglob("*") if file.is_file())
    if fault == "lost chunk":
        chunk.unlink()
    elif fault == "damaged chunk":
        chunk.write_bytes(b"\x00" * 40)
    elif fault == "lost metadata":
        (path / "X" / "zarr.json").unlink()
    elif fault == "other AnnData":
        for file in sorted((path / "uns" / "encoding_type").rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        (path / "uns" / "encoding_type").rmdir()
    else:
        assert version.exists()
        other = anndata.io.read_zarr(path)
        other.uns["encoding_version"] = "9.0"
        # Not by the store's own writer, which would set its version again.
        write_elem(zarr.open_group(path, mode="w", zarr_format=3), "/", other, dataset_kwargs={"shards": None})
    with pytest.raises(StoreError) as caught:
        read_expression(path)
    assert caught.value.path == str(path)
    assert "wsipipe" in caught.value.hint


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no expression store"):
        read_expression(tmp_path / "expression.zarr")


@pytest.mark.parametrize("fault", ["float64", "infinite", "patient twice", "no unit"])
def test_what_the_store_does_not_take(tmp_path: Path, fault: str) -> None:
    expression = stored(values())
    if fault == "float64":
        expression.X = values().astype(np.float64)
    elif fault == "infinite":
        expression.X[0, 0] = np.inf
    elif fault == "patient twice":
        expression.obs.index = ["p0", "p0", *expression.obs_names[2:]]
    else:
        del expression.uns["unit"]
    with pytest.raises(ExpressionError):
        write_expression(tmp_path / "e.zarr", expression)
    assert not (tmp_path / "e.zarr").exists()


# Real matrices


@pytest.mark.parametrize(
    ("name", "shape", "unit"),
    [
        ("brca/expression_zscore.csv.gz", (931, 1558), "zscore"),
        ("rnaseq/tcga_brca_counts.csv.gz", (112, 20124), "counts"),
    ],
)
def test_real_matrices(tmp_path: Path, name: str, shape: tuple[int, int], unit: str) -> None:
    path = DATA / name
    if not path.exists():
        pytest.skip("the real cohort is not here")
    start = time.perf_counter()
    expression, _ = read_genomics(path)
    write_expression(tmp_path / "e.zarr", expression)
    table = read_expression(tmp_path / "e.zarr")
    assert time.perf_counter() - start < 20  # takes about one second
    assert table.matrix.shape == shape
    assert expression.uns["input_unit"] == unit
    raw = pd.read_csv(path, index_col=0)
    gene, patient = table.genes[700], table.patients[50]
    value = float(raw[patient][gene])
    expected = np.log2(value / raw[patient].sum() * 1e6 + 1) if unit == "counts" else value
    assert table.matrix[50, 700] == pytest.approx(expected, rel=1e-6)


def test_real_labels_are_no_expression() -> None:
    path = DATA / "brca/clinical.csv"
    if not path.exists():
        pytest.skip("the real cohort is not here")
    with pytest.raises(ExpressionError, match="table of labels"):
        read_genomics(path)
