"""Reading a folder of the GDC's STAR counts, one file per sample, with the sample sheet that lists their patients.

Its layout is that of the GDC's portal and transfer tool:
``<file id>/<file id>.rna_seq.augmented_star_gene_counts.tsv`` (or
all files side by side, or gzipped) and ``gdc_sample_sheet.<date>.tsv`` in the folder or beside it. See the GDC's
documentation, "mRNA Analysis Pipeline" and "Sample Sheet".
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..cohort.sample_types import sample_types, type_of_words
from ..columns import names, plain_name
from ..errors import ExpressionError, about
from ..files.packed import opened
from ..matrices.expression_units import Unit
from ..matrices.matrix import RawMatrix
from ..matrices.reading_facts import ReadingFacts
from ..plain_files import refuse_pipe
from ..wording import some

ENDING = ".rna_seq.augmented_star_gene_counts.tsv"
_COLUMN: dict[str, str] = {
    "auto": "tpm_unstranded",
    "tpm": "tpm_unstranded",
    "counts": "unstranded",
    "fpkm": "fpkm_unstranded",
}
_SHEET_HINT = "get it from the GDC's cart ('Sample Sheet') and put it into the folder"


@dataclass(frozen=True)
class _Sample:
    """A file of the sample sheet."""

    file: Path
    sample: str
    patient: str
    kind: str

    @property
    def primary(self) -> bool:
        return sample_types([self.sample], [self.kind])[0] == "primary"


@dataclass(frozen=True)
class _Genes:
    """The genes of a file, which must be the same in all files."""

    ids: tuple[str, ...]
    symbols: tuple[str, ...]
    model: str

    def __str__(self) -> str:
        return f"{len(self.ids):,} ({self.model or 'no gene model named'})"


@dataclass(frozen=True)
class _Reads:
    """The values taken from one file, and the number of reads behind them."""

    values: npt.NDArray[np.float64]
    library: float


def read_gdc_folder(folder: Path, unit: Unit | Literal["auto"] = "auto", *, primary_only: bool = True) -> RawMatrix:
    """Read all files of the sheet, with genes named by their symbols.

    Of several files of one sample the one with the most reads is used. Files that are not in the sheet are left out;
    missing files of the sheet are reported.

    :param unit: the column to read: TPM by default, or counts or FPKM.
    :param primary_only: leave out samples that the sheet does not call primary tumours.
    :return: the matrix; ``library`` are the sums of the unstranded counts.
    :raises ExpressionError: no such files, no sheet, files of different gene models, or a damaged file.
    """
    if unit not in _COLUMN:
        what = f"the unit {unit} contradicts the files: STAR counts come as tpm, counts or fpkm"
        raise ExpressionError(what, path=folder, hint="correct --unit, or leave it out to use TPM")
    files = _files(folder)
    sheet_path = _sheet_path(folder)
    facts = ReadingFacts([f"a folder of the GDC's STAR counts: {len(files)} files, with {sheet_path.name}"])
    samples = _samples(_sheet(sheet_path), files, sheet_path, facts, primary_only=primary_only)
    genes, reads = _read_all(samples, _COLUMN[unit], facts)
    facts.sentences.append(f"genes are named by their symbols{f' ({genes.model})' if genes.model else ''}")
    return RawMatrix(
        values=np.stack([file_reads.values for file_reads in reads.values()]),
        samples=tuple(sample.sample for sample in reads),
        genes=tuple(symbol or gene for gene, symbol in zip(genes.ids, genes.symbols, strict=True)),
        facts=facts,
        gene_sources=genes.ids,
        patients=tuple(sample.patient for sample in reads) if primary_only else None,
        kinds=tuple(sample.kind for sample in reads),
        library=np.array([file_reads.library for file_reads in reads.values()]),
        stated=("tpm" if unit == "auto" else unit, f"the column {_COLUMN[unit]}"),
    )


def _files(folder: Path) -> dict[str, Path]:
    """File name without .gz → file."""
    found: dict[str, Path] = {}
    for path in sorted(file for file in folder.rglob(f"*{ENDING}*") if file.name.removesuffix(".gz").endswith(ENDING)):
        name = path.name.removesuffix(".gz")
        if name in found:
            what = f"{name} is there twice, in {found[name].parent} and {path.parent}"
            raise ExpressionError(what, path=folder, hint="remove one of them")
        found[name] = path
    if not found:
        what = f"this is a folder, and no file in it ends with {ENDING}"
        hint = "give one matrix file of all patients, or the folder that holds the GDC's STAR-count files"
        raise ExpressionError(what, path=folder, hint=hint)
    return found


def _sheet_path(folder: Path) -> Path:
    for sheets in (sorted(folder.rglob("gdc_sample_sheet*.tsv")), sorted(folder.parent.glob("gdc_sample_sheet*.tsv"))):
        if len(sheets) > 1:
            what = f"there are {len(sheets)} sample sheets: {some([sheet.name for sheet in sheets])}"
            raise ExpressionError(what, path=folder, hint="keep the one that belongs to these files")
        if sheets:
            return sheets[0]
    raise ExpressionError("there is no sample sheet (gdc_sample_sheet.<date>.tsv)", path=folder, hint=_SHEET_HINT)


def _sheet(path: Path) -> pd.DataFrame:
    """The sheet's rows with plain column names."""
    refuse_pipe(path, ExpressionError)
    try:
        sheet = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ExpressionError(f"the sample sheet could not be read ({error})", path=path, hint=_SHEET_HINT) from error
    sheet.columns = pd.Index([plain_name(str(name)) for name in sheet.columns])
    wanted = {"filename": "File Name", "caseid": "Case ID", "sampleid": "Sample ID"}
    missing = [name for plain, name in wanted.items() if plain not in sheet.columns]
    if "sampletype" not in sheet.columns and not {"tissuetype", "tumordescriptor"} <= set(sheet.columns):
        missing.append("Sample Type")
    if missing:
        raise ExpressionError(f"the sample sheet has no column {', '.join(missing)}", path=path, hint=_SHEET_HINT)
    stripped: pd.DataFrame = sheet.apply(lambda column: column.str.strip())
    return stripped


