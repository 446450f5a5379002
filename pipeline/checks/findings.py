"""The kinds of findings of ``wsipipe verify``: what each means, and whether the next run notices it by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Severity = Literal["lost", "damaged", "manifest", "unknown", "note"]
"""What has to be done.

``lost``: nothing, the next run makes it again. ``damaged``: the next run would take it as good, unless ``--repair``
drops its record. ``manifest``: ``--repair`` removes lines. ``unknown``: it could not be read now. ``note``: nothing is
wrong with a result.
"""


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    :param severity: what has to be done.
    :param meaning: a sentence for people.
    """

    severity: Severity
    meaning: str


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "missing": Kind("lost", "the output is not there"),
        "size": Kind("lost", "the output has another size than recorded"),
        "bytes": Kind("damaged", "the output has other bytes than recorded"),
        "unreadable": Kind("damaged", "the output cannot be read as what it is"),
        "count": Kind("damaged", "the numbers of tiles, rows and the record do not agree"),
        "shape": Kind("damaged", "the output has another width than recorded"),
        "not finite": Kind("damaged", "the output holds NaN or infinity"),
        "mismatch": Kind("damaged", "the output is of another slide, fold or tile set than recorded"),
        "outside": Kind("damaged", "the record names an output outside its folder"),
        "bad line": Kind("manifest", "a line of the manifest is no record"),
        "torn line": Kind("manifest", "the manifest's last line is incomplete (the machine stopped while writing)"),
        "newer line": Kind("unknown", "a newer wsipipe has written to the manifest: use that version"),
        "unreachable": Kind("unknown", "the storage did not answer"),
        "stale": Kind("note", "something that it was made from has changed"),
        "not judged": Kind("note", "what it was made from is recorded in a damaged manifest"),
        "orphan": Kind("note", "it looks like an output, and no record owns it"),
        "foreign": Kind("note", "not made by wsipipe, or recorded nowhere"),
        "leftover": Kind("note", "half-written, left by a run that was stopped"),
        "unfinished": Kind("note", "saved work of a training that was interrupted"),
        "dead lock": Kind("note", "left by a run that died; it holds nothing"),
        "in use": Kind("note", "a run is writing here now, so what is not recorded yet was not judged"),
    }
)


@dataclass(frozen=True)
class Finding:
    """Something that was found.

    :param kind: one of :data:`KINDS`.
    :param folder: the stage's folder, relative to the workspace.
    :param stage: the stage's name; empty for what belongs to no record.
    :param item: the item; a path within the folder, or a line, for what belongs to no record.
    :param what: details, as a sentence without its full stop.
    :param path: the file or folder concerned, relative to the workspace.
    """

    kind: str
    folder: str
    stage: str
    item: str
    what: str
    path: str = ""

    @property
    def severity(self) -> Severity:
        """What has to be done."""
        return KINDS[self.kind].severity
