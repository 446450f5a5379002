"""A workspace to be looked at: tiled slides of two pieces of tissue, and what models say of them, planted or real."""

from __future__ import annotations

import csv
import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode

import msgspec
import numpy as np
import tifffile
from command import wsipipe
from external_workspace import model_at
from planted_workspace import Planted, record
from wsipipe import __version__
from wsipipe.data.artifact import digest_of, size_of
from wsipipe.data.cohort.labels import PatientLabels
from wsipipe.data.features.store import FeatureFacts, write_features
from wsipipe.data.interop.qupath import tile_scores_geojson
from wsipipe.data.manifest import InputRecord, Manifest, OutputRecord, Record
from wsipipe.data.tiling.artefacts import ARTEFACTS, DroppedTiles, TileArtefacts
from wsipipe.data.tiling.store import TileSet, read_tiles, write_tiles
from wsipipe.pipeline.console import Console
from wsipipe.pipeline.run.runner import Runner
from wsipipe.pipeline.view.server import ViewServer
from wsipipe.stages.evaluate.judged import PREDICTION_COLUMNS
from wsipipe.stages.extract.settings import ExtractSettings
from wsipipe.stages.lineage import MODEL, model_record
from wsipipe.stages.pages.slot_page import FoldSlots, ShownSlot, ShownTile
from wsipipe.stages.pages.slot_table import GALLERY, write_gallery
from wsipipe.stages.predict.settings import PredictSettings
from wsipipe.stages.predict.stage import PredictionTask, PredictStage
from wsipipe.stages.registry import VERSIONS
from wsipipe.stages.train.patient_table import write_patients
from wsipipe.stages.train.slot_gallery import SlotGallerySettings

