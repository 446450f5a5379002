"""Files are read where a library that hangs, balloons or crashes takes nothing else with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import stubborn_readers as stubborn
from storage import Storage
from wsipipe.data.errors import StoreError, SurroundingsError
from wsipipe.data.files import reading_process
from wsipipe.data.files.reading_process import UnreadableError, most_bytes, read_in_a_process
from wsipipe.data.surroundings import patiently


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.h5"
    path.write_text("content")
    return path


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_process, "_SECONDS", 1)


def test_arrays_come_as_they_are_and_can_be_changed(file: Path) -> None:
    for got, expected in zip(read_in_a_process(stubborn.arrays, file), stubborn.arrays(file), strict=True):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == expected.dtype
        assert got.flags.writeable


def test_one_process_reads_many_files_and_another_goes_on_after_damage(file: Path) -> None:
    first = read_in_a_process(stubborn.process, file, 1, "b")
    assert first[0] != os.getpid()
    assert first[1] == (1, "b")
    assert read_in_a_process(stubborn.process, file)[0] == first[0]
    with pytest.raises(UnreadableError):
        read_in_a_process(stubborn.fails, file)
    assert read_in_a_process(stubborn.process, file)[0] not in (first[0], os.getpid())


def test_a_process_that_somebody_has_ended_is_replaced(file: Path) -> None:
    fork = read_in_a_process(stubborn.process, file)[0]
    os.kill(fork, signal.SIGKILL)
    assert is_gone(fork)
    [waiting] = reading_process._idle[os.getpid(), stubborn.__name__]
    for _ in until():
        if not waiting.is_alive:
            break
    assert read_in_a_process(stubborn.process, file)[0] != fork


def test_the_process_that_reads_hdf5_is_light() -> None:
    script = """
import sys
sys.path[:] = sys.argv[1].split(":")
import wsipipe.data.files.hdf5
print(*sys.modules)
"""
    command = [sys.executable, "-c", script, ":".join(sys.path)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "h5py" in loaded
    assert not {"torch", "pandas", "anndata", "zarr", "cv2", "sklearn", "timm"} & {*loaded}


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (stubborn.without_end, "reading it comes to no end .stopped after 1 s of computing, the limit for a file of 7"),
        (stubborn.balloons, "reading it takes more than 671 MB of memory, the limit for a file of 7 bytes"),
        (stubborn.balloons_in_its_answer, "takes more than 671 MB of memory"),
        (stubborn.crashes, "the library that reads it crashes .SIGSEGV"),
        (stubborn.aborts, "the library that reads it crashes .SIGABRT"),
        (stubborn.fails, r"what no library should raise, of \\udcff"),
        (stubborn.gives_what_cannot_be_sent, "lambda"),
    ],
)
def test_what_a_file_does_to_a_library_is_said_of_the_file(
    read: Callable[[Path], object], says: str, file: Path
) -> None:
    with pytest.raises(UnreadableError, match=says):
        read_in_a_process(read, file)
    assert read_in_a_process(stubborn.prints, file) == "content"


def test_an_error_of_ours_comes_as_it_is(file: Path) -> None:
    with pytest.raises(StoreError, match="of another kind") as caught:
        read_in_a_process(stubborn.refuses, file)
    assert (caught.value.path, caught.value.hint) == (str(file), "take another")


def test_a_failure_of_the_machine_is_told_from_damage(
    file: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SurroundingsError, match="Input/output error"):
        patiently(lambda: read_in_a_process(stubborn.meets_a_failure, file), file)
    with storage.failing(file, "ESTALE", pauses=3):
        assert patiently(lambda: read_in_a_process(stubborn.prints, file), file) == "content"
    with pytest.raises(SurroundingsError, match="was ended") as caught:
        read_in_a_process(stubborn.is_killed, file)
    assert "memory" in caught.value.hint
    monkeypatch.setattr(reading_process, "_PATIENCE", 1)
    with pytest.raises(SurroundingsError, match="could not be read within 1 s") as caught:
        read_in_a_process(stubborn.waits, file)
    assert "storage" in caught.value.hint
    assert is_gone(int(file.with_suffix(".pid").read_text()))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SurroundingsError, match="does not start"):
        read_in_a_process(stubborn.prints, file)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UnreadableError, match="folder, or no file"):
            read_in_a_process(stubborn.prints, path)
    with pytest.raises(FileNotFoundError):
        read_in_a_process(stubborn.prints, tmp_path / "none")


def test_other_threads_go_on_beside_a_hang(file: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        hanging = threads.submit(read_in_a_process, stubborn.without_end, file)
        assert threads.submit(read_in_a_process, stubborn.prints, file).result() == "content"
        assert isinstance(hanging.exception(), UnreadableError)


def test_a_fork_has_a_process_of_its_own(file: Path) -> None:
    own = read_in_a_process(stubborn.process, file)[0]
    receiving, sending = os.pipe()
    if not os.fork():
        os.write(sending, str(read_in_a_process(stubborn.process, file)[0]).encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as stream:
        assert int(stream.read()) not in (own, os.getpid())
    os.wait()
    assert read_in_a_process(stubborn.process, file)[0] == own


WAIT = """
import sys
sys.path[:] = sys.argv[1].split(":")
from pathlib import Path
from wsipipe.data.files.reading_process import read_in_a_process
import stubborn_readers
read_in_a_process(stubborn_readers.waits, Path(sys.argv[2]))
"""


def test_ctrl_c_ends_both_processes(file: Path) -> None:
    command = [sys.executable, "-c", WAIT, ":".join(sys.path), str(file)]
    program = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    told = file.with_suffix(".pid")
    for _ in until():
        if told.exists() and told.read_text():
            break
    program.send_signal(signal.SIGINT)
    assert program.wait() != 0
    assert is_gone(int(told.read_text()))


def until() -> Iterator[None]:
    """Moments, as many as one must wait for."""
    while True:
        yield
        time.sleep(0.02)


def is_gone(process: int) -> bool:
    """Wait for the end of a process."""
    for _ in until():
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
    raise AssertionError


def test_limits_grow_with_the_file() -> None:
    assert most_bytes(0) == most_bytes(8 << 20) == 256 << 20
    assert most_bytes(1 << 30) == 32 << 30
    assert most_bytes(10_000_000) < 2**30
