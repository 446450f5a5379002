"""What a stage did in a run, for the table and for ``--json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..data.manifest import Json


@dataclass(frozen=True)
class Failure:
    """A failed item, for the table and for ``--json``."""

    item: str
    message: str
    hint: str


@dataclass(frozen=True)
class Summary:
    """What a stage did in this run."""

    stage: str
    folder: Path
    items: str
    done: int = 0
    empty: int = 0
    before: int = 0
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()
    units: int = 0
    unit: str = ""
    seconds: float = 0.0
    stats: Mapping[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """As plain JSON values."""
        failures = [vars(failure) for failure in self.failures]
        return {**vars(self), "folder": str(self.folder), "failures": failures, "notes": list(self.notes)}
