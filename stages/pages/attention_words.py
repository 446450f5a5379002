"""How a page says how unevenly attention is spread over a slide's tiles."""

from __future__ import annotations

from typing import Protocol

from .numbers import percent


class Spread(Protocol):
    """Shares of the attention, and the effective number of tiles."""

    @property
    def top_1(self) -> float: ...
    @property
    def top_10(self) -> float: ...
    @property
    def effective(self) -> float: ...


def concentration_words(spread: Spread) -> str:
    """Say it in a sentence.

    >>> from types import SimpleNamespace
    >>> concentration_words(SimpleNamespace(top_1=0.05, top_10=0.312, effective=41.6))
    'The top 1 % of tiles hold 5 % of the attention, the top 10 % hold 31.2 %: as even as over 42 tiles.'
    """
    return (
        f"The top 1 % of tiles hold {percent(spread.top_1)} of the attention, the top 10 % hold "
        f"{percent(spread.top_10)}: as even as over {spread.effective:,.0f} tiles."
    )
