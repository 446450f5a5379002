"""Outputs appear whole or not at all, and digests say what they hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_outputs import got, names, put
from wsipipe.data.artifact import digest_of, digest_of_value, for_a_while, recover, remove, size_of, stamp, whole


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_it_appears_when_the_block_ends_and_not_before(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "new" / "thing"
    with whole(path) as scratch:
        put(scratch, "new", folder=folder)
        assert scratch.parent == path.parent  # one file system, so that the rename is atomic
        assert not path.exists()
    assert got(path) == "new"
    assert names(path.parent) == ["thing"]


@pytest.mark.parametrize("before", [None, False, True], ids=["nothing", "file", "folder"])
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, FileNotFoundError])
def test_an_exception_leaves_what_was_there(
    tmp_path: Path, before: bool | None, folder: bool, error: type[BaseException]
) -> None:
    path = tmp_path / "thing"
    if before is not None:
        put(path, "old", folder=before)

    def write() -> None:
        with whole(path) as scratch:
            put(scratch, "half", folder=folder)
            raise error

    with pytest.raises(error):
        write()
    assert names(tmp_path) == ([] if before is None else ["thing"])
    assert before is None or got(path) == "old"


@pytest.mark.parametrize(("before", "folder"), [(False, False), (True, True), (True, False)])
def test_the_new_takes_the_place_of_the_old(tmp_path: Path, before: bool, folder: bool) -> None:
    path = tmp_path / "thing"
    put(path, "old", folder=before)
    (tmp_path / ".partial-thing").mkdir()  # left by a killed run
    (tmp_path / ".aside-thing").mkdir()
    with whole(path) as scratch:
        put(scratch, "new", folder=folder)
    assert got(path) == "new"
    assert path.is_dir() == folder
    assert "thing" in names(tmp_path)
    recover(tmp_path)
    assert names(tmp_path) == ["thing"]


def test_a_block_that_makes_nothing_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    put(tmp_path / "file", "old", folder=False)
    for name in ("folder", "file", "new"):
        with pytest.raises(FileNotFoundError), whole(tmp_path / name):
            pass
    assert names(tmp_path) == ["file", "folder"]
    assert got(tmp_path / "file") == "old"


KILLED = """
import os, signal, sys
from pathlib import Path
from wsipipe.data import artifact

path, how = Path(sys.argv[1]), sys.argv[2]
if how == "between":  # the moment between the two renames of a folder
    def die(scratch, self=Path.rename):
        def rename(this, target):
            if this == scratch:
                os.kill(os.getpid(), signal.SIGKILL)
            return self(this, target)
        Path.rename = rename
with artifact.whole(path) as scratch:
    (scratch / "below").mkdir(parents=True)
    (scratch / "below" / "file").write_text("new")
    if how == "between":
        die(scratch)
    else:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("place", [".", "fold-0"])
@pytest.mark.parametrize(("how", "old"), [("writing", False), ("writing", True), ("between", True)])
def test_a_killed_write_leaves_nothing_under_the_good_name(tmp_path: Path, place: str, how: str, old: bool) -> None:
    path = tmp_path / place / "thing"
    if old:
        put(path, "old", folder=True)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), how])
    assert done.returncode == -signal.SIGKILL
    assert path.exists() == (old and how == "writing")
    told = recover(tmp_path)
    assert names(path.parent) == (["thing"] if old else [])
    assert not old or got(path) == "old"
    assert told == (["restored thing"] if how == "between" else []) + ["removed the unfinished thing"]
    assert recover(tmp_path) == []


def test_recover_removes_what_was_set_aside_where_the_new_is_in_place(tmp_path: Path) -> None:
    put(tmp_path / ".aside-thing", "old", folder=True)
    put(tmp_path / "thing", "new", folder=True)
    assert recover(tmp_path) == []
    assert names(tmp_path) == ["thing"]
    assert got(tmp_path / "thing") == "new"


_OF_TWO = """
import sys
from pathlib import Path
from wsipipe.data.artifact import whole, write_as
path, writer, folder = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "folder"
write_as(writer)
with whole(path) as scratch:
    if folder:
        scratch.mkdir()
    files = [scratch / name for name in "ab"] if folder else [scratch]
    for file in files:
        file.write_text(writer)
        print("half", flush=True)
        sys.stdin.readline()
"""


@pytest.mark.parametrize("folder", [False, True])
def test_two_that_write_one_output_at_once_do_not_mix(tmp_path: Path, folder: bool) -> None:
    """As a machine does that is cut off, and the one that takes over its item."""
    path = tmp_path / "output"
    words = [str(path), "", "folder" if folder else "file"]
    code = [sys.executable, "-c", _OF_TWO]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    lost, other = (subprocess.Popen([*code, words[0], w, words[2]], **pipes) for w in ("lost", "other"))
    for process in (lost, other):
        assert process.stdout is not None
        process.stdout.readline()
    other.communicate("\n\n")
    assert other.returncode == 0
    assert {file.read_text() for file in (path.iterdir() if folder else [path])} == {"other"}
    lost.communicate("\n\n")
    assert lost.returncode == 0
    assert {file.read_text() for file in (path.iterdir() if folder else [path])} == {"lost"}
    assert [file.name for file in tmp_path.iterdir()] == ["output"]


