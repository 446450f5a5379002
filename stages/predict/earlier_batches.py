"""What earlier batches left in a folder of predictions: batches add up there, and none erases another's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...data.artifact import stamp
from ...data.errors import WsipipeError
from ...data.manifest import InputRecord, Manifest, Record
from ...data.slides.finding import slide_identity
from ..versions import VERSIONS
from .reading import SlideOutput, read_outputs


def patients_before(manifest: Manifest, workspace: Path) -> dict[str, str]:
    """Slide → patient, all that were ever asked for in this folder."""
    predicted = {slide: r for slide, r in manifest.latest("predict").items() if r.status == "done"}
    outputs = read_outputs(
        {
            slide: workspace / record.outputs["prediction"].path
            for slide, record in predicted.items()
            if record.is_whole(workspace)
        }
    )
    of_page = manifest.latest("prediction_report").get("predictions")
    asked: Mapping[str, str] = of_page.stats.get("asked", {}) if of_page else {}
    return {**{slide: output.patient_id for slide, output in outputs.items()}, **asked}


@dataclass(frozen=True)
class Standing:
    """What predictions are held against.

    :param model: digest of the model as it is now.
    :param tiled, extracted: slide → record that counts.
    """

    model: str
    tiled: Mapping[str, Record]
    extracted: Mapping[str, Record]

    def why_stale(self, record: Record, output: SlideOutput, folds: tuple[int, ...]) -> str:
        """Why a prediction does not count any more; nothing if it does.

        :param folds: that may read the slide by what is known now.
        """
        slide = record.item
        if record.inputs["model"].digest != self.model:
            return "made by another model, or by this one before it was trained again"
        if record.stage_version != VERSIONS["predict"]:
            return "made by an earlier version of wsipipe"
        tile, features = self.tiled.get(slide), self.extracted.get(slide)
        if tile is None or features is None:
            return "its tiles or features are gone"
        if features.outputs["features"].digest != record.inputs["features"].digest:
            return "its features have changed"
        if _has_changed(tile.inputs["slide"]):
            return "the slide has changed"
        if tuple(sorted(output.logits)) != folds:
            return "other folds may read this patient by what is known now"
        return ""


def _has_changed(slide: InputRecord) -> bool:
    """Whether a slide's file is another than when it was tiled; one that was moved away since is not."""
    path = Path(slide.path or "")
    if slide.mtime_ns is None or not path.exists() or stamp(path) == (slide.bytes, slide.mtime_ns):
        return False
    try:
        return slide_identity(path)[1] != slide.digest
    except WsipipeError:
        return True
