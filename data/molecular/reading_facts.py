"""An account of how a matrix was read."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ReadingFacts:
    """What was found and done.

    :param sentences: in the order of the work.
    :param warnings: what the user should think about.
    :param counts: the numbers behind them.
    """

    sentences: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, number: int, what: str) -> None:
        """Keep a number, and say it where it is not zero."""
        self.counts[name] = int(number)
        if number:
            self.sentences.append(f"{what}: {number:,}")
