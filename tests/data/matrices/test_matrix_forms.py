"""Every form of file gives the same matrix, or says what is wrong with it and where."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from expression_frames import close, counts, cpm, log2, read, written
from scipy import sparse
from wsipipe.data.errors import ExpressionError
from wsipipe.data.molecular.expression_reading import read_genomics


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
        (
            [f"{2000 + i}00_at" for i in range(9)],
            list("abcde"),
            "id",
            "9 of 9 row names are ids of probes or transcripts",
        ),
        (
            [f"X{i}" for i in range(9)],
            [f"GSM10000{i}" for i in range(5)],
            "id",
            "5 of 5 column names are ids of samples",
        ),
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
    long = pd.DataFrame(np.random.default_rng(1).uniform(0, 15, (300, 6)), columns=list("uvwxyz"))
    for matrix in (frame, long.set_axis([f"A{i}b" for i in range(300)])):  # a longer side is no evidence
        with pytest.raises(ExpressionError, match="is not clear whether rows or columns are genes") as caught:
            read_genomics(written(tmp_path, matrix, corner="id"))
        assert "--orientation" in caught.value.hint
    path = written(tmp_path, frame, corner="id")
    assert read_genomics(path, orientation="patients-in-rows")[0].shape == (5, 6)


def test_the_same_content_either_way_round_is_the_same_matrix(tmp_path: Path) -> None:
    frame = counts()
    one, _ = read(tmp_path, frame)
    other, _ = read(tmp_path, frame.sample(frac=1, random_state=1).sample(frac=1, axis=1, random_state=2))
    assert one.equals(other)


def _parquet_of_bytes(name: bytes) -> bytes:
    """A table one of whose genes has a name that is no text."""
    names = pa.StringArray.from_buffers(
        2, pa.py_buffer(struct.pack("3i", 0, 4, 4 + len(name))), pa.py_buffer(b"ESR1" + name)
    )
    stream = io.BytesIO()
    parquet.write_table(pa.table({"gene": names, "P1": [1.5, 2.0], "P2": [2.5, 1.0]}), stream)
    return stream.getvalue()


BAD = {
    "empty file": (b"", "empty"),
    "header only": (b"gene,P1,P2\n", "only a header"),
    "one column": (b"gene\nESR1\nPGR\n", "one column only"),
    "no names": (b"1.5,2.5,3\n2,3,4\n", "first row holds numbers"),
    "nothing but NA": (b"gene,P1,P2\nESR1,NA,\nPGR,,NA\n", "no numeric values"),
    "text in a cell": (b"gene,P1,P2\nESR1,1.5,2\nPGR,n.d.,3\nTP53,1,2\n", "'n.d.' in row PGR, column P1"),
    "a column of words": (b"gene,tube,P2,P3,P4\nESR1,a,2,1,1\nPGR,b,3,1,1\n", r"column tube contains words \('a'"),
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
    "parquet with names that are no UTF-8": (_parquet_of_bytes(b"GEN\xff0"), "Parquet file is damaged"),
    "damaged h5ad": (b"\x89HDF\r\n\x1a\n and no more", "not a readable .h5ad"),
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
