"""Records of a manifest for its tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from wsipipe.data.manifest import Record


def record(item: str, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "schema": 1,
        "stage": "tile",
        "stage_version": 1,
        "item": item,
        "status": "done",
        "fingerprint": "sha256:0",
        "settings": {"mpp": 0.5},
        "inputs": {},
        "start": datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC),
        "seconds": 1.25,
        "wsipipe": "0.1.0",
    }
    return Record(**fields | changes)
