"""Settings of prediction on new slides."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ..settings import Presentation, Runtime, Settings


class PredictSettings(Settings):
    """Predictions on slides, from histology alone."""

    top_tiles: int = Presentation(
        8, ge=0, le=64, description="tiles shown of each slide: so many with most and with least attention, and so on"
    )
    scale: Literal["rank", "linear"] = Presentation(
        "rank", description="colours of heatmaps: by the rank of a tile in its slide, or linear in its score"
    )
    prevalence: float | None = Presentation(
        None,
        gt=0,
        lt=1,
        examples=[0.15],
        description="share of positive patients where the model is used: probabilities and thresholds are shown at it; "
        "default: that of its training patients",
    )
    alpha: float = Presentation(
        0.1,
        gt=0,
        lt=1,
        description="share of the patients of each class whose label set may miss it; a patient whose set does not "
        "hold exactly one class is uncertain",
    )
    other_patients: bool = Runtime(
        False,
        description="these are other people than those who trained the model, though some ids are the same: compare "
        "slides by their bytes alone",
    )
    device: str = Runtime("auto", description="cpu, cuda, cuda:1 or mps; auto takes the first GPU there is")


class NewSlides(Settings):
    """Slides to predict on at the end of `wsipipe run`."""

    slides: list[Path] = Field([], description="slide files, or folders of slides, to predict on after training")
    table: Path | None = Field(
        None,
        examples=["new_slides.csv"],
        description="CSV or TSV with their slide_id, patient_id and, where needed, path and mpp",
    )