def _samples(
    sheet: pd.DataFrame, files: dict[str, Path], path: Path, facts: ReadingFacts, *, primary_only: bool
) -> list[_Sample]:
    """The samples of the files by the sheet, without files that cannot be used."""
    if "sampletype" in sheet.columns:
        kinds = sheet["sampletype"]
    else:  # since 2024: "Primary" and "Tumor" in place of "Primary Tumor"
        both = zip(sheet["tumordescriptor"], sheet["tissuetype"], strict=True)
        kinds = pd.Series([_joined(*pair) for pair in both], index=sheet.index)
    kinds = kinds.map(_agreed)
    sheet_names = sheet["filename"].str.removesuffix(".gz")
    of_file: dict[str, _Sample] = {}
    missing: list[str] = []
    other_data = pooled = 0
    for name, patient, sample_id, kind in zip(sheet_names, sheet["caseid"], sheet["sampleid"], kinds, strict=True):
        if not name.endswith(ENDING):
            other_data += 1
        elif name not in files:
            missing.append(name)
        elif len(set(_pieces(patient))) != 1 or not sample_id or (type_of_words(kind) == "other" and "," in kind):
            pooled += 1
        else:
            sample = _Sample(files[name], sample_id, _pieces(patient)[0], kind)
            if of_file.setdefault(name, sample) != sample:
                what = f"{name} is there twice, of {of_file[name].sample} and {sample_id}"
                raise ExpressionError(what, path=path, hint=_SHEET_HINT)
    facts.count("sheet_other_data", other_data, "rows of the sheet that are not STAR counts left out")
    facts.count("pooled_files", pooled, "files of several patients or types of sample, or of none, left out")
    unknown = sorted(set(files) - set(sheet_names))
    facts.count("files_not_in_sheet", len(unknown), f"files that the sheet does not name left out ({some(unknown, 2)})")
    facts.counts["files_missing"] = len(missing)
    if missing:
        facts.warnings.append(f"files of the sheet that are not in the folder: {len(missing)} ({some(missing, 2)})")
    if not of_file:
        what = f"the sheet names none of the {len(files)} files of the folder as one patient's"
        raise ExpressionError(what, path=path, hint="give these files' own sample sheet")
    others = Counter(sample.kind for sample in of_file.values() if primary_only and not sample.primary)
    for kind, number in sorted(others.items()):
        facts.count(f"sample_type_{plain_name(kind)}", number, f"samples of type {kind} left out, not primary tumours")
    kept = [sample for sample in of_file.values() if sample.primary or not primary_only]
    if not kept:
        what = f"no file is of a primary tumour, but of {some(sorted(others))}"
        raise ExpressionError(what, path=path, hint="select the samples to use with --patient-pattern")
    return kept


