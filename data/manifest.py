"""The manifest of a stage: a record of every attempt at every item, with inputs, settings, outputs or error.

It is an append-only file of JSON lines, each flushed to the disk at once. What is not recorded did not happen. Readers
use the last record of each item; an incomplete last line (after a power cut) is dropped with a warning.
"""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .artifact import digest_of, size_of, surroundings
from .errors import BusyError, StoreError

SCHEMA = 1

Status = Literal["done", "empty", "failed"]
Json = Any
"""Any JSON value."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputRecord(_Part):
    """An input of an item, as it was when the item was made."""

    digest: str
    path: str | None = None
    """A file outside the workspace (absolute), or an output of another stage (relative to the workspace)."""
    bytes: int | None = None
    mtime_ns: int | None = None
    """Used only to decide whether to hash the file again; not part of its identity."""


class OutputRecord(_Part):
    """One output of an item, a file or folder."""

    path: str
    """Relative to the workspace, so that the workspace can be moved, copied and mounted elsewhere."""
    bytes: int
    digest: str

    def is_whole(self, workspace: Path, *, check_digest: bool = False) -> bool:
        """Whether it exists with the recorded size and, if ``check_digest``, the recorded contents."""
        path = workspace / self.path
        if not path.exists() or size_of(path) != self.bytes:
            return False
        return not check_digest or digest_of(path) == self.digest


class ErrorRecord(_Part):
    """Why an item failed."""

    type: str
    message: str
    hint: str = ""
    retry: bool
    """True if the surroundings, not the input, were at fault: the next run tries the item again."""


class Record(_Part):
    """One attempt at one item."""

    schema_version: int = Field(SCHEMA, alias="schema")
    stage: str
    stage_version: int
    item: str
    status: Status
    fingerprint: str
    settings: dict[str, Json]
    inputs: dict[str, InputRecord]
    outputs: dict[str, OutputRecord] = {}
    stats: dict[str, Json] = {}
    error: ErrorRecord | None = None
    start: datetime
    seconds: float
    host: str = Field(default_factory=socket.gethostname)
    wsipipe: str

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    def is_whole(self, workspace: Path, *, check_digest: bool = False) -> bool:
        """Whether all outputs exist as recorded."""
        return all(output.is_whole(workspace, check_digest=check_digest) for output in self.outputs.values())


class Manifest:
    """The records of one stage folder, in the order in which they were written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, folder: Path) -> Manifest:
        """The manifest of a stage's folder."""
        return cls(folder / "manifest.jsonl")

    def records(self) -> list[Record]:
        """All records.

        :raises StoreError: a line in the middle that is not a record, or one of a newer format.
        """
        if not self.path.exists():
            return []
        *lines, tail = self.path.read_bytes().split(b"\n")
        if tail:
            warnings.warn(
                f"{self.path}: dropped an incomplete last line (the machine stopped while writing)", stacklevel=2
            )
        return [self._parse(number, line) for number, line in enumerate(lines, 1) if line.strip()]

    def _parse(self, number: int, line: bytes) -> Record:
        try:
            fields = json.loads(line)
            schema = fields.get("schema") if isinstance(fields, dict) else None
            if isinstance(schema, int) and schema > SCHEMA:
                raise StoreError(
                    f"line {number} was written by a newer wsipipe (schema {schema}, this one reads {SCHEMA})",
                    path=self.path,
                    hint="use that version of wsipipe",
                )
            return Record.model_validate(fields)
        except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
            raise StoreError(
                f"line {number} is not a record: {str(error).splitlines()[0]}",
                path=self.path,
                hint="the file was edited or damaged: remove that line; the item that it recorded is then done again",
            ) from error

    def latest(self, stage: str | None = None) -> dict[str, Record]:
        """The last record of each item (of one stage, or of all), in the order of first appearance."""
        return {r.item: r for r in self.records() if stage is None or r.stage == stage}

    def append(self, record: Record) -> None:
        """Append a record and flush it to the disk; an incomplete line of a killed run is removed first."""
        line = record.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as stream:
                _cut_torn_line(stream.fileno())
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise surroundings(error, self.path) or error from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the manifest's lock as its only writer. The operating system releases it when the process ends.

        :raises BusyError: another run holds it; the message says which.
        """
        holder = self.path.with_name(".lock-holder.json")
        lock = FileLock(self.path.with_name(".lock"))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            who = holder.read_text() if holder.exists() else "unknown"
            raise BusyError(
                f"another run is writing here: {who}",
                path=self.path.parent,
                hint="wait until it ends, or stop it; its lock ends with it",
            ) from error
        except OSError as error:
            raise surroundings(error, self.path) or error from error
        try:
            _sign(holder)
            yield
        finally:
            with suppress(OSError):  # the file is only for messages; the lock itself is the operating system's
                holder.unlink(missing_ok=True)
            lock.release()


def _sign(holder: Path) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        holder.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now}))
    except OSError as error:
        raise surroundings(error, holder) or error from error


def _cut_torn_line(handle: int) -> None:
    size = os.fstat(handle).st_size
    end = size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(handle, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(handle, end)
