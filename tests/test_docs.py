"""The documentation site: it is built without a warning, its reference is the code's, and what its pages say works."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import wsipipe
from trained_workspace import trained_workspace
from wsipipe.data import errors
from wsipipe.data.cohort.table import read_cohort
from wsipipe.pipeline.cli import app
from wsipipe.pipeline.config import Config, parse
from wsipipe.stages.registry import STAGES
from wsipipe.stages.settings import Settings
from wsipipe.stages.train.settings import BiomarkerSettings

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
GUIDES = [*DOCS.glob("tutorials/*.md"), *DOCS.glob("explanation/*.md"), *DOCS.glob("reference/*.md")]
DEMO = "wsipipe-demo/wsipipe.toml"
"""The settings file that the notebook names."""
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)
NOT_RUN = "# not run"
"""How a block of commands begins that no test can run; the reason follows."""


def blocks(page: Path, kind: str) -> list[str]:
    """The blocks of one language on a page."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [textwrap.dedent(text) for _, language, text in found if language == kind]


@pytest.fixture(scope="module")
def from_code() -> ModuleType:
    spec = importlib.util.spec_from_file_location("from_code", DOCS / "reference/from_code.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_nb", "myst_parser", "furo"):
        pytest.importorskip(package, reason="the site needs the packages of the extra docs")
    command = [sys.executable, "-B", "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    command += ["-d", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr + done.stdout
    made = {file.relative_to(tmp_path / "site").with_suffix(".md") for file in (tmp_path / "site").rglob("*.html")}
    assert made >= {page.relative_to(DOCS) for page in DOCS.rglob("*.md")}
    commands = (tmp_path / "site/reference/commands.html").read_text(encoding="utf-8")
    assert "--mpp-override" in commands
    assert "<math" in (tmp_path / "site/explanation/method.html").read_text(encoding="utf-8")
    notebook = (tmp_path / "site/tutorials/notebook.html").read_text(encoding="utf-8")
    assert "called rightly" in notebook
    assert notebook.count('src="../_images/') == 2
    for page in (tmp_path / "site").rglob("*.html"):  # nothing is fetched when a page is read
        assert not re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"https?://", page.read_text(encoding="utf-8"))


def test_the_site_is_pinned_and_tested_with_what_it_needs() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pins = [line for line in (DOCS / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [pin.partition("==")[0] for pin in pins] == [package.partition(">=")[0] for package in extras["docs"]]
    assert set(extras["docs"]) < set(extras["test"])


def test_the_reference_has_every_command_and_every_setting(from_code: ModuleType) -> None:
    commands, settings = from_code.commands(), from_code.settings()
    names = [info.name or info.callback.__name__ for info in app.registered_commands if info.callback]
    assert re.findall(r"^## (.+)$", commands, flags=re.MULTILINE) == names
    assert len(names) >= 18
    assert "| `--native-tolerance` | number |" in commands
    assert "| `--level-policy` | `coarsest`, `finest`, `nearest` |" in commands
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    for section, kind in [*sections.items(), ("biomarkers.NAME", BiomarkerSettings)]:
        if isinstance(kind, type) and issubclass(kind, Settings):
            part = settings.partition(f"## [{section}]\n")[2].partition("\n## ")[0]
            assert re.findall(r"^\| `(\w+)` \|", part, flags=re.MULTILINE) == list(kind.model_fields)
    assert "| `mpp` | meaning | `0.5` | resolution of the tiles" in settings
    assert "| `device` | machine |" in settings
    assert "| `max_bad_tiles` | judgement |" in settings


def test_the_reference_has_every_stage_and_every_error(from_code: ModuleType) -> None:
    stages = from_code.stages()
    assert all(f"| `{row.name}` | {row.version} |" in stages for row in STAGES)
    fates = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*? \| \d) \|$", from_code.error_tree(), flags=re.MULTILINE))
    kinds = {n for n, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.WsipipeError)}
    assert fates.keys() == kinds - {"WsipipeError"}
    assert {name for name, fate in fates.items() if fate.endswith("2")} == {"UsageError", "BusyError"}
    assert fates["DeviceError"] == "by the next run | 1"
    assert fates["SlideError"].startswith("when the input changes")


def test_messages_are_read_from_the_code_with_their_hints(from_code: ModuleType) -> None:
    messages = from_code.messages()
    assert messages.count("\n| ") > 500
    assert "| truncated: at least … bytes are missing at its end | copy it again from where it came |" in messages
    assert "| --gpu … names no GPU | give a number such as 0, several such as 0,1, or all |" in messages
    hint = "give its µm per pixel with --mpp-override, or in an `mpp` column of the cohort table"
    assert f"| the file does not state the size of a pixel (no mpp) | {hint} |" in messages  # a constant of the module