def _pieces(cell: str) -> list[str]:
    """The values of a cell for each piece of a sample: CPTAC's sheets list all pieces that were sequenced together."""
    return [piece for piece in re.split(r"\s*[,;|]\s*", cell) if piece]


def _agreed(cell: str) -> str:
    """The common value of all pieces; if they differ, the cell unchanged."""
    pieces = set(_pieces(cell))
    return pieces.pop() if len(pieces) == 1 else cell


def _joined(descriptor: str, tissue: str) -> str:
    """Tumour descriptor and tissue type, piece by piece."""
    one, other = _pieces(descriptor), _pieces(tissue)
    if len(one) != len(other):
        return f"{_agreed(descriptor)} {_agreed(tissue)}"
    return ", ".join(f"{left} {right}" for left, right in zip(one, other, strict=True))


def _read_all(samples: Sequence[_Sample], column: str, facts: ReadingFacts) -> tuple[_Genes, dict[_Sample, _Reads]]:
    common: _Genes | None = None
    stands: dict[str, tuple[_Sample, _Reads]] = {}
    for sample in samples:
        genes, reads = _read(sample.file, column, symbols=common is None)
        common = common or genes
        if (genes.ids, genes.model) != (common.ids, common.model):
            what = f"its genes are not those of {samples[0].file.name}: {genes} against {common}"
            raise ExpressionError(what, path=sample.file, hint="take all files, whole, from one release of the GDC")
        if sample.sample not in stands or reads.library > stands[sample.sample][1].library:
            stands[sample.sample] = (sample, reads)
    assert common is not None  # there is at least one sample
    facts.count(
        "extra_files",
        len(samples) - len(stands),
        "further files of one sample left out, the file with the most reads is used",
    )
    return common, dict(stands.values())


def _read(path: Path, column: str, *, symbols: bool) -> tuple[_Genes, _Reads]:
    """Read one file; symbols, which take as long as all numbers, only if they are needed."""
    compressed = path.suffix == ".gz"
    hint = "get the file again from the GDC"
    refuse_pipe(path, ExpressionError)
    try:
        with about(path), opened(path, gzipped=compressed) as stream:
            line = stream.readline().decode("utf-8")
        with about(path), opened(path, gzipped=compressed) as stream:
            frame = pd.read_csv(
                stream,
                sep="\t",
                skiprows=int(line.startswith("#")),
                usecols=["gene_id", *(["gene_name"] if symbols else []), "unstranded", column],
                dtype={"unstranded": np.float64, column: np.float64},
            )
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ExpressionError("the file is damaged or cut off", path=path, hint=hint) from error
    except (ValueError, OSError) as error:  # pandas's own errors are ValueErrors
        raise ExpressionError(f"is not a STAR-count file of the GDC ({error})", path=path, hint=hint) from error
    frame = frame[~frame["gene_id"].isin(names("expression", "not_genes"))]
    reads = _Reads(frame[column].to_numpy(), float(frame["unstranded"].sum(skipna=False)))
    if frame.empty or np.isnan(reads.values).any() or np.isnan(reads.library):
        raise ExpressionError("the file is cut off: a gene has no values", path=path, hint=hint)
    model = line.removeprefix("#").strip().removeprefix("gene-model:").strip() if line.startswith("#") else ""
    of_genes = tuple(frame["gene_name"].astype("string").fillna("").str.strip()) if symbols else ()
    return _Genes(tuple(frame["gene_id"].astype(str)), of_genes, model), reads
