"""index: one page over the QC images of a cohort, made again whenever a slide's tiling changes."""

from __future__ import annotations

from ...data.artifact import whole
from ..settings import Settings
from ..stage import Item, Outcome, Plan, Progress, Stage, ValueInput
from ..versions import VERSIONS
from .index_page import render_index


class IndexStage(Stage[Settings]):
    """One item, the page. It lies in the tile stage's folder and reads its manifest."""

    name = "index"
    version = VERSIONS["index"]
    items = "pages"

    def plan(self) -> Plan:
        records = self.manifest.latest("tile")
        if not records:
            return Plan([])
        told = [
            record.model_dump(mode="json", include={"item", "status", "fingerprint", "outputs", "stats", "error"})
            for record in records.values()
        ]
        return Plan([Item("index", {"slides": ValueInput(told)})])

    def process(self, item: Item, progress: Progress) -> Outcome:
        records = list(self.manifest.latest("tile").values())
        path = self.folder / "qc" / "index.html"
        with whole(path) as scratch:
            scratch.write_text(render_index(records, self.folder, self.workspace), encoding="utf-8")
        return Outcome({"page": path}, {"slides": len(records)})
