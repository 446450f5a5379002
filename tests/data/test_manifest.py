"""The manifest: what is recorded stays recorded, what is torn is dropped, and one run writes at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from manifest_records import record
from storage import Storage
from wsipipe.data.artifact import digest_of
from wsipipe.data.errors import StoreError, SurroundingsError, UsageError
from wsipipe.data.json_text import is_within_limits
from wsipipe.data.manifest import FORMER_STAGES, ErrorRecord, InputRecord, Manifest, OutputRecord, Record, line_of
from wsipipe.stages.registry import VERSIONS


def full() -> list[Record]:
    """A record of each status, with all that one can hold."""
    return [
        record(
            "a slide é",
            settings={"mpp": 0.5, "weights": None, "names": ["a", None], "deep": {"none": None}},
            inputs={
                "slide": InputRecord(digest="sha256:1", path="/s/a.svs", bytes=7, mtime_ns=1_700_000_000_123_456_789)
            },
            outputs={"tiles": OutputRecord(path="tiles/a.h5", bytes=3, digest="sha256:2")},
            stats={"tiles": 12, "why": None, "share": 0.1, "by": {"x": [1, 2]}},
        ),
        record("b", status="empty", inputs={"labels": InputRecord(digest="sha256:3")}),
        record("c", status="failed", error=ErrorRecord(type="SlideError", message="line 1\nline 2", retry=False)),
    ]


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "new" / "folder" / "manifest.jsonl")
    assert manifest.records() == []
    for each in full():
        manifest.append(each)
    assert manifest.records() == full()
    assert len(manifest.path.read_bytes().splitlines()) == 3  # a line each, whatever the messages hold
    assert all(json.loads(line)["schema"] == 1 for line in manifest.path.read_bytes().splitlines())


def test_the_last_record_of_an_item_counts(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    for item, stage, seconds in [("b", "tile", 1), ("a", "tile", 2), ("a", "other", 3), ("b", "tile", 4)]:
        manifest.append(record(item, stage=stage, seconds=seconds))
    assert {item: r.seconds for item, r in manifest.latest("tile").items()} == {"b": 4, "a": 2}
    assert list(manifest.latest("tile")) == ["b", "a"]
    assert {item: r.seconds for item, r in manifest.latest().items()} == {"b": 4, "a": 3}


@pytest.mark.parametrize("torn", [1, 40, -2, None])
def test_a_torn_last_line_is_dropped_and_then_cut_off(tmp_path: Path, torn: int | None) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    for each in full()[:2]:
        manifest.append(each)
    whole = manifest.path.read_bytes()
    long = record("long", settings={"text": "x" * 200_000})  # longer than what is searched at a time
    manifest.append(long)
    manifest.path.write_bytes(whole + manifest.path.read_bytes()[len(whole) : -1][:torn])
    with pytest.warns(UserWarning, match="incomplete last line"):
        assert manifest.records() == full()[:2]
    manifest.append(full()[2])
    assert manifest.records() == full()
    assert manifest.path.read_bytes().startswith(whole)


def test_a_file_that_is_one_torn_line(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    manifest.path.write_bytes(b'{"schema": 1, "sta')
    with pytest.warns(UserWarning, match="incomplete last line"):
        assert manifest.records() == []
    manifest.append(full()[0])
    assert manifest.records() == full()[:1]


@pytest.mark.parametrize(
    "line",
    [
        *(b"{", b"\xff\xfe", b"{}", b"[]", b"3", b"null", b'{"schema": "x"}', b'{"schema": null}', b"\0" * 100),
        *(b"[" * 100_000, b"9" * 10_000, b'{"stage": []}', b'{"stage": {"a": 1}}', b'{"schema": 1e999}'),
    ],
)
def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path, line: bytes) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    for each in full():
        manifest.append(each)
    lines = manifest.path.read_bytes().splitlines()
    manifest.path.write_bytes(b"\n".join([lines[0], line, *lines[1:], b""]))
    with pytest.raises(StoreError, match="line 2 is not a record") as caught:
        manifest.records()
    assert caught.value.path == str(manifest.path)
    assert "remove that line" in caught.value.hint


def test_a_folder_in_place_of_a_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").mkdir()
    with pytest.raises(StoreError, match="is a folder"):
        Manifest.of(tmp_path).records()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    manifest.append(full()[0])
    newer = json.loads(manifest.path.read_text()) | {"schema": 2, "what": "this version does not know"}
    with manifest.path.open("a") as stream:
        stream.write(json.dumps(newer) + "\n")
    with pytest.raises(StoreError, match=r"line 2 was written by a newer wsipipe \(schema 2, this one reads 1\)"):
        manifest.records()


def test_whether_outputs_are_whole(tmp_path: Path) -> None:
    (tmp_path / "a.zarr" / "c").mkdir(parents=True)
    file = tmp_path / "a.zarr" / "c" / "0"
    file.write_bytes(b"abc")
    output = OutputRecord(path="a.zarr", bytes=3, digest=digest_of(tmp_path / "a.zarr"))
    done = record("a", outputs={"features": output})
    assert done.is_whole(tmp_path)
    assert done.is_whole(tmp_path, check_digest=True)
    file.write_bytes(b"abd")
    assert done.is_whole(tmp_path)  # the same size
    assert not done.is_whole(tmp_path, check_digest=True)
    file.write_bytes(b"ab")
    assert not done.is_whole(tmp_path)
    file.unlink()
    assert not done.is_whole(tmp_path)
    assert record("b").is_whole(tmp_path)  # nothing to lose


def test_a_full_disk_is_told_as_such(tmp_path: Path, storage: Storage) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    manifest.append(record("a"))
    with storage.failing(manifest.path, "ENOSPC"), pytest.raises(SurroundingsError, match="No space left"):
        manifest.append(record("b"))
    assert manifest.records() == [record("a")]


def test_a_record_is_written_through_a_failure(tmp_path: Path, storage: Storage) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    manifest.append(record("a"))
    with storage.failing(manifest.path, "EIO", pauses=3):
        manifest.append(record("b"))
    assert manifest.records() == [record("a"), record("b")]
    with storage.failing(manifest.path, "EIO"), pytest.raises(SurroundingsError):
        manifest.append(record("c"))


def test_an_output_is_looked_at_through_a_failure(tmp_path: Path, storage: Storage) -> None:
    """A moment's failure does not make days of work count as lost."""
    (tmp_path / "a").write_bytes(b"abc")
    output = OutputRecord(path="a", bytes=3, digest=digest_of(tmp_path / "a"))
    with storage.failing(tmp_path / "a", "ESTALE", pauses=3):
        assert output.is_whole(tmp_path, check_digest=True)