def test_troubleshooting_quotes_what_the_code_says() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8").partition("## Every message")[0]
    quoted = re.findall(r"^\| `(.+?)` \|", text, flags=re.MULTILINE)
    assert len(quoted) >= 9
    code = "\n".join(
        file.read_text(encoding="utf-8") for room in ("data", "models", "stages", "pipeline")
        for file in (ROOT / room).rglob("*.py")
    )  # fmt: skip
    joined = re.sub(r"\"\s*\n\s*f?\"", "", code)
    for words in quoted:
        assert all(part.strip() in joined for part in words.split("…")), words


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_commands_are_wsipipes_or_say_why_no_test_runs_them(page: Path) -> None:
    """Those of wsipipe are parsed in test_readme.py, with every flag."""
    for block in blocks(page, "sh"):
        if not block.startswith(NOT_RUN):
            assert all(line.startswith("wsipipe ") for line in block.splitlines() if line.strip()), block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_on_the_pages_are_settings(page: Path) -> None:
    for block in blocks(page, "toml"):
        parse(tomllib.loads(block))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_on_the_pages_names_what_there_is(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")
        assert all(hasattr(wsipipe, name) for name in re.findall(r"\bwsipipe\.(\w+)", block))


def test_the_example_of_the_python_api_runs(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = trained_workspace(tmp_path_factory.getbasetemp()).settings
    script = DOCS / "examples/read_a_workspace.py"
    done = subprocess.run([sys.executable, "-B", script, settings], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^train: 0 done, 2 before, 0 failed$", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^er: logit [+-]\d", done.stdout, flags=re.MULTILINE)
    assert len(re.findall(r"attention 0\.\d+ at x \d+, y \d+", done.stdout)) == 3


def test_the_notebook_runs_and_shows_what_it_shows_of_the_demo(tmp_path_factory: pytest.TempPathFactory) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    shown = nbformat.read(DOCS / "tutorials/notebook.ipynb", as_version=4)
    nbformat.validate(shown)
    mine = nbformat.read(DOCS / "tutorials/notebook.ipynb", as_version=4)
    [cell] = [cell for cell in mine.cells if DEMO in cell.source]
    settings = trained_workspace(tmp_path_factory.getbasetemp()).settings
    cell.source = cell.source.replace(DEMO, str(settings))
    nbclient.NotebookClient(mine, timeout=120, kernel_name="python3").execute()
    for own, of_demo in zip(mine.cells, shown.cells, strict=True):
        if own.cell_type == "code":
            assert _kinds(own) == _kinds(of_demo), own.source
    assert "called rightly" in json.dumps(shown.cells)


def _kinds(cell: Any) -> list[tuple[str, list[str]]]:
    """What kinds of output a cell has, beside warnings of libraries."""
    shown = [output for output in cell.outputs if output.get("name") != "stderr"]
    return [(output.output_type, sorted(output.get("data", {}))) for output in shown]


def test_the_table_of_the_tcga_tutorial_is_one_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tutorial's own lines, on a sample sheet and a clinical file in the forms of the GDC."""
    name = "TCGA-3C-AALK-01Z-00-DX1.4E6EB156-BB19-410F-878F-FC0EA7BD0B53.svs"
    sheet = {"File ID": ["a1"], "File Name": [name], "Data Type": ["Slide Image"], "Case ID": ["TCGA-3C-AALK"]}
    pd.DataFrame(sheet).to_csv(tmp_path / "slides_sheet.tsv", sep="\t", index=False)
    columns = ["bcr_patient_barcode", "er_status_by_ihc", "pr_status_by_ihc", "her2_status_by_ihc"]
    rows = [columns, columns, ["CDE_ID:2003301", "CDE_ID:2957359", "CDE_ID:2957357", "CDE_ID:2957563"]]
    rows += [["TCGA-3C-AALK", "Positive", "Positive", "[Not Evaluated]"], ["TCGA-3C-AAAA", "Positive", "Negative", ""]]
    text = "\n".join("\t".join(row) for row in rows)
    (tmp_path / "nationwidechildrens.org_clinical_patient_brca.txt").write_text(text + "\n")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(DOCS / "tutorials/tcga-brca.md", "python")
    exec(compile(code, "tcga-brca.md", "exec"), {})
    table = read_cohort(tmp_path / "cohort.csv")
    assert table.patients == ("TCGA-3C-AALK",)
    row = table.frame.iloc[0]
    assert row["slide_id"] == name.removesuffix(".svs")
    assert (row["site"], row["her2_status_by_ihc"]) == ("3C", "[Not Evaluated]")
