"""The manifest of a stage: a record of every attempt at every item, with inputs, settings, outputs or error.

It is an append-only file of JSON lines, each flushed to the disk at once. What is not recorded did not happen. Readers
use the last record of each item; an incomplete last line (after a power cut) is dropped with a warning.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema, to_json

from .artifact import append_lines, digest_of, size_of, whole
from .errors import InputError, StoreError, SurroundingsError
from .file_names import why_no_file_name, why_no_output
from .json_text import fault, is_within_limits, parse_json
from .known_records import read_on
from .plain_files import refuse_pipe
from .shards import FOLDER as SHARDS
from .shards import Shard, alone, segment_of, segments, shard_at_work
from .surroundings import patiently
from .writing_lock import holder_of, still_ours

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


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Fields that msgspec reads quickly; pydantic reads the same ones to say what is wrong with them."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        fields = {
            field.name: core_schema.typed_dict_field(handler.generate_schema(field.type), required=field.required)
            for field in msgspec.structs.fields(cls)
        }
        whole = core_schema.typed_dict_schema(fields, extra_behavior="forbid")
        return core_schema.no_info_after_validator_function(lambda values: cls(**values), whole)


class InputRecord(_Part, frozen=True, kw_only=True):
    """An input of an item, as it was when the item was made."""

    digest: str
    path: str | None = None
    """A file outside the workspace (absolute), or an output of another stage (relative to the workspace)."""
    bytes: int | None = None
    mtime_ns: int | None = None
    """Used only to decide whether to hash the file again; not part of its identity."""


class OutputRecord(_Part, frozen=True, kw_only=True):
    """One output of an item, a file or folder."""

    path: str
    """Relative to the workspace, so that the workspace can be moved, copied and mounted elsewhere."""
    bytes: int
    digest: str

    def is_whole(self, workspace: Path, *, check_digest: bool = False) -> bool:
        """Whether it exists with the recorded size and, if ``check_digest``, the recorded contents."""
        path = f"{workspace}/{self.path}"  # a Path would take longer than all the rest, for 100,000 outputs
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


class ErrorRecord(_Part, frozen=True, kw_only=True):
    """Why an item failed."""

    type: str
    """Its class."""
    message: str
    hint: str = ""
    retry: bool
    """True if the surroundings, not the input, were at fault: the next run tries the item again."""


class Record(_Part, frozen=True, kw_only=True):
    """One attempt at one item."""

    schema: int = SCHEMA
    """Version of this format."""
    stage: str
    stage_version: int
    item: str
    """What was worked on: a slide's id, a fold, a page."""
    status: Status
    fingerprint: str
    """Digest of the stage's version, the settings that give the numbers their meaning, and the inputs' digests."""
    settings: dict[str, Json]
    """All settings except the machine's."""
    inputs: dict[str, InputRecord]
    outputs: dict[str, OutputRecord] = {}
    stats: dict[str, Json] = {}
    """What was counted and measured, such as tiles, and what was put right in the input."""
    error: ErrorRecord | None = None
    start: datetime
    seconds: float
    host: str = msgspec.field(default_factory=socket.gethostname)
    wsipipe: str

    def __post_init__(self) -> None:
        """Refuse names that would lead out of the workspace.

        :raises ValueError: the item or an output has one.
        """
        if reason := why_no_file_name(self.item):
            raise ValueError(f"the item {self.item!a} {reason}")
        for output in self.outputs.values():
            if reason := why_no_output(output.path):
                raise ValueError(f"the output {output.path!a} {reason}")

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
    """The records of one stage folder, in the order in which they were written, with those of its shards at the end.

    :param shard: records are appended as this shard's.
    """

    def __init__(self, path: Path, shard: Shard | None = None) -> None:
        self.path, self.shard = path, shard

    @classmethod
    def of(cls, folder: str | Path, shard: Shard | None = None) -> Manifest:
        """The manifest of a stage's folder."""
        return cls(Path(folder) / "manifest.jsonl", shard)

    def records(self) -> list[Record]:
        """All records.

        :raises StoreError: a line in the middle that is not a record, or one of a newer format; an item or output
            whose name would lead out of the workspace.
        """
        while True:
            files = segments(self.path.parent)
            of_shards = [record for file in files for record in self._records_in(file)]
            records = self._records_in(self.path) + of_shards
            if files == segments(self.path.parent):  # else they were moved into the manifest meanwhile
                return records

    def _records_in(self, path: Path) -> list[Record]:
        if path.is_dir():
            raise StoreError("is a folder, not a manifest", path=path, hint="move it away")
        if not patiently(path.exists, path):
            return []
        refuse_pipe(path, StoreError)
        if path.stat().st_size > _MOST_BYTES:
            raise StoreError(f"is over {_MOST_BYTES:,} bytes", path=path, hint="remove it, or copy it again")
        try:
            known = patiently(
                lambda: read_on(path, lambda number, line: _parsed(line) or self._parse(number, line, path)), path
            )
        except SurroundingsError:
            if path != self.path and not path.exists():
                return []  # it was moved into the manifest
            raise
        if known.torn and path == self.path:  # a shard that is at work may be writing a line just now
            torn = f"{path}: dropped an incomplete last line (the machine stopped while writing)"
            warnings.warn(torn, stacklevel=3)
        return list(known.parsed)

    def _parse(self, number: int, line: bytes, path: Path | None = None) -> Record:
        path = path or self.path
        try:
            fields = parse_json(line)
            schema = fields.get("schema") if isinstance(fields, dict) else None
            if isinstance(schema, int) and schema > SCHEMA:
                raise StoreError(
                    f"line {number} was written by a newer wsipipe (schema {schema}, this one reads {SCHEMA})",
                    path=path,
                    hint="use that version of wsipipe",
                )
            if isinstance(fields, dict):
                stage = fields.get("stage")
                fields["stage"] = FORMER_STAGES.get(stage, stage) if isinstance(stage, str) else stage
            return _CHECKED.validate_python(fields)
        except ValueError as error:
            raise StoreError(
                f"line {number} is not a record: {fault(error)}",
                path=path,
                hint="the file was edited or damaged: remove that line; the item that it recorded is then done again",
            ) from error

    def read_lines(self) -> tuple[dict[int, Record], list[BadLine]]:
        """Read what can be read of a damaged manifest: the records by their line's number, and the lines that are none.

        Lines are counted from 1, those of shards as they will be in the manifest.
        """
        files = [self.path, *segments(self.path.parent)]
        content = b""
        for file in files:
            part = patiently(lambda file=file: file.read_bytes() if file.exists() else b"", file)  # type: ignore[misc]
            content += part if file == files[-1] else part[: part.rfind(b"\n") + 1]
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

    def holder(self) -> str | None:
        """Say which run, or shard of one, holds the lock now; None if none does. Writes nothing."""
        return holder_of(self.path.parent) or shard_at_work(self.path.parent)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock as the only writer (:func:`~wsipipe.data.shards.alone`).

        :raises BusyError: another run, or a shard of one, holds it; the message says which.
        :raises UsageError: the folder is outside of the workspace, or a link stands for the manifest or its lock.
        """
        with alone(self.path.parent):
            yield

    def append(self, *records: Record) -> None:
        """Append records and flush them to the disk; an incomplete line of a killed run is removed first.

        :raises BusyError: this process has lost its lock of the folder, because it stood still.
        """
        lines = b"".join(line_of(record) for record in records)
        place = self.path.parent
        if self.shard is None:
            still_ours(place)
            append_lines(self.path, lines)
        else:
            still_ours(place / SHARDS, self.shard.name)
            append_lines(segment_of(place, self.shard), lines)


def line_of(record: Record) -> bytes:
    """The line of a record in its manifest: JSON without the fields that are None."""
    return json_of(record) + b"\n"


def json_of(value: Any) -> bytes:
    """The JSON of records, and of values in which they are."""
    return to_json(value, fallback=_fields, inf_nan_mode="null")


def _fields(part: _Part) -> dict[str, Any]:
    return {name: value for name in part.__struct_fields__ if (value := getattr(part, name)) is not None}


_QUICK: Final = msgspec.json.Decoder(Record)
_CHECKED: Final = TypeAdapter(Record)


def _parsed(line: bytes) -> Record | None:
    """A record of the present format, parsed in one go; None if it must be looked at more closely."""
    if not is_within_limits(line):
        return None
    try:
        record = _QUICK.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # an older msgspec's are no ValueError
        return None
    if record.schema != SCHEMA or record.stage in FORMER_STAGES:
        return None
    start = line.find(b'"settings":')
    text = line[start : line.find(b',"inputs":', start)]
    known, settings = _settings.get(record.stage, (b"", {}))
    if text == known and record.settings == settings:
        msgspec.structs.force_setattr(record, "settings", settings)
    else:
        _settings[record.stage] = text, record.settings
    return record


_settings: Final[dict[str, tuple[bytes, dict[str, Json]]]] = {}
"""The settings of each stage's last record, as text and parsed; its other records share them instead of a copy each."""


def _is_newer(line: bytes) -> bool:
    try:
        schema = parse_json(line).get("schema")
    except (ValueError, AttributeError):
        return False
    return isinstance(schema, int) and schema > SCHEMA
