"""The mistakes that a user can make at `check`, `predict`, `evaluate` and `view`, and what is printed.

This is the table in docs/troubleshooting.md. If a message changes, the test names a file with the new page.
"""

from __future__ import annotations

import re
import shutil
import socket
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from command import wsipipe
from external_workspace import external_workspace
from new_slides import Clinic
from typer.testing import Result
from unchecked_cohort import LOOK, STOPS, Project, make_project
from wsipipe.data.manifest import Manifest
from wsipipe.pipeline.preflight.report import Finding

PAGE = Path(__file__).resolve().parents[2] / "docs/troubleshooting.md"
BEGIN, END = "<!-- the table of mistakes -->\n", "<!-- its end -->\n"


class Row(NamedTuple):
    """A row of the table."""

    command: str
    mistake: str
    printed: str
    way_out: str


class Mistake(NamedTuple):
    """A mistake in words, what is done to the workspace before, and what is typed."""

    mistake: str
    words: str
    code: int
    before: Callable[[Path], object] = lambda _: None


def _second(place: Path) -> None:
    shutil.copytree(place / "work/models/her2", place / "work/models/other")


def _no_model(place: Path) -> None:
    shutil.rmtree(place / "work/models")


def _edited(place: Path) -> None:
    file = place / "work/models/her2/fold-1/bundle.json"
    file.write_text(file.read_text().replace("HER2", "HER3"))


def _another(place: Path) -> None:
    Clinic(place).model("elsewhere/her2", seed=1)
    result = wsipipe("predict", place / "slides", "-w", place / "work", "--device", "cpu")
    assert result.exit_code == 0, result.output


def _coarse(place: Path) -> None:
    Clinic(place).slide("a", mpp=1.0)


def _no_mpp(place: Path) -> None:
    (place / "slides/a.svs").unlink()
    from PIL import Image

    Image.new("RGB", (600, 600), (200, 110, 170)).save(place / "slides/a.png")


PREDICT = (
    Mistake("no model is trained yet", "slides", 2, _no_model),
    Mistake("several models", "slides", 2, _second),
    Mistake("a model that is not there", "slides --model nowhere", 1),
    Mistake("a model that was edited", "slides", 1, _edited),
    Mistake("no slides", "", 2),
    Mistake("slides that are not there", "gone", 2),
    Mistake("a folder without slides", "work", 2),
    Mistake("slides and features both", "slides --features 0.5mpp-224px/x", 2),
    Mistake("features that are not there", "--features 0.5mpp-224px/x", 2),
    Mistake("a name that leads out of the workspace", "slides --name ../x", 2),
    Mistake("another model of the same name", "slides --model elsewhere/her2", 2, _another),
    Mistake("a table that is not there", "slides --table gone.csv", 1),
    Mistake("a GPU that is no number", "slides --gpu first", 2),
    Mistake("a GPU that is not there", "slides --gpu 99", 2),
    Mistake("a GPU and a device", "slides --gpu 0 --device cpu", 2),
    Mistake("a prevalence in percent", "slides --prevalence 15", 2),
    Mistake("a level of the label sets that cannot be", "slides --alpha 2", 2),
    Mistake("an empty file", "slides", 1, lambda place: (place / "slides/a.svs").write_bytes(b"")),
    Mistake("a slide without mpp", "slides", 1, _no_mpp),
    Mistake("a slide coarser than the model's tiles", "slides", 1, _coarse),
    Mistake("two slides of one name", "slides more", 1, lambda here: shutil.copytree(here / "slides", here / "more")),
)  # fmt: skip


def _nothing_extracted(place: Path) -> None:
    shutil.rmtree(place / "work/features")


def _table(text: str) -> Callable[[Path], object]:
    return lambda place: (place / "external.csv").write_text(text)


OTHER_SLIDES = "slide_id,patient_id,HER2\nX,Y,positive\n"
MODEL = "--model development/models/her2"
EVALUATE = (
    Mistake("no table", MODEL, 2),
    Mistake("no model", "--table external.csv", 2),
    Mistake("a model that is not there", "--table external.csv --model nowhere", 1),
    Mistake("a table that is not there", f"--table gone.csv {MODEL}", 1),
    Mistake("a table without the label", f"--table external.csv {MODEL}", 1, _table("slide_id,patient_id\nS1,P1\n")),
    Mistake("a table of other slides", f"--table external.csv {MODEL}", 1, _table(OTHER_SLIDES)),
    Mistake("a label column that is not there", f"--table external.csv {MODEL} --label-column HER3", 1),
    Mistake("label values that are not there", f"--table external.csv {MODEL} --positive 3+", 1),
    Mistake("features that are not there", f"--table external.csv {MODEL} --features x/y", 2),
    Mistake("nothing extracted", f"--table external.csv {MODEL}", 2, _nothing_extracted),
    Mistake("a name that leads out of the workspace", f"--table external.csv {MODEL} --name ../x", 2),
    Mistake("a column to audit that is not there", f"--table external.csv {MODEL} --audit grade", 1),
    Mistake("a prevalence in percent", f"--table external.csv {MODEL} --prevalence 15", 2),
    Mistake("a GPU that is not there", f"--table external.csv {MODEL} --gpu 99", 2),
)  # fmt: skip

