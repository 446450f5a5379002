"""Help on a terminal of 80 columns, an example for each command, and what the shell completes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from command import wsipipe
from wsipipe.models.backbones.registry import registry
from wsipipe.pipeline.cli import app
from wsipipe.pipeline.help.completion import COMPLETERS
from wsipipe.pipeline.help.examples import EXAMPLES, GROUPS

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_80_columns_and_cuts_nothing(command: str) -> None:
    page = wsipipe(*command.split(), "--help").stdout
    assert max(map(len, page.splitlines())) <= 80
    flags = re.findall(r"(?<![\w-])--?[a-z][^\s,;`)]*", page)
    assert not [flag for flag in flags if "…" in flag], "a flag is cut"
    assert not re.search(r"<(str|int|float|path|bool|list)\b|\bTEXT\b", page), "a type in place of a word"
    of_command = typer.main.get_command(app).commands.get(command)  # type: ignore[attr-defined]
    for parameter in of_command.params if of_command else ():
        for flag in () if parameter.hidden or parameter.param_type_name == "argument" else parameter.opts:
            assert re.search(rf"^  (?:\S+, )?{flag}(?:[ ,]|$)", page, re.MULTILINE), flag


def test_the_first_page_has_every_command_in_a_group_and_demo_first() -> None:
    page = wsipipe("--help").stdout
    assert "Further:" not in page
    assert [*COMMANDS] == sorted(name for names in GROUPS.values() for name in names)
    assert re.findall(r"^  ([a-z-]+)  ", page, re.MULTILINE)[0] == "demo"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_examples_that_the_command_line_accepts(command: str) -> None:
    page = wsipipe(command, "--help").stdout
    group = typer.main.get_command(app)
    for example in EXAMPLES[command]:
        assert all(f"  {line}" in page for line in example.splitlines())
        for line in example.replace("\\\n", " ").split("&&"):
            program, name, *words = shlex.split(line)
            assert program == "wsipipe"
            group.commands[name].make_context(name, words)  # type: ignore[attr-defined]  # refuses wrong words


def completed(shell: str, line: str, folder: Path) -> list[str]:
    """What the shell is offered for a line, by the protocol of its completion script."""
    words = {"_TYPER_COMPLETE_ARGS": line} if shell in ("zsh", "fish") else {"COMP_WORDS": line, "COMP_CWORD": ""}
    if shell == "bash":
        words["COMP_CWORD"] = str(len(line.split(" ")) - 1)
    place = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, **words, "_WSIPIPE_COMPLETE": f"complete_{shell}", "PYTHONPATH": place}
    script = "import sys; sys.argv[0] = 'wsipipe'; from wsipipe.pipeline.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return re.findall(r'"([^"\s:()]+)"', done.stdout) if shell == "zsh" else done.stdout.split()


@pytest.mark.parametrize(
    ("shell", "line", "offered"),
    [
        ("bash", "wsipipe ex", {"extract", "export"}),
        ("bash", "wsipipe extract --backbone uni", {name for name in registry() if name.startswith("uni")}),
        ("bash", "wsipipe predict --model h", {"her2"}),
        ("zsh", "wsipipe train --method ab", {"abmil"}),
        ("zsh", "wsipipe genomics --unit rs", {"rsem"}),
        ("zsh", "wsipipe clean models/", {"models/her2"}),
    ],
)
def test_the_shell_completes(tmp_path: Path, shell: str, line: str, offered: set[str]) -> None:
    (tmp_path / "work/models/her2").mkdir(parents=True)
    assert set(completed(shell, line, tmp_path)) == offered


@pytest.mark.parametrize("name", sorted(COMPLETERS))
def test_what_completes_begins_with_what_was_typed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("tiles/0.5mpp-224px", "features/0.5mpp-224px/uni", "models/her2"):
        (tmp_path / "work" / folder).mkdir(parents=True)
    (tmp_path / "wsipipe.toml").write_text('[biomarkers.er]\nlabel_column = "ER"\n')
    everything = COMPLETERS[name]("")
    assert everything
    assert set(COMPLETERS[name](everything[0][:2])) == {
        word for word in everything if word.startswith(everything[0][:2])
    }
    (tmp_path / "wsipipe.toml").write_text("no settings [")
    assert COMPLETERS[name]("zzz") == []


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_for_a_shell_is_printed(shell: str, tmp_path: Path) -> None:
    place = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": place, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    words = ["wsipipe", "--show-completion", shell]
    script = f"import sys; sys.argv = {words}; from wsipipe.pipeline.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "_WSIPIPE_COMPLETE=" in done.stdout
