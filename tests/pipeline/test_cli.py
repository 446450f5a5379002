"""The command line: every command answers, exit codes mean what they say, machines get one JSON object."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import typer
from command import wsipipe
from own_process import SignalWhen, forked
from pydantic import BaseModel
from wsipipe import __version__
from wsipipe.data.errors import UsageError
from wsipipe.data.manifest import Manifest
from wsipipe.pipeline.cli import app
from wsipipe.pipeline.console import Console
from wsipipe.pipeline.results import Summary
from wsipipe.stages.extract.settings import ExtractSettings
from wsipipe.stages.genomics.settings import GenomicsSettings
from wsipipe.stages.predict.settings import PredictSettings
from wsipipe.stages.tile.settings import TileSettings
from wsipipe.stages.train.settings import BiomarkerSettings, SplitSettings, TrainSettings

SETTINGS: dict[str, list[type[BaseModel]]] = {
    "tile": [TileSettings],
    "extract": [ExtractSettings],
    "genomics": [GenomicsSettings],
    "train": [TrainSettings, BiomarkerSettings, SplitSettings],
    "predict": [PredictSettings],
}
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def slide(path: Path, *, mpp: float | None = 0.5, seed: int = 0) -> Path:
    """A tiled TIFF of 768 × 768 px with a round piece of tissue on white."""
    rng = np.random.default_rng(seed)
    pixels = np.full((768, 768, 3), 243, np.uint8)
    y, x = np.mgrid[:768, :768] - 384
    tissue = x**2 + y**2 < 320**2
    pixels[tissue] = np.clip(rng.normal((190, 110, 170), 25, (int(tissue.sum()), 3)), 0, 255)
    scale: dict[str, Any] = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", **scale)
    return path


# ----- help -----


def test_all_commands_are_there() -> None:
    assert {"tile", "extract", "genomics", "train", "predict", "run", "status", "init", "demo"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_setting_as_a_flag(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERM", "dumb")
    for sign in ("--help", "-h"):
        result = wsipipe(command, sign)
        assert result.exit_code == 0
    flags = set(re.findall(r"--[a-z0-9-]+", result.stdout))
    assert {"--json", "--debug"} <= flags
    for section in SETTINGS.get(command, []):
        for name, field in section.model_fields.items():
            if (command, name) == ("genomics", "matrix"):
                continue  # the command's own argument
            flag = "--split-seed" if section is SplitSettings and name == "seed" else "--" + name.replace("_", "-")
            assert flag in flags
            assert (field.description or "").split(";")[0].split(" (")[0] in re.sub(r"\s*│\s*│?\s*", " ", result.stdout)


def test_help_of_compare_shows_no_flag_that_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    flags = set(re.findall(r"--[a-z0-9-]+", wsipipe("compare", "--help").stdout))
    assert {"--methods", "--slots", "--label-column"} <= flags
    assert not {"--method", "--soft-targets", "--use-rna", "--no-use-rna", "--shuffle-rna"} & flags


def test_version_and_no_command() -> None:
    assert wsipipe("--version").stdout == f"wsipipe {__version__}\n"
    assert "Usage:" in wsipipe().output


# ----- exit codes -----


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tile"], "no slides are given"),
        (["tile", "nowhere"], "nowhere: no such file or folder"),
        (["tile", "."], "no slides here"),
        (["tile", ".", "--mpp", "0"], "greater than or equal to 0.05"),
        (["tile", ".", "--mpp", "half"], "--mpp"),
        (["tile", ".", "--mmp", "1"], "--mmp"),
        (["tile", ".", "--config", "gone.toml"], "gone.toml: no such configuration file"),
        (["extract"], "there are no tiles yet"),
        (["extract", "--gpu", "0", "--device", "cpu"], "--gpu and --device set the same thing"),
        (["extract", "--precision", "int8"], "int8"),
        (["genomics"], "no expression matrix"),
        (["train"], "no biomarker is given"),
        (["train", "--label-column", "HER2"], "no cohort table is given"),
        (["train", "--positive", "x"], "use --label-column or --signature too"),
        (["train", "--name", "her2", "--positive", "x"], "label_column is missing (or --label-column)"),
        (["train", "--label-column", "HER2", "--nested", "x"], "error train: nested 'x' is not NAME=VALUE,VALUE"),
        (["import", ".", "--backbone", "uni", "--pooling", "max"], "'max' is not one of"),
        (["predict", "."], "--model names one that lies elsewhere"),
        (["run"], "no slides are given"),
        (["nonsense"], "nonsense"),
    ],
)
def test_what_cannot_be_meant_ends_with_2_and_the_way_out(words: list[str], said: str) -> None:
    result = wsipipe(*words)
    assert result.exit_code == 2
    assert said in re.sub(r"\s*│\s*\n?\s*│?\s*", " ", result.stderr)
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_exit_codes_of_a_run_and_of_the_next(tmp_path: Path) -> None:
    good, bad = slide(tmp_path / "slides" / "good.tiff"), slide(tmp_path / "slides" / "nompp.tiff", mpp=None)
    assert wsipipe("tile", good).exit_code == 0
    for _ in range(2):  # the bad one fails, waits, and is told both times
        result = wsipipe("tile", "slides", "--workers", 1)
        assert result.exit_code == 1
        assert f"failed in tile: nompp: {bad}" in result.stdout
        assert "--mpp-override" in result.stdout
        assert "Traceback" not in result.output
    assert wsipipe("tile", "slides", "--mpp-override", 0.5, "--workers", 1).exit_code == 0
    assert "2 slides done before, nothing to do" in wsipipe("tile", "slides", "--mpp-override", 0.5).stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_and_its_way_out_stand_once_on_the_screen(tmp_path: Path, workers: int) -> None:
    slide(tmp_path / "slides" / "good.tiff")
    slide(tmp_path / "slides" / "nompp.tiff", mpp=None)
    for debug in ([], ["--debug", "--retry-failed"]):
        result = wsipipe("tile", "slides", "--workers", workers, *debug)
        screen = result.stdout + result.stderr
        assert screen.count("→ give its µm per pixel") + screen.count("    give its µm per pixel") == 1
        assert "failed nompp (why: below)" in result.stderr, "that it failed is said at once"
        assert "failed in tile: nompp: " in result.stdout


def test_machines_have_the_reason_as_soon_as_it_is_known(tmp_path: Path) -> None:
    slide(tmp_path / "slides" / "nompp.tiff", mpp=None)
    result = wsipipe("tile", "slides", "--json")
    assert result.stderr.count("does not state the size of a pixel") == 1


def test_reasons_are_given_where_there_is_no_closing_table(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(closes=True)
    console.failure("a", "it is broken", "mend it")
    assert "broken" not in capsys.readouterr().err
    console.error(UsageError("the end"))
    assert "failed a: it is broken\n  → mend it\nerror the end" in capsys.readouterr().err
    Console().failure("b", "it is broken", "mend it")
    assert "failed b: it is broken" in capsys.readouterr().err, "from Python there is no closing table"


def test_undecodable_tiles_stand_under_the_closing_table(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(stage="extract", folder=Path(), items="slides", done=2, stats={"bad_tiles": 1234})
    Console(closes=True).summaries([summary, Summary(stage="tile", folder=Path(), items="slides")])
    assert capsys.readouterr().out.count("extract: 1,234 tiles cannot be decoded and are left out") == 1


def test_the_closing_table_tells_the_stages_of_several_biomarkers_apart(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("grade", "os", "[red]")
    trained = [Summary(stage="train", folder=Path("models") / name, items="folds") for name in names]
    Console(closes=True).summaries([Summary(stage="tile", folder=Path("tiles/x"), items="slides"), *trained])
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert rows == ["stage", "tile", "train grade", "train os", "train [red]"]


def test_other_settings_need_replace(tmp_path: Path) -> None:
    slide(tmp_path / "slides" / "a.tiff")
    assert wsipipe("tile", "slides").exit_code == 0
    result = wsipipe("tile", "slides", "--min-tissue", 0.3)
    assert result.exit_code == 2
    assert "min_tissue 0.5 → 0.3" in result.stderr
    assert wsipipe("tile", "slides", "--min-tissue", 0.3, "--replace").exit_code == 0


def test_a_second_run_in_the_same_folder_ends_with_2(tmp_path: Path) -> None:
    slide(tmp_path / "slides" / "a.tiff")
    with Manifest(tmp_path / "work" / "tiles" / "0.5mpp-224px" / "manifest.jsonl").lock():
        result = wsipipe("tile", "slides")
    assert result.exit_code == 2
    assert f'"pid": {os.getpid()}' in result.stderr


def test_a_workspace_that_is_a_file(tmp_path: Path) -> None:
    slide(tmp_path / "slides" / "a.tiff")
    (tmp_path / "work").write_text("precious")
    result = wsipipe("tile", "slides")
    assert result.exit_code == 1
    assert "a file is in the way" in result.stderr
    assert (tmp_path / "work").read_text() == "precious"


def test_traces_are_for_debugging(tmp_path: Path) -> None:
    (tmp_path / "bad.svs").write_text("no slide")
    for debug in (False, True):
        result = wsipipe("tile", "bad.svs", *(["--debug", "--retry-failed"] if debug else []))
        assert result.exit_code == 1
        assert ("Traceback" in result.stderr) == debug
        assert "Traceback" not in result.stdout
        error = wsipipe("tile", "nowhere", *(["--debug"] if debug else []))
        assert ("Traceback" in error.stderr) == debug


# ----- for machines -----


@pytest.mark.parametrize(
    ("words", "code", "keys"),
    [
        (["tile", "slides/a.tiff", "--workers", "1"], 0, {"stages"}),
        (["tile", "slides", "--workers", "1"], 1, {"stages", "next"}),
        (["tile"], 2, {"error"}),
        (["status"], 0, {"workspace", "items"}),
        (["init"], 0, {"file"}),
        (["backbones"], 0, {"backbones"}),
        (["run"], 2, {"error"}),
    ],
)
def test_json_is_one_object_and_nothing_else(tmp_path: Path, words: list[str], code: int, keys: set[str]) -> None:
    slide(tmp_path / "slides" / "a.tiff")
    slide(tmp_path / "slides" / "b.tiff", mpp=None)
    result = wsipipe(*words, "--json")
    assert result.exit_code == code
    [line] = result.stdout.splitlines()
    told = json.loads(line)
    assert set(told) == keys
    if "error" in told:
        assert told["error"]["type"] == "UsageError"
        assert told["error"]["hint"]
    if "stages" in told:
        stage, index = told["stages"]
        assert (index["stage"], index["done"]) == ("index", 1)
        assert (stage["stage"], stage["done"], len(stage["failures"])) == ("tile", 1, code)
        assert all(failure["item"] == "b" and failure["hint"] for failure in stage["failures"])


def test_extract_through_the_installed_command(tmp_path: Path) -> None:
    """In a process of its own, where nothing catches what a library may print."""
    slide(tmp_path / "slides" / "a.tiff")
    tiled, _ = json.loads(wsipipe("tile", "slides", "--json").stdout)["stages"]
    words = ["extract", "--device", "cpu", "--threads", "1", "--batch-size", "8", "--json"]
    done = forked(tmp_path, *words).ended()
    assert done.code == 0, done.err
    [stage] = json.loads(done.out)["stages"]
    assert (stage["stage"], stage["done"], stage["units"], stage["unit"]) == (
        "extract",
        1,
        tiled["stats"]["tiles"],
        "tiles",
    )
    assert (tmp_path / "work" / "features" / "0.5mpp-224px" / "efficientnet-lite0" / "a.zarr").is_dir()


# ----- init -----


def test_init_writes_a_file_that_works_and_never_over_another(tmp_path: Path) -> None:
    assert wsipipe("init", "project").exit_code == 0
    file = tmp_path / "project" / "wsipipe.toml"
    file.write_text(file.read_text().replace("# mpp = 0.5", "mpp = 0.4"))
    edited = file.read_text()
    result = wsipipe("init", "project")
    assert result.exit_code == 2
    assert "already exists" in result.stderr
    assert file.read_text() == edited
    slide(tmp_path / "slides" / "a.tiff", mpp=0.4)
    assert wsipipe("tile", "slides", "--config", file).exit_code == 0
    assert (tmp_path / "project" / "work" / "tiles" / "0.4mpp-224px" / "a.h5").is_file()


# ----- interrupted -----


@pytest.mark.parametrize(("ending", "workers"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_an_interrupted_run_ends_with_130_and_goes_on(tmp_path: Path, ending: signal.Signals, workers: int) -> None:
    many = 100
    original = slide(tmp_path / "original.tiff")
    (tmp_path / "slides").mkdir()
    for number in range(many):
        (tmp_path / "slides" / f"s{number:02}.tiff").hardlink_to(original)
    manifest = Manifest(tmp_path / "work" / "tiles" / "0.5mpp-224px" / "manifest.jsonl")
    # Everyone in the group hears it, as from a terminal.
    at_the_first_record = SignalWhen(manifest.path.parent, manifest.path.name, sent=ending)
    words = ("tile", "slides", "--workers", workers)
    ended = forked(tmp_path, *words, disturbed=(at_the_first_record,)).ended()
    assert ended.code == 130
    assert "the same command continues from here" in ended.err
    assert "Traceback" not in ended.err
    done = manifest.latest("tile")
    assert 1 <= len(done) < many
    rest = [file for file in sorted((tmp_path / "slides").iterdir()) if file.stem not in done]
    for file in rest[3:]:  # enough to see that it goes on
        file.unlink()
    result = wsipipe("tile", "slides", "--workers", 1, "--json")
    assert result.exit_code == 0
    stage, _ = json.loads(result.stdout)["stages"]
    assert (stage["done"], stage["before"]) == (len(rest[:3]), len(done))
    assert not list((tmp_path / "work").rglob(".partial-*"))


def test_an_output_that_lacks_our_signs_stops_nothing() -> None:
    script = "from wsipipe.pipeline.console import Console; Console().line('→ 0.5 µm')"
    surroundings = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=surroundings)
    assert (done.returncode, done.stdout.strip()) == (0, "-> 0.5 um"), done.stderr
