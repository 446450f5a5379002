"""The manifest of a stage: a record of every attempt at every item, with inputs, settings, outputs or error.

It is an append-only file of JSON lines, each flushed to the disk at once. What is not recorded did not happen. Readers
use the last record of each item; an incomplete last line (after a power cut) is dropped with a warning.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass

from .artifact import STAGE_FILES, digest_of, flush_to_disk, say_weaker, size_of, whole
from .errors import BusyError, InputError, StoreError
from .file_names import why_no_file_name, why_no_output
from .json_text import fault, is_plain_json, parse_json
from .known_records import read_on
from .plain_files import refuse_pipe
from .surroundings import patiently, surroundings
from .workspace import refuse_link

SCHEMA = 1

Status = Literal["done", "empty", "failed"]

FORMER_STAGES: Final = {
    "evaluate": "cross_validate",
    "read": "read_slides",
    "external": "external_evaluate",
    "summary": "prediction_report",
}
"""What earlier versions called a stage, and its name now. Their records are read under the name that it has now."""
Json = Any
"""Any JSON value."""

DAMAGED: Final = "DamagedOutput"
"""Type of the error in a record of ``wsipipe verify --repair``. Earlier records of the item do not count any more."""


_MOST_BYTES: Final = 4 << 30
"""Of a manifest: a million records of 4 kB."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@pydantic_dataclass(config=ConfigDict(extra="forbid"), frozen=True, slots=True)
class InputRecord:
    """An input of an item, as it was when the item was made."""

    digest: str
    path: str | None = None
    """A file outside the workspace (absolute), or an output of another stage (relative to the workspace)."""
    bytes: int | None = None
    mtime_ns: int | None = None
    """Used only to decide whether to hash the file again; not part of its identity."""


@pydantic_dataclass(config=ConfigDict(extra="forbid"), frozen=True, slots=True)
class OutputRecord:
    """One output of an item, a file or folder."""

    path: str
    """Relative to the workspace, so that the workspace can be moved, copied and mounted elsewhere."""
    bytes: int
    digest: str

    def is_whole(self, workspace: Path, *, check_digest: bool = False) -> bool:
        """Whether it exists with the recorded size and, if ``check_digest``, the recorded contents."""
        path = os.path.join(workspace, self.path)  # noqa: PTH118  asked for 100,000 outputs at once
        return patiently(lambda: self._is_at(path, check_digest), path)

    def _is_at(self, path: str, check_digest: bool) -> bool:
        try:
            if size_of(path) != self.bytes:
                return False
        except (FileNotFoundError, NotADirectoryError):
            if os.path.exists(path):  # noqa: PTH110  a file in it is gone that was there a moment before
                raise
            return False
        except InputError:  # something in it is no file
            return False
        return not check_digest or digest_of(Path(path)) == self.digest


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

    @field_validator("item")
    @classmethod
    def _is_a_name(cls, item: str) -> str:
        if reason := why_no_file_name(item):
            raise ValueError(f"the item {item!a} {reason}")
        return item

    @field_validator("outputs")
    @classmethod
    def _are_in_the_workspace(cls, outputs: dict[str, OutputRecord]) -> dict[str, OutputRecord]:
        for output in outputs.values():
            if reason := why_no_output(output.path):
                raise ValueError(f"the output {output.path!a} {reason}")
        return outputs

    def is_whole(self, workspace: Path, *, check_digest: bool = False) -> bool:
        """Whether all outputs exist as recorded."""
        return all(output.is_whole(workspace, check_digest=check_digest) for output in self.outputs.values())


