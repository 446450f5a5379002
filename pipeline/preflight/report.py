"""What a check found: what will stop a stage, what should be looked at, and what is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from ...data.errors import WsipipeError
from ...data.manifest import Json

Weight = Literal["stops", "look"]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or may be.

    :param stage: the stage that it concerns.
    :param weight: whether it will stop that stage, or should be looked at.
    :param what: what is wrong, beginning with the file.
    :param hint: the way out.
    """

    stage: str
    weight: Weight
    what: str
    hint: str


@dataclass(frozen=True)
class Fact:
    """Something that was found to be so.

    :param figures: the same for programs.
    """

    subject: str
    what: str
    figures: dict[str, Json]


@dataclass
class Report:
    """All that a check has found so far."""

    findings: list[Finding] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)

    def stops(self, stage: str, what: str, hint: str) -> None:
        """Add something that will stop a stage."""
        self._add(Finding(stage, "stops", what, hint))

    def look(self, stage: str, what: str, hint: str) -> None:
        """Add something that should be looked at."""
        self._add(Finding(stage, "look", what, hint))

    def fact(self, subject: str, what: str, **figures: Json) -> None:
        """Add what was found to be so."""
        self.facts.append(Fact(subject, what, figures))

    def refused(self, stage: str, error: WsipipeError) -> None:
        """Add an error of ours that will stop a stage."""
        self.stops(stage, str(error), error.hint)

    @contextmanager
    def collecting(self, stage: str) -> Iterator[None]:
        """Take an error of ours in the block as something that will stop a stage, and go on."""
        try:
            yield
        except WsipipeError as error:
            self.refused(stage, error)

    def of(self, weight: Weight) -> list[Finding]:
        """The findings of one weight."""
        return [finding for finding in self.findings if finding.weight == weight]

    def _add(self, finding: Finding) -> None:
        if finding not in self.findings:  # several biomarkers have one table
            self.findings.append(finding)
