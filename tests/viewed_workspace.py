"""A workspace to be looked at: tiled slides of two pieces of tissue, and predictions planted on their tiles."""

from __future__ import annotations

import csv
import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import tifffile
from command import wsipipe
from planted_workspace import Planted, record
from wsipipe import __version__
from wsipipe.data.artifact import digest_of, size_of
from wsipipe.data.features.store import FeatureFacts, write_features
from wsipipe.data.interop.qupath import tile_scores_geojson
from wsipipe.data.manifest import InputRecord, Manifest, OutputRecord, Record
from wsipipe.data.tiling.store import TileSet, read_tiles
from wsipipe.pipeline.view.server import ViewServer
from wsipipe.stages.extract.settings import ExtractSettings
from wsipipe.stages.predict.settings import PredictSettings
from wsipipe.stages.registry import VERSIONS

SIZE, TILE = 2048, 224
PIECES = ((200, 200), (1200, 1000))
PIECE = 700
TILES, BACKBONE = "0.5mpp-224px", "efficientnet-lite0"
HOSTILE = "<img src=x onerror=alert(1)>&\"'"
HEADER = ("level", "patient_id", "slide_id", "status", "probability", "call", "note")


def draw_slide(path: Path, *, seed: int = 0) -> Path:
    """A tiled TIFF of 2048 × 2048 px at 0.5 µm per pixel with one reduced level."""
    rng = np.random.default_rng(seed)
    pixels = np.full((SIZE, SIZE, 3), 243, np.uint8)
    for x, y in PIECES:
        pixels[y : y + PIECE, x : x + PIECE] = np.clip(rng.normal((190, 110, 170), 25, (PIECE, PIECE, 3)), 0, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate((pixels, pixels[::4, ::4])):
            per_centimetre = 2e4 / 4**number
            tiff.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                subfiletype=int(number > 0),
                resolution=(per_centimetre, per_centimetre),
                resolutionunit="CENTIMETER",
            )
    return path


@dataclass(frozen=True)
class Viewed:
    """A project whose workspace is looked at."""

    folder: Path

    @property
    def workspace(self) -> Path:
        return self.folder / "work"

    def slide(self, name: str) -> Path:
        return self.folder / "slides" / f"{name}.tif"

    def tile(self, *names: str) -> None:
        """Draw slides and tile them."""
        files = [draw_slide(self.slide(name), seed=number) for number, name in enumerate(names)]
        result = wsipipe("tile", *files, "-w", self.workspace, "--level-policy", "finest", "--workers", "1")
        assert result.exit_code == 0, result.output

    def tiles(self, name: str) -> TileSet:
        return read_tiles(self.workspace / "tiles" / TILES / f"{name}.h5")

    def extract(self, name: str) -> OutputRecord:
        """Write features of nothing with their record."""
        tiles = self.workspace / "tiles" / TILES / f"{name}.h5"
        digest = Manifest.of(tiles.parent).latest("tile")[name].inputs["slide"].digest
        coords = self.tiles(name).coords
        facts = FeatureFacts(
            slide_id=name,
            slide_digest=digest,
            tiles_digest=digest_of(tiles),
            mpp=0.5,
            tile_px=TILE,
            tile_size_level0=float(TILE),
            backbone=BACKBONE,
            architecture="planted",
            pooling="pooled",
            width=4,
            weights_digest="sha256:" + "0" * 64,
            precision="fp32",
            transform={},
        )
        store = self.workspace / "features" / TILES / BACKBONE / f"{name}.zarr"
        write_features(store, np.zeros((len(coords), 4), np.float32), coords, facts)
        made_from = {"tiles": InputRecord(digest=digest_of(tiles), path=tiles.relative_to(self.workspace).as_posix())}
        record(Planted(self.folder), "extract", name, ExtractSettings(), made_from, {"features": store}, {})
        return Manifest.of(store.parent).latest("extract")[name].outputs["features"]

    def predict(self, model: str, name: str, row: Mapping[str, str], **measurements: Any) -> None:
        """Plant a prediction: its row of the table, and a number of each tile by measurement."""
        folder = self.workspace / "predictions" / model
        for place in ("geojson", "slides"):
            (folder / place).mkdir(parents=True, exist_ok=True)
        geojson, answer = folder / "geojson" / f"{name}.geojson", folder / "slides" / f"{name}.json"
        geojson.write_text(tile_scores_geojson(self.tiles(name).coords, TILE, measurements))
        said = {"slide_id": name, "patient_id": name, "logits": {"0": 1.5, "1": -0.25}, "why": "not trained on it"}
        answer.write_text(json.dumps({**said, "thresholds": {"0": 0.5, "1": 0.5}, "tiles": len(self.tiles(name))}))
        features = self.extract(name)
        Manifest.of(folder).append(
            Record(
                stage="predict",
                stage_version=VERSIONS["predict"],
                item=name,
                status="done",
                fingerprint="planted",
                settings=PredictSettings().result_settings(),
                inputs={"features": InputRecord(digest=features.digest, path=features.path, bytes=features.bytes)},
                outputs={kind: self._output(path) for kind, path in (("prediction", answer), ("geojson", geojson))},
                start=datetime.now(UTC),
                seconds=0.0,
                wsipipe=__version__,
            )
        )
        table, cells = folder / "predictions.csv", {"level": "slide", "slide_id": name, "status": "done", **row}
        rows = list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []
        header = list(dict.fromkeys([*HEADER, *(rows[0] if rows else ()), *cells]))
        with table.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, header, restval="")
            writer.writeheader()
            writer.writerows([*rows, cells])

    def _output(self, path: Path) -> OutputRecord:
        place = path.relative_to(self.workspace).as_posix()
        return OutputRecord(path=place, bytes=size_of(path), digest=digest_of(path))


def planted_views(folder: Path) -> Viewed:
    """Slides ``a`` (predicted by two models), ``b`` (tiled) and one whose name is markup (predicted)."""
    viewed = Viewed(folder)
    viewed.tile("a", "b", HOSTILE)
    count = len(viewed.tiles("a"))
    ramp = np.arange(count, dtype=float)
    scores = {"attention": ramp, "score": ramp - 3.5, "slot": ramp % 3}
    viewed.predict("her2", "a", {"probability": "0.914", "call": "positive", "uncertain": "blurred"}, **scores)
    viewed.predict("er", "a", {"probability": "0.2", "call": "negative"}, attention=ramp[::-1])
    hostile = {"probability": "0.5", "call": "positive", "note": HOSTILE, "uncertain": HOSTILE}
    viewed.predict("her2", HOSTILE, hostile, **{HOSTILE: ramp})
    return viewed


@dataclass(frozen=True)
class Got:
    """An answer of the server."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def text(self) -> str:
        return self.content.decode()


class Client:
    """A program that asks a viewer, with its token or as it likes."""

    def __init__(self, server: ViewServer) -> None:
        self.server = server
        self.cookie = f"{server.cookie}={server.access.token}"

    def get(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        known: bool = True,
        **query: Any,
    ) -> Got:
        """Ask for a path; with the cookie unless told otherwise."""
        address = f"{path}?{urlencode(query)}" if query else path
        sent = {**({"Cookie": self.cookie} if known else {}), **(headers or {})}
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=300)) as connection:
            connection.request(method, address, headers=sent)
            answer = connection.getresponse()
            return Got(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def of(self, path: str, slide: str = "a", **query: Any) -> Got:
        """Ask about a slide."""
        return self.get(path, tiles=TILES, slide=slide, **query)