@dataclass(frozen=True)
class BadLine:
    """A line of a manifest that is no record.

    :param number: counted from 1.
    :param kind: ``garbage``; ``torn``, an incomplete last line, which the next run removes; or ``newer``, a record of
        a newer wsipipe.
    """

    number: int
    kind: Literal["garbage", "torn", "newer"]
    why: str


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

        :raises StoreError: a line in the middle that is not a record, or one of a newer format; an item or output
            whose name would lead out of the workspace.
        """
        if self.path.is_dir():
            raise StoreError("is a folder, not a manifest", path=self.path, hint="move it away")
        if not patiently(self.path.exists, self.path):
            return []
        refuse_pipe(self.path, StoreError)
        if self.path.stat().st_size > _MOST_BYTES:
            raise StoreError(f"is over {_MOST_BYTES:,} bytes", path=self.path, hint="remove it, or copy it again")
        known = patiently(
            lambda: read_on(self.path, lambda number, line: _parsed(line) or self._parse(number, line)), self.path
        )
        if known.torn:
            torn = f"{self.path}: dropped an incomplete last line (the machine stopped while writing)"
            warnings.warn(torn, stacklevel=2)
        return list(known.parsed)

    def _parse(self, number: int, line: bytes) -> Record:
        try:
            fields = parse_json(line)
            schema = fields.get("schema") if isinstance(fields, dict) else None
            if isinstance(schema, int) and schema > SCHEMA:
                raise StoreError(
                    f"line {number} was written by a newer wsipipe (schema {schema}, this one reads {SCHEMA})",
                    path=self.path,
                    hint="use that version of wsipipe",
                )
            if isinstance(fields, dict):
                stage = fields.get("stage")
                fields["stage"] = FORMER_STAGES.get(stage, stage) if isinstance(stage, str) else stage
            return Record.model_validate(fields)
        except ValueError as error:
            raise StoreError(
                f"line {number} is not a record: {fault(error)}",
                path=self.path,
                hint="the file was edited or damaged: remove that line; the item that it recorded is then done again",
            ) from error

    def read_lines(self) -> tuple[dict[int, Record], list[BadLine]]:
        """Read what can be read of a damaged manifest: the records by their line's number, and the lines that are none.

        Lines are counted from 1.
        """
        content = patiently(lambda: self.path.read_bytes() if self.path.exists() else b"", self.path)
        *lines, tail = content.split(b"\n")
        records: dict[int, Record] = {}
        bad: list[BadLine] = []
        for number, line in enumerate(lines, 1):
            try:
                if line.strip():
                    records[number] = self._parse(number, line)
            except StoreError as error:
                bad.append(BadLine(number, "newer" if _is_newer(line) else "garbage", error.what))
        if tail:
            bad.append(BadLine(len(lines) + 1, "torn", "the machine stopped while writing it"))
        return records, bad

    def without(self, numbers: Collection[int]) -> Path:
        """Rewrite the file without these lines, the others byte for byte; for the holder of its lock.

        :returns: the copy of the file as it was, beside it.
        """
        *lines, tail = self.path.read_bytes().split(b"\n")
        lines = [*(line + b"\n" for line in lines), *([tail] if tail else [])]
        copies = (self.path.with_name(f"manifest.before-{n}.jsonl") for n in count(1))
        copy = next(path for path in copies if not path.exists())
        with whole(copy) as scratch:
            scratch.write_bytes(b"".join(lines))
        with whole(self.path) as scratch:
            scratch.write_bytes(b"".join(line for n, line in enumerate(lines, 1) if n not in numbers))
        return copy

    def latest(self, stage: str | None = None) -> dict[str, Record]:
        """The last record of each item (of one stage, or of all), in the order of first appearance."""
        return {r.item: r for r in self.records() if stage is None or r.stage == stage}

    def append(self, *records: Record) -> None:
        """Append records and flush them to the disk; an incomplete line of a killed run is removed first."""
        lines = b"".join(r.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n" for r in records)

        def write() -> None:
            refuse_link(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+", buffering=0) as stream:
                _cut_torn_line(stream.fileno())
                end = os.fstat(stream.fileno()).st_size
                try:
                    rest = memoryview(lines)
                    while rest:
                        rest = rest[stream.write(rest) :]
                    flush_to_disk(stream.fileno(), self.path)
                except OSError:  # on a full disk, a part of a line may have been written
                    os.ftruncate(stream.fileno(), end)
                    raise

        patiently(write, self.path)

    def holder(self) -> str | None:
        """Say which run holds the lock now; None if none does. Writes nothing."""
        kinds: tuple[tuple[str, type[BaseFileLock]], ...] = ((".lock", FileLock), (".lock-file", SoftFileLock))
        for name, kind in kinds:
            file = self.path.with_name(name)
            if not file.is_file() or file.is_symlink():
                continue
            lock = kind(file)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return _held_by(self.path.with_name(".lock-holder.json"))
            except (OSError, NotImplementedError):
                continue  # read-only, or without locks: nobody can be seen to hold it
            lock.release()
        return None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the manifest's lock as its only writer. The operating system releases it when the process ends.

        On a file system without such locks a file stands for it, with the holder's process and host in it. If that
        process has died on this host, it is taken over.

        :raises BusyError: another run holds it; the message says which.
        :raises UsageError: the folder is outside of the workspace, or a link stands for the manifest or its lock.
        """
        for file in STAGE_FILES:
            refuse_link(self.path.with_name(file))
        holder = self.path.with_name(".lock-holder.json")
        hint = "wait until it ends, or stop it; its lock ends with it"
        lock: BaseFileLock = FileLock(self.path.with_name(".lock"), fallback_to_soft=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                patiently(lambda: lock.acquire(timeout=0), self.path.parent)
            except (OSError, NotImplementedError) as error:
                if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                    raise
                # Under a name of its own: an operating system's lock leaves its file behind, which means nothing.
                lock = SoftFileLock(self.path.with_name(".lock-file"))
                hint = f"wait until it ends, or stop it; if it has ended already, remove {lock.lock_file}"
                say_weaker("has no locks: a file stands for them, which a machine that stops leaves behind", self.path)
                lock.acquire(timeout=0)
        except Timeout as error:
            raise BusyError(
                f"another run is writing here: {_held_by(holder)}", path=self.path.parent, hint=hint
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


_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
"""What file systems answer that have no locks (some of NFS, SMB and FUSE)."""


def _parsed(line: bytes) -> Record | None:
    """A record of the present format, parsed in one go; None if it must be looked at more closely."""
    if not is_plain_json(line):
        return None
    try:
        record = Record.model_validate_json(line)
    except ValidationError:
        return None
    if record.schema_version != SCHEMA or record.stage in FORMER_STAGES:
        return None
    start = line.find(b'"settings":')
    text = line[start : line.find(b',"inputs":', start)]
    known, settings = _settings.get(record.stage, (b"", {}))
    if text == known and record.settings == settings:
        record.__dict__["settings"] = settings
    else:
        _settings[record.stage] = text, record.settings
    return record


_settings: Final[dict[str, tuple[bytes, dict[str, Json]]]] = {}
"""The settings of each stage's last record, as text and parsed; its other records share them instead of a copy each."""


def _held_by(holder: Path) -> str:
    try:
        text = holder.read_text() if holder.is_file() and not holder.is_symlink() else "unknown"
    except (OSError, UnicodeDecodeError):
        return "unknown"
    return "".join(character if character.isprintable() else " " for character in text[:_HOLDER_SHOWN])


_HOLDER_SHOWN: Final = 300


def _sign(holder: Path) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with whole(holder) as scratch:
        scratch.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now}))


def _is_newer(line: bytes) -> bool:
    try:
        schema = json.loads(line).get("schema")
    except (ValueError, AttributeError):
        return False
    return isinstance(schema, int) and schema > SCHEMA


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
