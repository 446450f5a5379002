"""Checks of machine and workspace: few files, no room, a file system that takes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from doctor_subject import subject_in
from wsipipe.data.manifest import Manifest, OutputRecord, Record
from wsipipe.pipeline.doctor.machine import cores, memory, shared, temporary_folder
from wsipipe.pipeline.doctor.storage import clock, locks, room, speed, workspace

LIMITED = """
import json, sys
from dataclasses import asdict
from pathlib import Path
sys.path[:] = json.loads(sys.argv[1])
from doctor_subject import check_called, subject_in
from wsipipe.pipeline.doctor.examiner import Examiner
with Examiner(1800) as examiner:
    print(json.dumps(asdict(examiner.run(check_called(sys.argv[2]), subject_in(Path(sys.argv[3]))))))
"""


def limited(limit: str, check: str, folder: Path) -> dict[str, str]:
    """The finding of a check in a shell with a limit, such as ``ulimit -n 64``."""
    words = [sys.executable, "-c", LIMITED, json.dumps(sys.path), check, str(folder)]
    done = subprocess.run(["/bin/sh", "-c", f'{limit}; exec "$@"', "sh", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("files", "state"), [(64, "failed"), (512, "warning"), (1024, "ok")])
def test_few_open_files(tmp_path: Path, files: int, state: str) -> None:
    found = limited(f"ulimit -n {files}", "open files", tmp_path)
    assert found["state"] == state, found
    assert found["found"].startswith(f"{files:,} at a time")
    assert state == "ok" or "ulimit -n" in found["hint"]


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    found = limited("ulimit -f 100", "speed", tmp_path)  # blocks of 512 or 1024 bytes
    assert found["state"] == "failed", found
    assert "File too large" in found["found"]
    assert not any(tmp_path.iterdir())


def test_what_the_machine_gives_is_said(tmp_path: Path) -> None:
    for check in (cores, memory, shared, temporary_folder):
        found = check(subject_in(tmp_path))
        assert found.state in ("ok", "warning"), found
        assert found.found


@pytest.mark.parametrize("there", [True, False])
def test_a_sound_workspace_is_left_as_it_was(tmp_path: Path, there: bool) -> None:
    place = tmp_path / "work" / "deep"
    if there:
        place.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    for check in (workspace, room, speed, locks, clock):
        found = check(subject_in(place))
        assert found.state in ("ok", "warning"), found
    assert sorted(tmp_path.rglob("*")) == before
    assert locks(subject_in(place)).state == "ok"
    assert ("does not exist yet" in workspace(subject_in(place)).found) != there


def test_a_workspace_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("")
    assert workspace(subject_in(tmp_path / "work" / "deep")).state == "failed"


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="a folder that takes no files is wanted")
def test_a_folder_that_takes_no_files() -> None:
    with pytest.raises(OSError, match="/sys/kernel"):
        workspace(subject_in(Path("/sys/kernel")))


def planted(work: Path, *, tiled: dict[str, int], extracted: dict[str, int], size: int) -> None:
    """Records of slides with so many tiles, and of features of so many bytes a tile."""
    for stage, folder, slides in (("tile", "tiles/0.5mpp-224px", tiled), ("extract", "features/F", extracted)):
        manifest = Manifest.of(work / folder.replace("F", "0.5mpp-224px/uni2-h"))
        for slide, tiles in slides.items():
            output = OutputRecord(path=slide, bytes=tiles * size if stage == "extract" else 10, digest="sha256:0")
            manifest.append(
                Record(
                    stage=stage,
                    stage_version=1,
                    item=slide,
                    status="done",
                    fingerprint="",
                    settings={},
                    inputs={},
                    outputs={"it": output},
                    stats={"tiles": tiles},
                    start=datetime.now(UTC),
                    seconds=1,
                    wsipipe="0",
                )
            )


def test_room_by_what_was_measured(tmp_path: Path) -> None:
    subject = subject_in(tmp_path, features="0.5mpp-224px/uni2-h", backbone="uni2-h")
    planted(tmp_path, tiled={"a": 1000, "b": 3000}, extracted={"a": 1000}, size=2000)
    found = room(subject)
    assert found.figures["need"] == 3000 * 2000
    assert "2 slides are tiled, the 1 that are not extracted need 6 MiB; 100 more would need 381 MiB" in found.found
    planted(tmp_path, tiled={"c": 10**14}, extracted={}, size=0)
    found = room(subject)
    assert found.state == "failed"
    assert found.figures["need"] > found.figures["free"]


def test_room_by_the_width_of_the_features(tmp_path: Path) -> None:
    planted(tmp_path, tiled={"a": 1000}, extracted={}, size=0)
    found = room(subject_in(tmp_path, features="0.5mpp-224px/uni2-h", backbone="uni2-h"))
    assert found.figures["need"] == 1000 * 1536 * 2
    unknown = room(subject_in(tmp_path, features="0.5mpp-224px/vit", backbone="vit"))
    assert unknown.figures["need"] == 0
    assert "not known" in unknown.found
