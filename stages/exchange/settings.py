"""Settings of the exchange with other programs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..settings import Settings


class ExportSettings(Settings):
    """Tiles or features in other tools' formats."""

    format: Literal["clam", "trident", "anndata"] = Field("clam", description="the tool whose format is written")
