"""What earlier batches left in a folder of predictions: batches add up there, and none erases another's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...data.manifest import Manifest, Record
from ..lineage import Standing
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


def why_stale(record: Record, output: SlideOutput, *, model: str, folds: tuple[int, ...], standing: Standing) -> str:
    """Why a prediction of an earlier batch does not count any more; nothing if it does.

    :param model: digest of the model as it is now.
    :param folds: that may read the slide by what is known now.
    :param standing: how its record stands (:mod:`wsipipe.stages.lineage`).
    """
    if record.inputs["model"].digest != model:
        return "made by another model, or by this one before it was trained again"
    if not standing.counts:
        return standing.why
    if tuple(sorted(output.logits)) != folds:
        return "other folds may read this patient by what is known now"
    return ""
