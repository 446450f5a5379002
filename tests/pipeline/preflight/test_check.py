"""`wsipipe check`: each fault that a cohort can have is found, in its group, with the way out; nothing is written."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from command import wsipipe
from rich.console import Console as RichConsole
from wsipipe.pipeline.config import load_config
from wsipipe.pipeline.preflight import expected
from wsipipe.pipeline.preflight.check import check
from wsipipe.pipeline.preflight.command import facts_table, findings_table
from wsipipe.pipeline.preflight.report import Report

ROOT = Path(__file__).resolve().parents[3]
PATIENTS = 24


@dataclass(frozen=True)
class Project:
    """A cohort with its settings file, of which nothing has been done yet."""

    folder: Path

    @property
    def settings(self) -> Path:
        return self.folder / "wsipipe.toml"

    @property
    def table(self) -> Path:
        return self.folder / "cohort.csv"

    def slide(self, patient: str) -> Path:
        return self.folder / "slides" / f"{patient}.tif"

    def edited(self, old: str, new: str, file: str = "wsipipe.toml") -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new))

    def checked(self, **options: Any) -> Report:
        return check(load_config(self.settings), **{"seconds": 60, **options})


def draw(path: Path, *, mpp: float | None = 0.5, side: int = 512, seed: int = 0) -> None:
    """A tiled TIFF without tissue: a header is all that is looked at."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    scale: dict[str, Any] = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", **scale)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("made") / "lab")
    (project.folder / "slides").mkdir(parents=True)
    ids = [f"P{number:02}" for number in range(PATIENTS)]
    for number, patient in enumerate(ids):
        draw(project.slide(patient), seed=number)
    rows = [[patient, patient, ["negative", "positive"][number % 2]] for number, patient in enumerate(ids)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["slide_id", "patient_id", "HER2"], *rows])
    project.table.write_text(text.getvalue())
    values = np.random.default_rng(0).uniform(0, 12, (40, PATIENTS)).round(3)
    lines = [",".join(["gene", *ids]), *(f"GENE{n:02}," + ",".join(map(str, row)) for n, row in enumerate(values))]
    (project.folder / "rna.csv").write_text("\n".join(lines) + "\n")
    project.settings.write_text(
        """
        [cohort]
        slides = ["slides"]
        table = "cohort.csv"
        [extract]
        device = "cpu"
        [genomics]
        matrix = "rna.csv"
        unit = "log"
        [train]
        device = "cpu"
        [split]
        folds = 4
        [biomarkers.her2]
        label_column = "HER2"
        """
    )
    return project


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