def test_records_under_former_names_of_stages_are_read_under_those_they_have_now(tmp_path: Path) -> None:
    assert set(FORMER_STAGES.values()) <= VERSIONS.keys()
    assert not FORMER_STAGES.keys() & VERSIONS.keys(), "no name means two things"
    manifest = Manifest(tmp_path / "manifest.jsonl")
    for stage in [*FORMER_STAGES, "tile"]:
        manifest.append(record(stage, stage=stage))
    assert [r.stage for r in manifest.records()] == [*FORMER_STAGES.values(), "tile"]


# ----- what a stranger may have put there

HOSTILE_NAMES = ["", ".", "..", "../../../outside/important", "/etc", "a/../../b", "a\\b", "a\0", "a\x1b[2J", "x" * 201]
RESERVED = [".partial-x", ".aside-y", ".PARTIAL-x"]


def appended(path: Path, **changes: Any) -> Manifest:
    """A manifest of two records, of which the second was edited."""
    manifest = Manifest(path / "manifest.jsonl")
    manifest.append(record("a"))
    line = json.loads(line_of(record("b"))) | changes
    with manifest.path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    return manifest


@pytest.mark.parametrize("item", [*HOSTILE_NAMES, *RESERVED])
def test_an_item_that_is_no_file_name_is_refused_when_it_is_read(tmp_path: Path, item: str) -> None:
    with pytest.raises(StoreError, match="line 2 is not a record: the item ") as caught:
        appended(tmp_path, item=item).records()
    assert "remove that line" in caught.value.hint


@pytest.mark.parametrize(
    "path", [*(name for name in HOSTILE_NAMES if len(name) < 200), "tiles/../../x", "tiles//x", "tiles/", ".aside-y/z"]
)
def test_an_output_outside_the_workspace_is_refused_when_it_is_read(tmp_path: Path, path: str) -> None:
    outputs = {"tiles": {"path": path, "bytes": 3, "digest": "sha256:2"}}
    with pytest.raises(StoreError, match="line 2 is not a record: the output "):
        appended(tmp_path, outputs=outputs).records()


@pytest.mark.parametrize("item", ["...", "a..b", "玻片", "Fall 7 (HE)", "a;b", "report.html", "=1+1", "a:b"])
def test_any_other_item_is_read(tmp_path: Path, item: str) -> None:
    assert [one.item for one in appended(tmp_path, item=item).records()] == ["a", item]


def test_what_is_wrong_with_a_record_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="line 2 is not a record: status: Input should be 'done', 'empty' or 'failed'"):
        appended(tmp_path, status="fine").records()


