"""The table of stages, and that a row is all that a new stage needs beside its own file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from wsipipe.data.units import Mpp
from wsipipe.pipeline.demo.slides import write_aperio
from wsipipe.stages.registry import STAGES, StageRow
from wsipipe.stages.settings import Settings
from wsipipe.stages.stage import Stage

TESTS = Path(__file__).resolve().parents[1]
ROW = """StageRow(
    "lengths", 1, ("lengths/*",), "lengths_stage:LengthsSettings", "lengths_stage:LengthsStage", after="tiles"
)"""
BEGIN = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from wsipipe.stages import registry
row = registry.{ROW}
registry.STAGES = (*registry.STAGES, row)
registry.VERSIONS = {{**registry.VERSIONS, row.name: row.version}}
registry.FOLDERS = (*registry.FOLDERS, *row.folders)
"""
COMMAND = BEGIN + "from wsipipe.pipeline.cli import main\nmain()"


@pytest.mark.parametrize("row", STAGES, ids=lambda row: row.name)
def test_what_a_row_names_is_there(row: StageRow) -> None:
    if row.settings:
        assert issubclass(row.settings_type, Settings)
        assert not row.argument or row.argument in row.settings_type.model_fields
    if row.stage:
        sources = {"tiles": Path("work/tiles/0.5mpp-224px"), "features": Path("work/features/0.5mpp-224px/uni2-h")}
        stage = row.make(row.settings_type(), Path("work"), sources.get(row.after))
        assert isinstance(stage, Stage)
        assert (stage.name, stage.version) == (row.name, row.version)
        assert any(stage.folder.relative_to("work").match(pattern) for pattern in row.folders)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("registry")
    (place / "slides").mkdir()
    pixels = np.random.default_rng(0).normal((200, 110, 170), 30, size=(500, 500, 3)).clip(0, 255).astype(np.uint8)
    write_aperio(place / "slides" / "a.svs", pixels, mpp=Mpp(0.5))
    run(place, "tile", "slides")
    return place


def run(place: Path, *words: str) -> str:
    command = [sys.executable, "-c", COMMAND, *words]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_row_gives_a_command_a_section_a_step_and_a_line_of_status(place: Path) -> None:
    assert "Count the tiles of each slide" in run(place, "--help")
    assert "--factor" in run(place, "lengths", "--help")
    (place / "wsipipe.toml").write_text("[lengths]\nfactor = 3\n")
    told = json.loads(run(place, "lengths", "--json"))
    assert [stage["done"] for stage in told["stages"]] == [1]
    written = int((place / "work/lengths/0.5mpp-224px/a.txt").read_text())
    assert written % 3 == 0
    assert written > 0
    states = json.loads(run(place, "status", "--json"))["items"]
    assert ("lengths/0.5mpp-224px", "lengths", "done") in {(s["folder"], s["stage"], s["state"]) for s in states}
    script = BEGIN + "import wsipipe\nprint(wsipipe.run(wsipipe.load_config(), 'lengths')[0].before)"
    again = subprocess.run([sys.executable, "-c", script], cwd=place, capture_output=True, text=True, check=True)
    assert again.stdout.split() == ["1"]
    (place / "wsipipe.toml").write_text("[lengths]\nfactor = 4\n")
    states = json.loads(run(place, "status", "--json"))["items"]
    assert ["factor 3 → 4" in s["why"] for s in states if s["stage"] == "lengths"] == [True]
