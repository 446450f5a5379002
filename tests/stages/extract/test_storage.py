"""Extraction from storage that fails: a moment is waited for; a share that stays away is tried by the next run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import wsipipe
from hdf5_damage import endless
from storage import Storage
from wsipipe.data.artifact import digest_of
from wsipipe.data.files import reading_process
from wsipipe.data.manifest import Manifest, Record
from wsipipe.data.units import Mpp
from wsipipe.pipeline.demo.slides import write_aperio

FEATURES = "features/0.5mpp-224px/efficientnet-lite0"


@pytest.fixture
def config(tmp_path: Path) -> wsipipe.Config:
    """Two slides that are tiled."""
    (tmp_path / "slides").mkdir()
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        pixels = rng.normal((200, 110, 170), 30, size=(500, 500, 3)).clip(0, 255).astype(np.uint8)
        write_aperio(tmp_path / "slides" / f"{name}.svs", pixels, mpp=Mpp(0.5))
    flags = {"workspace": tmp_path / "work", "cohort": {"slides": [str(tmp_path / "slides")]}}
    config = wsipipe.load_config(flags=flags)
    assert wsipipe.run(config, "tile")[0].done == 2
    return config


def records(config: wsipipe.Config) -> dict[str, Record]:
    return Manifest.of(config.workspace / FEATURES).latest("extract")


@pytest.mark.parametrize("fault", ["EIO", "ESTALE", "vanishes"])
def test_a_moments_failure_loses_no_tile(config: wsipipe.Config, fault: str, tmp_path: Path, storage: Storage) -> None:
    wsipipe.run(config, "extract")
    expected = {slide: record.outputs["features"].digest for slide, record in records(config).items()}
    again = config.model_copy(update={"workspace": tmp_path / "again"})
    wsipipe.run(again, "tile")
    with storage.failing(tmp_path / "slides" / "b.svs", fault, pauses=4):
        (summary,) = wsipipe.run(again, "extract")
    assert (summary.done, summary.failures) == (2, ())
    assert {slide: record.outputs["features"].digest for slide, record in records(again).items()} == expected
    assert [record.stats["bad_tiles"] for record in records(again).values()] == [0, 0]


@pytest.mark.parametrize("fault", ["EIO", "ETIMEDOUT", "EMFILE", "EHOSTDOWN", "vanishes"])
def test_a_share_that_stays_away_is_tried_again_by_the_next_run(
    config: wsipipe.Config, fault: str, tmp_path: Path, storage: Storage
) -> None:
    with storage.failing(tmp_path / "slides" / "b.svs", fault):
        (summary,) = wsipipe.run(config, "extract")
    assert (summary.done, [failure.item for failure in summary.failures]) == (1, ["b"])
    error = records(config)["b"].error
    assert error is not None
    assert (error.type, error.retry) == ("SurroundingsError", True)
    assert error.hint
    (summary,) = wsipipe.run(config, "extract")
    assert (summary.done, summary.before, summary.failures) == (1, 1, ())


def test_strays_in_a_store_change_nothing(config: wsipipe.Config) -> None:
    wsipipe.run(config, "extract")
    store = config.workspace / FEATURES / "a.zarr"
    digest = digest_of(store)
    for stray in (".DS_Store", "._zarr.json", "features/.nfs000000000012", "features/c/Thumbs.db", "@eaDir/zarr.json"):
        (store / stray).parent.mkdir(exist_ok=True)
        (store / stray).write_bytes(b"stray")
    (store / ".AppleDouble").mkdir()
    assert digest_of(store) == digest
    (summary,) = wsipipe.run(config, "extract")
    assert (summary.done, summary.before) == (0, 2), "nothing is damaged, nothing is done again"
    assert wsipipe.read_bag(store).features.shape == (4, 1280)


@pytest.mark.parametrize("recorded", [True, False])
def test_tiles_whose_reading_does_not_end_cost_their_slide_and_no_other(
    config: wsipipe.Config, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged since it was recorded, it is not even opened; in a received workspace a record may call it right."""
    monkeypatch.setattr(reading_process, "_SECONDS", 1)
    manifest = Manifest.of(config.workspace / "tiles/0.5mpp-224px")
    record = manifest.latest("tile")["a"]
    made = record.outputs["tiles"]
    path = config.workspace / made.path
    whole = path.read_bytes()
    path.write_bytes(endless(whole))
    if recorded:
        damaged = replace(made, digest=digest_of(path))
        manifest.append(record.model_copy(update={"outputs": {**record.outputs, "tiles": damaged}}))
    (summary,) = wsipipe.run(config, "extract")
    assert (summary.done, [failure.item for failure in summary.failures]) == (1, ["a"])
    error = records(config)["a"].error
    assert error is not None
    assert (error.type, error.retry) == ("StoreError", True)
    assert str(path) in error.message
    assert ("comes to no end" if recorded else "not those that `wsipipe tile` has recorded") in error.message
    assert "remove it and run `wsipipe tile`" in error.hint
    path.unlink()
    assert wsipipe.run(config, "tile")[0].done == 1
    assert path.read_bytes() == whole
    (summary,) = wsipipe.run(config, "extract")
    assert (summary.done, summary.before, summary.failures) == (1, 1, ())
