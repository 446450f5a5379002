"""Known names of columns and values in users' tables, read from ``columns.toml``."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files


def plain_name(name: str) -> str:
    """A column's name for comparison: lower case, without spaces and punctuation (``Slide ID`` → ``slideid``)."""
    return re.sub(r"[\W_]+", "", name.casefold())


@cache
def names(section: str, key: str) -> tuple[str, ...]:
    """One list of ``columns.toml``.

    :raises KeyError: there is no such list.
    """
    return tuple(_tables()[section][key])


@cache
def plain_names(section: str, key: str) -> tuple[str, ...]:
    """One list of ``columns.toml``, each name converted by :func:`plain_name`, in the same order."""
    return tuple(dict.fromkeys(plain_name(name) for name in names(section, key)))


@cache
def label_words(kind: str) -> frozenset[str]:
    """Words of one kind (``missing``, ``not_evaluated``, ``equivocal``) in lower case, plain and in square brackets."""
    plain = {word.casefold() for word in names("label", kind)}
    return frozenset(plain | {f"[{word}]" for word in plain})


@cache
def _tables() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads(files(__package__).joinpath("columns.toml").read_text(encoding="utf-8"))
