"""The cohort table: slides, their patients, and labels.

A CSV or TSV with one row per slide. Five columns have a fixed meaning (``slide_id``, ``patient_id``, ``path``,
``mpp``, ``site``) and are found under the names of ``columns.toml``; every other column is kept as text, so that labels
and words such as ``NA`` stay as they are written. ``notes`` report what was recognised and corrected.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import math
import os
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..columns import label_words, names, plain_name, plain_names
from ..errors import CohortError, about
from ..files.packed import unpacked
from ..plain_files import refuse_pipe, url_of
from ..slide_names import slide_name
from ..units import SLIDE_MPP, Mpp
from ..wording import some
from .ids import normal_id, one_spelling, same_ids
from .tcga import tcga_barcode

FIELDS = ("slide_id", "patient_id", "path", "mpp", "site")
"""The columns that every cohort table has after reading; cells are empty where nothing is known."""

_MOST_COLUMNS = 50_000
_MOST_CELLS = 20_000_000
"""With shorter lines filled up: a small file of one long and very many short lines would be a table of terabytes."""


@dataclass(frozen=True)
class CohortTable:
    """A cohort table that has been read.

    :param source: the file it was read from.
    :param frame: one row per slide, all columns text: :data:`FIELDS` first, then the table's other columns under their
        own names. Rows with an empty ``slide_id`` are patients without a slide.
    :param notes: sentences on what was recognised, derived or dropped while reading.
    """

    source: Path
    frame: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def patients(self) -> tuple[str, ...]:
        """All patients, sorted."""
        return tuple(sorted(set(self.frame["patient_id"])))

    def column(self, name: str) -> str:
        """The exact name of a column; case is ignored if only one column matches.

        A field may be asked for by the name that the table's own header has for it, such as ``hospital`` for the site.

        :raises CohortError: no such column; the message suggests similar names.
        """
        columns = [str(column) for column in self.frame.columns]
        folded = [column for column in columns if column.casefold() == name.strip().casefold()]
        if name in columns or len(folded) == 1:
            return name if name in columns else folded[0]
        for field in FIELDS:
            if plain_name(name) in plain_names("cohort", field) and (self.frame[field] != "").any():
                return field
        lower = {column.casefold(): column for column in columns}
        near = [lower[close] for close in difflib.get_close_matches(name.casefold(), list(lower), n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise CohortError(
            f"there is no column {name!r}", path=self.source, hint=f"{hint}The table has: {', '.join(columns)}"
        )

    def patient_of(self) -> dict[str, str]:
        """Slide id of the table → patient."""
        return dict(zip(self.frame["slide_id"], self.frame["patient_id"], strict=True))

    def by_patient(self, column: str) -> dict[str, list[str]]:
        """Patient → the cells of a column in that patient's rows, in the order of the table."""
        cells: dict[str, list[str]] = {}
        for patient, cell in zip(self.frame["patient_id"], self.frame[column], strict=True):
            cells.setdefault(patient, []).append(cell)
        return cells

    def paths(self) -> dict[str, Path]:
        """Slide id → file or URL, for rows with a path. Relative paths are relative to the table's folder."""

        def place(path: str) -> Path:
            # os.path's expanduser, because pathlib's raises for ~nobody
            return Path(path) if url_of(path) else self.source.parent / os.path.expanduser(path)  # noqa: PTH111

        return {
            slide: place(path)
            for slide, path in zip(self.frame["slide_id"], self.frame["path"], strict=True)
            if slide and path
        }

    def mpps(self) -> dict[str, Mpp]:
        """Slide id → microns per pixel, for rows with an mpp."""
        return {
            slide: Mpp(float(mpp))
            for slide, mpp in zip(self.frame["slide_id"], self.frame["mpp"], strict=True)
            if slide and mpp
        }


