"""Command-line flags made from the settings classes: one flag for each setting, so that the two always agree."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import ByteSize
from pydantic.fields import FieldInfo

from ..stages.settings import Settings
from .help.words import title_of

Flags = dict[str, dict[str, Any]]
"""Values given on the command line, by section and setting; None where a flag was not given."""


class SectionFlags:
    """The flags of several sections of the settings.

    If an earlier section has a setting of the same name, the flag begins with its section (``--split-seed``).

    :param sections: section of the settings file → its settings class.
    :param taken: names that the command uses itself; no flags are made for them.
    :param hidden: names whose flags the help does not show: the command accepts them only to refuse them with a hint.
    """

    def __init__(
        self, sections: Mapping[str, type[Settings]], taken: frozenset[str], hidden: frozenset[str] = frozenset()
    ) -> None:
        self.parameters: list[inspect.Parameter] = []
        self._sections = tuple(sections)
        self._places: dict[str, tuple[str, str]] = {}
        for section, settings in sections.items():
            for name, field in settings.model_fields.items():
                if name not in taken:
                    flag = f"{section}_{name}" if name in self._places else name
                    self._places[flag] = (section, name)
                    self.parameters.append(_parameter(flag, field, section, hidden=name in hidden))

    def take_from(self, arguments: dict[str, Any]) -> Flags:
        """Move the flags' values out of a command's arguments."""
        flags: Flags = {section: {} for section in self._sections}
        for flag, (section, name) in self._places.items():
            value = arguments.pop(flag)
            flags[section][name] = None if value in ([], ()) else value
        return flags


def give_signature(
    function: Callable[..., None], parameters: list[inspect.Parameter], like: Callable[..., None]
) -> None:
    """Give a function the name and docstring of another, and a signature of these parameters (typer reads it)."""
    function.__name__, function.__doc__ = like.__name__, like.__doc__
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def _parameter(flag: str, field: FieldInfo, section: str, *, hidden: bool) -> inspect.Parameter:
    unset = field.is_required() or field.default in (None, [], "")
    default = "" if unset else f" (default: {_shown(field.default)})"
    option = typer.Option(
        help=(field.description or "") + default,
        show_default=False,
        rich_help_panel=title_of(section),
        hidden=hidden,
    )
    return inspect.Parameter(
        flag,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_optional(field.annotation), option],
    )


def _optional(kind: Any) -> Any:
    """The type of the flag: always optional, since a flag that is not given overrides nothing."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(k for k in get_args(kind) if k is not type(None))
    if kind is ByteSize:  # a text such as 16GB, which the settings read
        return str | None
    if get_origin(kind) is Literal:
        return Union[kind, None]  # noqa: UP007  a Literal has no | operator at run time
    if get_origin(kind) is list or kind in (str, int, float, bool, Path):
        return kind | None
    raise TypeError(f"no flag can be made for a setting of type {kind}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
