"""The README's promises that other tests do not already run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command import wsipipe
from wsipipe.data.version import __version__

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


def test_ci_runs_the_test_command_of_the_readme_and_nothing_else() -> None:
    command = next(block for kind, block in BLOCKS if kind == "sh" and "pytest" in block).strip()
    ci = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert ci == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "rm -rf .venv", command]


def test_the_workflow_calls_the_same_command_and_builds_the_site() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    runs = re.findall(r"^ +- run: (.+)$", workflow, flags=re.MULTILINE)
    assert runs[0] == ".ci/run"
    assert runs[2] == ".venv/bin/python -m sphinx -W --keep-going -b html docs site"


def test_the_citation_is_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, flags=re.MULTILINE) == [__version__]


def test_the_demo_command_differs_from_the_test_command_in_what_it_runs_only() -> None:
    demo, tests = (next(b for k, b in BLOCKS if k == "sh" and word in b).strip() for word in ("wsipipe demo", "pytest"))
    assert demo.split(" && ")[0] == tests.split(" && ")[0]
    assert demo.split(" && ")[1] == tests.split(" && ")[1].replace("'.[test]'", ".")


PAGES = ["README.md", *sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "docs").rglob("*.md"))]
AT_THE_ROOT = ["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        for page in PAGES
        for kind, block in re.findall(r"```(\w*)\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
        if kind == "sh"
        for line in block.splitlines()
        if line.startswith("wsipipe ")
    }
)


def test_pages_lie_where_they_are_looked_for() -> None:
    assert {"docs/cohort.md", "docs/tutorials/own-slides.md", "docs/reference/commands.md"} < set(PAGES)
    assert {file.name for file in ROOT.glob("*.md")} == {"README.md", *AT_THE_ROOT}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_in_the_documentation_is_one_that_the_program_takes(line: str) -> None:
    """Its words are parsed; what it names is not here, so that it may fail for that (1, 2), but not for its flags."""
    words = shlex.split(line)[1:]
    result = wsipipe(*words, "--help")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("page", [*PAGES, *AT_THE_ROOT])
def test_links_lead_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", (ROOT / page).read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in _anchors(file), f"{target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_pictures_of_the_documentation_are_those_that_the_code_draws(tmp_path: Path) -> None:
    """Drawn on a smaller slide here: what is tested is that the code they explain still does what they show."""
    script = f"import draw; from pathlib import Path; draw.draw_all(Path({str(tmp_path)!r}), 900.0)"
    folder = ROOT / "docs/pictures"
    command = [sys.executable, "-B", "-c", script]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(folder)})
    drawn = {file.name for file in tmp_path.iterdir()}
    assert drawn == _pictures_shown_in(ROOT / "docs/tiling.md")


def test_every_picture_of_the_documentation_is_shown_in_it() -> None:
    shown = {name for page in PAGES for name in _pictures_shown_in(ROOT / page)}
    assert shown == {file.name for file in (ROOT / "docs/pictures").iterdir() if file.suffix in (".jpg", ".png")}


def _pictures_shown_in(page: Path) -> set[str]:
    return set(re.findall(r"!\[.*?\]\((?:\.\./|docs/)?pictures/(.+?)\)", page.read_text(encoding="utf-8")))


def test_every_folder_of_the_workspace_stands_in_the_readme() -> None:
    for name in ("tiles/", "features/", "genomics/", "models/", "predictions/"):
        assert name in README


@pytest.mark.parametrize("tool", [["ruff", "check", "."], ["ruff", "format", "--check", "."]])
def test_the_code_is_clean(tool: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_types_hold_in_the_installed_package(tmp_path: Path) -> None:
    """Checked from elsewhere, so that the clone's folder may have any name; an editable install is linked to."""
    import wsipipe

    place = Path(wsipipe.__file__).resolve().parent
    (tmp_path / "wsipipe").symlink_to(place)
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--no-incremental", "--cache-dir=/dev/null"]
    packages = [word for name in ("pipeline", "stages", "models", "data") for word in ("-p", f"wsipipe.{name}")]
    command = [sys.executable, "-m", "mypy", *options, *packages]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
