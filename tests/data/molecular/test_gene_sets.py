"""Gene sets from .gmt files: what is read, and what each damage says."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from wsipipe.data.errors import ExpressionError
from wsipipe.data.molecular.gene_sets import read_gmt

HALLMARK = Path(__file__).resolve().parents[3] / "../shared/data/rnaseq/h.all.v7.0.symbols.gmt"

TEXT = "first\tabout it\tESR1\tPGR\nsecond\t\tMKI67\tMKI67\tAURKA\t\n"
SETS = {"first": ("ESR1", "PGR"), "second": ("MKI67", "AURKA")}


def written(folder: Path, content: str | bytes, name: str = "sets.gmt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_names_and_genes_in_the_file_s_order(tmp_path: Path) -> None:
    assert list(read_gmt(written(tmp_path, TEXT)).items()) == list(SETS.items())


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(TEXT.encode(), mtime=0),
        TEXT.replace("\n", "\r\n"),
        b"\xef\xbb\xbf" + TEXT.encode(),
        "# a comment\n\n" + TEXT + "\n \t\n",
        TEXT.replace("\t", " \t "),
    ],
    ids=["gzip", "Windows line ends", "byte order mark", "comments and blank lines", "spaces about"],
)
def test_other_ways_to_write_the_same(tmp_path: Path, content: str | bytes) -> None:
    assert read_gmt(written(tmp_path, content, "sets.txt")) == SETS


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("first\tabout\tESR1\n\tabout\tPGR\n", "line 2: a gene set without a name"),
        ("first\tabout\tESR1\n\nsecond\tabout\n", "line 3: the gene set 'second' has no genes"),
        ("first\tabout\tESR1\nfirst\tabout\tPGR\n", "line 2: the gene set 'first' is already on line 1"),
        ("first,about,ESR1,PGR\n", "line 1: the gene set 'first,about,ESR1,PGR' has no genes"),
        ("\n\n", "no gene set"),
        (b"\x89PNG\r\n\xff\xfe", "not text"),
        (gzip.compress(TEXT.encode(), mtime=0)[:-12], "cannot be read"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 40, "cannot be read"),
    ],
    ids=["no name", "no genes", "twice", "commas", "empty", "a picture", "cut short", "damaged"],
)
def test_what_is_wrong_is_said_with_the_file_and_the_line(tmp_path: Path, content: str | bytes, said: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ExpressionError) as caught:
        read_gmt(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ExpressionError, match="no such file"):
        read_gmt(tmp_path / "absent.gmt")
    with pytest.raises(ExpressionError, match="cannot be read"):
        read_gmt(tmp_path)


def test_the_hallmark_sets() -> None:
    if not HALLMARK.is_file():
        pytest.skip("no shared data")
    sets = read_gmt(HALLMARK)
    assert len(sets) == 50
    assert "ESR1" not in sets["HALLMARK_G2M_CHECKPOINT"]
    assert {"MKI67", "AURKA"} <= set(sets["HALLMARK_G2M_CHECKPOINT"])
    assert all(len(genes) == len(set(genes)) for genes in sets.values())
