"""`wsipipe status` says what is done, stale, failed, lost or to do, and why, without running anything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from msgspec import structs
from own_process import Ended, ran
from wsipipe.data.manifest import InputRecord, Manifest
from wsipipe.data.units import Mpp
from wsipipe.pipeline.demo.slides import write_aperio
from wsipipe.stages.registry import VERSIONS


def wsipipe(*arguments: object) -> Ended:
    return ran(*arguments)


def status(*arguments: object) -> dict[tuple[str, str], dict[str, Any]]:
    result = wsipipe("status", "--json", *arguments)
    assert result.code == 0, result.err
    items = json.loads(result.out)["items"]
    return {(item["stage"], item["item"]): item for item in items}


def write_slide(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.normal((200, 110, 170), 30, size=(300, 300, 3)).clip(0, 255).astype(np.uint8)
    write_aperio(path, pixels, mpp=Mpp(0.5))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good slides and an empty file, tiled and extracted."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "slides").mkdir()
    for seed, name in enumerate("ab"):
        write_slide(folder / f"slides/{name}.svs", seed)
    (folder / "slides/broken.svs").touch()
    (folder / "wsipipe.toml").write_text('[cohort]\nslides = ["slides"]\n[extract]\ndevice = "cpu"\n')
    assert wsipipe("tile", "-c", folder / "wsipipe.toml").code == 1
    assert wsipipe("extract", "-c", folder / "wsipipe.toml").code == 0
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(made, tmp_path / "project", copy_function=shutil.copy2))
    for manifest in (folder / "work").rglob("manifest.jsonl"):  # the copy knows its own slides
        manifest.write_text(manifest.read_text().replace(str(made), str(folder)))
    return folder


def test_done_and_failed(project: Path) -> None:
    items = status("-c", project / "wsipipe.toml")
    assert Counter(item["state"] for item in items.values()) == {"done": 5, "failed": 1}
    broken = items["tile", "broken"]
    assert "empty" in broken["why"]
    assert broken["hint"]


def test_people_read_a_table_and_the_reasons(project: Path) -> None:
    said = wsipipe("status", "-c", project / "wsipipe.toml").out
    assert "features/0.5mpp-224px/efficientnet-lite0" in said
    assert "failed in tiles/0.5mpp-224px (tile): broken" in said


def test_a_lost_store_is_lost_and_nothing_else_changes(project: Path) -> None:
    shutil.rmtree(project / "work/features/0.5mpp-224px/efficientnet-lite0/a.zarr")
    items = status("-w", project / "work")
    assert items["extract", "a"]["state"] == "lost"
    assert items["extract", "b"]["state"] == "done"


def test_a_changed_slide_makes_stale_what_was_made_from_it(project: Path) -> None:
    write_slide(project / "slides/a.svs", seed=7)
    items = status("-w", project / "work")
    assert items["tile", "a"]["state"] == "stale"
    assert "slide changed" in items["tile", "a"]["why"]
    assert items["tile", "a"]["hint"] == "the next run makes it again"
    assert items["extract", "a"]["state"] == "stale"
    assert "tiles" in items["extract", "a"]["why"]
    assert items["tile", "b"]["state"] == items["extract", "b"]["state"] == "done"


def test_a_slide_that_was_only_touched_is_as_it_was(project: Path) -> None:
    os.utime(project / "slides/a.svs", ns=(1, 1))
    assert status("-w", project / "work")["tile", "a"]["state"] == "done"


def test_what_follows_from_a_lost_output_waits_for_it_all_the_way(project: Path) -> None:
    """Records of a stage after the next one: its inputs are the outputs of what is itself waiting."""
    manifest = Manifest(project / "work/features/0.5mpp-224px/efficientnet-lite0/manifest.jsonl")
    features = manifest.latest("extract")["a"]
    store = features.outputs["features"]
    train = structs.replace(
        features,
        stage="train",
        stage_version=VERSIONS["train"],
        item="fold-0",
        inputs={"features of a": InputRecord(digest=store.digest, path=store.path)},
        outputs={},
    )
    Manifest(project / "work/models/her2/manifest.jsonl").append(train)
    assert status("-w", project / "work")["train", "fold-0"]["state"] == "done"
    (project / "work/tiles/0.5mpp-224px/a.h5").unlink()
    items = status("-w", project / "work")
    assert [items[key]["state"] for key in (("tile", "a"), ("extract", "a"), ("train", "fold-0"))] == [
        "lost",
        "stale",
        "stale",
    ]


def test_another_setting_in_the_file_says_which(project: Path) -> None:
    with (project / "wsipipe.toml").open("a") as stream:
        stream.write("[tile]\nmin_tissue = 0.8\n")
    item = status("-c", project / "wsipipe.toml")["tile", "a"]
    assert item["state"] == "stale"
    assert "min_tissue 0.5 → 0.8" in item["why"]
    assert item["hint"] == "--replace makes it again; without, the next run refuses"
    again = ("tile", project / "slides/a.svs", "-c", project / "wsipipe.toml")
    assert [wsipipe(*again).code, wsipipe(*again, "--replace").code] == [2, 0]


def test_settings_that_judge_or_show_or_are_written_out_make_nothing_stale(project: Path) -> None:
    settings = project / "wsipipe.toml"
    plain = settings.read_text()
    settings.write_text(plain + 'max_bad_tiles = 0.5\nprecision = "fp32"\n[predict]\ntop_tiles = 3\n')
    assert Counter(item["state"] for item in status("-c", settings).values()) == {"done": 5, "failed": 1}
    manifest = Manifest(project / "work/features/0.5mpp-224px/efficientnet-lite0/manifest.jsonl")
    record = manifest.latest("extract")["a"]
    manifest.append(structs.replace(record, stats={**record.stats, "bad_tiles": 1}))
    assert status("-c", settings)["extract", "a"]["state"] == "done"
    settings.write_text(plain)
    item = status("-c", settings)["extract", "a"]
    assert (item["state"], item["hint"]) == ("stale", "the next run leaves it out")
    assert "over the 1.0% allowed (max_bad_tiles)" in item["why"]


def test_another_file_that_is_like_a_setting_needs_replace_too(project: Path) -> None:
    genes = project / "genes.txt"
    genes.write_text("ESR1")
    known = Manifest(project / "work/features/0.5mpp-224px/efficientnet-lite0/manifest.jsonl").latest("extract")["a"]
    listed = InputRecord(digest="sha256:0", path=str(genes), bytes=4, mtime_ns=0)
    train = {"stage": "train", "stage_version": VERSIONS["train"], "item": "fold-0", "inputs": {"gene_list": listed}}
    Manifest(project / "work/models/her2/manifest.jsonl").append(structs.replace(known, **train, outputs={}))
    item = status("-w", project / "work")["train", "fold-0"]
    assert (item["state"], item["why"]) == ("stale", "gene_list changed (genes.txt)")
    assert "--replace" in item["hint"]


def test_another_mpp_asks_for_folders_that_are_not_there_yet(project: Path) -> None:
    with (project / "wsipipe.toml").open("a") as stream:
        stream.write("[tile]\nmpp = 1.0\n")
    todo = {i["folder"]: i for i in status("-c", project / "wsipipe.toml").values() if i["state"] == "to do"}
    assert todo.keys() == {"tiles/1mpp-224px", "features/1mpp-224px/efficientnet-lite0"}


def test_new_slides_are_to_do(project: Path) -> None:
    write_slide(project / "slides/c.svs", seed=3)
    items = status("-c", project / "wsipipe.toml")
    assert items["tile", "c"]["state"] == "to do"
    assert wsipipe("tile", "-c", project / "wsipipe.toml").code == 1
    assert status("-c", project / "wsipipe.toml")["extract", "c"]["state"] == "to do"


def test_before_anything_is_tiled_each_slide_is_to_do_and_rna_too(project: Path) -> None:
    shutil.rmtree(project / "work")
    (project / "rna.csv").touch()
    with (project / "wsipipe.toml").open("a") as stream:
        stream.write('[genomics]\nmatrix = "rna.csv"\n')
    items = status("-c", project / "wsipipe.toml")
    slides = {(stage, slide) for stage in ("tile", "extract") for slide in ("a", "b", "broken")}
    assert items.keys() == {*slides, ("genomics", "all")}
    assert {item["state"] for item in items.values()} == {"to do"}


def test_it_writes_nothing_and_needs_nothing(project: Path, tmp_path: Path) -> None:
    manifest = project / "work/tiles/0.5mpp-224px/manifest.jsonl"
    before = (manifest.stat().st_mtime_ns, len(Manifest(manifest).records()))
    status("-w", project / "work")
    assert before == (manifest.stat().st_mtime_ns, len(Manifest(manifest).records()))
    nothing = wsipipe("status", "-w", tmp_path / "nowhere")
    assert nothing.code == 0
    assert "nothing has been done" in nothing.out
    assert not (tmp_path / "nowhere").exists()


def test_it_is_watched_until_it_is_interrupted(project: Path) -> None:
    """Without a terminal, the table is printed when it has changed."""
    command = "from wsipipe.pipeline import status\nimport functools\n"
    command += "status.watch_status = functools.partial(status.watch_status, seconds=0.05)\n"
    command += "from wsipipe.pipeline.cli import main; main()"
    words = [sys.executable, "-c", command, "status", "--watch", "-w", str(project / "work")]
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=unbuffered) as process:
        assert process.stdout is not None
        tables = [until(process.stdout, "Ctrl-C ends")]
        (project / "work/tiles/0.5mpp-224px/a.h5").unlink()
        settled = [line.split() for line in wsipipe("status", "-w", project / "work").out.splitlines()]
        while settled[:4] != [line.split() for line in tables[-1][-4:]]:  # a scan may have begun before the removal
            tables.append(until(process.stdout, "Ctrl-C ends"))
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0
    assert tables[0] != tables[1]
    # Interrupted between writing and forgetting what it has written, rich writes the table once more.
    assert [line.split() for line in rest.splitlines()[:-1]] in ([], settled[:4])
    assert wsipipe("status", "--watch", "--json").code == 2


def until(stream: IO[str], words: str) -> list[str]:
    """The lines up to one with these words, without it."""
    lines = []
    for line in stream:
        if words in line:
            return lines
        lines.append(line)
    raise AssertionError(f"{words!r} did not come")
