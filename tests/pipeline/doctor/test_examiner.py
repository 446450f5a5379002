"""A check that hangs, dies or fails is a row of the report, and the next ones are made."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from doctor_subject import check_called, subject_in
from wsipipe.pipeline.doctor.checks import CHECKS, CLEAR_AWAY, WORKSPACE
from wsipipe.pipeline.doctor.doctor import examine_group
from wsipipe.pipeline.doctor.examiner import Examiner

PYTHON = check_called("Python")


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A file that whoever opens it waits at for ever, as on a share that is gone."""
    os.mkfifo(tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_a_check_that_hangs_is_given_up(fifo: Path, tmp_path: Path) -> None:
    check = replace(check_called("weights"), seconds=5)
    subject = subject_in(tmp_path, weights=str(fifo))
    with Examiner() as examiner:
        begin = time.monotonic()
        found = examiner.run(check, subject)
        assert time.monotonic() - begin < 90
        assert (found.state, found.found) == ("failed", "no answer in 5 s")
        assert found.hint == check.group.hangs
        assert examiner.hung
        assert examiner.run(PYTHON, subject).state == "ok"
        assert not examiner.hung


def test_a_check_whose_process_dies(fifo: Path, tmp_path: Path) -> None:
    with Examiner() as examiner:
        assert examiner.run(PYTHON, subject_in(tmp_path)).state == "ok"
        process = examiner._process
        assert process is not None
        threading.Timer(1.0, process.send_signal, [signal.SIGSEGV]).start()
        found = examiner.run(check_called("weights"), subject_in(tmp_path, weights=str(fifo)))
        assert found.state == "failed"
        assert "SIGSEGV" in found.found
        assert not examiner.hung
        assert examiner.run(PYTHON, subject_in(tmp_path)).state == "ok"


def test_a_check_that_raises_is_a_failed_row(tmp_path: Path) -> None:
    with Examiner() as examiner:
        missing = replace(PYTHON, place="software:nothing_of_that_name")
        found = examiner.run(missing, subject_in(tmp_path))
        assert found.state == "failed"
        assert "AttributeError" in found.found
        assert examiner.run(PYTHON, subject_in(tmp_path)).state == "ok"


def test_no_process_is_left(tmp_path: Path) -> None:
    with Examiner() as examiner:
        examiner.run(PYTHON, subject_in(tmp_path))
        process = examiner._process
    assert process is not None
    assert process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_what_would_hang_too_is_left_out(fifo: Path, tmp_path: Path) -> None:
    checks = [replace(check_called("weights"), seconds=5), PYTHON]
    with Examiner() as examiner:
        hung, after = examine_group(checks, subject_in(tmp_path, weights=str(fifo)), examiner, "software")
    assert hung.finding.state == "failed"
    assert (after.finding.state, after.finding.found) == ("warning", "not checked, because weights did not answer")


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="a folder that takes no files is wanted")
def test_what_needs_a_check_that_failed_is_left_out() -> None:
    checks = [check for check in CHECKS if check.group is WORKSPACE]
    with Examiner(600) as examiner:
        first, *others = examine_group(checks, subject_in(Path("/sys/kernel")), examiner, "workspace")
    assert first.finding.state == "failed"
    assert first.finding.hint
    assert "/sys/kernel" in first.finding.found
    assert {row.finding.found for row in others} == {"not checked, because writing failed"}


def test_what_a_killed_check_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    subject = subject_in(tmp_path / "work")
    (tmp_path / "work").mkdir()
    for place in (tmp_path, tmp_path / "work"):
        (place / f".{subject.mark}").mkdir()
        (place / f".{subject.mark}" / "file").write_text("left")
    with Examiner(600) as examiner:
        examiner.run(CLEAR_AWAY, subject)
    assert [path.name for path in tmp_path.rglob("*")] == ["work"]
