"""A model's recipe says how slides are read, and nothing of the machine that reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from command import wsipipe
from external_workspace import model_at
from new_slides import Clinic
from wsipipe.data.errors import BundleError
from wsipipe.stages.extract.settings import ExtractSettings
from wsipipe.stages.predict.recipe import recipe_of
from wsipipe.stages.settings import Settings
from wsipipe.stages.tile.settings import TileSettings

pytestmark = pytest.mark.filterwarnings("ignore:.*an earlier version wrote this model")

SECTIONS: Mapping[str, type[Settings]] = {"tile": TileSettings, "extract": ExtractSettings}
OF_THE_MACHINE = [
    (section, name) for section, kind in SECTIONS.items() for name in kind.model_fields if kind.kind(name) == "machine"
]


def without_digests(content: dict[str, Any]) -> dict[str, Any]:
    """As a version without digests has written it, in which nothing shows that a byte was changed."""
    return {name: value for name, value in content.items() if name != "digests"} | {"encoding-version": "1"}


def edited(model: Path, section: str, **changes: Any) -> Path:
    """The model after somebody has edited the recipe of all its folds."""
    for file in model.glob("fold-*/bundle.json"):
        content = json.loads(file.read_text())
        content["recipe"][section].update(changes)
        file.write_text(json.dumps(without_digests(content)))
    return model


def another(name: str, section: str, folder: Path) -> Any:
    """A value of a setting of the machine that is not its default."""
    default = SECTIONS[section].defaults()[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, float):
        return default + 1
    return {"device": "cuda:1", "annotation_origin": "scan"}.get(name, str(folder / "precious"))


def test_no_setting_that_a_recipe_may_hold_is_a_path() -> None:
    paths = {
        (section, name)
        for section, kind in SECTIONS.items()
        for name, field in kind.model_fields.items()
        if "Path" in str(field.annotation)
    }
    assert paths <= set(OF_THE_MACHINE)
    assert {("extract", "profile"), ("tile", "annotations"), ("tile", "coordinates")} <= paths


@pytest.mark.parametrize(("section", "name"), OF_THE_MACHINE)
def test_a_setting_of_the_machine_is_refused_by_name(tmp_path: Path, section: str, name: str) -> None:
    model = edited(model_at(tmp_path / "her2"), section, **{name: another(name, section, tmp_path)})
    with pytest.raises(BundleError, match=rf"its recipe sets {section}\.{name}: ") as caught:
        recipe_of(model)
    assert caught.value.path == str(model / "fold-0/bundle.json")
    assert "copy the model again" in caught.value.hint


@pytest.mark.parametrize(
    ("section", "changes", "said"),
    [
        ("tile", {"colour": 1}, "sets tile.colour, which this version of wsipipe does not know"),
        ("extract", {"../x": 1}, "sets extract.../x, which this version"),
        ("tile", {"mpp": 0}, "sets tile.mpp to what it cannot be"),
        ("tile", {"mpp": "0.5"}, "sets tile.mpp to what it cannot be"),
        ("tile", {"mpp": None}, "sets tile.mpp to what it cannot be"),
        ("tile", {"tissue": "/etc/passwd"}, "sets tile.tissue to what it cannot be"),
        ("tile", {"annotation_classes": "x"}, "sets tile.annotation_classes to what it cannot be"),
        ("extract", {"backbone": ".."}, "sets extract.backbone to what it cannot be: must be a name"),
        ("extract", {"backbone": "/x"}, "sets extract.backbone to what it cannot be: must be a name"),
        ("extract", {"backbone": "x" * 300}, "sets extract.backbone to what it cannot be: must be a name"),
        ("extract", {"pooling": ["cls"]}, "sets extract.pooling to what it cannot be"),
    ],
)
def test_what_no_recipe_can_hold_is_refused_by_name(
    tmp_path: Path, section: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BundleError) as caught:
        recipe_of(edited(model_at(tmp_path / "her2"), section, **changes))
    assert said in caught.value.what


@pytest.mark.parametrize(("section", "name"), [("tile", "mpp"), ("extract", "backbone")])
def test_what_every_recipe_must_hold(tmp_path: Path, section: str, name: str) -> None:
    model = model_at(tmp_path / "her2")
    for file in model.glob("fold-*/bundle.json"):
        content = json.loads(file.read_text())
        del content["recipe"][section][name]
        file.write_text(json.dumps(without_digests(content)))
    with pytest.raises(BundleError, match=rf"its recipe lacks {section}\.{name}"):
        recipe_of(model)


def test_what_older_models_hold_is_read(tmp_path: Path) -> None:
    """Settings of the machine at their defaults, and none of those that came later."""
    model = edited(model_at(tmp_path / "her2"), "extract", profile=None, device="auto")
    for file in model.glob("fold-*/bundle.json"):
        content = json.loads(file.read_text())
        del content["recipe"]["tile"]["tissue"]
        file.write_text(json.dumps(without_digests(content)))
    recipe = recipe_of(model)
    assert not {"profile", "device"} & recipe.extract.keys()
    assert ExtractSettings(**recipe.extract) == ExtractSettings()
    assert TileSettings(**recipe.tile) == TileSettings()


@pytest.mark.parametrize(
    ("section", "name"), [("extract", "profile"), ("tile", "annotations"), ("tile", "coordinates")]
)
def test_no_command_touches_a_file_that_a_recipe_names(tmp_path: Path, section: str, name: str) -> None:
    clinic = Clinic(tmp_path)
    precious = tmp_path / "precious"
    precious.write_text("results of ten years")
    model = edited(clinic.model(), section, **{name: str(precious)})
    table = clinic.table({"a": "P1"})
    evaluated = wsipipe("evaluate", "--model", model, "--table", table, "-w", clinic.workspace)
    for result in (clinic.predict(clinic.slide("a"), model=model), evaluated):
        assert result.exit_code == 1
        assert f"its recipe sets {section}.{name}" in " ".join(result.stderr.split())
        assert "bundle.json" in result.stderr
    assert precious.read_text() == "results of ten years"
    assert not clinic.workspace.exists()
