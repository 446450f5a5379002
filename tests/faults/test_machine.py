"""Commands on a machine that lacks something: disk, rights, memory, files that may be open, a clock that goes forward.

Each failure names the file and the way out, nothing half-written looks whole, and the next run ends as an undisturbed
one does.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from commands import left_behind, meaning, without_bytes
from disturbances import LittleMemory, SmallDisk, SmallFiles, a_clock_that_goes_back, few_files
from msgspec import structs
from own_process import Ended, Running, forked, spawned
from projects import COMMANDS, Steps, workspace_of
from wsipipe.data.manifest import Manifest

WRITE = ("tile", "extract", "predict", "train")


def failed_and_finished(
    ended: Ended, words: str, project: Path, command: str, steps: Steps, *, last_digit: bool = True
) -> None:
    """The command failed for a reason that it names, and the next one ends as if nothing had been.

    :param last_digit: whether all bytes are the same; else what is done, and with which outputs.
    """
    assert ended.code == 1, ended.err
    assert words in ended.out + ended.err
    assert "Traceback" not in ended.err
    assert "unexpected error" not in ended.out + ended.err
    assert records_are_whole(project)
    again = forked(project, *COMMANDS[command]).ended()
    assert again.code == 0, again.err
    found, expected = (of if last_digit else without_bytes(of) for of in (meaning(project), steps.after[command]))
    assert found == expected
    assert left_behind(project) == []


def records_are_whole(project: Path) -> bool:
    """Whether each item that is recorded as done is there to the last byte."""
    for file in project.rglob("manifest.jsonl"):
        workspace = next(parent for parent in file.parents if parent.name.startswith("work"))
        if not all(record.is_whole(workspace, check_digest=True) for record in Manifest(file).latest().values()):
            return False
    return True


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk(command: str, steps: Steps, long: bool, tmp_path: Path) -> None:
    if command not in steps.after or not (long or command == "train"):
        pytest.skip("in the long round")
    for spare in (2, 5, 9, 14, 20, 30) if long else (5,):
        place = tmp_path / str(spare)
        place.mkdir()
        project = steps.before(command, place)
        workspace, after = project / workspace_of(command), place / "after"
        small = SmallDisk(workspace, after, spare=spare)
        ended = forked(project, *COMMANDS[command], disturbed=(small,)).ended()
        shutil.rmtree(workspace)
        after.rename(workspace)
        if ended.code == 0:  # it was enough
            assert meaning(project) == steps.after[command]
        else:
            failed_and_finished(ended, "No space left on device", project, command, steps)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_disk(command: str, steps: Steps, long: bool, tmp_path: Path) -> None:
    if command not in steps.after or not (long or command == "tile"):
        pytest.skip("in the long round")
    project = steps.before(command, tmp_path)
    small = SmallDisk(project / workspace_of(command), tmp_path / "after", spare=None)
    ended = forked(project, *COMMANDS[command], disturbed=(small,)).ended()
    failed_and_finished(ended, "Read-only file system", project, command, steps)


@pytest.mark.parametrize("command", COMMANDS)
def test_files_that_may_not_become_large(command: str, steps: Steps, long: bool, tmp_path: Path) -> None:
    if command not in steps.after or not long:
        pytest.skip("in the long round")
    project = steps.before(command, tmp_path)
    largest = max(f.stat().st_size for f in project.rglob("manifest.jsonl")) if command != "tile" else 0
    small = SmallFiles(max(6000, largest + 3000))
    ended = forked(project, *COMMANDS[command], disturbed=(small,)).ended()
    if ended.code:
        failed_and_finished(ended, "File too large", project, command, steps)


def without_rights(project: Path, command: str) -> Ended:
    """Run a command as a user whom the rights of files bind: root is bound too without this capability."""
    before: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root ignores rights, and setpriv is not here")
        before = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
    return spawned(project, *COMMANDS[command], before=before).ended()


def test_a_workspace_that_may_not_be_written_to(steps: Steps, tmp_path: Path) -> None:
    project = steps.before("tile", tmp_path)
    (project / "clinic").chmod(0o555)
    try:
        ended = without_rights(project, "tile")
    finally:
        (project / "clinic").chmod(0o755)
    failed_and_finished(ended, "Permission denied", project, "tile", steps)


def test_a_slide_that_may_not_be_read(steps: Steps, tmp_path: Path) -> None:
    """The others are done, and it is tried again as soon as it may be."""
    project = steps.before("tile", tmp_path)
    slide = project / "clinic/slides/s1.svs"
    slide.chmod(0)
    ended = without_rights(project, "tile")
    slide.chmod(0o644)
    manifest = Manifest.of(project / "clinic/work/tiles/0.5mpp-224px")
    assert {item: record.status for item, record in manifest.latest("tile").items() if item != "s1"} == {
        "s0": "done",
        "s2": "done",
    }
    failed_and_finished(ended, f"{slide}: could not read or write: Permission denied", project, "tile", steps)


@pytest.mark.parametrize("command", COMMANDS)
def test_64_files_are_enough(command: str, steps: Steps, long: bool, tmp_path: Path) -> None:
    if command not in steps.after or not (long or command == "extract"):
        pytest.skip("in the long round")
    project = steps.before(command, tmp_path)
    ended = forked(project, *COMMANDS[command], disturbed=(few_files,)).ended()
    assert ended.code == 0, ended.err
    assert meaning(project) == steps.after[command]


def ended_or_killed(running: Running) -> Ended:
    """Wait for a command's end, and kill it if it waits for a thread that could not start.

    Python itself then waits for ever (python/cpython, issue 140746), zarr for its own thread; a user would kill it.
    """
    computed = 0
    while running.lives:
        running.process.join(60)
        with suppress(OSError):
            process = Path(f"/proc/{running.pid}")
            before, computed = computed, int((process / "stat").read_text().rsplit(")", 1)[1].split()[11])
            alone = not (process / f"task/{running.pid}/children").read_text()
            if alone and computed - before < os.sysconf("SC_CLK_TCK") // 10:
                os.kill(running.pid, signal.SIGKILL)
    return running.ended()


@pytest.mark.parametrize("command", COMMANDS)
def test_too_little_memory(command: str, steps: Steps, long: bool, tmp_path: Path) -> None:
    """Wherever it runs out, what failed is tried again; a library may also end the process."""
    if command not in steps.after or not (long or command == "extract"):
        pytest.skip("in the long round")
    for mebibytes in (0, 1, 2, 4, 8, 16, 32) if long else (1,):
        place = tmp_path / str(mebibytes)
        place.mkdir()
        project = steps.before(command, place)
        ended = ended_or_killed(forked(project, *COMMANDS[command], disturbed=(LittleMemory(mebibytes),)))
        if ended.code == 1:
            # A library of linear algebra may take another way: of float32 the last digit then differs (1e-7 was seen).
            failed_and_finished(ended, "memory", project, command, steps, last_digit=False)
        else:
            assert records_are_whole(project)
            again = forked(project, *COMMANDS[command]).ended()
            assert again.code == 0, again.err
            assert meaning(project) == steps.after[command]


def test_a_clock_that_goes_back(steps: Steps, tmp_path: Path) -> None:
    project = steps.before("train", tmp_path)
    ended = forked(project, *COMMANDS["train"], disturbed=(a_clock_that_goes_back,)).ended()
    assert ended.code == 0, ended.err
    assert meaning(project) == steps.after["train"]
    assert not any(word.startswith("-") and word[1:2].isdigit() for word in ended.out.split()), ended.out


def test_what_was_made_in_the_future_counts(steps: Steps, tmp_path: Path) -> None:
    """Files and records of a machine whose clock was ahead are as good as any."""
    project = steps.before("extract", tmp_path)
    for file in project.rglob("*"):
        os.utime(file, (4e9, 4e9))
    manifest = Manifest.of(project / "clinic/work/tiles/0.5mpp-224px")
    records = manifest.records()
    manifest.path.unlink()
    for record in records:
        manifest.append(structs.replace(record, start=record.start + timedelta(days=20_000)))
    for command in ("tile", "extract"):
        ended = forked(project, *COMMANDS[command]).ended()
        assert ended.code == 0, ended.err
    assert "tile: 3 slides done before, nothing to do" in forked(project, *COMMANDS["tile"]).ended().err
    assert meaning(project) == steps.after["extract"]
