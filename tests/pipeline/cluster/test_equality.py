"""A cluster of two workers and one machine make the same: every record and every digest, but for time and order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("distributed")

from command import told
from dask_cluster import small_cluster
from msgspec import structs
from wsipipe.data.manifest import Manifest
from wsipipe.data.units import Mpp
from wsipipe.pipeline.demo.slides import write_aperio

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
    for command in (["tile"], ["extract"], ["train"]):
        said |= {f"{command[0]} {stage}": words for stage, words in told(*command, *common, *where).items()}
    predict = ("predict", project / "slides", "--model", workspace / "models" / "er")
    return said | told(*predict, *common, *where)


def records(workspace: Path) -> dict[str, Any]:
    """All records, without when and where. Of reports, that they are there: their pages say when they were made."""
    found: dict[str, Any] = {}
    for file in sorted(workspace.rglob("manifest.jsonl")):
        for record in Manifest.of(file.parent).records():
            fields = structs.asdict(record)
            for name in ("start", "seconds", "host"):
                fields.pop(name, None)
            if record.stage in ("report", "prediction_report"):
                fields = {"status": record.status}
            text = json.dumps({name: repr(value) for name, value in fields.items()}, sort_keys=True)
            key = f"{file.parent.relative_to(workspace)} {record.stage} {record.item}"
            found.setdefault(key, []).append(text.replace(str(workspace), "WORKSPACE"))
    return found


def test_two_workers_and_one_machine_make_the_same(project: Path, tmp_path: Path) -> None:
    the_chain(project, tmp_path / "here")
    with small_cluster(memory="2GB") as cluster:
        said = the_chain(project, tmp_path / "there", "--dask", cluster.scheduler_address)
    here, there = records(tmp_path / "here"), records(tmp_path / "there")
    assert here == there
    assert {name.split()[1] for name in here} >= {"tile", "extract", "train", "cross_validate", "predict"}
    for stage in ("tile tile", "extract extract", "train train", "predict"):
        worked = said[stage]["workers"]
        assert sum(worker["items"] for worker in worked.values()) == said[stage]["done"] > 0, stage
