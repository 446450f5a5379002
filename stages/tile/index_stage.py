"""index: one page with the QC images of a cohort, made again whenever a slide's tiling changes."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from ...data.artifact import whole
from ...data.manifest import Record, json_of
from ...data.wording import some
from ..lineage import Lineage
from ..registry import VERSIONS
from ..settings import Settings
from ..stage import Item, Outcome, Plan, Progress, Stage, ValueInput
from .index_page import render_index

_SHOWN: Final = ("item", "status", "fingerprint", "outputs", "stats", "error")


class IndexStage(Stage[Settings]):
    """The stage of the page, its single item; it shares the tile stage's folder and manifest."""

    name = "index"
    version = VERSIONS["index"]
    items = "pages"
    closes = True

    def plan(self) -> Plan:
        lineage = Lineage(self.workspace)
        tiled = lineage.latest(self.folder, "tile")
        gone = {item for item, record in tiled.items() if lineage.standing(record).state in ("stale", "lost")}
        shown = [record for item, record in sorted(tiled.items()) if item not in gone]  # not in the order of finishing
        if not shown:
            return Plan([])
        digest = sha256()  # of what the page shows; a list of it all would be as long as the manifest
        for record in shown:
            digest.update(json_of({name: getattr(record, name) for name in _SHOWN}) + b"\n")
        notes = [f"{len(gone)} stale or lost in tile, left out: {some(sorted(gone), 3)}"] if gone else []
        return Plan([Item("index", {"slides": ValueInput(digest.hexdigest())}, shown)], notes=notes)

    def process(self, item: Item, progress: Progress) -> Outcome:
        records: list[Record] = item.payload
        path = self.folder / "qc" / "index.html"
        with whole(path) as scratch:
            scratch.write_text(render_index(records, self.folder, self.workspace), encoding="utf-8")
        return Outcome({"page": path}, {"slides": len(records)})