def _truncated(project: Project) -> None:
    whole = project.slide("P03").read_bytes()
    project.slide("P03").write_bytes(whole[: len(whole) // 2])


def _twin(project: Project, *, one_patient: bool) -> None:
    shutil.copy(project.slide("P00"), project.slide("P00b"))
    project.table.write_text(project.table.read_text() + f"P00b,{'P00' if one_patient else 'P98'},negative\n")


def _folder_of_the_same_name(project: Project) -> None:
    (project.folder / "slides/more").mkdir()
    shutil.copy(project.slide("P01"), project.folder / "slides/more/p01.tif")


def _other_ids(project: Project) -> None:
    project.edited("P", "X-", "rna.csv")


def _leading_zeros(project: Project) -> None:
    project.edited("P03", "P3", "rna.csv")


def _label_among_genes(project: Project) -> None:
    label = ",".join(str(number % 2 * 5 + 1) for number in range(PATIENTS))
    with (project.folder / "rna.csv").open("a") as stream:
        stream.write(f"ABCX1,{label}\n")


def _of(name: str) -> Callable[[Project], None]:
    """A settings file with another line in place of one."""
    old, new = name.split(" → ")
    return lambda project: project.edited(old, new)


STOPS: list[tuple[str, Callable[[Project], None], str, str]] = [
    ("tile", _of('slides = ["slides"] → slides = ["gone"]'), "gone: no such file or folder", "check the path"),
    ("tile", _folder_of_the_same_name, "two slides are called 'p01'", "rename one of them"),
    ("tile", _of('[extract] → [tile]\nannotation_classes = ["x"]\n[extract]'), "no annotations", "--annotations"),
    ("train", _of('label_column = "HER2" → label_column = "HER3"'), "there is no column 'HER3'", "did you mean HER2"),
    ("train", _of('"HER2" → "HER2"\npositive = ["3+"]'), "no row of column HER2 is positive", "negative (12)"),
    ("train", _of("folds = 4 → folds = 13"), "too few patients for 13 folds", "use at most 12 folds"),
    ("train", _of('[biomarkers.her2]\n        label_column = "HER2" → '), "no biomarker is given", "[biomarkers.NAME]"),
    ("train", _of('"HER2" → "HER2"\n[report]\naudit = ["grade"]'), "there is no column 'grade'", "The table has"),
    ("train", _of('[split] → method = "mean"\ninit = "x.pt"\ninit_backbone = "uni"\n[split]'), "init", "abmil"),
    ("train", _of('[split] → gene_list = "none.txt"\n[split]'), "none.txt", ""),
    ("train", _of('"HER2" → "HER2"\n[biomarkers.er]\nsignature = "S"'), "no gene sets are given", "gene_sets"),
    ("train", _other_ids, "none of its patients has a slide", "use the same ids"),
    ("train", _label_among_genes, "ABCX1 is not a gene but the label itself", "--drop-columns"),
    ("train", lambda p: _twin(p, one_patient=False), "have the same bytes, of patients P00 and P98", "one patient_id"),
    ("genomics", _of('matrix = "rna.csv" → matrix = "gone.csv"'), "gone.csv", "check the path"),
    ("genomics", _of('unit = "log" → unit = "counts"'), "rna.csv", ""),
    ("extract", _of('device = "cpu" → device = "cuda:9"'), "there is no device 'cuda:9' here", "auto takes"),
    ("extract", _of('[extract] → [extract]\nbackbone = "uni2h-x"'), "no backbone is called", "did you mean"),
    ("extract", _of('[extract] → [extract]\nweights = "gone.pt"'), "no such weights file", "--weights"),
    ("predict", _of('"HER2" → "HER2"\n[predict]\nslides = ["new"]'), "new: no such file or folder", "check the path"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "fault", "what", "hint"), STOPS, ids=[row[2] for row in STOPS])
def test_what_will_stop_a_stage_is_named(
    project: Project, stage: str, fault: Callable[[Project], None], what: str, hint: str
) -> None:
    fault(project)
    report = project.checked()
    found = [own for own in report.of("stops") if what in own.what]
    assert found, report.findings
    assert (found[0].stage, hint in found[0].hint) == (stage, True), found
    assert not (project.folder / "work").exists()


LOOK: list[tuple[str, Callable[[Project], None], str, str]] = [
    ("tile", _truncated, "P03.tif: ", "copy it again"),
    ("tile", lambda p: draw(p.slide("P04"), mpp=None), "P04.tif: the file does not state the size", "--mpp-override"),
    ("tile", lambda p: draw(p.slide("P04"), mpp=1.0), "P04.tif: ", "--allow-upsample"),
    ("tile", lambda p: draw(p.slide("P04"), side=128), "too small for one tile", "--tile-px"),
    ("tile", lambda p: p.slide("P05").write_bytes(b""), "P05.tif: the file is empty", "copy it again"),
    ("tile", lambda p: (p.folder / "slides/x.vsi").touch(), "a format that is not read (.vsi)", ""),
    ("train", lambda p: p.edited("P06,P06,negative", "P06,P06,2+", "cohort.csv"), "no class: 2+ (1)", "add them"),
    ("train", lambda p: p.slide("P07").rename(p.slide("Q07")), "no row names 1 slides: Q07", "file's name"),
    ("train", lambda p: p.slide("P07").unlink(), "1 slides are not found: P07", "check slides"),
    ("train", _leading_zeros, "P3 and P03", "--patient-pattern"),
    ("train", lambda p: _twin(p, one_patient=True), "slides P00 and P00b have the same bytes", "remove one"),
    ("train", _of("folds = 4 → folds = 12"), "a fold tests 1 negative, 1 positive only", "fewer folds"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "fault", "what", "hint"), LOOK, ids=[row[2] for row in LOOK])
def test_what_should_be_looked_at_stops_nothing(
    project: Project, stage: str, fault: Callable[[Project], None], what: str, hint: str
) -> None:
    fault(project)
    report = project.checked()
    found = [own for own in report.of("look") if what in own.what]
    assert found, report.findings
    assert (found[0].stage, hint in found[0].hint) == (stage, True), found
    assert not report.of("stops")


def test_all_faults_are_found_at_once_and_the_exit_code_is_1(project: Project) -> None:
    _truncated(project)
    _folder_of_the_same_name(project)
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


def test_many_slides_of_one_fault_are_one_finding(project: Project) -> None:
    for patient in ("P00", "P01", "P02", "P03", "P04"):
        draw(project.slide(patient), mpp=None, seed=int(patient[1:]))
    [found] = [own for own in project.checked().of("look") if own.stage == "tile"]
    assert found.what.startswith("5 slides (")
    assert found.what.count("does not state the size of a pixel") == 1


def test_it_fits_80_columns(project: Project) -> None:
    _truncated(project)
    project.edited('label_column = "HER2"', 'label_column = "HER3"')
    report = project.checked()
    screen = RichConsole(width=80, file=io.StringIO(), color_system=None)
    screen.print(findings_table(report.findings))
    screen.print(facts_table(report.facts))
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    assert "…" not in screen.file.getvalue()  # type: ignore[attr-defined]


def test_what_is_known_of_tiled_slides_is_not_asked_again(project: Project) -> None:
    _truncated(project)
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
