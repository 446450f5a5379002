"""Sections that a page takes from what is made for papers, as HTML; a page without them stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

NOTHING: Final = Markup()


@dataclass(frozen=True, kw_only=True)
class PaperParts:
    """The sections, each empty where there is nothing to show."""

    operating: Markup = NOTHING
    """Operating points, or the calls of each class."""
    examples: Markup = NOTHING
    """Heatmaps of a few slides."""
    slots: Markup = NOTHING
    """Galleries of a few slots."""
    cohort: Markup = NOTHING
    """Cohort flow and table 1."""
    methods: Markup = NOTHING
    """Methods, checklist, and the files beside the page."""


NO_PARTS = PaperParts()
