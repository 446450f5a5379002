"""Predictions of earlier batches in a folder: new batches are added, and none removes another's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...data.manifest import Manifest, Record
from ...models.applicability import Applicability
from ..lineage import Standing
from .reading import SlideOutput, read_outputs


def patients_before(manifest: Manifest, workspace: Path) -> dict[str, str]:
    """Map every slide that was ever requested in this folder to its patient."""
    predicted = {slide: r for slide, r in manifest.latest("predict").items() if r.status == "done"}
    outputs = read_outputs(
        {
            slide: workspace / record.outputs["prediction"].path
            for slide, record in predicted.items()
            if record.is_whole(workspace)
        }
    )
    of_page = manifest.latest("prediction_report").get("predictions")
    requested: Mapping[str, str] = of_page.stats.get("asked", {}) if of_page else {}
    return {**{slide: output.patient_id for slide, output in outputs.items()}, **requested}


def why_stale(
    record: Record,
    output: SlideOutput,
    *,
    model: str,
    folds: tuple[int, ...],
    standing: Standing,
    known: Applicability | None,
) -> str:
    """Say why a prediction of an earlier batch is no longer valid; empty if it is.

    :param model: digest of the present model.
    :param folds: the folds that may read the slide by present knowledge.
    :param standing: the state of its record (:mod:`wsipipe.stages.lineage`).
    :param known: what the model knows of its training slides.
    """
    if record.inputs["model"].digest != model:
        return "made by another model, or by this one before it was trained again"
    if not standing.counts:
        return standing.why
    if tuple(sorted(output.logits)) != folds:
        return "other folds may read this patient by what is known now"
    if known is not None and (output.fitness is None or output.fitness.by != known.digest):
        return "not compared with the training slides that the model knows now"
    return ""
