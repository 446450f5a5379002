"""`wsipipe check`: what is counted, what is known already, its time limit (faults: test_mistakes.py)."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from command import wsipipe
from rich.console import Console as RichConsole
from unchecked_cohort import PATIENTS, Project, draw, folder_of_the_same_name, make_project, truncated
from wsipipe.pipeline.preflight import expected
from wsipipe.pipeline.preflight.command import facts_table, findings_table

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("made") / "lab")


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Project:
    return Project(Path(shutil.copytree(made.folder, tmp_path / "lab")))


def test_a_sound_cohort_has_nothing_that_stops_and_everything_is_counted(made: Project) -> None:
    before = sorted(made.folder.rglob("*"))
    result = wsipipe("check", "-c", made.settings, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert (content["stops"], content["look"]) == (0, 1)
    assert "knows photographs" in content["findings"][0]["what"]
    facts = {fact["subject"]: fact["figures"] for fact in content["facts"]}
    table = next(fact["what"] for fact in content["facts"] if fact["subject"] == "table")
    assert table.endswith("24 rows, 3 columns with a value"), "those that the table has, not those that it lacks"
    assert facts["slides"] == {
        **{"slides": PATIENTS, "readable": PATIENTS, "tiled": 0, "not_opened": 0},
        **{"formats": {"generic-tiff": PATIENTS}, "mpp": [0.5, 0.5]},
    }
    assert (facts["patients"]["patients"], facts["patients"]["with_slides"]) == (PATIENTS, PATIENTS)
    assert (facts["joined"]["with_rna"], facts["rna"]["patients"], facts["rna"]["genes"]) == (PATIENTS, PATIENTS, 40)
    assert facts["her2 values"]["read_as"] == {"negative": {"negative": 12}, "positive": {"positive": 12}}
    assert facts["her2"]["folds"] == [{"negative": 3, "positive": 3}] * 4
    grid = 4 * PATIENTS
    assert facts["tiles"]["tiles"] == [round(share * grid) for share in expected.KEPT]
    most = expected.KEPT[1] * grid
    assert facts["disk"]["needed"] == round(most * 1280 * 2)
    assert facts["time"]["seconds"]["extract"] == pytest.approx([expected.KEPT[0] * grid / 160.2, most / 141.5])
    assert sorted(made.folder.rglob("*")) == before, "it writes nothing"


def test_all_faults_are_found_at_once_and_the_exit_code_is_1(project: Project) -> None:
    truncated(project)
    folder_of_the_same_name(project)
    project.edited('label_column = "HER2"', 'label_column = "HER3"')
    project.edited('matrix = "rna.csv"', 'matrix = "gone.csv"')
    result = wsipipe("check", "-c", project.settings)
    assert result.exit_code == 1
    for what in ("P03.tif", "two slides are called", "no column 'HER3'", "gone.csv"):
        assert what in result.stdout
    heading, look, found = (result.stdout.index(name) for name in ("will stop a stage", "look at this", "\nfound"))
    assert heading < look < found
    assert "3 findings will stop tile, genomics, train; 2 findings to look at" in result.stdout
    assert wsipipe("check", "-c", project.folder / "none.toml").exit_code == 2


def test_a_matrix_that_the_method_does_not_read_is_said(project: Project) -> None:
    def said() -> list[str]:
        return [fact.what for fact in project.checked().facts if fact.subject == "rna in training"]

    assert said() == [], "momkd reads it"
    project.edited("[split]", 'method = "abmil"\n[split]')
    assert said() == [
        "not read by abmil as it is set: momkd, evidence and matching read it, and every method with soft_targets"
    ]
    project.edited("[split]", "soft_targets = true\n[split]")
    assert said() == []


def test_a_method_that_cannot_answer_hides_no_fault_of_the_table(project: Project) -> None:
    score = '[biomarkers.score]\ntask = "regression"\nlabel_column = "HER2"'
    project.edited("[biomarkers.her2]", f"{score}\n[biomarkers.her2]")
    found = [own.what for own in project.checked().of("stops")]
    assert [any(part in what for what in found) for part in ("momkd cannot answer", "which is no number")] == [True] * 2


def test_a_folder_without_a_settings_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("check", "status", "run"):
        assert f"there is no wsipipe.toml in {tmp_path}" in wsipipe(command).stderr
    assert "there is no" not in wsipipe("status", "-w", tmp_path).stderr


def test_many_slides_of_one_fault_are_one_finding(project: Project) -> None:
    for patient in ("P00", "P01", "P02", "P03", "P04"):
        draw(project.slide(patient), mpp=None, seed=int(patient[1:]))
    [found] = [own for own in project.checked().of("look") if own.stage == "tile"]
    assert found.what.startswith("5 slides (")
    assert found.what.count("does not state the size of a pixel") == 1


def test_it_fits_80_columns(project: Project) -> None:
    truncated(project)
    project.edited('label_column = "HER2"', 'label_column = "HER3"')
    report = project.checked()
    screen = RichConsole(width=80, file=io.StringIO(), color_system=None)
    screen.print(findings_table(report.findings))
    screen.print(facts_table(report.facts))
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    assert "…" not in screen.file.getvalue()  # type: ignore[attr-defined]


def test_what_is_known_of_tiled_slides_is_not_asked_again(project: Project) -> None:
    truncated(project)
    assert wsipipe("tile", "-c", project.settings, "--workers", 1).exit_code == 1
    report = project.checked(seconds=1e-9)
    facts = {fact.subject: fact for fact in report.facts}
    assert facts["slides"].figures["tiled"] == PATIENTS - 1
    assert facts["tiles"].what.endswith("as tiled")
    assert any("P03.tif" in own.what and "--retry-failed" in own.hint for own in report.of("look"))
    project.edited("[genomics]", "[tile]\nmin_tissue = 0.3\n[genomics]")
    [stopped] = project.checked().of("stops")
    assert "min_tissue 0.5 → 0.3" in stopped.what
    assert (stopped.stage, "--replace" in stopped.hint) == ("tile", True)


def test_time_for_headers_is_limited_and_what_was_not_opened_is_counted(made: Project) -> None:
    facts = {fact.subject: fact for fact in made.checked(seconds=0).facts}
    assert facts["slides"].figures["not_opened"] >= PATIENTS - 1
    assert "no time to open" in facts["slides"].what


def test_a_run_begins_with_it_and_goes_on(project: Project) -> None:
    project.edited('label_column = "HER2"', 'label_column = "HER3"')
    result = wsipipe("run", "-c", project.settings)
    assert result.exit_code == 1
    said = result.stderr
    assert "will stop train: " in said
    assert said.index("will stop train") < said.index("tile: 24 slides to do")
    assert (project.folder / "work/tiles/0.5mpp-224px/manifest.jsonl").exists()


def test_urls_are_left_out_and_said(project: Project) -> None:
    project.edited('slides = ["slides"]', 'slides = ["slides", "https://example.org/a.svs"]')
    report = project.checked()
    assert any("its server is not asked" in own.what for own in report.of("look"))
    assert next(fact for fact in report.facts if fact.subject == "slides").figures["slides"] == PATIENTS


def test_the_rates_are_those_of_the_page() -> None:
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    for text in (
        "160.2 /s",
        "141.5 /s",
        "1,713 /s",
        "2,494 /s",
        "903 /s (97 %) | 903 /s",
        "854 of 4,270 | 0.20",
        "398 of 713",
        "193 of 285 | 0.45",
    ):
        assert text in page, text
