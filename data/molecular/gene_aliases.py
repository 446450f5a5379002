"""Former names of genes: the shipped table (``gene_aliases.tsv``), and tables of the user."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from ..errors import ExpressionError
from ..plain_files import refuse_pipe

_FORM = "two columns: the name in the matrix and the symbol to use; tabs or commas between them"


@cache
def shipped_aliases() -> Mapping[str, str]:
    """Former name → approved symbol."""
    return dict(_pairs(files(__package__).joinpath("gene_aliases.tsv").read_text(encoding="utf-8").splitlines()))


def read_aliases(path: Path) -> Mapping[str, str]:
    """Read a user's table of aliases, which may also map Ensembl ids to symbols.

    :raises ExpressionError: it is not such a table, or gives two symbols for one name.
    """
    aliases: dict[str, str] = {}
    for name, symbol in read_pairs(path, "aliases", _FORM):
        if aliases.setdefault(name, symbol) != symbol:
            what = f"{name} stands for both {aliases[name]} and {symbol}"
            raise ExpressionError(what, path=path, hint="keep one of the two lines")
    return aliases


def read_pairs(path: Path, contents: str, form: str) -> list[tuple[str, str]]:
    """Read the lines of a table of two columns, CSV or TSV, without comments (#) and blank lines.

    :param contents: what the table contains, in the plural, for messages.
    :param form: the required form, for the hint.
    :raises ExpressionError: it cannot be read, has a line without two cells, or is empty.
    """
    refuse_pipe(path, ExpressionError)
    try:
        pairs = _pairs(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ExpressionError(f"the {contents} could not be read ({error})", path=path, hint=form) from error
    except (ValueError, csv.Error) as error:
        raise ExpressionError(
            f"the {contents} are not a table of two columns: {error}", path=path, hint=form
        ) from error
    if not pairs:
        raise ExpressionError(f"the {contents} are empty", path=path, hint=form)
    return pairs


def _pairs(lines: Iterable[str]) -> list[tuple[str, str]]:
    pairs = []
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter="\t" if "\t" in line else ","))]
        if len(cells) != 2 or not all(cells):
            raise ValueError(f"line {line!r}")
        pairs.append((cells[0], cells[1]))
    return pairs
