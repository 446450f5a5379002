"""What a run of a stage tells the log for machines (:mod:`wsipipe.data.event_log`).

run started      versions, host, process, settings
items planned    how many are to be run, and how many are current, wait for another input, or are rejected
item done        (or ``item empty``) seconds, bytes of its outputs
item failed      seconds, and why
run ended        how, seconds, items by outcome, the most memory of the processes and of each GPU
"""

from __future__ import annotations

import os
import platform
import socket
import time
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Self, get_args

from msgspec import structs

from ...data.event_log import EventLog
from ...data.version import __version__
from ...stages.stage import Stage
from ..results import Result
from .decisions import Verdict, kept_settings
from .usage import Usage

_LIBRARIES: Final = ("torch", "timm", "numpy", "openslide-python", "openslide-bin", "h5py", "zarr")


class RunLog:
    """Writes the events of one run; as a context, those of its start and its end."""

    def __init__(self, stage: Stage[Any], usage: Usage) -> None:
        self._log = EventLog(stage.folder, stage.name)
        self._stage, self._usage = stage, usage
        self._outcomes: Counter[str] = Counter()
        self._begin = time.monotonic()

    def __enter__(self) -> Self:
        self._log.write(
            "run started",
            wsipipe=__version__,
            python=platform.python_version(),
            libraries={name: known for name in _LIBRARIES if (known := _version(name))},
            host=socket.gethostname(),
            pid=os.getpid(),
            settings=kept_settings(self._stage),
        )
        return self

    def planned(self, verdicts: Mapping[Verdict, int], rejected: int) -> None:
        """How many items are to be run, and what becomes of the others."""
        counts = {verdict: verdicts.get(verdict, 0) for verdict in get_args(Verdict)}
        self._log.write("items planned", items={**counts, "rejected": rejected})

    def item(self, result: Result) -> None:
        """An item is finished, or has failed."""
        status = result.outcome.status if result.outcome else "failed"
        self._outcomes[status] += 1
        where = {"worker": result.worker} if result.worker else {}
        if result.error:
            error = structs.asdict(result.error)
            self._log.write("item failed", item=result.item.id, seconds=result.seconds, error=error, **where)
        else:
            size = sum(output.bytes for output in result.outputs.values())
            self._log.write(f"item {status}", item=result.item.id, seconds=result.seconds, bytes=size, **where)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        how = "completed" if kind is None else "interrupted" if kind is KeyboardInterrupt else "error"
        self._usage.look_at_gpus()
        self._log.write(
            "run ended",
            how=how,
            **({} if how != "error" else {"error": {"type": type(error).__name__, "message": str(error)}}),
            seconds=round(time.monotonic() - self._begin, 3),
            items=dict(self._outcomes),
            peak_memory=self._usage.memory,
            peak_gpu_memory=self._usage.gpus,
        )


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
