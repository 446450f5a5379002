"""Shards: which items are whose, their records beside the manifest, and a move into it that may be killed anywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from wsipipe.data import shards
from wsipipe.data.errors import BusyError, UsageError
from wsipipe.data.manifest import Manifest, Record, line_of
from wsipipe.data.shards import FOLDER, Shard, alone, as_shard, between_shards, clear_roll, count_items, read_roll
from wsipipe.data.workspace import keep_within


def record(item: str, **fields: object) -> Record:
    values: dict[str, object] = {
        "stage": "tile", "stage_version": 1, "item": item, "status": "done", "fingerprint": "sha256:0", "settings": {},
        "inputs": {}, "start": datetime(2026, 1, 1, tzinfo=UTC), "seconds": 1.0, "wsipipe": "0",
    }  # fmt: skip
    return Record(**(values | fields))  # type: ignore[arg-type]


# ----- which items -----


def test_each_item_belongs_to_one_shard_and_stays_there_when_the_cohort_grows() -> None:
    items = [f"slide {n}" for n in range(2000)]
    for of in (1, 2, 8, 50):
        owners = {item: [n for n in range(1, of + 1) if Shard(of, n).takes(item)] for item in items}
        assert {len(owner) for owner in owners.values()} == {1}
        sizes = Counter(owner[0] for owner in owners.values())
        assert len(sizes) == of
        assert max(sizes.values()) < 2 * len(items) / of  # near enough to each other
    assert Shard(8, 3).takes("slide 1")  # for ever: an item that moved would be done twice
    assert Shard(8, 3) == Shard.parse("3/8")


def test_items_with_numbers_go_by_them() -> None:
    folds = {number: [fold for fold in range(5) if Shard(5, number).takes("any", fold)] for number in range(1, 6)}
    assert folds == {1: [0], 2: [1], 3: [2], 4: [3], 5: [4]}


@pytest.mark.parametrize("text", ["", "3", "0/8", "9/8", "1/0", "-1/8", "1/8/2", "1.0/8", "a/b", "1/100000"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no shard"):
        Shard.parse(text)


# ----- records -----


def test_records_of_shards_follow_those_of_the_manifest_until_they_are_in_it(tmp_path: Path) -> None:
    manifest = Manifest.of(tmp_path)
    with manifest.lock():
        manifest.append(record("a", seconds=1.0), record("b"))
    with as_shard(tmp_path, Shard(2, 1), "tile"):
        Manifest.of(tmp_path, Shard(2, 1)).append(record("a", seconds=2.0))
        with as_shard(tmp_path, Shard(2, 2), "tile"):
            Manifest.of(tmp_path, Shard(2, 2)).append(record("c"))
            assert [(r.item, r.seconds) for r in manifest.records()] == [("a", 1), ("b", 1), ("a", 2), ("c", 1)]
            assert len(manifest.path.read_bytes().splitlines()) == 2
            numbered, bad = manifest.read_lines()
            assert ([*numbered], bad) == ([1, 2, 3, 4], [])
    assert len(manifest.path.read_bytes().splitlines()) == 4  # the last one that ends has moved them
    assert not list((tmp_path / FOLDER).glob("*.jsonl"))
    assert manifest.latest()["a"].seconds == 2


def test_a_half_line_of_a_killed_shard_is_left_out(tmp_path: Path) -> None:
    with as_shard(tmp_path, Shard(2, 1), "tile"), as_shard(tmp_path, Shard(2, 2), "tile"):
        Manifest.of(tmp_path, Shard(2, 1)).append(record("a"))
        Manifest.of(tmp_path, Shard(2, 2)).append(record("b"))
        with (tmp_path / FOLDER / "1-of-2.jsonl").open("ab") as stream:
            stream.write(b'{"schema": 1, "st')
        assert sorted(Manifest.of(tmp_path).latest()) == ["a", "b"]
    assert sorted(Manifest.of(tmp_path).latest()) == ["a", "b"]
    assert Manifest.of(tmp_path).read_lines()[1] == []


MERGE = """
import os, signal, sys
from pathlib import Path
from wsipipe.data.shards import alone

left = int(sys.argv[2])

