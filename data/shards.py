"""Shards: several runs that work on one stage at the same time, each on its part of the items (``--shard 2/8``).

The items of a shard follow from their names alone, so that they stay the same when the cohort grows between two jobs.
Each shard has a lock and a file of records of its own beside the manifest, and readers read them together. A run
without shards, or the last shard that ends, moves the records into the manifest.

    tiles/0.5mpp-224px/.shards/2-of-8.jsonl    records, newer than those of the manifest
    tiles/0.5mpp-224px/.shards/2-of-8.lock     and the other files of a lock
    tiles/0.5mpp-224px/.shards/roll.json       how many shards there are, and which have finished

Shards of one number of shards are at work at a time, so no item belongs to two of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from .artifact import append_lines, recover, remove, whole
from .errors import BusyError, StoreError, UsageError
from .json_text import parse_json
from .workspace import make_folder, refuse_link, refuse_to_leave
from .writing_lock import LEASE_SECONDS, FolderLock, acquire_each, holder_of, locked

FOLDER: Final = ".shards"
_ROLL: Final = "roll.json"
_MOST: Final = 10_000
_PATIENCE: Final = 600.0
"""Seconds that a shard waits for another that holds the folder's own lock: many jobs of an array begin at once."""
_NAME: Final = re.compile(r"(\d{1,5})-of-(\d{1,5})(\.jsonl|\.lock|\.lock-file)")


@dataclass(frozen=True, order=True)
class Shard:
    """One of several parts of a stage's items.

    :param number: counted from 1.
    """

    of: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard that is written as ``2/8``.

        :raises UsageError: it is written otherwise, or cannot be.
        """
        number, slash, of = text.strip().partition("/")
        if slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of) <= _MOST:
            return cls(int(of), int(number))
        hint = f"write --shard 2/8 for the second of eight; at most {_MOST:,}"
        if number == "0":
            hint = "shards are counted from 1: with Slurm, use --array=1-8, or $((SLURM_ARRAY_TASK_ID + 1))"
        raise UsageError(f"--shard {text} is no shard", hint=hint)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.number}-of-{self.of}"

    def takes(self, item: str, place: int | None = None) -> bool:
        """Whether an item belongs to it.

        :param item: the item's name, of which a hash decides.
        :param place: decides instead, for the items of a stage that have numbers (folds).
        """
        if place is None:
            place = int.from_bytes(hashlib.sha256(item.encode()).digest()[:8])
        return place % self.of == self.number - 1


@dataclass(frozen=True)
class Roll:
    """Which shards of a stage have finished.

    :param of: how many there are.
    :param items: how many items they share out, as far as any has counted them.
    """

    stage: str
    of: int
    finished: frozenset[int] = frozenset()
    items: int = 0

    @property
    def missing(self) -> list[int]:
        """The numbers of those that have not finished."""
        return [number for number in range(1, self.of + 1) if number not in self.finished]

    def lacks(self, shard: Shard | None = None) -> list[int]:
        """The shards that have not finished; of those only that which holds the items of another stage's ``shard``."""
        if shard is not None and shard.of == self.of:
            return [number for number in self.missing if number == shard.number]
        return self.missing

    def __str__(self) -> str:
        numbers = self.missing
        listed = ", ".join(map(str, numbers[:10])) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
        return f"shard{'s' if len(numbers) > 1 else ''} {listed} of {self.of} of {self.stage}"


def read_roll(folder: Path) -> Roll | None:
    """The shards of a stage's folder; None if it was last brought up to date by a run without shards.

    :raises StoreError: the file was edited or damaged.
    """
    file = folder / FOLDER / _ROLL
    try:
        values = parse_json(file.read_bytes())
        finished = frozenset(map(int, values["finished"]))
        return Roll(str(values["stage"]), int(values["of"]), finished, int(values["items"]))
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError) as error:
        hint = "remove it, then run the stage once without --shard"
        raise StoreError(f"is no list of shards: {error}", path=file, hint=hint) from error


def _write_roll(folder: Path, roll: Roll) -> None:
    with whole(folder / FOLDER / _ROLL) as scratch:
        values = {"stage": roll.stage, "of": roll.of, "finished": sorted(roll.finished), "items": roll.items}
        scratch.write_text(json.dumps(values) + "\n", encoding="utf-8")


def clear_roll(folder: Path, items: int | None = None) -> None:
    """Note that a run without shards has done all items.

    :param items: how many there were; of fewer than the shards have, such as some new slides, nothing is noted.
    """
    roll = read_roll(folder) if items is not None else None
    if roll is None or (items is not None and items >= roll.items):
        remove(folder / FOLDER / _ROLL)


def count_items(folder: Path, shard: Shard, items: int) -> None:
    """Note how many items the shards of a folder share out; called while one of them is held."""
    roll = read_roll(folder)
    if roll is not None and roll.items < items:
        with between_shards(folder, shard):
            if (roll := read_roll(folder)) is not None:
                _write_roll(folder, replace(roll, items=max(items, roll.items)))


def segments(folder: Path) -> list[Path]:
    """The files of records of shards that are not in the manifest yet, in the order in which they follow it."""
    return [segment_of(folder, shard) for shard in sorted(_shards(folder, (".jsonl",)))]


def segment_of(folder: Path, shard: Shard) -> Path:
    """The file of records of a shard."""
    return folder / FOLDER / f"{shard.name}.jsonl"


