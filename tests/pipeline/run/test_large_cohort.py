"""What a run of a few slides reads and writes of a cohort that is large: each record once, and nothing again and again.

No time is measured here (``tests/benchmarks/large_cohort.py`` does): calls are counted.
"""

from __future__ import annotations

import cProfile
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import wsipipe
from wsipipe.data import known_records
from wsipipe.data.manifest import Manifest, Record
from wsipipe.data.units import Mpp
from wsipipe.pipeline.demo.slides import write_aperio

MANY = 300
TILES = Path("work/tiles/0.5mpp-224px")


def slide(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.normal((200, 110, 170), 30, size=(300, 300, 3)).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(exist_ok=True)
    write_aperio(path, pixels, mpp=Mpp(0.5))


def renamed(record: Record, item: str) -> Record:
    outputs = {n: replace(o, path=o.path.replace("first", item)) for n, o in record.outputs.items()}
    return record.model_copy(update={"item": item, "outputs": outputs})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide that is tiled, and many more that seem to be."""
    folder = tmp_path_factory.mktemp("cohort")
    slide(folder / "first/first.svs", 0)
    assert wsipipe("tile", folder / "first", "-w", folder / "work").exit_code == 0
    manifest = Manifest.of(folder / TILES)
    record = manifest.latest("tile")["first"]
    copies = [renamed(record, f"slide-{number:03}") for number in range(MANY)]
    for copy in copies:
        for output, of in zip(copy.outputs.values(), record.outputs.values(), strict=True):
            shutil.copy(folder / "work" / of.path, folder / "work" / output.path)
    manifest.append(*copies)
    known_records._known.clear()
    return folder


def calls(profile: cProfile.Profile, function: str, file: str) -> int:
    """How often a function was called."""
    entries = [e for e in profile.getstats() if not isinstance(e.code, str)]
    return sum(e.callcount for e in entries if e.code.co_name == function and e.code.co_filename.endswith(file))


def test_a_few_more_slides(made: Path) -> None:
    for number in range(3):
        slide(made / f"new/new-{number}.svs", number + 1)
    with cProfile.Profile() as profile:
        result = wsipipe("tile", made / "new", "-w", made / "work", "--workers", 1)
    assert result.exit_code == 0, result.output
    manifest = Manifest.of(made / TILES)
    lines = manifest.path.read_bytes().count(b"\n")
    assert lines > MANY
    assert MANY < calls(profile, "_parsed", "data/manifest.py") <= lines, "each record is parsed once"
    assert calls(profile, "_parse", "data/manifest.py") == 0, "and in the quick way"
    assert calls(profile, "_is_at", "data/manifest.py") <= 4 * MANY, "each output is looked at about once"
    assert calls(profile, "flush_to_disk", "data/artifact.py") < 100, "and nothing of the others is written again"
    page = (made / TILES / "qc/index.html").read_text()
    assert page.count("<li data-v=") == MANY + 4


def test_a_workspace_that_was_moved_records_it_at_once(made: Path, tmp_path: Path) -> None:
    """Every slide has another path now; its record is brought up to date, all with one flush."""
    (tmp_path / "slides").mkdir()
    manifest = Manifest.of(made / TILES)
    names = [name for name in manifest.latest("tile") if name.startswith("slide-")][:50]
    for name in names:
        shutil.copy(made / "first/first.svs", tmp_path / f"slides/{name}.svs")
    before = len(manifest.records())
    with cProfile.Profile() as profile:
        result = wsipipe("tile", tmp_path / "slides", "-w", made / "work", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert len(manifest.records()) >= before + 50
    assert calls(profile, "append", "data/manifest.py") <= 3
    assert manifest.latest("tile")[names[0]].inputs["slide"].path == str(tmp_path / f"slides/{names[0]}.svs")
