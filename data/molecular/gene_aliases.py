"""What genes were called before: a small table (``gene_aliases.tsv``), or a user's own."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from ..errors import ExpressionError

_FORM = "two columns: the name in the matrix, the name it shall have; tabs or commas between them"


@cache
def shipped_aliases() -> Mapping[str, str]:
    """Former name → approved symbol."""
    return dict(_pairs(files(__package__).joinpath("gene_aliases.tsv").read_text(encoding="utf-8").splitlines()))


def read_aliases(path: Path) -> Mapping[str, str]:
    """A user's table. Ensembl ids may be turned into symbols with it, too.

    :raises ExpressionError: it is no such table, or gives one name two meanings.
    """
    aliases: dict[str, str] = {}
    for name, symbol in read_pairs(path, "aliases", _FORM):
        if aliases.setdefault(name, symbol) != symbol:
            what = f"{name} stands for both {aliases[name]} and {symbol}"
            raise ExpressionError(what, path=path, hint="keep one of the two lines")
    return aliases


def read_pairs(path: Path, contents: str, form: str) -> list[tuple[str, str]]:
    """The lines of a table of two columns, CSV or TSV, without comments (#) and blank lines.

    :param contents: what is in it, in the plural.
    :param form: how it must look.
    :raises ExpressionError: it cannot be read, a line has not two cells, or there is none.
    """
    try:
        pairs = _pairs(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ExpressionError(f"the {contents} could not be read ({error})", path=path, hint=form) from error
    except ValueError as error:
        raise ExpressionError(f"the {contents} are no table of two columns: {error}", path=path, hint=form) from error
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