def count(event, arguments):
    global left
    if event in ("open", "os.remove", "os.rename", "os.truncate") and sys.argv[1] in str(arguments[0]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
with alone(Path(sys.argv[1])):
    pass
"""


def test_killed_at_any_moment_the_move_into_the_manifest_loses_and_repeats_nothing(tmp_path: Path) -> None:
    def planted(place: Path) -> None:
        with alone(place):
            Manifest.of(place).append(record("a", seconds=1.0), record("b"))
        folder = place / FOLDER
        folder.mkdir()
        for number, items in ((1, "ac"), (2, "bd")):
            lines = b"".join(shards_line(item, number) for item in items)
            (folder / f"{number}-of-2.jsonl").write_bytes(lines)

    def shards_line(item: str, number: int) -> bytes:
        return line_of(record(item, seconds=10.0 + number))

    expected = [("a", 1), ("b", 1), ("a", 11), ("c", 11), ("b", 12), ("d", 12)]
    moment, ended = 0, -signal.SIGKILL
    while ended:
        place = tmp_path / str(moment)
        place.mkdir()
        planted(place)
        ended = subprocess.run([sys.executable, "-c", MERGE, str(place), str(moment)], check=False).returncode
        assert ended in (0, -signal.SIGKILL)
        latest = {item: r.seconds for item, r in Manifest.of(place).latest().items()}
        assert latest == {"a": 11, "b": 12, "c": 11, "d": 12}, moment  # also for readers in between
        with alone(place):
            assert [(r.item, r.seconds) for r in Manifest.of(place).records()] == expected, moment
        moment += 3
    assert moment > 12


@pytest.mark.parametrize("cut", range(0, 12, 3))
def test_a_move_that_was_cut_off_in_a_line_goes_on_there(tmp_path: Path, cut: int) -> None:
    lines = [line_of(record(item)) for item in "abc"]
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "1-of-1.jsonl").write_bytes(b"".join(lines))
    before, whole = line_of(record("0")), b"".join(lines)
    (tmp_path / "manifest.jsonl").write_bytes(before + whole[: len(whole) * cut // 12])
    with alone(tmp_path):
        assert (tmp_path / "manifest.jsonl").read_bytes() == before + whole


# ----- who may be at work -----


def test_shards_of_one_number_work_side_by_side_and_nobody_else_does(tmp_path: Path) -> None:
    with as_shard(tmp_path, Shard(2, 1), "tile"), as_shard(tmp_path, Shard(2, 2), "tile"):
        with pytest.raises(BusyError, match="shard 1/2, 2/2 is at work here"), Manifest.of(tmp_path).lock():
            pytest.fail("beside the shards")
        with pytest.raises(BusyError, match=f'"pid": {os.getpid()}'), as_shard(tmp_path, Shard(2, 2), "tile"):
            pytest.fail("the same shard twice")
        with pytest.raises(BusyError, match="this is a shard of 3"), as_shard(tmp_path, Shard(3, 1), "tile"):
            pytest.fail("shards of another number")
        assert '"shard": "1/2"' in str(Manifest.of(tmp_path).holder())
        with between_shards(tmp_path, Shard(2, 1)):
            pass
    assert Manifest.of(tmp_path).holder() is None
    with Manifest.of(tmp_path).lock(), pytest.raises(BusyError), as_shard(tmp_path, Shard(2, 1), "tile"):
        pytest.fail("beside a run without shards")
    with as_shard(tmp_path, Shard(3, 1), "tile"):
        pass


def test_many_shards_that_begin_and_end_at_once_wait_for_each_other(tmp_path: Path) -> None:
    def run(number: int) -> None:
        for attempt in range(3):
            shard = Shard(6, number)
            with as_shard(tmp_path, shard, "tile"):
                Manifest.of(tmp_path, shard).append(record(f"{number} {attempt}"))
                count_items(tmp_path, shard, 18)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, range(1, 7)))
    assert len(Manifest.of(tmp_path).latest()) == 18
    assert len(Manifest.of(tmp_path).records()) == 18
    roll = read_roll(tmp_path)
    assert roll is not None
    assert (roll.missing, roll.items) == ([], 18)


def test_a_shard_that_was_killed_is_done_again_by_whoever_comes(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom wsipipe.data.shards import *\n"
        "with as_shard(Path(sys.argv[1]), Shard(2, 1), 'tile'):\n    os.kill(os.getpid(), 9)\n"
    )
    for attempt in ("the same", "another number", "none"):
        place = tmp_path / attempt
        subprocess.run([sys.executable, "-c", code, str(place)], check=False)
        roll = read_roll(place)
        assert roll is not None
        assert roll.missing == [1, 2]
        if attempt == "the same":
            with as_shard(place, Shard(2, 1), "tile"):
                pass
        elif attempt == "another number":
            with as_shard(place, Shard(3, 3), "tile"):
                assert not (place / FOLDER / "1-of-2.lock").exists()
        else:
            with Manifest.of(place).lock():
                assert not (place / FOLDER / "1-of-2.lock").exists()


def test_the_roll_says_which_shards_have_finished(tmp_path: Path) -> None:
    def missing() -> list[int] | None:
        roll = read_roll(tmp_path)
        return None if roll is None else roll.missing

    for number in (3, 1):
        with as_shard(tmp_path, Shard(3, number), "tile"):
            count_items(tmp_path, Shard(3, number), 10)
    assert missing() == [2]
    with pytest.raises(ZeroDivisionError), as_shard(tmp_path, Shard(3, 2), "tile"):
        _ = 1 / 0
    assert missing() == [2]
    clear_roll(tmp_path, 3)  # of some new slides
    assert missing() == [2]
    with as_shard(tmp_path, Shard(3, 2), "tile"):
        pass
    assert missing() == []
    with as_shard(tmp_path, Shard(3, 1), "tile"):
        assert missing() == [1]  # it is at work again
    with as_shard(tmp_path, Shard(2, 1), "tile"):
        pass
    assert missing() == [2]
    clear_roll(tmp_path, 11)
    assert missing() is None


def test_a_link_in_place_of_the_shards_folder_is_refused(tmp_path: Path) -> None:
    foreign, folder = tmp_path / "foreign", tmp_path / "work/tiles/t"
    foreign.mkdir()
    (foreign / "1-of-2.lock").touch()
    folder.mkdir(parents=True)
    (folder / FOLDER).symlink_to(foreign)
    keep_within(tmp_path / "work")
    with pytest.raises(UsageError, match="leads out of the workspace"), as_shard(folder, Shard(2, 1), "tile"):
        pytest.fail("through a link")
    with pytest.raises(UsageError, match="leads out of the workspace"), alone(folder):
        pytest.fail("through a link")
    assert [path.name for path in foreign.iterdir()] == ["1-of-2.lock"]
    assert shards.segments(folder) == []
