"""Finding the column with the names of a table's rows, and columns that have no values.

A column of names is recognised by its title (``columns.toml``); without such a title, the first column is used if it is
text. Names are preferred to row numbers, symbols to ids; if two columns could be the names, the command stops and asks
for a flag. Row numbers are not accepted as names unless the user says so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ..cohort.tcga import tcga_barcode
from ..columns import plain_name, plain_names
from ..errors import ExpressionError
from ..wording import some
from .naming import Naming
from .text_table import FORM, Table, is_number, patient_titles, sample_titles

_UNNAMED = re.compile(r"unnamed: ?\d+(\.\d+)?(_level_\d+)?|\.\.\.\d+|x\.\d+|index\.\d+", re.IGNORECASE)
_GENE_ID = re.compile(
    r"ENS[A-Z]{0,6}[GTP]\d{11}|\d+(\.0)?$|\S+_at$|ILMN_\d|A_\d\d_P|[NX][MR]_\d|TC\d{2}|uc\d{3}|HGNC:\d"
)
_NAME_COLUMN = "choose with --name-column"


@dataclass(frozen=True)
class RowNames:
    """The names of a table's rows.

    :param title: title of the column that they are from.
    :param names: one per row.
    :param ids: second names of the rows: ids of the genes whose symbols are in ``names``.
    :param patients: the patients of the rows, if a separate column gives them.
    :param columns: indices of the columns with names of rows, or row numbers.
    :param notes: sentences on what was recognised.
    """

    title: str
    names: list[str]
    columns: frozenset[int]
    notes: tuple[str, ...] = ()
    ids: list[str] | None = None
    patients: list[str] | None = None


def clean_names(column: Sequence[object]) -> list[str]:
    """Names as text: in Unicode's composed form, without surrounding blanks and the ``.0`` of numbers."""
    found = ["" if pd.isna(name) else unicodedata.normalize("NFC", str(name)).strip() for name in column]  # type: ignore[call-overload]
    filled = [name for name in found if name]
    if any(name.endswith(".0") for name in filled) and all(re.fullmatch(r"\d+(\.0)?", name) for name in filled):
        found = [name.removesuffix(".0") for name in found]
    return found


def count_from(names: Sequence[str]) -> int | None:
    """The first number if the names are whole numbers that increase by one, like row numbers; otherwise None."""
    if not names or not all(name.isdecimal() and len(name) < 9 for name in names):
        return None
    numbers = [int(name) for name in names]
    return numbers[0] if numbers == list(range(numbers[0], numbers[0] + len(numbers))) else None


def like_row_numbers(names: Sequence[str]) -> bool:
    """Whether names without a title may be row numbers: whole, and increasing by one, perhaps with gaps."""
    if not all(name.isdecimal() and len(name) < 9 for name in names):
        return False
    numbers = [int(name) for name in names]
    distinct = len(set(numbers)) == len(numbers)
    return count_from(names) is not None or (distinct and max(numbers) < 10 * len(numbers) + 10)


def row_names(table: Table, naming: Naming, path: Path) -> RowNames:
    """Find the names of a table's rows.

    :raises ExpressionError: no column has names, or two columns could be the names.
    """
    header = table.header
    plain = [plain_name(title) for title in header]
    symbols = _titled(plain, plain_names("expression", "gene_symbol"))
    ids = [i for i in _titled(plain, plain_names("expression", "gene_corner")) if i not in symbols]
    patients, samples = _titled(plain, patient_titles()), _titled(plain, sample_titles())
    known = frozenset([*symbols, *ids, *patients, *samples])
    numbered = _row_numbers(table, known)
    reading = _Reading(table, naming, path, numbered)
    if naming.column is not None and (chosen := _column_of(header, naming.column)) is not None:
        title = header[chosen]
        others = known | numbered | ({0} if reading.first_is_text([chosen]) else set())
        note = f"the names are those of the column {title or '#1'!r}, by --name-column"
        return RowNames(title, reading.names(chosen), frozenset(others | {chosen}), (note,))
    if table.gct and plain[1:2] == ["description"] and reading.describes_by_symbols():
        symbols = [1]
    genes, people = [*symbols, *ids], [*patients, *samples]
    if genes and people:
        if len(header) - len(known) <= 2:
            what = f"is a long table, with a line per patient and gene ({some([header[i] for i in sorted(known)])})"
            raise ExpressionError(what, path=path, hint="convert it to a matrix of genes × patients")
        if 0 in genes or (symbols and 0 in people):  # UCSC Xena calls its column of genes 'sample'
            people = []
        else:
            genes = []
    if genes:
        return reading.of_genes(symbols, ids)
    if people:
        return reading.of_patients([i for i in patients if i in people], [i for i in samples if i in people])
    return reading.untitled()


