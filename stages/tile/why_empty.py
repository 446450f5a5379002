"""Why a slide has no tiles, in the words in which slides are counted."""

from __future__ import annotations

from typing import Final

from ...data.manifest import Record

_DROPPED: Final = {"dropped_artefact": "artefacts", "dropped_not_sharp": "not sharp"}


def no_tile_kept(record: Record) -> str:
    """Say why no tile of a slide with tissue is kept, such as ``no tile kept: artefacts``; empty for other slides."""
    reasons = [why for stat, why in _DROPPED.items() if record.stats.get(stat)]
    return f"no tile kept: {' and '.join(reasons)}" if reasons else ""
