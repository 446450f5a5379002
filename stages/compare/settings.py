"""Settings of a comparison of methods."""

from __future__ import annotations

from pydantic import Field

from ..settings import Settings


class CompareSettings(Settings):
    """A comparison of methods on the same splits."""

    methods: list[str] = Field(
        [],
        description="methods to compare, such as momkd, abmil+soft, or linear@mean-of-uni2-h on "
        "slide vectors; default: all",
    )
