"""Command-line flags made from settings records: one flag a setting, so that the two cannot drift apart."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from ..stages.settings import Settings

Flags = dict[str, dict[str, Any]]
"""Values given on the command line, by section and setting; what was not given is None."""


def takes(**sections: type[Settings]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of some settings records; it receives the values given as its argument ``flags``.

    A setting whose name an earlier section has taken gets its section's name before it (``--split-seed``); one that the
    command takes as an argument of its own gets no flag.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        places: dict[str, tuple[str, str]] = {}
        parameters: list[inspect.Parameter] = []
        for section, settings in sections.items():
            for name, field in settings.model_fields.items():
                if name in own.parameters:
                    continue
                flag = f"{section}_{name}" if name in places else name
                places[flag] = (section, name)
                parameters.append(_parameter(flag, field, section))

        @functools.wraps(command)
        def with_flags(*args: Any, **given: Any) -> None:
            flags: Flags = {section: {} for section in sections}
            for flag, (section, name) in places.items():
                value = given.pop(flag)
                flags[section][name] = None if value in ([], ()) else value
            command(*args, flags=flags, **given)

        kept = [p for p in own.parameters.values() if p.name != "flags"]
        with_flags.__signature__ = own.replace(parameters=[*kept, *parameters])  # type: ignore[attr-defined]
        with_flags.__annotations__ = {p.name: p.annotation for p in [*kept, *parameters]}
        return with_flags

    return decorate


def _parameter(flag: str, field: FieldInfo, section: str) -> inspect.Parameter:
    default = "" if field.default is None or field.is_required() else f" (default: {_shown(field.default)})"
    option = typer.Option(
        help=(field.description or "") + default, show_default=False, rich_help_panel=f"Settings: {section}"
    )
    return inspect.Parameter(
        flag,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_optional(field.annotation), option],
    )


def _optional(kind: Any) -> Any:
    """The type as the command line knows it: always optional, since a flag that is not given overrides nothing."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) in (list, Literal) or kind in (str, int, float, bool, Path):
        return kind | None if get_origin(kind) is not Literal else Union[kind, None]  # noqa: UP007  Literal | None fails
    raise TypeError(f"no flag can be made for a setting of type {kind}")


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
