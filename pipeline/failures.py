"""Failures of the same kind together: 300 slides with one fault are one line, not 300."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ..data.wording import some
from .results import Failure, Summary

FEW: Final = 3
"""Failures of one kind that are shown one by one; of more, so many are named."""

_PATH: Final = re.compile(r"^(?:[A-Za-z]:)?[^:]*[/\\][^:]*: ")
_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")


def kind_of(failure: Failure) -> tuple[str, str]:
    """What a failure has in common with others: message and hint without the item, its file, and numbers."""
    return _bare(bare_message(failure), failure.item), _bare(failure.hint, failure.item)


def bare_message(failure: Failure) -> str:
    """The message of a failure without its file."""
    of_item = re.compile(rf"^.*?[/\\]{re.escape(failure.item)}[^:/\\]*: ")
    return _PATH.sub("", of_item.sub("", failure.message, count=1), count=1)


def _bare(text: str, item: str) -> str:
    return _NUMBER.sub("#", text.replace(item, "…") if item else text)


@dataclass(frozen=True)
class FailureGroup:
    """Failures of one kind."""

    failures: Sequence[Failure]

    @property
    def lines(self) -> Sequence[str]:
        """What failed and why, once, and the way out."""
        first = self.failures[0]
        if len(self.failures) <= FEW:
            lines = [f"{failure.item}: {failure.message}" for failure in self.failures]
        else:
            names = some([failure.item for failure in self.failures], FEW)
            lines = [f"{len(self.failures):,} with the same fault: {names}: {bare_message(first)}"]
        return [*lines, f"    {first.hint}"] if first.hint else lines


def grouped(failures: Sequence[Failure]) -> list[FailureGroup]:
    """Group failures by kind, in the order of the first of each."""
    kinds: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        kinds.setdefault(kind_of(failure), []).append(failure)
    return [FailureGroup(of_kind) for of_kind in kinds.values()]


def failure_lines(summary: Summary) -> Iterator[str]:
    """The lines below the closing table: what failed in a stage, and where the whole list is."""
    groups = grouped(summary.failures)
    for group in groups:
        for line in group.lines:
            yield line if line.startswith("    ") else f"failed in {summary.stage}: {line}"
    if any(len(group.failures) > FEW for group in groups):
        yield f"all of them, with their reasons: wsipipe status, or {summary.folder / 'manifest.jsonl'}"


def next_command(summaries: Sequence[Summary], words: Sequence[str]) -> Sequence[str]:
    """What to type after a run in which items failed.

    :param words: the command that was run.
    """
    failures = [failure for summary in summaries for failure in summary.failures]
    if not failures:
        return ()
    again = shlex.join(words)
    if all(failure.retry for failure in failures):
        return (f"next: {again}", "    tries the failed ones again; what is done stays done")
    asked = again if "--retry-failed" in words else f"{again} --retry-failed"
    return (
        f"next: mend what is named above, then: {again}",
        f"    files that have not changed are not tried again, unless you ask for it: {asked}",
    )
