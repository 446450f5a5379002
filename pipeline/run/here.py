"""The executor that runs items in this process."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from ...data.errors import DeviceError
from ...stages.stage import Item, Progress, Stage
from ..results import Result
from .outcomes import device_error, failed, no_device_left, result_of


def run_here(
    stage: Stage[Any], items: Sequence[Item], progress: Progress, notes: list[str]
) -> Generator[Result, None, None]:
    """Run the items in this process, as the stage's stream; an executor (:data:`.outcomes.Executor`).

    When the device fails, all remaining items fail too, since the device cannot compute any of them.
    """
    left = {item.id: item for item in items}
    taken: dict[str, tuple[datetime, float]] = {}

    def take() -> Iterator[Item]:
        for item in items:
            taken[item.id] = (datetime.now(UTC), time.monotonic())
            yield item

    stage.setup()
    broken: DeviceError | None = None
    for item, outcome in stage.stream(take(), progress):
        del left[item.id]
        yield result_of(stage, item, outcome, *taken.pop(item.id))
        broken = device_error(outcome) if isinstance(outcome, Exception) else None
        if broken is not None:
            break
    if broken is not None:
        yield from failed((item, no_device_left(broken)) for item in left.values())