SIZE, TILE = 2048, 224
PIECES = ((200, 200), (1200, 1000))
PIECE = 700
TILES, BACKBONE, WIDTH = "0.5mpp-224px", "efficientnet-lite0", 4
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

    def spoil(self, name: str) -> None:
        """Plant artefacts: the first two tiles were dropped for a fold, and pen covers a quarter of the next."""
        tiles, record = self.tiles(name), Manifest.of(self.workspace / "tiles" / TILES).latest("tile")[name]
        shares = np.zeros((len(tiles), len(ARTEFACTS)), np.float32)
        shares[:2, ARTEFACTS.index("fold")], shares[2, ARTEFACTS.index("pen")] = (0.9, 0.75), 0.25
        path = self.workspace / record.outputs["tiles"].path
        write_tiles(
            path,
            replace(
                tiles,
                coords=tiles.coords[2:],
                tissue_fraction=tiles.tissue_fraction[2:],
                sharpness=tiles.sharpness[2:],
                artefacts=TileArtefacts(shares[2:]),
                dropped=DroppedTiles(tiles.coords[:2], TileArtefacts(shares[:2])),
            ),
        )
        stats = TileArtefacts(shares).stats() | {"tiles": len(tiles) - 2, "dropped_artefact": 2}
        changed = {"outputs": {**record.outputs, "tiles": self._output(path)}, "stats": {**record.stats, **stats}}
        Manifest.of(path.parent).append(msgspec.structs.replace(record, **changed))

    def model(self, name: str, *trained: str) -> Path:
        """Three folds of untrained networks, of which the first two know these patients as their own."""
        seen = [trained, trained, ("somebody",)]
        return model_at(self.workspace / "models" / name, seen=seen, width=WIDTH)

    def read(self, model: Path, *names: str) -> None:
        """Have `predict` read slides, each a patient of its own."""
        for name in names:
            self.extract(name)
        task = PredictionTask(
            model=model,
            tiles=self.workspace / "tiles" / TILES,
            features=self.workspace / "features" / TILES / BACKBONE,
            slides={name: name for name in names},
        )
        settings = PredictSettings(device="cpu", top_tiles=0)
        stage = PredictStage(settings, self.workspace / "predictions" / model.name, self.workspace, task)
        assert not Runner(self.workspace, Console(json_only=True)).run(stage).failures

    def evaluate(self, name: str, slides: Mapping[str, tuple[int, int, float]]) -> None:
        """Plant the tables of an evaluation: slide → label, call and probability, each of a patient of its own."""
        folder = self.workspace / "evaluations" / name
        folder.mkdir(parents=True)
        labels = {slide: label for slide, (label, _, _) in slides.items()}
        write_patients(
            folder / "patients.csv", PatientLabels("HER2", labels, {slide: (slide,) for slide in slides}, {}, ())
        )
        with (folder / "predictions.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, PREDICTION_COLUMNS, restval="0.5")
            writer.writeheader()
            for slide, (label, call, probability) in slides.items():
                writer.writerow({"patient_id": slide, "label": label, "call": call, "probability": probability})

    def gallery(self, model: str, *names: str) -> None:
        """Plant a gallery of fold 0: of one slot the last tile of each slide, whose features are there."""
        last = {name: (int(x), int(y)) for name in names for x, y in self.tiles(name).coords[-1:]}
        tiles = [
            ShownTile(slide=name, x=x, y=y, side=TILE, nearness=0.75, address="data:image/jpeg;base64,")
            for name, (x, y) in last.items()
        ]
        slot = ShownSlot(name="positive 1", use=0.5, attention=0.25, weight=None, tiles=tuple(tiles))
        table = self.workspace / "models" / model / "slots.csv"
        write_gallery(table, [FoldSlots(fold=0, tile_um=112, slides=len(names), tiles=len(names), slots=(slot,))])
        extracted = Manifest.of(self.workspace / "features" / TILES / BACKBONE).latest("extract")
        features = {name: extracted[name].outputs["features"] for name in names}
        made_from = {
            f"features of {name}": InputRecord(digest=of.digest, path=of.path) for name, of in features.items()
        }
        record(Planted(self.folder), "slot_gallery", GALLERY, SlotGallerySettings(), made_from, {"tiles": table}, {})

    def extract(self, name: str) -> OutputRecord:
        """Write features of noise with their record."""
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
            width=WIDTH,
            weights_digest="sha256:" + "0" * 64,
            precision="fp32",
            transform={},
        )
        store = self.workspace / "features" / TILES / BACKBONE / f"{name}.zarr"
        noise = np.random.default_rng([*name.encode()]).normal(size=(len(coords), WIDTH)).astype(np.float32)
        write_features(store, noise, coords, facts)
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
        inputs = {"features": InputRecord(digest=features.digest, path=features.path, bytes=features.bytes)}
        if (networks := self.workspace / "models" / model).is_dir():
            of = model_record(networks, self.workspace)
            inputs[MODEL] = InputRecord(digest=of.digest, path=of.path)
        Manifest.of(folder).append(
            Record(
                stage="predict",
                stage_version=VERSIONS["predict"],
                item=name,
                status="done",
                fingerprint="planted",
                settings=PredictSettings().result_settings(),
                inputs=inputs,
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
    """Slides ``a`` (predicted by two models, of which one is there, and evaluated), ``b`` (tiled, evaluated, with
    artefacts) and one whose name is markup (predicted)."""
    viewed = Viewed(folder)
    viewed.tile("a", "b", HOSTILE)
    viewed.spoil("b")
    viewed.model("her2")
    viewed.evaluate("her2", {"a": (1, 1, 0.91), "b": (0, 1, 0.7)})
    count = len(viewed.tiles("a"))
    ramp = np.arange(count, dtype=float)
    scores = {"attention": ramp, "score": ramp - 3.5, "slot": ramp % 3}
    viewed.predict("her2", "a", {"probability": "0.914", "call": "positive", "uncertain": "blurred"}, **scores)
    viewed.predict("er", "a", {"probability": "0.2", "call": "negative"}, attention=ramp[::-1])
    hostile = {"probability": "0.5", "call": "positive", "note": HOSTILE, "uncertain": HOSTILE}
    viewed.predict("her2", HOSTILE, hostile, **{HOSTILE: ramp})
    viewed.gallery("her2", "a", HOSTILE)
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


@contextmanager
def served(workspace: Path) -> Iterator[ViewServer]:
    """A viewer on a workspace, for as long as the block runs."""
    with ViewServer(workspace, "127.0.0.1", 0) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()  # so often it asks whether to end
        yield server
        server.shutdown()
        server.answers.close()


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