def read_cohort(path: Path) -> CohortTable:
    """Read a cohort table: CSV or TSV (also separated by semicolons), gzipped or not.

    UTF-8 with or without a byte order mark, UTF-16 with one, or Windows-1252; cells are stripped of white space.
    Ids are compared by the rule of :mod:`~wsipipe.data.cohort.ids`: ``P05`` and ``p05``, ``101`` and ``101.0`` are the
    same patient, shown in the spelling that occurs first.

    - Folder and extension are removed from slide ids that are file names; a missing slide id is taken from ``path``.
    - A missing patient id is taken from the TCGA barcode that the slide id begins with (its first 12 characters), and
      patient ids that are longer TCGA barcodes are cut to these 12.
    - Without a site column, the site of TCGA patients is the tissue source site of their barcode.
    - Rows that are equal in every column count once.

    :raises CohortError: not a table, no slide ids, an unknown patient, a slide of two patients or with two different
        rows, an invalid mpp.
    """
    text, notes = _read_text(path)
    header, rows, lines = _read_rows(text, path, notes)
    columns, others = _find_columns(header, path, notes)
    known = {field: [row[columns[field]] if field in columns else "" for row in rows] for field in FIELDS}
    missing = label_words("missing")
    for field in FIELDS:
        known[field] = ["" if cell.casefold() in missing else cell for cell in known[field]]
    known["slide_id"] = _slide_ids(known["slide_id"], known["path"], columns, notes)
    known["patient_id"] = _patient_ids(known["patient_id"], known["slide_id"], lines, columns, path, notes)
    known["mpp"] = [_mpp(text, line, path) for text, line in zip(known["mpp"], lines, strict=True)]
    if "site" not in columns:
        known["site"] = [barcode.site if (barcode := tcga_barcode(p)) else "" for p in known["patient_id"]]
        if any(known["site"]):
            notes.append("no site column: the site of TCGA patients is the tissue source site in their barcode")
    rest = {header[index]: [row[index] for row in rows] for index in others}
    frame = pd.DataFrame({**known, **rest}, dtype=str)
    return CohortTable(path, _one_row_a_slide(frame, path, notes), tuple(notes))


def read_clinical(path: Path) -> pd.DataFrame:
    """Read any table about patients, all columns as text.

    The same kinds of files are read as by :func:`read_cohort`; lines that begin with # (cBioPortal's descriptions of
    the columns) are skipped.

    :raises CohortError: not a table.
    """
    text, notes = _read_text(path)
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    header, rows, _ = _read_rows(text, path, notes)
    return pd.DataFrame(rows, columns=header, dtype=str)


def _read_text(path: Path) -> tuple[str, list[str]]:
    refuse_pipe(path, CohortError)
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            with about(path), unpacked(io.BytesIO(raw), len(raw)) as stream:
                raw = stream.read()
    except FileNotFoundError as error:
        raise CohortError("there is no such file", path=path, hint="check the path of the cohort table") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CohortError("the gzip file is damaged or cut off", path=path, hint="copy it again") from error
    except OSError as error:
        raise CohortError(
            f"could not be read ({error.strerror})", path=path, hint="it must be a readable file"
        ) from error
    if raw[:4] == b"PK\x03\x04":
        raise CohortError("this is a spreadsheet or a zip file", path=path, hint="save the table as CSV and give that")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", errors="replace"), ["read as UTF-16"]
    if b"\0" in raw:
        raise CohortError("this is a binary file, not a table", path=path, hint="give a CSV or TSV file")
    try:
        return raw.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace"), ["not UTF-8: read as Windows-1252"]


def _read_rows(text: str, path: Path, notes: list[str]) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows padded to the header's length, and the line of the file on which each row ends."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(("\t", ",", ";", "|"), key=first.count)
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    short = 0
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for cells in reader:
            row = [cell.strip() for cell in cells]
            if not any(row):
                continue
            if not header:
                header = row
                continue
            if any(row[len(header) :]):
                what = f"line {reader.line_num} has {len(row)} cells, the header has {len(header)}"
                raise CohortError(what, path=path, hint="put cells that contain the separator in quotes")
            if len(header) > _MOST_COLUMNS or len(header) * (len(rows) + 1) > _MOST_CELLS:
                what = f"more than {_MOST_COLUMNS:,} columns or {_MOST_CELLS:,} cells ({len(header):,} columns)"
                raise CohortError(what, path=path, hint="leave out the columns that are not needed")
            short += len(row) < len(header)
            rows.append((row + [""] * len(header))[: len(header)])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise CohortError(f"line {reader.line_num}: {error}", path=path, hint="save the table as CSV again") from error
    if not rows:
        what = "the table has a header but no rows" if header else "the file is empty"
        raise CohortError(what, path=path, hint="a cohort table has a header and one row per slide")
    if short:
        notes.append(f"rows shorter than the header, whose last cells are taken as empty: {short}")
    return header, rows, lines


