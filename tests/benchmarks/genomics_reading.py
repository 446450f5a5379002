"""How fast a matrix becomes the expression store, and how much memory it takes; and what other readers would do.

    python tests/benchmarks/genomics_reading.py --folder SCRATCH

Random matrices, genes × patients, as gzipped CSV: counts, and TPM with four decimals. Every figure is of a fresh
process on one core (its affinity is set, so threads do not help); memory is the peak of what the process held, next to
what it held before it began. The second table reads the same files, to a float64 matrix and no further, in the ways
that there are.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from wsipipe.data.molecular.expression_reading import read_genomics
from wsipipe.data.molecular.gdc_folder import ENDING
from wsipipe.data.molecular.store import write_expression


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_matrices(folder: Path, genes: int, patients: int) -> None:
    rng = np.random.default_rng(0)
    level = np.where(rng.random(genes) < 0.25, 0.05, rng.lognormal(4.5, 2.3, genes))
    counts = rng.poisson(level[:, None] * rng.uniform(0.5, 2, patients) * rng.lognormal(0, 0.5, (genes, patients)))
    names = ["ACTB", "ESR1", "ERBB2", *(f"GENE{i}" for i in range(genes - 3))]
    barcodes = ",".join(f"TCGA-A1-{i:04d}-01A-11R-A115-07" for i in range(patients))
    for kind, matrix, form in (("counts", counts, "%d"), ("tpm", counts / counts.sum(axis=0) * 1e6, "%.4f")):
        with gzip.open(folder / f"{kind}.csv.gz", "wt", compresslevel=6) as stream:
            stream.write(f"gene,{barcodes}\n")
            for name, row in zip(names, matrix, strict=True):
                stream.write(name + "," + ",".join([form % value for value in row]) + "\n")


def write_folder(folder: Path, files: int, genes: int) -> None:
    """One STAR-count file under many names."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.lognormal(3, 2, genes))
    head = "gene_id gene_name gene_type unstranded stranded_first stranded_second tpm_unstranded fpkm_unstranded"
    lines = ["# gene-model: GENCODE v36", "\t".join([*head.split(), "fpkm_uq_unstranded"])]
    lines += ["N_unmapped\t\t\t1\t1\t1\t\t\t"]
    tpm = counts / counts.sum() * 1e6
    for i in range(genes):
        half = counts[i] // 2
        values = f"{counts[i]}\t{half}\t{half}\t{tpm[i]:.4f}\t{tpm[i] / 3:.4f}\t{tpm[i] / 2:.4f}"
        lines.append(f"ENSG{i:011d}.{i % 20}\tGENE{i}\tprotein_coding\t{values}")
    folder.mkdir()
    (folder / f"0{ENDING}").write_text("\n".join(lines) + "\n")
    rows = [f"{i}{ENDING}\tCASE-{i}\tCASE-{i}-01A\tPrimary Tumor" for i in range(files)]
    (folder / "gdc_sample_sheet.tsv").write_text(
        "\n".join(["File Name\tCase ID\tSample ID\tSample Type", *rows]) + "\n"
    )
    for i in range(1, files):
        (folder / f"{i}{ENDING}").hardlink_to(folder / f"0{ENDING}")


def to_store(path: Path) -> tuple[int, int]:
    expression, _ = read_genomics(path)
    write_expression(path.with_name("expression.zarr"), expression)
    return expression.shape


def header_of(path: Path) -> list[str]:
    with gzip.open(path, "rt") as stream:
        return stream.readline().strip().split(",")


def with_pandas(path: Path) -> tuple[int, int]:
    names = range(len(header_of(path)))
    frame = pd.read_csv(path, header=None, names=names, skiprows=1, dtype={0: str}, index_col=False, low_memory=False)
    return frame[list(names)[1:]].to_numpy(dtype=np.float64).shape


def with_pandas_over_pyarrow(path: Path) -> tuple[int, int]:
    frame = pd.read_csv(path, index_col=0, engine="pyarrow")
    return frame.to_numpy(dtype=np.float64).shape


def with_pyarrow(path: Path) -> tuple[int, int]:
    header = header_of(path)
    types = {name: pa.float64() for name in header[1:]} | {header[0]: pa.string()}
    with pa.CompressedInputStream(pa.OSFile(str(path)), "gzip") as stream:
        table = pa.csv.read_csv(
            stream,
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=1 << 24),
            convert_options=pa.csv.ConvertOptions(column_types=types),
        )
    matrix = np.empty((table.num_rows, len(header) - 1))
    for column in range(len(header) - 1):
        matrix[:, column] = table.column(column + 1).to_numpy()
    return matrix.shape


def gunzip_only(path: Path) -> tuple[int, int]:
    with gzip.open(path) as stream:
        return sum(map(len, iter(lambda: stream.read(1 << 20), b""))), 1


WAYS = {way.__name__: way for way in (to_store, gunzip_only, with_pandas, with_pandas_over_pyarrow, with_pyarrow)}


def once(way: str, path: Path) -> dict[str, float]:
    before, started, busy = peak_mib(), time.perf_counter(), time.process_time()
    shape = WAYS[way](path)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "cpu": time.process_time() - busy, "before": before, "peak": peak_mib(), "n": shape[0]}


def fresh(way: str, path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--once", way, "--folder", str(path)]
    # One core, chosen before the libraries start their threads.
    one = lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # noqa: E731
    done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=one)
    return dict(json.loads(done.stdout))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder", type=Path, help="scratch folder")
    arguments.add_argument("--genes", type=int, default=20_000)
    arguments.add_argument("--patients", type=int, default=1000)
    arguments.add_argument("--gdc-files", type=int, default=200, help="files of 60,660 genes in a GDC folder")
    arguments.add_argument("--once", choices=WAYS, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.once:
        print(json.dumps(once(options.once, options.folder)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        write_matrices(folder, options.genes, options.patients)
        write_folder(folder / "gdc", options.gdc_files, 60_660)
        print(f"{options.genes:,} genes × {options.patients:,} patients; one core")
        for kind in ("counts.csv.gz", "tpm.csv.gz", "gdc"):
            for way in WAYS if kind != "gdc" else ["to_store"]:
                figures = fresh(way, folder / kind)
                print(
                    f"{kind:14} {way:26} {figures['seconds']:6.1f} s ({figures['cpu']:5.1f} s of CPU), peak "
                    f"{figures['peak']:6.0f} MiB ({figures['before']:.0f} before)"
                )


if __name__ == "__main__":
    main()
