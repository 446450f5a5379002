"""The report of how a matrix was read."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ReadingFacts:
    """Report of reading a matrix.

    :param sentences: what was found and done, in this order.
    :param warnings: what the user should check.
    :param counts: numbers, by name, for the manifest.
    """

    sentences: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, number: int, what: str) -> None:
        """Store a number, and add a sentence if it is not zero."""
        self.counts[name] = int(number)
        if number:
            self.sentences.append(f"{what}: {number:,}")
