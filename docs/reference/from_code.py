"""Parts of the reference that are made from the code when the site is built, so that they cannot be out of date.

A page says where one belongs::

    ```{from-code} settings
    ```

Each function below returns Markdown, and its name is what the page asks for.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
import wsipipe
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.core import TyperArgument, TyperGroup
from wsipipe.data import errors
from wsipipe.data.features import store as features
from wsipipe.data.manifest import SCHEMA, ErrorRecord, InputRecord, OutputRecord, Record
from wsipipe.data.molecular import store as expression
from wsipipe.data.tiling import store as tiles
from wsipipe.models import bundle
from wsipipe.pipeline.cli import app as command_line
from wsipipe.pipeline.config import Config
from wsipipe.stages.predict.prediction_table import COLUMNS
from wsipipe.stages.registry import STAGES
from wsipipe.stages.settings import Settings
from wsipipe.stages.train.settings import BiomarkerSettings

PACKAGE = Path(wsipipe.__file__).parent


# ----- the command line -----


def commands() -> str:
    """Every command with its arguments and flags, from the command line's own tree."""
    group = typer.main.get_command(command_line)
    assert isinstance(group, TyperGroup)
    functions = {
        info.name or getattr(info.callback, "__name__", ""): info.callback for info in command_line.registered_commands
    }
    return "\n\n".join(_command(name, command, functions[name]) for name, command in group.commands.items())


def _command(name: str, command: Any, function: Callable[..., Any] | None) -> str:
    assert function is not None
    kinds = {p.name: p.annotation for p in inspect.signature(function, eval_str=True).parameters.values()}
    parameters = [p for p in command.params if not p.hidden and "--help" not in p.opts]
    arguments = [p for p in parameters if isinstance(p, TyperArgument)]
    usage = " ".join(["wsipipe", name, *map(_argument, arguments), "[flags]"])
    parts = [f"## {name}", f"```text\n{usage}\n```", _text(inspect.cleandoc(command.help or ""))]
    if arguments:
        parts.append(_table(["argument", "meaning"], [[f"`{p.name.upper()}`", _cell(p.help)] for p in arguments]))
    panels: dict[str, list[Any]] = {}
    for option in parameters:
        if option not in arguments:
            panels.setdefault(option.rich_help_panel or "Options", []).append(option)
    for panel, options in panels.items():
        rows = [[_flags(option), _value(kinds[option.name]), _cell(option.help)] for option in options]
        parts.append(f"**{panel}**\n\n" + _table(["flag", "value", "meaning"], rows))
    return "\n\n".join(parts)


