"""The networks that a model's slides were tiled with go along in its recipe, by the digests of their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from artefact_weights import save_colours
from external_workspace import model_at
from new_slides import Clinic
from wsipipe.data.artifact import digest_of
from wsipipe.data.errors import BundleError
from wsipipe.data.tiling.store import read_tiles
from wsipipe.stages.predict.recipe import recipe_of
from wsipipe.stages.tile.settings import TileSettings

pytestmark = pytest.mark.filterwarnings("ignore:.*an earlier version wrote this model")


def with_recipe(model: Path, **tile: Any) -> Path:
    """The model as if its slides had been tiled with these settings."""
    for file in model.glob("fold-*/bundle.json"):
        content = {name: value for name, value in json.loads(file.read_text()).items() if name != "digests"}
        content["recipe"]["tile"].update(tile)
        file.write_text(json.dumps(content | {"encoding-version": "1"}))
    return model


def test_a_digest_may_stand_where_a_path_may_not(tmp_path: Path) -> None:
    digest = "sha256:" + "a" * 64
    recipe = recipe_of(with_recipe(model_at(tmp_path / "her2"), tissue_weights=digest, artefact_weights=digest))
    assert recipe.tile["tissue_weights"] == recipe.tile["artefact_weights"] == digest
    assert TileSettings(**recipe.tile).folder_name() == "0.5mpp-224px-artefacts-network"
    for wrong in ("/etc/passwd", "sha256:../../x", digest + "0", 5):
        with pytest.raises(BundleError, match=r"recipe sets tile\.artefact_weights: "):
            recipe_of(with_recipe(model_at(tmp_path / str(abs(hash(wrong)))), artefact_weights=wrong))


def test_new_slides_are_tiled_with_the_same_weights_or_refused(tmp_path: Path) -> None:
    clinic, weights = Clinic(tmp_path), save_colours(tmp_path / "GrandQC_MPP1.safetensors")
    asked = {"artefact_weights": digest_of(weights), "artefact_mpp": 1.0, "max_artefact": 0.5}
    model, slide = with_recipe(clinic.model(), **asked), clinic.slide("a")
    result = clinic.predict(slide, model=model)
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "the slides that it was trained on were tiled with artefact weights, and none are given" in said
    assert "--artefact-weights FILE" in said
    result = clinic.predict(slide, "--artefact-weights", weights, model=model)
    assert result.exit_code == 0, result.stderr
    [tiles] = (clinic.workspace / "tiles").glob("*-artefacts/a.h5")
    assert read_tiles(tiles).artefacts is not None
    assert "a" in clinic.rows()
