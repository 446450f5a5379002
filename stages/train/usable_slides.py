"""Slides that a split can use: those with valid features; and for each of the others the reason why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ...data.errors import CohortError
from ...data.manifest import Manifest, OutputRecord, Record
from ...data.wording import some
from ..features_folder import holds_imported_vectors, stage_of, tile_features_of
from ..lineage import Lineage, Standing
from ..stage import upstream
from ..tile.why_empty import no_tile_kept


def slides_with_features(tiles: Path, features: Path, workspace: Path) -> tuple[dict[str, str], list[str]]:
    """List the slides that cannot be used, with the reason, and those with features.

    :param tiles, features: folders of the stages that made them.
    :raises CohortError: no slide has features.
    """
    lineage = Lineage(workspace)
    if holds_imported_vectors(features):
        why = dict.fromkeys(lineage.latest(features, "encode"), "")
    else:
        tiled, extracted = lineage.latest(tiles, "tile"), lineage.latest(tile_features_of(features), "extract")
        why = {s: _why_unusable(tiled.get(s), extracted.get(s), lineage) for s in {**tiled, **extracted}}
    if stage_of(features) == "encode":
        encoded = lineage.latest(features, "encode")
        why |= {s: _why_not_encoded(encoded.get(s), lineage) for s, reason in why.items() if not reason}
    unusable = {slide: reason for slide, reason in why.items() if reason}
    usable = [slide for slide, reason in why.items() if not reason]
    if not usable:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in Counter(unusable.values()).most_common())
        what = f"no slide here has features{f': {reasons}' if reasons else ''}"
        again = "wsipipe encode" if stage_of(features) == "encode" else "wsipipe tile and wsipipe extract"
        again = "wsipipe import" if holds_imported_vectors(features) else again
        raise CohortError(what, path=features, hint=f"run {again} first")
    return unusable, usable


def _why_unusable(tiled: Record | None, extracted: Record | None, lineage: Lineage) -> str:
    """Say why a slide cannot be used; empty if it can."""
    if tiled is None:
        return "not tiled here"
    for stage, record in (("tile", tiled), ("extract", extracted)):
        if record is not None and record.status == "empty":
            return no_tile_kept(record) or "no tissue on the slide"
        if record is not None and record.status == "failed":
            return f"slide failed in {stage}"
    if extracted is None:
        return _not_counting("tile", lineage.standing(tiled)) or "no features extracted yet"
    standing = lineage.standing(extracted)
    if standing.state == "lost":
        return "output of extract lost"
    if "tiles" in extracted.inputs and extracted.inputs["tiles"].digest != tiled.outputs["tiles"].digest:
        return "features of earlier tiles"
    return standing.why and (_not_counting("tile", lineage.standing(tiled)) or _not_counting("extract", standing))


def _why_not_encoded(encoded: Record | None, lineage: Lineage) -> str:
    """Say why a slide with features of its tiles has no slide vector that can be used; empty if it has."""
    if encoded is None:
        return "no slide vector yet"
    standing = lineage.standing(encoded)
    known = {"failed": "slide failed in encode", "lost": "output of encode lost"}
    return known.get(standing.state) or _not_counting("encode", standing)


def _not_counting(stage: str, standing: Standing) -> str:
    """Say in general words why a record is not valid, since slides are counted by these words."""
    if standing.counts:
        return ""
    changed = f" ({' and '.join(standing.changed)} changed)" if standing.changed else ""
    return f"output of {stage} {standing.state}{changed}"


def features_of(slides: Iterable[str], features: Path, workspace: Path) -> dict[str, OutputRecord]:
    """Map each slide to its feature store, as recorded.

    :raises CohortError: a slide of the split no longer has one.
    """
    wanted = list(slides)
    stage = stage_of(features)
    there = upstream(Manifest.of(features), stage, workspace, only=wanted).records
    lost = [slide for slide in wanted if slide not in there]
    if lost:
        what = f"{len(lost)} of the split's {len(wanted)} slides no longer have features: {some(lost, 3)}"
        raise CohortError(what, path=features, hint=f"run wsipipe {stage}, then make the split again (wsipipe train)")
    return {slide: there[slide].outputs["features"] for slide in wanted}
