"""Settings of the robustness report."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from ..settings import Settings

WITH_CLASSES: Final = ("binary", "multiclass", "ordinal")
"""The tasks that the report can ask features for."""


class RobustnessSettings(Settings):
    """What features are asked for, beside the label."""

    columns: list[str] = Field(
        ["site"],
        min_length=1,
        description="columns of the cohort table that features should not show, such as site,scanner; site is known of "
        "TCGA patients",
    )
    neighbours: int = Field(10, ge=1, description="nearest patients that the robustness index looks at")
    bootstrap_rounds: int = Field(1000, ge=0, description="rounds of the bootstrap over patients, for intervals")
    seed: int = Field(0, ge=0, description="seed of the probes' folds and of the bootstrap")