VIEW = (
    Mistake("a workspace that is not there", "gone --no-browser", 2),
    Mistake("a port that is taken", "work --no-browser --port PORT", 2),
    Mistake("an address that is none of this machine's", "work --no-browser --host 203.0.113.7", 2),
)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clinic = Clinic(tmp_path_factory.mktemp("clinic") / "here")
    clinic.folder.mkdir()
    clinic.slide("a")
    clinic.model("work/models/her2")
    return clinic.folder


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return external_workspace(tmp_path_factory.mktemp("external") / "here")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("cohort") / "lab").folder


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return []


def printed(command: str, mistake: str, what: str, way_out: str, place: Path) -> Row:
    """A row of the table, with paths as they are typed."""
    cells = [shown(text.replace(f"{place}/", "").replace(str(place), ".")) for text in (what, way_out)]
    return Row(command, mistake, *cells)


def shown(text: str) -> str:
    """A cell of the table: not too long, and without what depends on versions of libraries."""
    text = re.sub(r"\d{1,3}(?:,\d{3})+", "…", re.sub(r"timm [\d.]+", "timm", text))
    return textwrap.shorten(text.replace("|", "\\|"), 200, placeholder=" …")


def last_words(result: Result) -> tuple[str, str]:
    """The error that a command ended with, or the failure in its closing table, and the way out."""
    for text, begin in ((result.stderr, r"^error "), (result.stdout, r"^failed in \w+: ")):
        if found := re.search(begin + r"(.+)\n(?:  → |    )?(.*)", text, re.MULTILINE):
            return found[1], found[2]
    raise AssertionError(result.output)


def copied(folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = Path(shutil.copytree(folder, place / folder.name))
    monkeypatch.chdir(here)
    return here


def found_by_check(cohort: Path, place: Path, weight: str, what: str, fault: Callable[[Project], None]) -> Finding:
    """The finding of a fault; what is to be looked at stops nothing, and nothing is written."""
    project = Project(Path(shutil.copytree(cohort, place / "lab")))
    fault(project)
    report = project.checked()
    [*found] = [own for own in report.findings if own.weight == weight and what in own.what]
    assert found, report.findings
    assert weight == "stops" or not report.of("stops")
    assert not (project.folder / "work").exists()
    return found[0]


Fault = tuple[str, Callable[[Project], None], str, str]


@pytest.mark.parametrize("row", STOPS, ids=[row[2] for row in STOPS])
def test_at_check_what_will_stop_a_stage(cohort: Path, tmp_path: Path, rows: list[Row], row: Fault) -> None:
    stage, fault, what, hint = row
    found = found_by_check(cohort, tmp_path, "stops", what, fault)
    assert (found.stage, hint in found.hint) == (stage, True), found
    rows.append(printed("check", f"stops {stage}", found.what, found.hint, tmp_path / "lab"))


@pytest.mark.parametrize("row", LOOK, ids=[row[2] for row in LOOK])
def test_at_check_what_should_be_looked_at(cohort: Path, tmp_path: Path, rows: list[Row], row: Fault) -> None:
    stage, fault, what, hint = row
    found = found_by_check(cohort, tmp_path, "look", what, fault)
    assert (found.stage, hint in found.hint) == (stage, True), found
    rows.append(printed("check", f"look at, {stage}", found.what, found.hint, tmp_path / "lab"))


@pytest.mark.parametrize("made", PREDICT, ids=[made.mistake for made in PREDICT])
def test_at_predict(
    clinic: Path, tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch, made: Mistake
) -> None:
    here = copied(clinic, tmp_path, monkeypatch)
    made.before(here)
    device = [] if "--gpu" in made.words else ["--device", "cpu"]
    result = wsipipe("predict", *made.words.split(), *device)
    assert result.exit_code == made.code, result.output
    rows.append(printed("predict", made.mistake, *last_words(result), here))


@pytest.mark.parametrize("made", EVALUATE, ids=[made.mistake for made in EVALUATE])
def test_at_evaluate(
    external: Path, tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch, made: Mistake
) -> None:
    here = copied(external, tmp_path, monkeypatch)
    made.before(here)
    result = wsipipe("evaluate", *made.words.split())
    assert result.exit_code == made.code, result.output
    rows.append(printed("evaluate", made.mistake, *last_words(result), here))


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield int(listening.getsockname()[1])


@pytest.mark.parametrize("made", VIEW, ids=[made.mistake for made in VIEW])
def test_at_view(tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch, taken: int, made: Mistake) -> None:
    (tmp_path / "here/work").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    result = wsipipe("view", *made.words.replace("PORT", str(taken)).split())
    assert result.exit_code == made.code, result.output
    what, way_out = (text.replace(str(taken), "8000") for text in last_words(result))
    rows.append(printed("view", made.mistake, what, way_out, tmp_path / "here"))


def test_nothing_was_written_by_what_was_refused(external: Path, clinic: Path) -> None:
    assert not list((external / "work").glob("evaluations/*"))
    assert not Manifest.of(clinic / "work/predictions/her2").records()


def test_the_page_has_the_table(rows: list[Row], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if len(rows) < len(STOPS) + len(LOOK) + len(PREDICT) + len(EVALUATE) + len(VIEW):
        pytest.skip("only some of the mistakes were made")
    lines = ["| at | mistake | printed | way out |", "| --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    now = tmp_path / PAGE.name
    now.write_text(head + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + rest.partition(END)[2], encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == now.read_text(encoding="utf-8"), f"the page as it should be: {now}"
