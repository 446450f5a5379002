"""What the viewer answers: for each path a function of the workspace and the address's parameters. None writes."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any, Final

import cv2
import numpy as np
import simplejpeg

from ...data.allotment import usable_cores
from ...data.errors import SlideError, WsipipeError
from ...data.slides.slide import Slide
from ...data.units import Level0Px
from ..run.outcomes import explain
from .inside import inside
from .layers import palettes
from .open_slides import OpenSlides
from .slide_list import SlideRow, Workspace
from .slot_galleries import described_gallery
from .viewed_slide import ViewedSlide, ViewedSlides
from .zoom_tiles import NoSuchTileError, ZoomTiles

JSON: Final = "application/json"
JPEG: Final = "image/jpeg"
BYTES: Final = "application/octet-stream"
_MOST_CROP: Final = 8192  # px of level 0: the largest side of a tile
_THUMBNAILS: Final = 1000
Query = Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """An answer: its status by HTTP, its type and content."""

    status: int
    type: str
    content: bytes


class Answers:
    """The answers of a viewer on one workspace. They may be asked for by many threads at once."""

    def __init__(self, folder: Path) -> None:
        self._workspace = Workspace(folder)
        self._slides = OpenSlides()
        self._zoom = ZoomTiles()
        self._viewed = ViewedSlides(folder)
        self._working = BoundedSemaphore(usable_cores() + 1)  # so many are decoded at once; the others wait
        self._thumbnails: OrderedDict[object, bytes] = OrderedDict()
        self._lock = Lock()
        self.of: Mapping[str, Callable[[Query], Answer]] = {
            "/slides.json": self._list,
            "/palettes.json": lambda query: _json(palettes()),
            "/slide.json": self._slide,
            "/fold.json": self._fold,
            "/gallery.json": self._gallery,
            "/outlines.json": self._outlines,
            "/thumbnail": self._thumbnail,
            "/zoom": self._zoom_tile,
            "/crop": self._crop,
            "/layer": self._layer,
            "/at": self._at,
        }

    def answer(self, path: str, query: Query) -> Answer:
        """Answer a request; what cannot be answered is said in words, with the way out."""
        if path not in self.of:
            return _problem(404, "there is no such page")
        try:
            with self._working:
                return self.of[path](query)
        except NoSuchTileError as error:
            return _problem(404, str(error))
        except LookupError as error:
            return _problem(404, f"there is no such thing here: {error}")
        except WsipipeError as error:
            return _problem(409, str(error), error.hint)
        except ValueError as error:
            return _problem(400, str(error))
        except Exception as error:  # noqa: BLE001  the boundary: what a slide's library raises is said on the page
            record = explain(error)
            return _problem(409, f"{record.type}: {record.message}", record.hint)

    def close(self) -> None:
        """Close the slides."""
        self._slides.close()

    def _list(self, query: Query) -> Answer:
        found = self._workspace.slides()
        if query.get("version") == found.version:
            return _json({"version": found.version})
        said = {name: {slide: asdict(one) for slide, one in by.items()} for name, by in found.said.items()}
        slides = [
            {
                "tiles": row.tiles,
                "id": row.id,
                "state": row.state,
                "why": row.why,
                "count": row.record.stats.get("tiles"),
                "tissue": row.record.stats.get("tissue_mm2"),
                "artefacts": row.record.stats.get("artefact_fraction"),
                "dropped": row.record.stats.get("dropped_artefact"),
                "said": {name: by[row.id] for name, by in said.items() if row.id in by},
            }
            for row in found.rows.values()
        ]
        name = self._workspace.folder.name or str(self._workspace.folder)
        listed = {"version": found.version, "workspace": name, "models": [*said], "notes": found.notes}
        return _json({**listed, "galleries": [*found.galleries], "slides": slides})

    def _slide(self, query: Query) -> Answer:
        row = self._row(query)
        with self._viewing(row) as (slide, _, viewed):
            return _json({"id": row.id, "tiles": row.tiles, **viewed.described(slide)})

    def _fold(self, query: Query) -> Answer:
        """The layers of a slide as one fold of a model reads it; computed now, if nobody has asked before."""
        with self._viewing(self._row(query)) as (_, _, viewed):
            return _json(viewed.described_fold(query["of"]))

    def _gallery(self, query: Query) -> Answer:
        """The gallery of a model's memory slots."""
        record = self._workspace.slides().galleries[query["model"]]
        return _json(described_gallery(record, self._workspace.folder))

    def _outlines(self, query: Query) -> Answer:
        with self._viewing(self._row(query)) as (_, _, viewed):
            return _json([[ring.round().tolist() for ring in piece] for piece in viewed.outlines])

    def _thumbnail(self, query: Query) -> Answer:
        row = self._row(query)
        given = row.record.inputs["slide"]
        key = (row.key, given.digest)
        with self._lock:
            known = self._thumbnails.get(key)
        if known is None:
            known = self._drawn_thumbnail(row)
            with self._lock:
                self._thumbnails[key] = known
                while len(self._thumbnails) > _THUMBNAILS:
                    self._thumbnails.popitem(last=False)
        return Answer(200, JPEG, known)

    def _drawn_thumbnail(self, row: SlideRow) -> bytes:
        try:
            with self._opened(row) as (slide, stamp):
                return self._zoom.jpeg(slide, stamp, 0, 0, 0)
        except SlideError:  # archived after it was tiled: the picture that tiling made is there
            recorded = row.record.outputs.get("qc")
            picture = None if recorded is None else cv2.imread(str(inside(self._workspace.folder, recorded.path)))
            if picture is None:
                raise
            side = max(picture.shape[:2]) / 256
            size = tuple(max(round(length / side), 1) for length in picture.shape[1::-1])
            small = cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
            return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(small, np.uint8), quality=80))

    def _zoom_tile(self, query: Query) -> Answer:
        with self._opened(self._row(query)) as (slide, stamp):
            return Answer(200, JPEG, self._zoom.jpeg(slide, stamp, *_address(query)))

    def _crop(self, query: Query) -> Answer:
        """A tile of the tile set as the list of top tiles shows it."""
        x, y, side = (int(query[name]) for name in ("x", "y", "side"))
        if not 0 < side <= _MOST_CROP or max(abs(x), abs(y)) >= 2**31:
            raise ValueError(f"{side} px at {x}, {y} is no tile")
        with self._opened(self._row(query)) as (slide, _):
            return Answer(200, JPEG, self._zoom.crop(slide, Level0Px(x), Level0Px(y), side))

    def _layer(self, query: Query) -> Answer:
        with self._viewing(self._row(query)) as (_, _, viewed):
            scale = "linear" if query.get("scale") == "linear" else "rank"
            return Answer(200, BYTES, viewed.picture(query["layer"], scale, *_address(query)))

    def _at(self, query: Query) -> Answer:
        x, y = (float(query[name]) for name in ("x", "y"))
        with self._viewing(self._row(query)) as (_, _, viewed):
            return _json(viewed.at(x, y, query.get("of", "")))

    def _row(self, query: Query) -> SlideRow:
        return self._workspace.row((query["tiles"], query["slide"]))

    @contextmanager
    def _opened(self, row: SlideRow) -> Iterator[tuple[Slide, object]]:
        with self._slides.reading(row.path, row.record.stats.get("mpp_override")) as opened:
            yield opened

    @contextmanager
    def _viewing(self, row: SlideRow) -> Iterator[tuple[Slide, object, ViewedSlide]]:
        with self._opened(row) as (slide, stamp):
            yield slide, stamp, self._viewed.of(row, slide)


def _address(query: Query) -> tuple[int, int, int]:
    zoom, column, row = (int(query[name]) for name in ("z", "x", "y"))
    if max(abs(column), abs(row)) >= 2**31:
        raise ValueError("no slide is as large")
    return zoom, column, row


def _json(value: Any) -> Answer:
    return Answer(200, JSON, json.dumps(value, separators=(",", ":")).encode())


def _problem(status: int, what: str, hint: str = "") -> Answer:
    text = json.dumps({"problem": what, "hint": hint})
    return Answer(status, JSON, text.encode())
