"""A manifest is parsed once, and then what was appended; whatever else happens to it, all of it is read again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from wsipipe.data import known_records
from wsipipe.data.errors import StoreError
from wsipipe.data.known_records import read_on
from wsipipe.data.manifest import SCHEMA, InputRecord, Manifest, OutputRecord, Record, line_of


def record(item: str, **settings: object) -> Record:
    return Record(
        stage="tile",
        stage_version=1,
        item=item,
        status="done",
        fingerprint="f",
        settings={"mpp": 0.5, **settings},
        inputs={"slide": InputRecord(digest="d", path=f"/slides/{item}", bytes=1, mtime_ns=2)},
        outputs={"tiles": OutputRecord(path=f"tiles/{item}.h5", bytes=3, digest="e")},
        start=datetime(2026, 1, 1, tzinfo=UTC),
        seconds=1.5,
        host="h",
        wsipipe="0",
    )


class Lines:
    """A file that is read on, and the numbers of the lines that were parsed."""

    def __init__(self, path: Path) -> None:
        self.path, self.parsed = path, list[int]()

    def read(self) -> list[str]:
        self.parsed.clear()

        def parse(number: int, line: bytes) -> str:
            self.parsed.append(number)
            return line.decode().strip()

        return list(read_on(self.path, parse).parsed)


@pytest.fixture(params=[True, False], ids=["settled", "just written"])
def lines(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """Whether the file's times may be relied on must make no difference to what is read."""
    if request.param:
        monkeypatch.setattr(known_records, "_SETTLED_NS", -(10**18))
    path = tmp_path / "lines"
    path.write_text("a\nb\n")
    return Lines(path)


def test_what_is_appended_is_parsed_and_nothing_else(lines: Lines) -> None:
    assert (lines.read(), lines.parsed) == (["a", "b"], [1, 2])
    assert (lines.read(), lines.parsed) == (["a", "b"], [])
    with lines.path.open("a") as stream:
        stream.write("\nc\n")
    assert (lines.read(), lines.parsed) == (["a", "b", "c"], [4])


def test_an_incomplete_line_is_parsed_when_it_is_complete(lines: Lines) -> None:
    for text, now, parsed in (("c", ["a", "b"], []), ("d\n", ["a", "b", "cd"], [3])):
        lines.read()
        with lines.path.open("a") as stream:
            stream.write(text)
        assert (lines.read(), lines.parsed) == (now, parsed)


@pytest.mark.parametrize("text", ["b\na\n", "a\n", "a\nB\nc\n", "", "x\na\nb\n"])
def test_what_is_edited_is_read_from_its_beginning(lines: Lines, text: str) -> None:
    lines.read()
    lines.path.write_text(text)
    if known_records._SETTLED_NS < 0:  # then another time must show it, as of any file that was not written just now
        os.utime(lines.path, ns=(1, 1))
    assert lines.read() == text.split()


def test_a_file_that_takes_its_place_is_read(lines: Lines, tmp_path: Path) -> None:
    lines.read()
    other = tmp_path / "other"
    other.write_text("b\na\n")
    other.replace(lines.path)
    assert (lines.read(), lines.parsed) == (["b", "a"], [1, 2])


def test_a_line_that_is_none_is_an_error_each_time(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    manifest.append(record("a"))
    assert manifest.records() == [record("a")]
    with manifest.path.open("a") as stream:
        stream.write("garbage\n")
    for _ in range(2):
        with pytest.raises(StoreError, match="line 2 is not a record"):
            manifest.records()


def test_a_caller_that_changes_its_list_changes_nobody_elses(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    manifest.append(record("a"), record("b"))
    manifest.records().clear()
    assert [r.item for r in manifest.records()] == ["a", "b"]


def test_only_so_many_files_are_kept(tmp_path: Path) -> None:
    most = known_records._MOST
    for number in range(most + 18):
        path = tmp_path / str(number)
        path.write_text("a\n")
        Lines(path).read()
    assert len(known_records._known) == most


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(values=st.lists(st.dictionaries(st.sampled_from(["mpp", "level", "x"]), JSON), min_size=1, max_size=4))
def test_the_quick_way_gives_what_python_s_own_parser_gives(
    tmp_path_factory: pytest.TempPathFactory, values: list[dict[str, object]]
) -> None:
    """Values that are equal in Python, such as 1, 1.0 and True, stay what they are, whichever record came before."""
    manifest = Manifest(tmp_path_factory.mktemp("m") / "manifest.jsonl")
    fields = json.loads(line_of(record("a")))
    lines = [json.dumps({**fields, "settings": value, "stats": value}) for value in values]
    manifest.path.write_text("".join(f"{line}\n" for line in lines))
    read = manifest.records()
    wanted = [TypeAdapter(Record).validate_python(json.loads(line)) for line in lines]
    assert read == wanted
    assert [repr(r.settings) for r in read] == [repr(r.settings) for r in wanted]
    assert [repr(r.stats) for r in read] == [repr(r.stats) for r in wanted]


@pytest.mark.parametrize(
    "line",
    [
        b'{"schema":1,"schema":2}',
        b'{"schema":%d}' % (SCHEMA + 1),
        b"[" * 5000,
        b'{"stage":' + b"9" * 5000 + b"}",
        b'{"item":"\xff"}',
        b"NaN",
        b"null",
        b"1",
    ],
)
def test_damaged_lines_are_errors_of_ours(tmp_path: Path, line: bytes) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    manifest.append(record("a"))
    with manifest.path.open("ab") as stream:
        stream.write(line + b"\n")
    with pytest.raises(StoreError, match="line 2"):
        manifest.records()


def test_twice_given_fields_are_read_as_python_reads_them(tmp_path: Path) -> None:
    line = line_of(record("a")).decode().strip()[:-1] + ',"item":"b","seconds":2}'
    manifest = Manifest(tmp_path / "manifest.jsonl")
    manifest.path.write_text(line + "\n")
    assert manifest.records() == [TypeAdapter(Record).validate_python(json.loads(line))]
