"""A cluster of two workers and one machine make the same: every record and every digest, but for time and order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from shutil import copytree, rmtree
from threading import Thread
from typing import Any

import numpy as np
import pytest

pytest.importorskip("distributed")

from command import told
from dask_cluster import begun, dask_worker_of, kill, small_cluster, until
from distributed import LocalCluster
from msgspec import structs
from staying_stages import StayingEncode, StayingRead
from wsipipe.data.manifest import Manifest
from wsipipe.data.units import Mpp
from wsipipe.pipeline.cluster.choice import elsewhere
from wsipipe.pipeline.cluster.settings import ClusterSettings
from wsipipe.pipeline.console import Console
from wsipipe.pipeline.demo.slides import write_aperio
from wsipipe.pipeline.run.runner import Runner

PATIENTS = 8
SETTINGS = """
[cohort]
slides = ["slides"]
table = "cohort.csv"
[tile]
tissue = "all"
[extract]
device = "cpu"
[split]
folds = 2
[train]
hidden = 16
shared = 8
slots = 4
epochs = 2
device = "cpu"
[predict]
device = "cpu"
top_tiles = 1
[biomarkers.er]
label_column = "er"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides of two tiles, half of them darker, and a table that says which."""
    place = tmp_path_factory.mktemp("project")
    (place / "slides").mkdir()
    random = np.random.default_rng(0)
    rows = ["slide_id,patient_id,er"]
    for n in range(PATIENTS):
        pixels = random.integers(40 if n % 2 else 90, 200, (230, 460, 3)).astype(np.uint8)
        write_aperio(place / "slides" / f"s{n}.svs", pixels, mpp=Mpp(0.5))
        rows.append(f"s{n},p{n},{'positive' if n % 2 else 'negative'}")
    (place / "cohort.csv").write_text("\n".join(rows) + "\n")
    (place / "wsipipe.toml").write_text(SETTINGS)
    return place


def the_chain(project: Path, workspace: Path, *where: str) -> dict[str, dict[str, Any]]:
    """Run the chain of commands; what each of its stages said."""
    common = ("-c", project / "wsipipe.toml", "-w", workspace)
    said: dict[str, dict[str, Any]] = {}
    model = ("--model", workspace / "models" / "er")
    for command, *words in (
        ("tile",),
        ("extract",),
        ("train",),
        ("predict", project / "slides", *model),
        ("evaluate", *model, "--training-patients"),
        ("encode",),
    ):
        said |= {f"{command} {stage}": words for stage, words in told(command, *words, *common, *where).items()}
    return said


def records(workspace: Path) -> dict[str, Any]:
    """All records, without when and where. Of reports, that they are there: their pages say when they were made."""
    found: dict[str, Any] = {}
    for file in sorted(workspace.rglob("manifest.jsonl")):
        for record in Manifest.of(file.parent).records():
            fields = structs.asdict(record)
            for name in ("start", "seconds", "host"):
                fields.pop(name, None)
            if record.stage in ("report", "prediction_report", "external_evaluate"):
                fields = {"status": record.status}
            text = json.dumps({name: repr(value) for name, value in fields.items()}, sort_keys=True)
            key = f"{file.parent.relative_to(workspace)} {record.stage} {record.item}"
            found.setdefault(key, []).append(text.replace(str(workspace), "WORKSPACE"))
    return found


@pytest.fixture(scope="module")
def here(project: Path) -> Path:
    """The workspace that this machine makes."""
    the_chain(project, project / "here")
    return project / "here"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with small_cluster(memory="2GB") as cluster:
        yield cluster


def test_two_workers_and_one_machine_make_the_same(
    project: Path, here: Path, tmp_path: Path, cluster: LocalCluster
) -> None:
    said = the_chain(project, tmp_path, "--dask", cluster.scheduler_address)
    made = records(here)
    assert made == records(tmp_path)
    stages = {"tile", "extract", "encode", "train", "cross_validate", "predict", "read_slides"}
    assert {name.split()[1] for name in made} >= stages
    for stage in (
        "tile tile", "extract extract", "encode encode", "train train", "predict predict", "evaluate read_slides",
    ):  # fmt: skip
        worked = said[stage]["workers"]
        assert sum(worker["items"] for worker in worked.values()) == said[stage]["done"] > 0, stage


@pytest.mark.parametrize("stage", [StayingEncode, StayingRead])
def test_a_worker_killed_in_the_middle_changes_nothing(
    project: Path, here: Path, tmp_path: Path, cluster: LocalCluster, stage: type[StayingEncode | StayingRead]
) -> None:
    cluster.wait_for_workers(2)
    workspace = tmp_path / "here"
    copytree(here, workspace)
    made = stage.of(workspace, project / "cohort.csv")
    before = {item: record.outputs for item, record in made.manifest.latest(stage.name).items()}
    rmtree(made.folder)
    killer = Thread(target=lambda: kill(dask_worker_of(until(lambda: begun(tmp_path))[0])), daemon=True)
    killer.start()
    there = elsewhere(ClusterSettings(kind="address", address=cluster.scheduler_address))
    with closing(there):
        summary = Runner(workspace, Console(json_only=True), elsewhere=there).run(made)
    assert any("was lost" in note for note in summary.notes)
    assert (summary.done, summary.failures) == (PATIENTS, ())
    assert {item: record.outputs for item, record in made.manifest.latest(stage.name).items()} == before
