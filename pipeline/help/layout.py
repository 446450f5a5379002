"""The page of ``--help``: fits any width from 60 columns on, cuts no flag, and shows an example."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from .completion import COMPLETERS
from .examples import EXAMPLES, GROUPS
from .words import FIRST, LAST, OWN, may_be_repeated, word_for

_LEAST = 60
_TERM = 26
"""Columns of a flag with its word; the meaning of a longer one begins on the next line."""


_OF_TYPER = {
    "--help": "show this page",
    "--install-completion": "let this shell complete commands, flags and names",
    "--show-completion": "print what the shell needs for that",
}
"""Flags that typer adds, in our words."""


class App(typer.Typer):
    """A command line whose commands have the help of this module."""

    def command(self, name: str | None = None, **options: Any) -> Callable[..., Any]:
        """Register a command, with the completion of its values."""
        register = super().command(name, cls=HelpfulCommand, **options)

        def decorate(function: Callable[..., Any]) -> Any:
            _complete(function)
            return register(function)

        return decorate


def _complete(function: Callable[..., Any]) -> None:
    """Give the options of a function what completes their values."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    # Annotations that are texts would be evaluated again by typer, to other options than these.
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    for parameter in parameters:
        for about in getattr(parameter.annotation, "__metadata__", ()):
            if parameter.name in COMPLETERS and hasattr(about, "autocompletion"):
                about.autocompletion = COMPLETERS[parameter.name]


class HelpfulCommand(TyperCommand):
    """A command with a help page of its own."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page."""
        formatter.write("\n".join(_page(self, ctx)) + "\n")


class HelpfulGroup(TyperGroup):
    """The commands, in groups."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page."""
        formatter.write("\n".join(_front_page(self, ctx)) + "\n")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the page where no command is named; typer relies on its own page for that."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands, in the order of their groups."""
        grouped = [name for names in GROUPS.values() for name in names if name in self.commands]
        return [*grouped, *(name for name in self.commands if name not in grouped)]


def _front_page(group: Any, ctx: Any) -> Iterator[str]:
    yield "Usage: wsipipe [FLAGS] COMMAND [ARGUMENTS]"
    yield ""
    yield from _wrapped(group.help or "", "  ")
    listed = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "Further": tuple(name for name in group.commands if name not in listed)}
    for title, names in groups.items():
        rows = [(name, _first_paragraph(group.commands[name])) for name in names if name in group.commands]
        if rows:
            yield from _section(title, rows, 20)
    yield from _section(OWN, _rows(group.get_params(ctx), {}), _TERM)
    yield ""
    yield "wsipipe COMMAND --help shows an example and every setting of a command."


def _first_paragraph(command: Any) -> str:
    return " ".join((command.help or "").split("\n\n")[0].split())


def _page(command: Any, ctx: Any) -> Iterator[str]:
    kinds = _kinds(command)
    parameters = [parameter for parameter in command.get_params(ctx) if not getattr(parameter, "hidden", False)]
    arguments = [own for own in parameters if own.param_type_name == "argument"]
    usage = " ".join(["Usage: wsipipe", command.name, "[FLAGS]", *(_argument(own, kinds) for own in arguments)])
    yield from _wrapped(usage, "", "    ")
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield ""
        yield from _wrapped(" ".join(paragraph.split()), "  ")
    if examples := EXAMPLES.get(command.name):
        yield ""
        yield "Example:" if len(examples) == 1 else "Examples:"
        for example in examples:
            yield from (f"  {line}" for line in example.splitlines())
    if arguments:
        yield from _section("Arguments", _rows(arguments, kinds), _TERM)
    panels: dict[str, list[Any]] = {}
    for own in parameters:
        if own not in arguments:
            panels.setdefault(getattr(own, "rich_help_panel", None) or OWN, []).append(own)
    if help_flag := [own for own in panels.get(OWN, []) if "--help" in own.opts]:
        panels[OWN] = [own for own in panels[OWN] if own not in help_flag]
        panels.setdefault(LAST[-1], []).extend(help_flag)
    for title in sorted(panels, key=_rank):
        if panels[title]:
            yield from _section(title, _rows(panels[title], kinds), _TERM)


def _rank(title: str) -> int:
    """Where a group of flags stands: the command's own first, what every command has last."""
    order = (*FIRST, "", *LAST)
    return order.index(title) if title in order else len(FIRST)


def _kinds(command: Any) -> dict[str, Any]:
    """The types of a command's parameters, from the function that it calls."""
    function = inspect.unwrap(command.callback)
    return {own.name: own.annotation for own in inspect.signature(function, eval_str=True).parameters.values()}


def _argument(argument: Any, kinds: dict[str, Any]) -> str:
    word = word_for(argument.name, kinds.get(argument.name, str)) + ("..." if argument.nargs == -1 else "")
    return word if argument.required else f"[{word}]"


def _rows(parameters: Iterable[Any], kinds: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for own in parameters:
        kind = kinds.get(own.name, bool)
        if own.param_type_name == "argument":
            rows.append((_argument(own, kinds).strip("[]"), own.help or ""))
            continue
        flags = ", ".join(sorted(own.opts, key=len, reverse=True))
        if own.secondary_opts:
            flags += f" / {', '.join(own.secondary_opts)}"
        word = word_for(own.name, kind)
        meaning = next((words for flag, words in _OF_TYPER.items() if flag in own.opts), own.help or "")
        meaning += "; may be repeated" if may_be_repeated(kind) else ""
        meaning += (
            f" (default: {getattr(own.default, 'value', own.default)})"
            if getattr(own, "show_default", False) and _shown(own)
            else ""
        )
        meaning += " (required)" if own.required else ""
        rows.append((f"{flags} {word}".rstrip(), meaning))
    return rows


def _shown(option: Any) -> bool:
    """Whether an option has a default that its help does not say already."""
    default = option.default
    return default not in (None, False, True, "") and not callable(default) and "default" not in (option.help or "")


def _section(title: str, rows: list[tuple[str, str]], width: int) -> Iterator[str]:
    """A title, and below it terms with their meanings; after a term that is too long the meaning begins a new line."""
    yield ""
    yield f"{title}:"
    for term, meaning in rows:
        lines = list(_wrapped(meaning, " " * (width + 4)))
        if len(term) <= width and lines:
            lines[0] = f"  {term.ljust(width)}  {lines[0].strip()}"
        else:
            lines = [f"  {term}", *lines]
        yield from lines


def _wrapped(text: str, first: str, others: str | None = None) -> list[str]:
    width = max(_LEAST, shutil.get_terminal_size().columns)
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=first if others is None else others,
        break_long_words=False,
        break_on_hyphens=False,
    )