def _titled(plain: Sequence[str], titles: Sequence[str]) -> list[int]:
    """Columns with one of these titles, in the titles' order."""
    return [index for title in titles for index, name in enumerate(plain) if name == title and name]


def _column_of(header: Sequence[str], wanted: str) -> int | None:
    if wanted in header:
        return header.index(wanted)
    if re.fullmatch(r"#\d+", wanted) and 0 < int(wanted[1:]) <= len(header):
        return int(wanted[1:]) - 1
    plain = [plain_name(title) for title in header]
    return plain.index(plain_name(wanted)) if plain.count(plain_name(wanted)) == 1 else None


def _row_numbers(table: Table, known: frozenset[int]) -> frozenset[int]:
    """Columns of row numbers, by their titles and values."""
    found = set()
    for index, title in enumerate(table.header):
        if index in known or not _numbers_rows(title):
            continue
        if index == 0 or plain_name(title) not in ("", "x", "no", "nr"):  # an X further on may be a gene or a patient
            column = clean_names(table.frame[index].tolist())
            if column and all(map(str.isdecimal, column)) and (index == 0 or count_from(column) in (0, 1)):
                found.add(index)
    return frozenset(found)


def _numbers_rows(title: str) -> bool:
    return plain_name(title) in plain_names("expression", "row_numbers") or _UNNAMED.fullmatch(title) is not None


