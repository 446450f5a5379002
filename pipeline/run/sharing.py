"""Shards of a stage (``--shard 2/8``): which items are theirs, what they need, and what waits for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ...data.artifact import recover
from ...data.errors import UsageError
from ...data.manifest import Manifest
from ...data.shards import Roll, Shard, as_shard, between_shards, count_items, read_roll
from ...stages.registry import STAGES
from ...stages.stage import Plan, Stage


@contextmanager
def held(stage: Stage[Any], shard: Shard | None) -> Iterator[tuple[Manifest, Sequence[str]]]:
    """Hold a stage's folder: alone, or as one of several shards.

    :returns: where to append records, and what was cleaned up after a killed run.
    :raises BusyError: another run writes to the same folder.
    """
    if shard is None:
        with stage.manifest.lock():
            yield stage.manifest, recover(stage.folder)
    elif stage.distributes:
        with as_shard(stage.folder, shard, stage.name) as cleaned:
            yield Manifest.of(stage.folder, shard), cleaned
    else:
        with between_shards(stage.folder, shard):
            yield stage.manifest, ()


def part_of(plan: Plan, stage: Stage[Any], shard: Shard) -> Plan:
    """The items of a stage's plan that belong to a shard, which is held."""
    count_items(stage.folder, shard, len(plan.items) + len(plan.rejected))
    items = [item for item in plan.items if shard.takes(item.id, item.place)]
    rejected = {item: error for item, error in plan.rejected.items() if shard.takes(item)}
    of_all = len(plan.items) + len(plan.rejected)
    note = f"shard {shard}: {len(items) + len(rejected)} of {of_all}"
    return replace(plan, items=items, rejected=rejected, notes=[*plan.notes, note])


def waits_for(stage: Stage[Any], shard: Shard | None) -> Roll | None:
    """The shards that must finish before a stage that is made from all items of another in its folder; None if none."""
    roll = read_roll(stage.folder) if shard is not None and stage.closes else None
    return roll if roll is not None and roll.missing else None


def refuse_missing(stage: Stage[Any], shard: Shard | None) -> None:
    """Refuse to make a stage from a part of the items of another, whose shards have not all finished.

    :raises UsageError: naming the shards, and the ways out.
    """
    if shard is None and stage.by_item:
        return
    for source in stage.sources:
        roll = read_roll(source)
        numbers = roll.lacks(shard if stage.by_item else None) if roll is not None else []
        if roll is not None and numbers:
            command = next((row.made_by for row in STAGES if row.name == roll.stage), roll.stage)
            missing = replace(roll, finished=frozenset(range(1, roll.of + 1)) - set(numbers))
            raise UsageError(
                f"{stage.name} needs all of {roll.stage}, and {missing} has not finished",
                path=source,
                hint=f"run `wsipipe {command}` as before with --shard {numbers[0]}/{roll.of}, or without --shard: "
                "it does what is left",
            )