def _shards(folder: Path, endings: Collection[str]) -> set[Shard]:
    try:
        names = os.listdir(folder / FOLDER)  # noqa: PTH208  asked for with every manifest
    except (FileNotFoundError, NotADirectoryError):
        return set()
    matches = (_NAME.fullmatch(name) for name in names)
    return {Shard(int(m[2]), int(m[1])) for m in matches if m is not None and m[3] in endings}


def begun(folder: Path) -> list[int]:
    """The numbers of the shards that are at work, or have died."""
    return sorted(shard.number for shard in _signed(folder))


def _signed(folder: Path) -> set[Shard]:
    return _shards(folder, (".lock", ".lock-file"))


def shard_at_work(folder: Path) -> str | None:
    """Say which shard is at work in a folder now; None if none is. Writes nothing."""
    for shard in sorted(_signed(folder)):
        if holder := holder_of(folder / FOLDER, shard.name):
            return holder
    return None


def _refuse_others(folder: Path, shards: Collection[Shard], what: str, lease: float) -> None:
    """Refuse to go on while one of these shards is at work; what the dead ones left of their locks is removed.

    :raises BusyError: naming one that is.
    """
    locks = {shard: FolderLock(folder / FOLDER, shard.name, lease=lease) for shard in sorted(shards)}
    busy = acquire_each(list(locks.values()))
    for lock in locks.values():
        if lock not in busy:
            lock.release()
            remove(lock.file)
    if busy:
        at_work = [str(shard) for shard, lock in locks.items() if lock in busy]
        raise BusyError(
            f"{what}: shard {', '.join(at_work[:5])} is at work here: {busy[0].holder}",
            path=folder,
            hint="wait until it ends, or stop it; the shards of one number of shards run side by side",
        )


@contextmanager
def alone(folder: Path, *, lease: float = LEASE_SECONDS) -> Iterator[None]:
    """Hold a stage's folder as the only run, with all records of shards in its manifest.

    :raises BusyError: another run, or a shard of one, is at work there.
    """
    refuse_to_leave(folder / FOLDER / "any")
    with locked(folder, lease=lease):
        if signed := _signed(folder):
            _refuse_others(folder, signed, "a run without --shard must be the only one", lease)
        merge(folder)
        yield


@contextmanager
def between_shards(folder: Path, shard: Shard, *, lease: float = LEASE_SECONDS) -> Iterator[None]:
    """Hold a stage's folder for what shards share, while they may be at work; others wait for the end of it.

    :raises BusyError: a run without shards is at work there.
    """
    with locked(folder, lease=lease, wait=_PATIENCE, shard=str(shard)):
        yield


@contextmanager
def as_shard(folder: Path, shard: Shard, stage: str, *, lease: float = LEASE_SECONDS) -> Iterator[Sequence[str]]:
    """Hold a shard of a stage's folder, of which others may be at work. Finished when the block ends without error.

    :returns: what was cleaned up after a killed run, if no other shard is at work.
    :raises BusyError: the same shard, a shard of another number of shards, or a run without shards is at work there.
    """
    refuse_link(segment_of(folder, shard))
    own = FolderLock(folder / FOLDER, shard.name, lease=lease)
    make_folder(own.folder)
    own.acquire(shard=str(shard))
    try:
        with between_shards(folder, shard, lease=lease):
            signed = _signed(folder) - {shard}
            if others := {other for other in signed if other.of != shard.of}:
                _refuse_others(folder, others, f"this is a shard of {shard.of}", lease)
                signed -= others
            recovered: Sequence[str] = ()
            if not signed:  # else others write here, and nothing of theirs is touched
                merge(folder)
                recovered = recover(folder)
            append_lines(folder / "manifest.jsonl", b"")  # where there is a manifest, readers look
            roll = read_roll(folder)
            if roll is None or (roll.stage, roll.of) != (stage, shard.of):
                roll = Roll(stage, shard.of)
            _write_roll(folder, replace(roll, finished=roll.finished - {shard.number}))
        yield recovered
        with between_shards(folder, shard, lease=lease):
            roll = read_roll(folder)
            if roll is not None and (roll.stage, roll.of) == (stage, shard.of):
                _write_roll(folder, replace(roll, finished=roll.finished | {shard.number}))
            remove(own.file)
            own.release()
            if not _signed(folder):
                merge(folder)
    finally:
        own.release()


def merge(folder: Path) -> None:
    """Move the records of shards into the manifest, and remove what a killed run left beside them.

    For one who holds the folder alone. After a kill in between, what is in the manifest already is not appended again.
    """
    manifest = folder / "manifest.jsonl"
    for segment in segments(folder):
        refuse_link(segment)
        content = segment.read_bytes()
        lines = content[: content.rfind(b"\n") + 1]  # an incomplete last line of a killed run stays out
        append_lines(manifest, b"")
        append_lines(manifest, lines[_length_there(manifest, lines) :])
        remove(segment)
    recover(folder / FOLDER)


def _length_there(manifest: Path, lines: bytes) -> int:
    """The number of bytes of these lines that the manifest ends with already."""
    with manifest.open("rb") as stream:
        stream.seek(max(0, manifest.stat().st_size - len(lines)))
        tail = stream.read()
    first = lines[: lines.find(b"\n") + 1]
    start = tail.find(first) if first else -1
    while start >= 0:
        if lines.startswith(tail[start:]):
            return len(tail) - start
        start = tail.find(first, start + 1)
    return 0
