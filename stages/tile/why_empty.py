"""Why a slide has no tiles, in the words in which slides are counted."""

from __future__ import annotations

from typing import Final

from ...data.manifest import Record

FLUORESCENCE: Final = "dark background"
"""The verdict on a slide with bright colours on black."""
_DROPPED: Final = {"dropped_artefact": "artefacts", "dropped_not_sharp": "not sharp"}


def no_tile_kept(record: Record) -> str:
    """Say why no tile of a slide with tissue is kept, such as ``no tile kept: artefacts``; empty for other slides."""
    reasons = [why for stat, why in _DROPPED.items() if record.stats.get(stat)]
    return f"no tile kept: {' and '.join(reasons)}" if reasons else ""


def why_empty(record: Record) -> str:
    """Say why a slide has no tiles."""
    if record.stats.get("tissue_verdict") == FLUORESCENCE:
        return "bright colours on black, as in fluorescence, where no tissue is searched"
    return no_tile_kept(record) or "no tissue was found on it"


def what_to_do(record: Record) -> str:
    """Say what to look at where a slide has no tiles."""
    if record.stats.get("tissue_verdict") == FLUORESCENCE:
        return "give the scan of its H&E; if this is one, look at its QC image"
    return "look at its QC image"
