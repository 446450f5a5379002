"""The lock of a manifest: who holds it is said, a dead holder's is taken over, also where the system has no locks."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from manifest_records import record
from wsipipe.data import artifact
from wsipipe.data.errors import BusyError
from wsipipe.data.manifest import Manifest

HOLDER = """
import sys, time
from pathlib import Path
from wsipipe.data.manifest import Manifest

with Manifest(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of ``tmp_path``'s manifest."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "manifest.jsonl")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_run_hears_who_holds_the_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    with pytest.raises(BusyError) as caught, manifest.lock():
        pytest.fail("two writers")
    assert f'"pid": {holder.pid}' in str(caught.value)
    assert f'"host": "{socket.gethostname()}"' in str(caught.value)
    assert caught.value.path == str(tmp_path)
    assert manifest.records() == []  # reading is free


def test_a_killed_holders_lock_is_free_at_once(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Manifest(tmp_path / "manifest.jsonl").lock():
        told = json.loads((tmp_path / ".lock-holder.json").read_text())
        assert told["pid"] == os.getpid()
    assert not (tmp_path / ".lock-holder.json").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_lock_ends_with_the_block_however_that_ends(tmp_path: Path, error: type[BaseException]) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")

    def hold() -> None:
        with manifest.lock():
            raise error

    with pytest.raises(error):
        hold()
    with manifest.lock():
        pass


def test_other_folders_have_locks_of_their_own(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with Manifest(tmp_path / "other" / "manifest.jsonl").lock():
        assert holder.poll() is None


WITHOUT_LOCKS = """
import errno, fcntl, os, warnings

def no_locks(handle, operation):
    raise OSError(NUMBER, os.strerror(NUMBER))

fcntl.flock = no_locks
warnings.simplefilter("ignore")
"""


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system without locks, here; and what makes one of another process's."""

    def refuse(handle: int, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr(artifact, "_said", set())
    return WITHOUT_LOCKS.replace("NUMBER", str(request.param))


def test_without_locks_of_the_system_one_run_writes_at_a_time(tmp_path: Path, no_locks: str) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    (tmp_path / ".lock").touch()  # of a run on a machine that has them
    with pytest.warns(UserWarning, match="has no locks"), manifest.lock():
        manifest.append(record("a"))
    with manifest.lock():  # where a warning would be an error: it is said once
        again = Manifest(manifest.path)
        with pytest.raises(BusyError, match=f'"pid": {os.getpid()}') as caught, again.lock():
            pytest.fail("two writers")
        assert str(tmp_path / ".lock-file") in caught.value.hint
    assert manifest.records() == [record("a")]


def test_without_locks_a_dead_holders_is_taken_over(tmp_path: Path, no_locks: str) -> None:
    command = [sys.executable, "-c", no_locks + HOLDER, str(tmp_path / "manifest.jsonl")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    manifest = Manifest(tmp_path / "manifest.jsonl")
    with pytest.warns(UserWarning, match="has no locks"), pytest.raises(BusyError), manifest.lock():
        pytest.fail("two writers")
    process.kill()
    process.communicate()
    with manifest.lock():
        manifest.append(record("a"))


def test_without_locks_a_holder_on_another_machine_is_named_with_the_way_out(tmp_path: Path, no_locks: str) -> None:
    (tmp_path / ".lock-file").write_text("4711\nanother-host\n")
    (tmp_path / ".lock-holder.json").write_text('{"host": "another-host", "pid": 4711}')
    manifest = Manifest(tmp_path / "manifest.jsonl")
    with (
        pytest.warns(UserWarning, match="has no locks"),
        pytest.raises(BusyError, match="another-host") as caught,
        manifest.lock(),
    ):
        pytest.fail("two writers")
    assert f"remove {tmp_path / '.lock-file'}" in caught.value.hint
    (tmp_path / ".lock-file").unlink()
    with manifest.lock():
        pass


def test_a_link_in_place_of_the_holders_name_is_replaced(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_text("precious")
    holder = tmp_path / "work/.lock-holder.json"
    holder.parent.mkdir()
    for name in (holder, holder.with_name(".partial-.lock-holder.json")):
        name.symlink_to(foreign)
    with Manifest.of(holder.parent).lock():
        assert not holder.is_symlink()
        assert json.loads(holder.read_text())["pid"] == os.getpid()
    assert foreign.read_text() == "precious"
    assert not holder.exists()


def test_what_stands_in_the_holders_file_is_not_trusted(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    told = tmp_path / ".lock-holder.json"
    told.write_bytes(b"\x1b[2J\a" + b"x" * 10_000)
    for content in (told.read_bytes(), b"\xff\xfe", None):
        told.unlink()
        if content is None:
            os.mkfifo(told)
        else:
            told.write_bytes(content)
        with pytest.raises(BusyError) as caught, Manifest.of(tmp_path).lock():
            pytest.fail("two writers")
        assert caught.value.what.isprintable()
        assert len(caught.value.what) < 400
    assert holder.poll() is None
