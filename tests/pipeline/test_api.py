"""The README's Python lines, and that the command line and they are one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wsipipe
from new_slides import Clinic
from trained_workspace import trained_workspace
from wsipipe.data.errors import CohortError, UsageError
from wsipipe.data.units import Mpp
from wsipipe.pipeline.console import Console
from wsipipe.pipeline.demo.slides import write_aperio


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    pixels = np.random.default_rng(0).normal((200, 110, 170), 30, size=(500, 500, 3)).clip(0, 255).astype(np.uint8)
    write_aperio(folder / "slide-1.svs", pixels, mpp=Mpp(0.5))
    (folder / "broken.svs").touch()
    return folder


def test_tile_extract_and_read_from_python(slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = wsipipe.load_config(flags={"workspace": tmp_path / "work", "cohort": {"slides": [str(slides)]}})
    tiled, index, extracted = wsipipe.run(config, "tile", "extract")
    assert (tiled.done, [failure.item for failure in tiled.failures]) == (1, ["broken"])
    assert (index.done, extracted.done, extracted.units) == (1, 1, 4)
    bag = wsipipe.read_bag(tmp_path / "work/features/0.5mpp-224px/efficientnet-lite0/slide-1.zarr")
    assert (bag.features.shape, bag.coords.shape, bag.facts.mpp) == ((4, 1280), (4, 2), 0.5)
    assert [summary.done for summary in wsipipe.run(config, "tile", "extract")] == [0, 0, 0]
    assert capsys.readouterr().out == ""  # a library does not print results


def test_errors_are_the_one_tree(tmp_path: Path) -> None:
    with pytest.raises(wsipipe.WsipipeError, match="no slides are given"):
        wsipipe.run(wsipipe.load_config(flags={"workspace": tmp_path}), "tile")
    with pytest.raises(wsipipe.WsipipeError, match=r"tile.mpp = -1"):
        wsipipe.load_config(flags={"tile": {"mpp": -1}})


def test_every_public_name_is_there() -> None:
    for name in dir(wsipipe):
        assert getattr(wsipipe, name) is not None or name.startswith("__")
    with pytest.raises(AttributeError):
        wsipipe.nothing_of_the_kind  # noqa: B018


def test_a_step_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    config = wsipipe.load_config(flags={"workspace": str(tmp_path / "work")})
    with pytest.raises(UsageError, match=r"no step 'extrct' \(did you mean 'extract'"):
        wsipipe.run(config, "tile", "extrct")  # type: ignore[arg-type]
    assert not (tmp_path / "work").exists()


def test_the_stages_are_calls_and_paths_may_be_texts(slides: Path, tmp_path: Path) -> None:
    config = wsipipe.load_config(flags={"workspace": str(tmp_path / "work"), "extract": {"device": "cpu"}})
    tiled, _ = wsipipe.tile(config, str(slides))
    extracted = wsipipe.extract(config)
    assert (tiled.done, extracted.done) == (1, 1)
    assert [finding.weight for finding in wsipipe.check(config).findings if finding.stage == "tile"] == ["stops"]
    with pytest.raises(UsageError, match="no biomarker is given"):
        wsipipe.train(config)
    place = f"{tmp_path}/work/features/0.5mpp-224px/efficientnet-lite0"
    assert wsipipe.open_features(f"{place}/slide-1.zarr").shape == (4, 1280)
    assert [bag.slide_id for bag in wsipipe.read_bags([f"{place}/slide-1.zarr"])] == ["slide-1"]
    assert len(wsipipe.read_tiles(f"{tmp_path}/work/tiles/0.5mpp-224px/slide-1.h5")) == 4
    assert len(wsipipe.Manifest.of(place).records()) == 1
    assert wsipipe.read_thumbnail(str(slides / "slide-1.svs")).shape == (500, 500, 3)
    (tmp_path / "wsipipe.toml").write_text('workspace = "elsewhere"\n')
    assert wsipipe.load_config(str(tmp_path / "wsipipe.toml")).workspace == tmp_path / "elsewhere"


def test_predictions_and_heatmaps_are_frames_and_arrays(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path)
    clinic.slide("a")
    clinic.model("work/models/her2")
    flags = {"predict": {"slides": [str(tmp_path / "slides")], "device": "cpu"}, "extract": {"device": "cpu"}}
    config = wsipipe.load_config(flags={"workspace": str(clinic.workspace), **flags})
    assert not [failure for summary in wsipipe.predict(config) for failure in summary.failures]
    folder = str(clinic.workspace / "predictions/her2")
    table = wsipipe.read_predictions(folder)
    written = clinic.rows()["a"]
    assert list(table["level"]) == ["patient", "slide"]
    assert table["probability"].dtype == np.float64
    assert table.loc[1, "probability"] == float(written["probability"])
    assert table.loc[1, "folds"] == written["folds"]
    maps, tiles = wsipipe.read_heatmap(folder, "a"), wsipipe.read_tile_scores(folder, "a")
    assert {"x", "y", *maps} == set(tiles.columns)
    for name, scores in maps.items():
        at = (np.asarray(tiles[["y", "x"]]) / 224 * 4).astype(int)
        assert scores[tuple(at.T)] == pytest.approx(tiles[name].to_numpy(), abs=1e-5)
    with pytest.raises(wsipipe.WsipipeError, match=r"nothing of slide '\.\./a'"):
        wsipipe.read_heatmap(folder, "../a")
    with pytest.raises(wsipipe.WsipipeError, match="predictions"):
        wsipipe.read_predictions(tmp_path / "slides")


def test_an_evaluation_on_training_patients_is_asked_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    planted = trained_workspace(tmp_path_factory.getbasetemp()).copied(tmp_path_factory.mktemp("own") / "planted")
    config, quiet = wsipipe.load_config(planted.settings), Console(json_only=True)
    with pytest.raises(CohortError, match="patients trained this model"):
        wsipipe.evaluate(config, planted.model, console=quiet)
    summaries = wsipipe.evaluate(config, planted.model, training_patients=True, console=quiet)
    assert {summary.stage: summary.failures for summary in summaries} == {"read_slides": (), "external_evaluate": ()}