def _find_columns(header: list[str], path: Path, notes: list[str]) -> tuple[dict[str, int], list[int]]:
    """The index of each known field, and the indices of all other columns that have a name."""
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise CohortError(f"two columns are called {', '.join(twice)}", path=path, hint="rename or remove one of them")
    plain = [plain_name(name) for name in header]
    columns: dict[str, int] = {}
    for field in FIELDS:
        for alias in plain_names("cohort", field):
            found = [index for index, name in enumerate(plain) if name == alias]
            if len(found) > 1:
                what = f"{' and '.join(header[index] for index in found)} could both be the {field}"
                raise CohortError(what, path=path, hint=f"call one of them {field} and rename the other")
            if found:
                columns[field] = found[0]
                if header[found[0]] != field:
                    notes.append(f"column {header[found[0]]!r} is the {field}")
                break
    if "slide_id" not in columns and "path" not in columns:
        what = f"there is no column of slide ids among {', '.join(header)}"
        hint = f"name one slide_id (or {', '.join(names('cohort', 'slide_id')[1:4])}, …): file names without extension"
        raise CohortError(what, path=path, hint=hint)
    others = [index for index, name in enumerate(header) if index not in columns.values() and name]
    unnamed = header.count("")
    if unnamed:
        notes.append(f"columns without a name left out: {unnamed}")
    return columns, others


def _slide_ids(slides: list[str], paths: list[str], columns: dict[str, int], notes: list[str]) -> list[str]:
    if "slide_id" not in columns:
        notes.append("no column of slide ids: they are the file names in the path column, without extension")
    return [normal_id(slide_name(slide or path)) for slide, path in zip(slides, paths, strict=True)]


def _patient_ids(
    patients: list[str], slides: list[str], lines: list[int], columns: dict[str, int], path: Path, notes: list[str]
) -> list[str]:
    derived = cut = 0
    unknown: list[str] = []
    result: list[str] = []
    for patient, slide, line in zip(map(normal_id, patients), slides, lines, strict=True):
        barcode = tcga_barcode(patient or slide)
        if barcode is not None:
            derived += not patient
            cut += bool(patient) and patient != barcode.patient
            result.append(barcode.patient)
        else:
            result.append(patient)
            if not patient:
                unknown.append(f"line {line} ({slide or 'no slide either'})")
    if unknown:
        what = f"{len(unknown)} rows name no patient: {some(unknown)}"
        if "patient_id" not in columns:
            what = (
                f"there is no column of patient ids, and {len(unknown)} slide ids are no TCGA barcodes: {some(unknown)}"
            )
        hint = "add a patient_id column; if every slide is of another patient, copy the slide ids into it"
        raise CohortError(what, path=path, hint=hint)
    if derived:
        notes.append(f"patient ids taken from the slide's TCGA barcode (its first 12 characters): {derived}")
    if cut:
        notes.append(f"TCGA barcodes cut to the patient (12 characters, upper case): {cut}")
    if ways := same_ids(result):
        notes.append(f"patient ids with several spellings, each taken as one patient: {some(ways)}")
    spelling = one_spelling(result)
    return [spelling[patient] for patient in result]


def _mpp(text: str, line: int, path: Path) -> str:
    """Check the text of an mpp, and replace a decimal comma by a point."""
    if not text:
        return ""
    try:
        mpp = float(text.replace(",", "."))
    except ValueError:
        mpp = math.nan
    if not SLIDE_MPP[0] <= mpp <= SLIDE_MPP[1]:  # also refuses nan
        what = f"line {line}: mpp {text!r} is no number of microns per pixel from {SLIDE_MPP[0]:g} to {SLIDE_MPP[1]:g}"
        hint = "write 0.25 for what scanners call 40x and 0.5 for 20x, or leave the cell empty"
        raise CohortError(what, path=path, hint=hint)
    return repr(mpp)


def _one_row_a_slide(frame: pd.DataFrame, path: Path, notes: list[str]) -> pd.DataFrame:
    unique = frame.drop_duplicates(ignore_index=True)
    if len(unique) < len(frame):
        notes.append(f"rows that repeat another exactly, counted once: {len(frame) - len(unique)}")
    repeated = unique[unique["slide_id"].ne("") & unique["slide_id"].duplicated(keep=False)]
    two_patients: list[str] = []
    differing: list[str] = []
    for slide, rows in repeated.groupby("slide_id"):
        patients = sorted(set(rows["patient_id"]))
        if len(patients) > 1:
            two_patients.append(f"{slide} ({', '.join(patients)})")
        else:
            differing.append(f"{slide} (in {', '.join(c for c in rows.columns if rows[c].nunique() > 1)})")
    if two_patients:
        what = f"{len(two_patients)} slides belong to two patients: {some(two_patients)}"
        raise CohortError(what, path=path, hint="correct the patient ids: each slide has one patient")
    if differing:
        what = f"{len(differing)} slides have two rows that differ: {some(differing)}"
        raise CohortError(what, path=path, hint="keep one row per slide")
    return unique