def test_a_link_is_removed_and_not_its_target(tmp_path: Path) -> None:
    put(tmp_path / "slides", "precious", folder=True)
    for name in ("link", ".partial-thing", ".aside-thing"):
        (tmp_path / name).symlink_to(tmp_path / "slides")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    remove(tmp_path / "link")
    remove(tmp_path / "dangling")
    remove(tmp_path / "never there")
    with whole(tmp_path / "thing") as scratch:
        put(scratch, "new", folder=True)
    with whole(tmp_path / "thing") as scratch:
        put(scratch, "newer", folder=True)
    assert names(tmp_path) == ["slides", "thing"]
    assert got(tmp_path / "slides") == "precious"


def test_a_link_in_the_way_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    put(tmp_path / "slides", "precious", folder=True)
    (tmp_path / "thing").symlink_to(tmp_path / "slides")
    with whole(tmp_path / "thing") as scratch:
        put(scratch, "new", folder=True)
    assert got(tmp_path / "thing") == "new"
    assert not (tmp_path / "thing").is_symlink()
    assert got(tmp_path / "slides") == "precious"


def test_the_digest_of_a_folder_is_of_names_and_bytes(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, bytes]) -> str:
        for file, content in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        return digest_of(tmp_path / name)

    one = folder("one", {"a": b"1", "b/c": b"2"})
    assert one == folder("two", {"b/c": b"2", "a": b"1"})  # whatever the order they were made in, and whatever its name
    assert (
        len({one, folder("3", {"a": b"1", "c": b"2"}), folder("4", {"a": b"2", "b/c": b"1"}), folder("5", {"a": b"1"})})
        == 4
    )
    assert size_of(tmp_path / "one") == 2
    assert digest_of(tmp_path / "one" / "a") == digest_of(tmp_path / "two" / "a")
    assert (
        digest_of(tmp_path / "one" / "a") == "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.dictionaries(st.text(), JSON, min_size=2, max_size=6))
def test_the_order_of_keys_does_not_change_a_digest(value: dict[str, object]) -> None:
    turned = dict(reversed(value.items()))
    assert digest_of_value(turned) == digest_of_value(value)
    assert digest_of_value({"within": [turned]}) == digest_of_value({"within": [value]})


def test_the_digest_tells_values_apart_and_takes_no_nan() -> None:
    values = [None, 0, 1, 1.5, "", "1", [], {}, [1, 2], [2, 1], [[1], 2], {"1": 2}, False, "é", "e\u0301"]
    assert len({digest_of_value(value) for value in values}) == len(values)
    with pytest.raises(ValueError, match="JSON"):
        digest_of_value(float("nan"))


STRAYS = [
    ".DS_Store",
    "._zarr.json",
    ".nfs00000000055a0f1c00000012",
    "c/.~lock.0#",
    "c/Thumbs.db",
    "c/desktop.ini",
    "c/Icon\r",
    ".AppleDouble/zarr.json",
    "@eaDir/zarr.json/SYNO@.fileindexdb",
    "c/0/#recycle/0",
    "~$zarr.json",
]


@pytest.mark.parametrize("stray", STRAYS)
def test_a_stray_is_no_part_of_a_folder(tmp_path: Path, stray: str) -> None:
    store = tmp_path / "a.zarr"
    (store / "c/0").mkdir(parents=True)
    for file in ("zarr.json", "c/0/0", "c/zarr.json"):
        (store / file).write_bytes(file.encode())
    before = digest_of(store), size_of(store), stamp(store)
    (store / stray).parent.mkdir(parents=True, exist_ok=True)
    (store / stray).write_bytes(b"stray")
    os.utime(store / stray, ns=(0, 2**62))
    assert (digest_of(store), size_of(store), stamp(store)) == before
    (store / ".AppleDouble").mkdir(exist_ok=True)
    assert digest_of(store) == before[0]


@pytest.mark.parametrize("file", ["zarr.json.tmp", "c/1", "zarr", "c/desktop.ini.json", ".zattrs", ".zarray", "a.zarr"])
def test_anything_else_is_a_part_of_it(tmp_path: Path, file: str) -> None:
    store = tmp_path / ".hidden" / "a.zarr"  # where a store lies hides nothing in it
    (store / "c").mkdir(parents=True)
    (store / "zarr.json").write_bytes(b"{}")
    before = digest_of(store)
    (store / file).write_bytes(b"more")
    assert digest_of(store) != before
    assert size_of(store) == 6


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_a_file_for_a_while_is_gone_afterwards(tmp_path: Path, error: type[BaseException] | None) -> None:
    path = tmp_path / "new" / "bags"

    def use() -> None:
        with for_a_while(path) as scratch:
            scratch.write_text("much")
            assert not path.exists()
            if error is not None:
                raise error

    if error is None:
        use()
    else:
        with pytest.raises(error):
            use()
    assert names(path.parent) == []


def test_a_file_for_a_while_of_a_killed_run_is_removed_by_the_next(tmp_path: Path) -> None:
    block = for_a_while(tmp_path / "bags")
    block.__enter__().write_text("much")  # and then nothing more of it
    assert recover(tmp_path) == ["removed the unfinished bags"]
    assert names(tmp_path) == []
