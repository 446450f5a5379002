"""The log of a stage for machines: what happened and when, one JSON object a line, beside its manifest.

It is for dashboards and for looking back; nothing of wsipipe reads it. Each line is written whole, in one call of the
system, so that several readers and writers never see half of one; a line that a power cut has torn is followed by a
line break. When a run begins, a log of more than 16 MB is renamed to ``events.1.jsonl``; the one before is removed.

    {"time": "2026-01-31T12:00:00.000+00:00", "run": "5f0c…", "stage": "tile", "event": "item done", "item": "a", …}
"""

from __future__ import annotations

import json
import os
import secrets
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from .workspace import make_folder, refuse_link

NAME: Final = "events.jsonl"
EARLIER: Final = "events.1.jsonl"
_MOST_BYTES: Final = 16 << 20


class EventLog:
    """The log of one run of a stage.

    :param folder: the stage's folder.
    :param stage: the stage's name, in each line.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self.path = folder / NAME
        self._about = {"run": secrets.token_hex(6), "stage": stage}
        self._failed = False
        self._first = True

    def write(self, event: str, **fields: Any) -> None:
        """Append an event. Where that fails, one warning is given, and the run goes on: the manifest counts."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        values = {"time": time, **self._about, "event": event, **fields}
        line = json.dumps(values, default=str).encode() + b"\n"
        try:
            self._append(line)
        except OSError as error:
            if not self._failed:
                warnings.warn(f"{self.path}: the log cannot be written ({error.strerror})", stacklevel=2)
            self._failed = True

    def _append(self, line: bytes) -> None:
        begins = self._first
        if begins:
            refuse_link(self.path)
            make_folder(self.path.parent)
            if self.path.exists() and self.path.stat().st_size > _MOST_BYTES:
                self.path.replace(self.path.with_name(EARLIER))
            self._first = False
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(self.path, flags, 0o666)
        try:
            size = os.fstat(handle).st_size if begins else 0  # later, a half line is one that somebody is writing
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            os.write(handle, b"\n" + line if torn else line)
        finally:
            os.close(handle)