@pytest.mark.parametrize("file", ["manifest.jsonl", ".lock", ".lock-file"])
@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_place_of_the_manifest_or_its_lock_is_refused(tmp_path: Path, file: str, there: bool) -> None:
    foreign = tmp_path / "foreign"
    if there:
        foreign.write_bytes(b"whole line\ntorn li")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / file).symlink_to(foreign)
    manifest = Manifest.of(tmp_path / "work")
    with pytest.raises(UsageError, match="is a link") as caught, manifest.lock():
        pytest.fail("it was locked")
    assert caught.value.path == str(tmp_path / "work" / file)
    if file == "manifest.jsonl":
        with pytest.raises(UsageError, match="is a link"):
            manifest.append(record("a"))
    assert foreign.exists() == there
    assert not there or foreign.read_bytes() == b"whole line\ntorn li"


# ----- the two ways of reading a line


GOLDEN = (
    '{"schema":1,"stage":"tile","stage_version":1,"item":"a slide é","status":"failed","fingerprint":"sha256:0",'
    '"settings":{"mpp":0.5,"none":null,"small":1e-7,"large":1e+22,"big":1180591620717411303424,"text":"a\\"\\n"},'
    '"inputs":{"slide":{"digest":"sha256:1","path":"/s/a.svs","bytes":7,"mtime_ns":1700000000123456789},'
    '"labels":{"digest":"sha256:3"}},"outputs":{"tiles":{"path":"tiles/a.h5","bytes":3,"digest":"sha256:2"}},'
    '"stats":{"by":{"x":[1,2]},"why":null},"error":{"type":"SlideError","message":"m","hint":"","retry":false},'
    '"start":"2024-02-29T12:30:15.123456Z","seconds":1.25,"host":"h","wsipipe":"0.1.0"}\n'
)
"""As version 0.1.0 wrote it."""


def test_a_record_is_written_byte_for_byte_as_ever(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    manifest.path.write_text(GOLDEN, encoding="utf-8")
    [read] = manifest.records()
    # Pydantic before 2.13 writes this number in another way.
    assert line_of(read).replace(b"1e22", b"1e+22") == GOLDEN.encode()
    assert read == record(
        "a slide é",
        status="failed",
        settings={"mpp": 0.5, "none": None, "small": 1e-7, "large": 1e22, "big": 2**70, "text": 'a"\n'},
        inputs={
            "slide": InputRecord(digest="sha256:1", path="/s/a.svs", bytes=7, mtime_ns=1_700_000_000_123_456_789),
            "labels": InputRecord(digest="sha256:3"),
        },
        outputs={"tiles": OutputRecord(path="tiles/a.h5", bytes=3, digest="sha256:2")},
        stats={"by": {"x": [1, 2]}, "why": None},
        error=ErrorRecord(type="SlideError", message="m", retry=False),
        host="h",
    )


WRONG = {
    "more: Extra inputs are not permitted": {"more": 1},
    "outputs.tiles.more: Extra inputs are not permitted": {
        "outputs": {"tiles": {"path": "a", "bytes": 1, "digest": "d", "more": 1}}
    },
    "inputs.slide.digest: Field required": {"inputs": {"slide": {"path": "a"}}},
    "seconds: Input should be a valid number": {"seconds": [1]},
    "a number of more than 300 digits": {"stats": {"tiles": 10**300}},
    "more than 64 lists and objects": {"stats": {"deep": json.loads("[" * 70 + "]" * 70)}},
    "NaN is not a number": {"stats": {"share": float("nan")}},
    "Infinity is not a number": {"settings": {"share": float("inf")}},
}


@pytest.mark.parametrize("why", WRONG)
def test_no_line_passes_that_is_not_a_record(tmp_path: Path, why: str) -> None:
    with pytest.raises(StoreError, match="line 2 is not a record: .*" + why):
        appended(tmp_path, **WRONG[why]).records()


def test_the_longest_numbers_are_seen_wherever_they_begin(tmp_path: Path) -> None:
    for offset in range(60):
        assert not is_within_limits(b'{"' + b"x" * offset + b'":' + b"7" * 301 + b"}")
    assert is_within_limits(line_of(full()[0]))


def test_a_deep_line_of_a_damaged_manifest_is_garbage(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    manifest.append(record("a"))
    with manifest.path.open("ab") as stream:
        stream.write(b"[" * 100_000 + b"\n" + b'{"schema": 7}\n')
    records, bad = manifest.read_lines()
    assert (list(records), [(line.number, line.kind) for line in bad]) == ([1], [(2, "garbage"), (3, "newer")])