def _are_symbols(names: Sequence[str]) -> bool:
    """Whether names are short words, and not one word for all or descriptions of genes."""
    filled = [name for name in names if name]
    blanks = sum(" " in name for name in filled)
    return bool(filled) and 20 * blanks <= len(filled) and (len(set(filled)) > len(filled) // 2)


def _are_ids(names: Sequence[str]) -> bool:
    """Whether most are ids of genes, transcripts or probes."""
    filled = [name for name in names if name]
    return 2 * sum(_GENE_ID.match(name) is not None for name in filled) > len(filled)


@dataclass(frozen=True)
class _Reading:
    table: Table
    naming: Naming
    path: Path
    numbered: frozenset[int]

    def names(self, index: int) -> list[str]:
        return clean_names(self.table.frame[index].tolist())

    def describes_by_symbols(self) -> bool:
        """Whether a GCT file has ids as names and symbols as descriptions, as those of GTEx."""
        names, descriptions = self.names(0), self.names(1)
        return _are_ids(names) and _are_symbols(descriptions) and not _are_ids(descriptions)

    def _title(self, index: int) -> str:
        return repr(self.table.header[index] or f"#{index + 1}")

    def _noted(self, found: RowNames) -> RowNames:
        left = sorted(self.numbered - found.columns)
        columns = found.columns | self.numbered
        if not left:
            return replace(found, columns=columns)
        titles = some([self._title(index) for index in left])
        note = f"columns of row numbers are not names and left out: {titles}"
        return replace(found, columns=columns, notes=(*found.notes, note))

    def _ask(self, one: int, other: int, what: str) -> ExpressionError:
        both = f"the columns {self._title(one)} and {self._title(other)}"
        choices = " or ".join(f"'{self.table.header[i] or f'#{i + 1}'}'" for i in (one, other))
        return ExpressionError(
            f"{both} could both be the names of the {what}", path=self.path, hint=f"{_NAME_COLUMN} {choices}"
        )

    def first_is_text(self, known: Sequence[int]) -> bool:
        """Whether the first column has no known title and contains words."""
        if 0 in known or 0 in self.numbered:
            return False
        return not all(is_number(name) for name in self.names(0) if name)

    def of_genes(self, symbols: Sequence[int], ids: Sequence[int]) -> RowNames:
        header = self.table.header
        others = [*ids, *([0] if self.first_is_text([*symbols, *ids]) else [])]
        describing = [index for index in symbols if others and not _are_symbols(self.names(index))]
        symbols = [index for index in symbols if index not in describing]
        chosen = symbols[0] if symbols else min(others)
        columns = frozenset([*symbols, *describing, *others])
        named = self.names(chosen)
        beside = [index for index in others if index != chosen]
        if not symbols and len(beside) and 0 in beside and not header[0]:
            beside = [0]
        if not beside:
            return self._noted(RowNames(header[chosen], named, columns))
        written = self.names(beside[0])
        if named == written:
            return self._noted(RowNames(header[chosen], named, columns))
        filled_ids = [name for name in written if name]
        if not symbols:
            return self._noted(RowNames(header[chosen], named, columns))
        if 2 * sum(_GENE_ID.match(name) is not None for name in filled_ids) <= len(filled_ids):
            same = sum(one == other for one, other in zip(named, written, strict=True))
            if 2 * same < len(named) and len(set(written)) > 1:
                raise self._ask(beside[0], chosen, "genes")
        filled = [
            name if name not in ("", "-", "--", "---", "?", ".") else other
            for name, other in zip(named, written, strict=True)
        ]
        note = f"genes are named by the column {self._title(chosen)}, and where it is empty by {self._title(beside[0])}"
        return self._noted(RowNames(header[chosen], filled, columns, (note,), ids=written))

    def of_patients(self, patients: Sequence[int], samples: Sequence[int]) -> RowNames:
        header = self.table.header
        columns = frozenset([*patients, *samples])
        for group in (patients, samples):
            for other in group[1:]:
                if self.names(other) != self.names(group[0]):
                    raise self._ask(group[0], other, "patients" if group is patients else "samples")
        whose = self.names(patients[0]) if patients else None
        sample = samples[0] if samples else None
        if sample is None and self.first_is_text([*patients, *samples]):
            first = self.names(0)
            if whose is not None and not all(map(_is_of, first, whose)):
                raise self._ask(0, patients[0], "patients")
            sample, columns = 0, columns | {0}
        chosen = sample if sample is not None else patients[0]
        found = RowNames(header[patients[0] if patients else chosen], self.names(chosen), columns)
        if whose is not None and chosen != patients[0] and whose != found.names:
            note = (
                f"patients are those of the column {self._title(patients[0])}, samples those of {self._title(chosen)}"
            )
            found = replace(found, patients=whose, notes=(note,))
        return self._noted(found)

    def untitled(self) -> RowNames:
        header = self.table.header
        first = self.names(0)
        if not all(is_number(name) for name in first if name):
            return self._noted(RowNames(header[0], first, frozenset([0])))
        annotation = plain_names("expression", "annotation")
        words = [
            index
            for index in range(1, len(header))
            if not pd.api.types.is_numeric_dtype(self.table.frame[index].dtype)
            and plain_name(header[index]) not in annotation
            and not any(is_number(name) for name in self.names(index) if name)
        ]
        if 0 in self.numbered and len(words) == 1 and len(set(self.names(words[0]))) > 0.9 * len(first):
            note = f"the names are those of {self._title(words[0])}, the only column of words"
            return self._noted(RowNames(header[words[0]], self.names(words[0]), frozenset(words), (note,)))
        if words:
            what = f"the first column holds numbers, and {some([header[i] for i in words])} contain words"
            raise ExpressionError(
                what, path=self.path, hint=f"{_NAME_COLUMN}, and leave others out with --drop-columns"
            )
        if self.naming.numbers and all(name.isdecimal() for name in first):
            return RowNames(
                header[0], first, frozenset([0]), ("the first column's numbers are the names, by --numbers-are-names",)
            )
        if _numbers_rows(header[0]) and not like_row_numbers(first) and all(name.isdecimal() for name in first):
            return RowNames(header[0], first, frozenset([0]), ("the first column's numbers are the names",))
        kind = "row numbers, which are not names" if 0 in self.numbered else f"numbers (its title is {header[0]!r})"
        title = f"'{header[0] or '#1'}'"
        hint = f"if its numbers are the names, use --name-column {title}; else add a column patient_id (or gene)"
        raise ExpressionError(f"there is no column of names: the first holds {kind}", path=self.path, hint=hint)


def _is_of(sample: str, patient: str) -> bool:
    """Whether a sample's name begins with the patient's name, or is a barcode of this patient."""
    barcode = tcga_barcode(sample)
    return sample.casefold().startswith(patient.casefold()) or (barcode is not None and barcode.patient == patient)


def refuse_numbered(names: Sequence[str], title: str, naming: Naming, path: Path) -> None:
    """Refuse a header of numbers, unless the first column's title, or a flag, shows that they are names.

    :param title: title of the column of names.
    :raises ExpressionError: the header contains values, or numbers of columns.
    """
    if not names or not all(map(is_number, names)):
        return
    of_genes = {*plain_names("expression", "gene_symbol"), *plain_names("expression", "gene_corner")}
    titled = plain_name(title) in {*of_genes, *patient_titles(), *sample_titles()}
    whole = all(map(str.isdecimal, names)) and len(set(names)) == len(names)
    if not whole or not (titled or _numbers_rows(title) or naming.column is not None or naming.numbers):
        raise ExpressionError("the first row holds numbers, not names", path=path, hint=FORM)
    start = count_from(names)
    if not naming.numbers and (start == 0 or (start == 1 and plain_name(title) not in of_genes)):
        what = f"the columns are named {some(names, 3)}: these look like column numbers, not names"
        raise ExpressionError(what, path=path, hint="write the names into the header, or use --numbers-are-names")
