"""The lock of a folder that several hosts share: hosts are UTS namespaces here, and flock reaches none but its own."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wsipipe.data.errors import BusyError
from wsipipe.data.file_names import UNFINISHED
from wsipipe.data.manifest import Manifest
from wsipipe.data.writing_lock import FolderLock, holder_of, locked, still_ours

LEASE = 1.5

LOCAL_FLOCK = """
import fcntl

def of_this_host_alone(handle, operation):
    pass

fcntl.flock = of_this_host_alone
"""
"""The system's lock as on a mount where each host has its own: everybody gets it."""

NO_EXCHANGE = """
import errno
import filelock._util

filelock._util._rename_call = lambda: (lambda *names: errno.EINVAL, 2)
"""
"""A file system that cannot exchange two names in one step (NFS, SMB); filelock then leaves a dead holder's claim."""

HOLDER = f"""
import sys
from pathlib import Path
from wsipipe.data.errors import BusyError
from wsipipe.data.manifest import Manifest
from wsipipe.data.writing_lock import locked, still_ours

folder = Path(sys.argv[1])
try:
    with locked(folder, lease={LEASE}):
        print("held", flush=True)
        for line in sys.stdin:
            still_ours(folder)
            with (folder / "written").open("a") as stream:
                stream.write(sys.argv[2] + "\\n")
            print("written", flush=True)
except BusyError as error:
    print("busy:", error, flush=True)
"""

AN_HOUR_OFF = """
import os, time
import filelock._lease

def touch(path, fd=None):
    os.utime(path, (time.time() + HOURS * 3600,) * 2)

filelock._lease.touch = touch
"""
"""A host whose clock, by which it touches files, is wrong."""


on_any_storage = pytest.mark.parametrize(
    "before", [LOCAL_FLOCK, LOCAL_FLOCK + NO_EXCHANGE], ids=["local", "without-exchange"]
)


def in_another_host(name: str) -> list[str]:
    """What makes a command see another host's name, or a skip where that is not allowed."""
    command = ["unshare", "--user", "--map-root-user", "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "sh"]
    try:
        ran = subprocess.run([*command, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if ran.returncode:
        pytest.skip(f"no namespaces here: {ran.stderr.decode()}")
    return command


class Holder:
    def __init__(self, folder: Path, host: str, before: str) -> None:
        command = [*in_another_host(host), sys.executable, "-c", before + HOLDER, str(folder), host]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def reads(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def write(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.reads()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Holder]]:
    """Start a process on another host that takes the lock of ``tmp_path``."""
    holders = []

    def start(host: str, before: str = LOCAL_FLOCK) -> Holder:
        holders.append(Holder(tmp_path, host, before))
        return holders[-1]

    yield start
    for holder in holders:
        holder.end()


def test_a_living_holder_on_another_host_is_never_overtaken(hold: Callable[..., Holder]) -> None:
    first = hold("node-a")
    assert first.reads() == "held"
    for _ in range(3):
        answer = hold("node-b").reads()
        assert answer.startswith("busy: ")
        assert '"host": "node-a"' in answer
    assert first.write() == "written"


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_an_hour_off_does_not_matter(hold: Callable[..., Holder], hours: int) -> None:
    wrong = LOCAL_FLOCK + AN_HOUR_OFF.replace("HOURS", str(hours))
    first = hold("node-a", wrong)
    assert first.reads() == "held"
    assert hold("node-b").reads().startswith("busy: ")
    first.end()
    second = hold("node-b")
    assert second.reads() == "held"
    assert hold("node-a", wrong).reads().startswith("busy: ")


@on_any_storage
def test_the_lock_of_a_killed_holder_on_another_host_is_taken_over(hold: Callable[..., Holder], before: str) -> None:
    first = hold("node-a", before)
    assert first.reads() == "held"
    first.end()
    second = hold("node-b", before)
    assert second.reads() == "held"
    assert second.write() == "written"


@on_any_storage
def test_a_holder_that_stood_still_writes_nothing_after_it_has_lost_its_lock(
    tmp_path: Path, hold: Callable[..., Holder], before: str
) -> None:
    first = hold("node-a", before)
    assert first.reads() == "held"
    assert first.write() == "written"
    first.process.send_signal(signal.SIGSTOP)
    second = hold("node-b", before)
    assert second.reads() == "held"
    assert second.write() == "written"
    first.process.send_signal(signal.SIGCONT)
    answer = first.write()
    assert answer.startswith("busy: ")
    assert "taken over" in answer
    assert '"host": "node-b"' in answer
    assert second.write() == "written"  # the end of the first has taken nothing of the second's lock
    assert (tmp_path / "written").read_text().split() == ["node-a", "node-b", "node-b"]
    assert hold("node-c").reads().startswith("busy: ")


@on_any_storage
def test_one_of_many_that_come_at_once_has_the_lock(hold: Callable[..., Holder], before: str) -> None:
    first = hold("node-0", before)
    assert first.reads() == "held"
    first.end()  # dead, so that all wait for it and then take it over at once
    answers = [holder.reads()[:4] for holder in [hold(f"node-{n}", before) for n in range(1, 5)]]
    assert sorted(answers) == ["busy", "busy", "busy", "held"]


def test_without_exchange_the_lock_of_a_killed_holder_on_the_same_host_is_taken_over(
    tmp_path: Path, hold: Callable[..., Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("filelock._util._rename_call", lambda: (lambda *names: errno.EINVAL, 2))
    first = hold(socket.gethostname(), NO_EXCHANGE)
    assert first.reads() == "held"
    assert holder_of(tmp_path) is not None
    first.end()
    assert (tmp_path / ".lock-file").exists()
    assert holder_of(tmp_path) is None
    with locked(tmp_path, lease=LEASE):
        still_ours(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]


def test_a_claim_that_is_another_s_by_now_is_put_back(tmp_path: Path) -> None:
    with locked(tmp_path):
        FolderLock(tmp_path)._clear_away((0, 0))
        still_ours(tmp_path)
        assert not list(tmp_path.glob(f"{UNFINISHED}*"))


def test_a_claim_without_its_text_is_taken_over(tmp_path: Path) -> None:
    """A machine that lost power has left the name alone: the text of a new file reaches an NFS server later."""
    (tmp_path / ".lock-file").touch()
    with locked(tmp_path, lease=LEASE):
        still_ours(tmp_path)


def test_on_this_host_a_living_holder_is_known_at_once(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(BusyError, match=f'"pid": {os.getpid()}'), locked(tmp_path):
        pytest.fail("two writers")


def test_no_record_is_appended_once_the_lock_is_lost(tmp_path: Path) -> None:
    with locked(tmp_path):
        still_ours(tmp_path)
        claim = tmp_path / ".lock-file"
        other = tmp_path / "claim of another"
        other.write_text(claim.read_text().replace("token=", "token=0"))
        other.replace(claim)
        with pytest.raises(BusyError, match="taken over"):
            Manifest.of(tmp_path).append()
    assert claim.exists()  # it is another's now
