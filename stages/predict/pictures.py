"""All that is drawn of a slide that was read: heatmaps, tiles, an image of the scores, and GeoJSON for QuPath.

They need the slide's file. Where that is archived, or on a disk that is away, a slide is predicted from its features
and has none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...data.artifact import whole
from ...data.errors import SlideError
from ...data.interop.qupath import tile_scores_geojson
from ...data.slides.readers import open_slide
from ...data.slides.slide import Rgb, Slide
from ...data.tiling.overview import read_overview
from ...data.tiling.store import TileSet, read_tile, read_tiles
from ...models.tasks.task import Task
from ..pages.sheet import Sheet
from ..slide_file import SlideFile
from .heatmap import Scale, draw_heatmap
from .reading import SlideAsRead
from .score_image import write_score_image
from .tile_sheet import TileRow, draw_tiles

NO_PICTURES: Final = "the slide's file is not there: predicted from its features, without pictures"
NO_TILES: Final = "the model reads one vector of the whole slide, which no tile has a part in: without pictures"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What each tile speaks for: scores below and above zero, and for what."""

    scores: Floats
    against: str
    towards: str

    @classmethod
    def of(cls, task: Task, scores: Floats, names: Sequence[str], call: int) -> Evidence | None:
        """The evidence of a slide's tiles; None of a task without classes.

        :param scores: (N,), or (N, C) of C classes.
        :param names: of the classes, as they are shown.
        :param call: the class that is called, whose evidence is shown of several.
        """
        if task.name == "binary" and scores.ndim == 1:
            return cls(scores, f"for {names[0]}", f"for {names[1]}")
        if len(task.classes) > 2 and scores.ndim == 2 and scores.shape[1] == len(task.classes):
            return cls(scores[:, call], f"against {names[call]}", f"for {names[call]}")
        return None


def score_names(task: Task, scores: Floats) -> Sequence[str]:
    """What each column of a slide's tile scores is of; (N,) has one."""
    if scores.ndim == 1:
        return ("score",)
    by_class = tuple(f"score of {name}" for name in task.classes)  # of MoMKD, whose tiles are scored by slots
    return task.score_names if scores.shape[1] == len(task.score_names) else by_class


def heatmaps(
    opened: Slide, read: SlideAsRead, evidence: Evidence | None, *, caption: str, **how: Any
) -> dict[str, Sheet]:
    """Draw a slide's ``heatmap``, of attention, and if there is any its ``evidence``.

    :param how: ``scale`` and ``longest`` of :func:`.draw_heatmap`.
    """
    overview, size = read_overview(opened), read.bag.facts.tile_size_level0
    about = (overview.pixels, overview.downsample, read.bag.coords, size)
    words: dict[str, Any] = {"caption": caption, "mpp": opened.believed_mpp(), **how}
    drawn = {"heatmap": draw_heatmap(*about, read.attention, **words)}
    if evidence is not None:
        ends = (evidence.against, evidence.towards)
        drawn["evidence"] = draw_heatmap(*about, evidence.scores, score_name="evidence", ends=ends, **words)
    return drawn


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """How the slides of a folder of predictions are drawn.

    :param folder: where they are written.
    :param most: number of tiles in a row of the picture of tiles; 0 for none.
    """

    folder: Path
    scale: Scale
    most: int

    def draw(
        self, file: SlideFile, read: SlideAsRead, task: Task, evidence: Evidence | None, caption: str
    ) -> dict[str, Path]:
        """Write everything of a slide; returns the paths by name."""
        slide, bag = read.output.slide_id, read.bag
        columns = read.scores.reshape(len(read.attention), -1).T
        measured = {"attention": read.attention, **dict(zip(score_names(task, read.scores), columns, strict=True))}
        tiles = read_tiles(file.tiles, digest=file.tiles_digest)
        size = bag.facts.tile_size_level0
        paths = {
            "heatmap": self.folder / "heatmaps" / f"{slide}.png",
            "geojson": self.folder / "geojson" / f"{slide}.geojson",
            "scores": self.folder / "scores" / f"{slide}.ome.tiff",
        }
        with open_slide(file.path, mpp_override=file.mpp_override) as opened:
            mpp = opened.believed_mpp()
            if evidence is not None:
                paths["evidence"] = self.folder / "evidence" / f"{slide}.png"
            for name, sheet in heatmaps(opened, read, evidence, caption=caption, scale=self.scale).items():
                with whole(paths[name]) as scratch:
                    scratch.write_bytes(sheet.png())
            with whole(paths["geojson"]) as scratch:
                text = tile_scores_geojson(bag.coords, size, measured, origin=opened.origin)
                scratch.write_text(text, encoding="utf-8")
            with whole(paths["scores"]) as scratch:
                write_score_image(scratch, opened.dimensions, bag.coords, size, measured, mpp=mpp)
            if self.most:
                paths["top_tiles"] = self.folder / "tiles" / f"{slide}.png"
                rows = self._rows(opened, tiles, file, read, evidence)
                with whole(paths["top_tiles"]) as scratch:
                    draw_tiles(rows, scratch, caption=caption, tile_um=None if mpp is None else float(mpp) * size)
        return paths

    def _rows(
        self, opened: Slide, tiles: TileSet, file: SlideFile, read: SlideAsRead, evidence: Evidence | None
    ) -> list[TileRow]:
        """The tiles with most and least attention, and the strongest for and against."""
        place = {(int(x), int(y)): index for index, (x, y) in enumerate(tiles.coords)}
        images: dict[int, Rgb] = {}

        def image(index: int) -> Rgb:
            if index not in images:
                x, y = map(int, read.bag.coords[index])
                if (x, y) not in place:
                    what = f"no longer has a tile at x={x} y={y}"
                    raise SlideError(what, path=file.tiles, hint="run wsipipe extract again")
                images[index] = read_tile(opened, tiles, place[x, y])
            return images[index]

        shown = [(f"{end} attention", "attention", read.attention, sign) for end, sign in (("most", -1), ("least", 1))]
        if evidence is not None:
            ends = ((evidence.towards, -1), (evidence.against, 1))
            shown += [(f"strongest {end}", "evidence", evidence.scores, sign) for end, sign in ends]
        rows: dict[tuple[int, ...], tuple[list[str], str, Floats]] = {}
        for (
            title,
            name,
            scores,
            sign,
        ) in shown:  # MoMKD's attention follows the evidence: the same tiles are shown once
            chosen = tuple(np.argsort(sign * scores, kind="stable")[: self.most].tolist())
            rows.setdefault(chosen, ([], name, scores))[0].append(title)
        return [
            TileRow(
                (titles := ", ".join(names))[0].upper() + titles[1:],
                [image(index) for index in chosen],
                [float(scores[index]) for index in chosen],
                name,
            )
            for chosen, (names, name, scores) in rows.items()
        ]
