"""Damage to a workspace, as disks, people and programs do it, and how verify calls it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from command import told
from msgspec import structs
from wsipipe.data.artifact import digest_of, size_of
from wsipipe.data.features.store import FeatureFacts, open_features, write_features
from wsipipe.data.manifest import Manifest, OutputRecord
from wsipipe.data.units import Mpp
from wsipipe.pipeline.demo.slides import write_aperio

TILES, FEATURES = "tiles/0.5mpp-224px", "features/0.5mpp-224px/efficientnet-lite0"


def write_slide(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.normal((200, 110, 170), 30, size=(300, 500, 3)).clip(0, 255).astype(np.uint8)
    write_aperio(path, pixels, mpp=Mpp(0.5))


@dataclass(frozen=True)
class Project:
    """Three slides, tiled and extracted."""

    folder: Path

    @property
    def settings(self) -> Path:
        return self.folder / "wsipipe.toml"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def run(self) -> dict[str, int]:
        """Tile and extract; how many items each stage made."""
        words = ("-c", self.settings)
        stages = told("tile", "--workers", "1", *words) | told("extract", *words)
        return {name: stage["done"] for name, stage in stages.items()}

    def digests(self) -> dict[str, str]:
        """Every output and every other file, by path; without the manifests and locks."""
        files = (
            file
            for file in self.work.rglob("*")
            if file.is_file() and not file.name.startswith((".", "manifest", "events"))
        )
        return {file.relative_to(self.work).as_posix(): digest_of(file) for file in files}


def change_record(project: Project, folder: str, stage: str, item: str, **update: Any) -> None:
    """Append a record that says something else."""
    manifest = Manifest.of(project.work / folder)
    manifest.append(structs.replace(manifest.latest(stage)[item], **update))


def record_again(project: Project, folder: str, stage: str, item: str, output: str, path: Path) -> None:
    """Record an output as it is now, as a writer that does not look would."""
    record = Manifest.of(project.work / folder).latest(stage)[item]
    now = OutputRecord(path=record.outputs[output].path, bytes=size_of(path), digest=digest_of(path))
    change_record(project, folder, stage, item, outputs={**record.outputs, output: now})


def flip(file: Path, at: int = -3) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def lose_a_store(project: Project) -> None:
    shutil.rmtree(project.work / FEATURES / "b.zarr")


def lose_a_part_of_a_store(project: Project) -> None:
    (project.work / FEATURES / "b.zarr/coords/zarr.json").unlink()


def truncate_a_picture(project: Project) -> None:
    picture = project.work / TILES / "qc/b.jpg"
    picture.write_bytes(picture.read_bytes()[:-100])


def flip_a_byte_of_tiles(project: Project) -> None:
    flip(project.work / TILES / "b.h5", 5000)


def flip_a_byte_of_features(project: Project) -> None:
    flip(project.work / FEATURES / "b.zarr/features/c/0/0", 300)


def flip_a_byte_of_a_picture(project: Project) -> None:
    flip(project.work / TILES / "qc/b.jpg")


def put_a_folder_in_place_of_tiles(project: Project) -> None:
    tiles = project.work / TILES / "b.h5"
    tiles.unlink()
    tiles.mkdir()


def miscount_tiles(project: Project) -> None:
    stats = Manifest.of(project.work / TILES).latest("tile")["b"].stats
    change_record(project, TILES, "tile", "b", stats={**stats, "tiles": stats["tiles"] + 1})


def miscount_rows(project: Project) -> None:
    stats = Manifest.of(project.work / FEATURES).latest("extract")["b"].stats
    change_record(project, FEATURES, "extract", "b", stats={**stats, "tiles": stats["tiles"] + 1})


def record_another_width(project: Project) -> None:
    stats = Manifest.of(project.work / FEATURES).latest("extract")["b"].stats
    change_record(project, FEATURES, "extract", "b", stats={**stats, "width": 1536})


def store_nan(project: Project) -> None:
    store = project.work / FEATURES / "b.zarr"
    zarr.open_group(store, mode="r+")["features"][1, 3] = np.nan
    record_again(project, FEATURES, "extract", "b", "features", store)


def change_a_fact_of_a_store(project: Project) -> None:
    """What the numbers mean, which zarr keeps beside them."""
    facts = project.work / FEATURES / "b.zarr/zarr.json"
    before = facts.read_text()
    facts.write_text(before.replace("fp32", "fp16"))
    assert facts.read_text() != before


def store_infinity(project: Project) -> None:
    store = project.work / FEATURES / "b.zarr"
    zarr.open_group(store, mode="r+")["features"][0, 0] = np.inf
    record_again(project, FEATURES, "extract", "b", "features", store)


def swap_a_store(project: Project) -> None:
    store = project.work / FEATURES / "b.zarr"
    shutil.rmtree(store)
    shutil.copytree(project.work / FEATURES / "a.zarr", store)
    record_again(project, FEATURES, "extract", "b", "features", store)


def shorten_a_store(project: Project) -> None:
    """Store and record agree with each other, and not with the slide's tiles."""
    store = project.work / FEATURES / "b.zarr"
    opened = open_features(store)
    features, coords, facts = opened.features[:-1], opened.coords[:-1], FeatureFacts(**opened.facts.model_dump())
    write_features(store, features, coords, facts)
    stats = Manifest.of(project.work / FEATURES).latest("extract")["b"].stats
    change_record(project, FEATURES, "extract", "b", stats={**stats, "tiles": stats["tiles"] - 1})
    record_again(project, FEATURES, "extract", "b", "features", store)


def write_no_json(project: Project) -> None:
    contours = project.work / TILES / "contours/b.geojson"
    contours.write_text('{"type": ')
    record_again(project, TILES, "tile", "b", "contours", contours)


def write_no_store(project: Project) -> None:
    store = project.work / FEATURES / "b.zarr"
    (store / "zarr.json").write_text("[]")
    record_again(project, FEATURES, "extract", "b", "features", store)


def name_an_output_elsewhere(project: Project) -> None:
    record = Manifest.of(project.work / FEATURES).latest("extract")["b"]
    elsewhere = structs.replace(record.outputs["features"], path=f"{TILES}/b.h5")
    change_record(project, FEATURES, "extract", "b", outputs={"features": elsewhere})


LOUD = {  # the next run notices these by itself
    lose_a_store: ("missing", "extract", "b"),
    lose_a_part_of_a_store: ("size", "extract", "b"),
    truncate_a_picture: ("size", "tile", "b"),
    put_a_folder_in_place_of_tiles: ("size", "tile", "b"),
}


SILENT = {
    flip_a_byte_of_tiles: ("bytes", "tile", "b"),
    miscount_tiles: ("count", "tile", "b"),
    miscount_rows: ("count", "extract", "b"),
    record_another_width: ("shape", "extract", "b"),
    swap_a_store: ("mismatch", "extract", "b"),
    shorten_a_store: ("count", "extract", "b"),
    write_no_json: ("unreadable", "tile", "b"),
    write_no_store: ("unreadable", "extract", "b"),
    name_an_output_elsewhere: ("outside", "extract", "b"),
}


DEEP = {  # only these need every byte to be read
    flip_a_byte_of_features: ("bytes", "extract", "b"),
    change_a_fact_of_a_store: ("bytes", "extract", "b"),
    flip_a_byte_of_a_picture: ("bytes", "tile", "b"),
    store_nan: ("not finite", "extract", "b"),
    store_infinity: ("not finite", "extract", "b"),
}
