"""Damaged matrices of genes: read, or refused with an error of ours."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from expression_frames import counts, cpm, log2
from trial import Trial
from wsipipe.data.molecular.expression_reading import read_genomics
from wsipipe.data.molecular.gdc_folder import read_gdc_folder

Survives = Callable[..., Trial]


def _gct() -> bytes:
    frame = counts()
    table = frame.rename_axis("NAME").reset_index()
    table.insert(1, "Description", "na")
    size = f"{len(frame)}\t{len(frame.columns)}"
    return f"#1.2\n{size}\n{table.to_csv(sep=chr(9), index=False)}".encode()


def _parquet() -> bytes:
    stream = io.BytesIO()
    log2(cpm(counts())).rename_axis("gene").to_parquet(stream)
    return stream.getvalue()


def _text(separator: str) -> bytes:
    return log2(cpm(counts())).rename_axis("gene").to_csv(sep=separator).encode()


FORMS: dict[str, Callable[[], bytes]] = {
    "matrix.csv": lambda: _text(","),
    "matrix.tsv": lambda: _text("\t"),
    "blanks.txt": lambda: _text(" "),
    "matrix.csv.gz": lambda: gzip.compress(_text(","), mtime=0),
    "matrix.gct": _gct,
    "matrix.parquet": _parquet,
}


@pytest.mark.parametrize("name", FORMS)
def test_matrices(survives: Survives, name: str) -> None:
    survives(read_genomics, FORMS[name](), name)


ENDING = ".rna_seq.augmented_star_gene_counts.tsv"
SAMPLES = {"one": "TCGA-A1-A0SB", "two": "TCGA-A1-A0SD", "three": "TCGA-A1-A0SE"}
COLUMNS = "gene_id\tgene_name\tgene_type\tunstranded\tstranded_first\tstranded_second\ttpm_unstranded\tfpkm_unstranded"


def _star_counts(seed: int) -> bytes:
    lines = ["# gene-model: GENCODE v36", COLUMNS, "N_unmapped\t\t\t999\t7\t8\t\t"]
    for gene in range(60):
        count = gene * seed + 3
        lines.append(f"ENSG{gene:011}.1\tGENE{gene}\tprotein_coding\t{count}\t1\t2\t{count / 7:.4f}\t{count / 9:.4f}")
    return "\n".join([*lines, ""]).encode()


def _sheet() -> bytes:
    rows = [f"{name}{ENDING}\t{case}\t{case}-01A\tPrimary Tumor\n" for name, case in SAMPLES.items()]
    return "".join(["File Name\tCase ID\tSample ID\tSample Type\n", *rows]).encode()


@pytest.mark.parametrize("damaged", ["gdc_sample_sheet.2025-01-01.tsv", f"two{ENDING}", f"two{ENDING}.gz"])
def test_folders_of_the_gdc(survives: Survives, tmp_path: Path, damaged: str) -> None:
    folder = tmp_path / "gdc"
    folder.mkdir()
    for seed, name in enumerate(SAMPLES, start=1):
        if not damaged.startswith(name):
            (folder / f"{name}{ENDING}").write_bytes(_star_counts(seed))
    (folder / "gdc_sample_sheet.2025-01-01.tsv").write_bytes(_sheet())
    data = _sheet() if "sheet" in damaged else _star_counts(2)
    survives(lambda _: read_gdc_folder(folder), gzip.compress(data) if ".gz" in damaged else data, folder / damaged)
