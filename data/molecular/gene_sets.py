"""Gene sets in the Broad Institute's GMT format: one set per line, with name, description and genes by tabs."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

from ..errors import ExpressionError, about
from ..files.packed import unpacked
from ..plain_files import refuse_pipe


def read_gmt(path: Path) -> dict[str, tuple[str, ...]]:
    """Read gene sets: name → genes, in the file's order; each gene counts once in a set.

    Plain or gzip, recognised by the first bytes; UTF-8 with or without a byte order mark. Blank lines and lines that
    begin with ``#`` are skipped; the description (the second field) is not kept.

    :raises ExpressionError: the file cannot be read, has no sets, a wrong line, or one name twice; the message gives
        the line.
    """
    sets: dict[str, tuple[str, ...]] = {}
    line_of: dict[str, int] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *rest = (cell.strip() for cell in line.split("\t"))
        genes = tuple(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not name:
            raise ExpressionError(f"line {number}: a gene set without a name", path=path, hint=_FORMAT)
        if not genes:
            raise ExpressionError(f"line {number}: the gene set {name[:60]!r} has no genes", path=path, hint=_FORMAT)
        if name in sets:
            what = f"line {number}: the gene set {name!r} is already on line {line_of[name]}"
            raise ExpressionError(what, path=path, hint="give each set a name of its own")
        sets[name], line_of[name] = genes, number
    if not sets:
        raise ExpressionError("there is no gene set in it", path=path, hint=_FORMAT)
    return sets


_FORMAT = "a .gmt line is: name, description, gene, gene, …, separated by tabs"


def _text(path: Path) -> str:
    refuse_pipe(path, ExpressionError)
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            with about(path), unpacked(io.BytesIO(content), len(content)) as stream:
                content = stream.read()
        return content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ExpressionError("there is no such file", path=path, hint="check the path of the gene sets") from error
    except UnicodeDecodeError as error:
        what = f"is not text in UTF-8 (byte {error.start})"
        raise ExpressionError(what, path=path, hint="give a .gmt file, plain or gzip") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ExpressionError(f"cannot be read ({error})", path=path, hint="copy the file again") from error
