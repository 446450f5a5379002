"""Writing where a disk is full or read-only, and on file systems that cannot do everything."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from written_outputs import got, names, put
from wsipipe.data import artifact
from wsipipe.data.artifact import whole
from wsipipe.data.errors import SurroundingsError


def test_a_full_disk_is_the_surroundings_fault(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    put(path, "old", folder=False)

    def write() -> None:
        with whole(path) as scratch, Path("/dev/full").open("wb") as full:
            scratch.write_bytes(b"new")
            full.write(b"x")

    with pytest.raises(SurroundingsError, match=os.strerror(errno.ENOSPC)) as caught:
        write()
    assert caught.value.path == str(path)
    assert "free some space" in caught.value.hint
    assert names(tmp_path) == ["thing"]
    assert got(path) == "old"


QUOTED = [
    "Error while serializing: I/O error: No space left on device (os error 28)",  # safetensors
    "Can't decrement id ref count (file write failed: time = now, errno = 28, error message = 'No space left')",  # HDF5
]


@pytest.mark.parametrize("message", QUOTED)
def test_a_full_disk_in_the_words_of_libraries(tmp_path: Path, message: str) -> None:
    with pytest.raises(SurroundingsError, match=os.strerror(errno.ENOSPC)), whole(tmp_path / "thing") as scratch:  # noqa: PT012
        scratch.write_text("half")
        raise RuntimeError(message)
    assert names(tmp_path) == []
    with pytest.raises(RuntimeError, match="something else"), whole(tmp_path / "thing"):
        raise RuntimeError("something else")


WRITE = """
import sys
from pathlib import Path
from wsipipe.data.artifact import whole
from wsipipe.data.errors import SurroundingsError

folder = Path(sys.argv[1])
before = sorted(folder.iterdir())
try:
    with whole(folder / "large") as scratch:
        scratch.mkdir()
        for part in range(100):
            (scratch / str(part)).write_bytes(bytes(10_000))
except SurroundingsError as error:
    assert sorted(folder.iterdir()) == before, list(folder.iterdir())
    print(error)
"""


@pytest.mark.parametrize(("option", "error"), [("size=200k", errno.ENOSPC), ("ro", errno.EROFS)])
def test_a_file_system_that_is_full_or_read_only(tmp_path: Path, option: str, error: int) -> None:
    """In a mount namespace of its own: nothing stays mounted, and where users may have one no rights are needed."""
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o {option} tmpfs '{tmp_path}'"
    if shutil.which("unshare") is None or subprocess.run([*enter, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    run = f"{mount} && exec '{sys.executable}' -c \"$0\" '{tmp_path}'"
    done = subprocess.run([*enter, "sh", "-c", run, WRITE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert os.strerror(error) in done.stdout
    assert str(tmp_path / "large") in done.stdout


NO_FLUSH = [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF, errno.ENOSYS, errno.EPERM]


@pytest.fixture
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "_said", set())


@pytest.mark.usefixtures("nothing_said")
@pytest.mark.parametrize("number", NO_FLUSH)
@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_folder_that_cannot_be_flushed_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    real = getattr(os, call)

    def refuse_folders(file: int | Path, *arguments: int) -> int:
        is_folder = stat.S_ISDIR(os.fstat(file).st_mode) if isinstance(file, int) else Path(file).is_dir()
        if is_folder and not (call == "open" and len(arguments) and arguments[0] != os.O_RDONLY):
            raise OSError(number, os.strerror(number))
        return int(real(file, *arguments) or 0)

    monkeypatch.setattr(os, call, refuse_folders)

    def write(name: str) -> None:
        with whole(tmp_path / name) as scratch:
            put(scratch, "text", folder=True)

    with pytest.warns(UserWarning, match="does not flush what is written"):
        write("one")
    write("two")  # where a warning would be an error
    assert (got(tmp_path / "one"), got(tmp_path / "two")) == ("text", "text")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_flush_that_fails_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SurroundingsError, match=os.strerror(number)), whole(tmp_path / "a") as scratch:
        scratch.write_text("text")
    assert names(tmp_path) == []


def test_a_folder_of_a_lower_layer_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, folders of the image cannot be renamed (overlayfs answers EXDEV)."""
    put(tmp_path / "thing", "old", folder=True)
    rename = os.rename

    def refuse_the_old(old: str | Path, new: str | Path) -> None:
        if Path(old).name == "thing":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuse_the_old)
    with whole(tmp_path / "thing") as scratch:
        put(scratch, "new", folder=True)
    assert got(tmp_path / "thing") == "new"
    assert names(tmp_path) == ["thing"]