def _argument(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _flags(option: Any) -> str:
    return ", ".join(f"`{flag}`" for flag in [*option.opts, *option.secondary_opts])


def _value(kind: Any) -> str:
    """What a flag takes, in words; of one that is on or off nothing."""
    if get_origin(kind) is Annotated:
        return _value(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return _value(next(part for part in get_args(kind) if part is not NoneType))
    if get_origin(kind) is list:
        return f"{_value(get_args(kind)[0])}; may be repeated"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{choice.value}`" for choice in kind)
    return {str: "text", int: "whole number", float: "number", bool: "", Path: "path"}[kind]


# ----- the settings file -----


def settings() -> str:
    """Every setting of ``wsipipe.toml``, by section."""
    parts = [
        "## workspace",
        _table(["setting", "default", "meaning"], [_setting("workspace", Config.model_fields["workspace"])]),
    ]
    for section, field in Config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Settings):
            parts += [f"## [{section}]", _text(kind.__doc__ or ""), _settings_table(kind)]
    parts += [
        "## [biomarkers.NAME]",
        "A table for each biomarker; the model is called NAME.",
        _settings_table(BiomarkerSettings),
    ]
    return "\n\n".join(parts)


def _settings_table(section: type[Settings]) -> str:
    rows = [
        [name_cell, section.kind(name), default, meaning]
        for name, field in section.model_fields.items()
        for name_cell, default, meaning in [_setting(name, field)]
    ]
    return _table(["setting", "kind", "default", "meaning"], rows)


def _setting(name: str, field: FieldInfo) -> list[str]:
    if field.is_required():
        default = "(required)"
    else:
        default = "" if field.default is None else f"`{json.dumps(field.default, default=str)}`"
    return [f"`{name}`", default, _cell(field.description)]


# ----- stages, errors -----


def stages() -> str:
    """The stages with their versions, folders and outputs."""
    rows = [
        [
            f"`{row.name}`",
            str(row.version),
            f"`wsipipe {row.made_by}`",
            ", ".join(f"`{folder}`" for folder in row.folders),
            ", ".join(f"`{output.pattern}`" for output in row.outputs),
        ]
        for row in STAGES
    ]
    return _table(["stage", "version", "command", "folders in the workspace", "outputs"], rows)


def error_tree() -> str:
    """The classes of errors: what each means, when its item is tried again, and the exit code of the command."""
    rows = []
    for kind in _error_classes():
        above = kind.__mro__[1].__name__ if kind is not errors.WsipipeError else ""
        meaning = _cell((inspect.getdoc(kind) or "").partition("\n")[0])
        rows.append([f"`{kind.__name__}`", f"`{above}`" if above else "", meaning, *_fate(kind)])
    return _table(["error", "is a", "meaning", "tried again", "exit code"], rows)


def _error_classes() -> list[type[errors.WsipipeError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.WsipipeError)]


def _fate(kind: type[errors.WsipipeError]) -> tuple[str, str]:
    if kind is errors.WsipipeError:
        return "", ""
    if issubclass(kind, errors.UsageError | errors.BusyError):
        return "nothing has begun", "2"
    if issubclass(kind, errors.SurroundingsError):
        return "by the next run", "1"
    if issubclass(kind, errors.BundleError | errors.StoreError):
        return "by the next run, if the file is in the workspace; otherwise when it changes", "1"
    return "when the input changes, or with `--retry-failed`", "1"


def messages() -> str:
    """Every message that the code raises as an error of ours, with its way out, by class; … stands for what varies."""
    found: dict[str, set[tuple[str, str]]] = {kind.__name__: set() for kind in _error_classes()}
    trees = [
        ast.parse(file.read_text(encoding="utf-8"))
        for room in ("data", "models", "stages", "pipeline")
        for file in sorted((PACKAGE / room).rglob("*.py"))
    ]
    constants = {name: value for tree in trees for _, name, value in _assigned(tree.body)}
    for tree in trees:
        for name, what, hint in raised(tree, constants):
            if name in found and re.search(r"[a-zA-Z]{2}", what):
                found[name].add((what, hint))
    parts = []
    for name, said in found.items():
        if said:
            rows = [[_cell(what), _cell(hint)] for what, hint in sorted(said, key=lambda s: s[0].lower().lstrip("… "))]
            parts.append(f"### {name}\n\n" + _table(["message", "way out"], rows))
    return "\n\n".join(parts)


def raised(tree: ast.Module, constants: Mapping[str, ast.expr]) -> Iterator[tuple[str, str, str]]:
    """Class, message and hint of each error that a module makes.

    :param constants: texts of all modules, by their names.
    """
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    assigned = cache(lambda function: list(_assigned(ast.walk(function))))
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        if name.endswith("Error") and call.args:
            before = [
                found
                for function in functions
                if function.lineno <= call.lineno <= (function.end_lineno or 0)
                for found in assigned(function)
                if found[0] < call.lineno
            ]
            own = {variable: value for _, variable, value in sorted(before, key=lambda b: b[0])}
            texts = ChainMap(own, constants)
            hint = next((word.value for word in call.keywords if word.arg == "hint"), None)
            yield name, _template(call.args[0], texts), _template(hint, texts) if hint is not None else ""


def _assigned(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str, ast.expr]]:
    """Line, name and value of the assignments among nodes."""
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield node.lineno, target.id, node.value


def _template(node: ast.expr, texts: Mapping[str, ast.expr]) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return re.sub("…+", "…", "".join(_template(part, {}) for part in parts))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return re.sub("…+", "…", _template(left, texts) + _template(right, texts))
        case ast.Name(id=name) if name in texts:
            return _template(texts[name], {})
        case _:
            return "…"


# ----- files -----


def versions() -> str:
    """The formats of files and their versions."""
    rows = [
        ["`manifest.jsonl`", "schema", str(SCHEMA)],
        ["tiles, `<slide>.h5`", tiles.ENCODING_TYPE, tiles.ENCODING_VERSION],
        ["features, `<slide>.zarr`", features.ENCODING_TYPE, features.ENCODING_VERSION],
        ["expression, `expression.zarr`", expression.ENCODING_TYPE, expression.ENCODING_VERSION],
        ["bundle, `fold-<n>/`", bundle.ENCODING_TYPE, bundle.ENCODING_VERSION],
    ]
    return _table(["file", "type", "version"], rows)


def record() -> str:
    """The fields of a manifest's line."""
    parts = [f"### {title}\n\n" + _fields(kind) for title, kind in (
        ("A record", Record), ("One of `inputs`", InputRecord), ("One of `outputs`", OutputRecord),
        ("`error`", ErrorRecord),
    )]  # fmt: skip
    return "\n\n".join(parts)


def tile_set() -> str:
    """What a slide's tile file holds."""
    return _fields(tiles.TileSet)


def feature_facts() -> str:
    """The attributes of a feature store."""
    return _fields(features.FeatureFacts)


def bundle_facts() -> str:
    """The fields of ``bundle.json``."""
    return _fields(bundle.BundleFacts)


def prediction_columns() -> str:
    """The columns of ``predictions.csv``."""
    return "Columns: " + ", ".join(f"`{name}`" for name in COLUMNS) + "."


def _fields(kind: type) -> str:
    [body] = ast.parse(inspect.getsource(kind)).body
    assert isinstance(body, ast.ClassDef)
    rows = []
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
            about = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                about = inspect.cleandoc(str(after.value.value))
            rows.append([f"`{node.target.id}`", f"`{ast.unparse(node.annotation)}`", _cell(about)])
    return _table(["field", "type", "meaning"], rows)


# ----- the Python API -----


def python() -> str:
    """The public names of the package, with their docstrings."""
    entries = []
    for name in sorted(wsipipe._PLACES, key=str.lower):
        value = getattr(wsipipe, name)
        if not isinstance(value, type):
            entries.append(f".. autofunction:: wsipipe.{name}")
        elif issubclass(value, BaseModel):
            entries.append(f".. autoclass:: wsipipe.{name}(**sections)\n   :exclude-members: __init__, __new__")
        else:
            entries.append(f".. autoclass:: wsipipe.{name}\n   :members:")
    return "```{eval-rst}\n" + "\n\n".join(entries) + "\n```"


# ----- Markdown -----


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def _text(text: str) -> str:
    """Docstrings as Markdown: their ``code`` and roles are written in back quotes, and nothing is HTML."""
    text = re.sub(r":[a-z]+:`~?\.*([^`]*?)`", lambda found: f"`{found[1].split('.')[-1]}`", text)
    text = text.replace("``", "`")
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([<>*_\[\]$\\])", r"\\\1", piece) for piece in pieces)


def _cell(text: str | None) -> str:
    return _text(re.sub(r"\s*\n\s*", " ", text or "")).replace("|", "\\|")


PARTS: dict[str, Callable[[], str]] = {
    part.__name__.replace("_", "-"): part
    for part in (
        commands, settings, stages, error_tree, messages, versions, record, tile_set, feature_facts, bundle_facts,
        prediction_columns, python,
    )
}  # fmt: skip


def setup(app: Any) -> dict[str, Any]:
    """Register the directive; called by Sphinx."""
    from docutils import nodes
    from sphinx.util.docutils import SphinxDirective

    class FromCode(SphinxDirective):
        """Puts one part in its place."""

        required_arguments = 1

        def run(self) -> list[nodes.Node]:
            """The part's nodes."""
            self.env.note_dependency(__file__)
            return self.parse_text_to_nodes(PARTS[self.arguments[0]](), allow_section_headings=True)

    app.add_directive("from-code", FromCode)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
