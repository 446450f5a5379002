"""``wsipipe.toml``: the template is complete and true, mistakes are named together, flags come first."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel
from wsipipe.data.errors import UsageError
from wsipipe.pipeline.config import Config, load_config, parse, template
from wsipipe.stages.settings import Settings
from wsipipe.stages.train.settings import BiomarkerSettings


def sections() -> dict[str, type[BaseModel]]:
    """The file's tables and the settings in each."""
    kinds = {name: field.annotation for name, field in Config.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}


def wrong(content: dict[str, object]) -> str:
    with pytest.raises(UsageError) as caught:
        parse(content)
    return caught.value.what


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "wsipipe.toml"
    file.write_text(text, encoding="utf-8")
    return file


# ----- the template -----


def test_the_template_as_it_is_gives_the_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, template()))
    assert config == Config(workspace=tmp_path / "work")


def test_the_template_with_every_sign_removed_still_gives_the_defaults() -> None:
    content = tomllib.loads(re.sub(r"^# (?=\w+ = |\[)", "", template(), flags=re.MULTILINE))
    config = parse(content)
    for name, kind in (sections() | {"biomarkers": BiomarkerSettings}).items():
        shown = content[name]["her2"] if name == "biomarkers" else content[name]
        assert list(shown) == list(kind.model_fields), f"[{name}] must show every setting, in its order"
        given = config.biomarkers["her2"] if name == "biomarkers" else getattr(config, name)
        for setting, field in kind.model_fields.items():
            if field.default is not None and not field.is_required():
                assert getattr(given, setting) == field.default, f"{name}.{setting}"
    assert set(content) == set(Config.model_fields)
    assert content["workspace"] == "work"


def test_every_setting_says_what_it_is_on_a_line_of_its_own() -> None:
    for kind in (*sections().values(), BiomarkerSettings, Config):
        for name, field in kind.model_fields.items():
            if kind is not Config or name not in sections():
                assert field.description, name
                assert "\n" not in field.description
    lines = [line for line in template().splitlines() if re.match(r"# \w+ = ", line)]
    assert all(re.search(r"\S  # \S", line) for line in lines)
    examples = [line.split()[1] for line in lines if "(an example)" in line]
    unset = [name for kind in sections().values() for name, field in kind.model_fields.items() if field.default is None]
    of_all = [name for name, field in Config.model_fields.items() if field.default is None]
    # The question stands after the cohort, before how it is answered.
    assert examples == [*of_all, *unset[:1], "label_column", "gene_sets", *unset[1:]]


# ----- mistakes -----


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"tyle": {}}, "unknown setting tyle (did you mean tile?)"),
        ({"workspce": "w"}, "unknown setting workspce (did you mean workspace?)"),
        ({"tile": {"mmp": 0.5}}, "unknown setting tile.mmp (did you mean mpp?)"),
        ({"extract": {"batchsize": 1}}, "unknown setting extract.batchsize (did you mean batch_size?)"),
        ({"genomics": {"matrx": "m"}}, "unknown setting genomics.matrx (did you mean matrix?)"),
        ({"cohort": {"slide": []}}, "unknown setting cohort.slide (did you mean slides?)"),
        ({"split": {"fold": 3}}, "unknown setting split.fold (did you mean folds?)"),
        ({"train": {"lerning_rate": 1}}, "unknown setting train.lerning_rate (did you mean learning_rate?)"),
        ({"predict": {"top-tiles": 1}}, "unknown setting predict.top-tiles (did you mean top_tiles?)"),
        (
            {"biomarkers": {"her2": {"label_column": "x", "positve": ["1"]}}},
            "unknown setting biomarkers.her2.positve (did you mean positive?)",
        ),
        ({"tile": {"zzz": 0}}, "unknown setting tile.zzz"),
    ],
)
def test_an_unknown_key_is_an_error_that_suggests_the_right_one(content: dict[str, object], said: str) -> None:
    assert wrong(content) == said


@pytest.mark.parametrize("name", sections())
def test_a_near_miss_is_understood_in_every_section(name: str) -> None:
    for setting in sections()[name].model_fields:
        assert f"(did you mean {setting}?)" in wrong({name: {setting[:-1] + "_" + setting[-1]: 0}})


def test_all_mistakes_come_in_one_list(tmp_path: Path) -> None:
    file = write(tmp_path, "[tile]\nmpp = -1\nmin_tisue = 0.3\n[split]\nfolds = 'many'\n[train]\nmemory = 'elephant'\n")
    with pytest.raises(UsageError) as caught:
        load_config(file)
    assert caught.value.path == str(file)
    assert caught.value.what.split("; ") == [
        "tile.mpp = -1: input should be greater than or equal to 0.05",
        "unknown setting tile.min_tisue (did you mean min_tissue?)",
        'split.folds = "many": input should be a valid integer, unable to parse string as an integer',
        "train.memory = \"elephant\": input should be 'gradient', 'momentum' or 'fixed'",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"biomarkers": {"her2": {}}}, "biomarkers.her2.label_column is missing (or --label-column)"),
        ({"biomarkers": {"her2": {"label_column": "x", "positive": []}}}, "biomarkers.her2.positive = []: "),
        ({"biomarkers": {"her2": {"label_column": "x", "positive": "yes"}}}, 'biomarkers.her2.positive = "yes": '),
        (
            {"biomarkers": {"her2": {"label_column": "x", "positive": ["Yes", "1"], "negative": ["no", "yes"]}}},
            "yes cannot mean both positive and negative",
        ),
        ({"tile": {"overlap": 224}}, "tile.overlap = 224: must be smaller than tile_px (224)"),
        ({"tile": 3}, "tile = 3: "),
        ({"biomarkers": ["her2"]}, 'biomarkers = ["her2"]: '),
        ({"train": {"hidden": 33}}, "train.hidden = 33: "),
        ({"tile": {"mpp": float("nan")}}, "tile.mpp = NaN: "),
        ({"train": {"seed": 7, "nested": ["lr=1"]}}, "train: nested 'lr=1' is not NAME=VALUE,VALUE of learning_rate"),
        ({"train": {"seed": 7, "nested": ["slots=x"]}}, 'train.slots = "x": input should be a valid integer'),
    ],
)
def test_values_that_cannot_be_meant(content: dict[str, object], said: str) -> None:
    assert said in wrong(content)


@pytest.mark.parametrize("text", ["mpp = ", "[tile\n", "[tile]\nmpp = 0.5\nmpp = 1\n", "mpp: 0.5"])
def test_a_file_that_is_not_toml(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(UsageError, match="is not valid TOML") as caught:
        load_config(file)
    assert caught.value.path == str(file)


def test_files_that_cannot_be_read_as_settings(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00\x01")
    for name, said in [
        ("binary.toml", "is not valid TOML"),
        ("gone.toml", "no such configuration"),
        (".", "cannot be read"),
    ]:
        with pytest.raises(UsageError, match=said):
            load_config(tmp_path / name)


# ----- paths and flags -----


def test_paths_in_a_file_count_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "lab" / "her2"
    file = write(
        folder,
        f"""
        [cohort]
        slides = ["slides", "../more", "{tmp_path}/absolute", "~/home"]
        table = "cohort.csv"
        [extract]
        weights = "w.safetensors"
        [genomics]
        matrix = "../rna.csv"
        [predict]
        slides = ["new"]
        table = "new.csv"
        """,
    )
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.chdir(tmp_path)
    for given in (file, Path("lab/her2/wsipipe.toml")):
        config = load_config(given)
        assert config.workspace == folder / "work"
        slides = [folder / "slides", folder / "../more", tmp_path / "absolute", Path("/home/someone/home")]
        assert config.cohort.slides == slides
        assert config.cohort.table == folder / "cohort.csv"
        assert config.extract.weights == folder / "w.safetensors"
        assert config.genomics.matrix == folder / "../rna.csv"
        assert (config.predict.slides, config.predict.table) == ([folder / "new"], folder / "new.csv")


def test_the_file_of_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config() == Config()
    write(tmp_path, "[tile]\nmpp = 1.0\n")
    assert load_config().tile.mpp == 1.0
    assert load_config().workspace == tmp_path / "work"


def test_flags_override_the_file_and_their_paths_count_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(
        tmp_path / "lab",
        """
        workspace = "there"
        [cohort]
        slides = ["slides"]
        [tile]
        mpp = 1.0
        tile_px = 512
        allow_upsample = true
        [biomarkers.her2]
        label_column = "HER2"
        positive = ["3+"]
        """,
    )
    monkeypatch.chdir(tmp_path)
    flags = {
        "workspace": Path("here"),
        "cohort": {"slides": [Path("other")], "table": None},
        "tile": {"mpp": 0.25, "tile_px": None, "allow_upsample": False},
        "train": {"epochs": 3},
        "biomarkers": {"her2": {"negative": ["0", "1+"]}},
    }
    config = load_config(file, flags)
    assert config.workspace == Path("here")
    assert config.cohort.slides == [Path("other")]
    assert (config.tile.mpp, config.tile.tile_px, config.tile.allow_upsample) == (0.25, 512, False)
    assert config.train.epochs == 3
    assert config.biomarkers == {"her2": BiomarkerSettings(label_column="HER2", positive=["3+"], negative=["0", "1+"])}
    assert load_config(file, {"workspace": None, "tile": {}}) == load_config(file)


def test_a_file_is_not_blamed_for_what_a_flag_said(tmp_path: Path) -> None:
    file = write(tmp_path, "[tile]\nmpp = 1.0\ntile_px = 512\noverlap = 32\n")
    for flags, said in (
        ({"mpp": 0.0}, "tile.mpp = 0.0: input should be greater than or equal to 0.05"),
        ({"tile_px": 16}, "tile.overlap = 32: must be smaller than tile_px (16)"),
    ):
        with pytest.raises(UsageError) as caught:
            load_config(file, {"tile": flags})
        assert (caught.value.path, caught.value.what) == (None, said)
    file.write_text("[tile]\nmpp = 99\n[split]\nfolds = 1\n")
    with pytest.raises(UsageError) as caught:
        load_config(file, {"tile": {"mpp": 2.0, "tile_px": 0}})
    assert caught.value.path == str(file)
    assert caught.value.what.split("; ") == [
        "tile.tile_px = 0: input should be greater than or equal to 16 (by a flag)",
        "split.folds = 1: input should be greater than or equal to 2",
    ]


def test_flags_do_not_hide_a_section_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tile = 3"):
        load_config(write(tmp_path, "tile = 3\n"), {"tile": {"mpp": 0.5}})


# ----- what a fingerprint covers -----


def test_settings_are_frozen_and_say_what_changes_results() -> None:
    config = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.tile.mpp = 1.0
    runtime = {"device", "batch_size", "threads", "workers", "timeout", "weights", "matrix", "mpp_override"}
    runtime |= {"tile_timeout", "compile", "profile", "tensorboard", "bag_memory"}
    runtime |= {"other_patients"}  # what it changes, which folds read a patient, is among the inputs
    runtime |= {
        "gene_list",
        "init",
        "aliases",
        "gene_lengths",
        "gene_sets",
        "clinical",
        "cnv",
        "mutation",
        "protein",
        "methylation",
    }
    runtime |= {"annotation_origin", "overrule_mpp"}  # each slide's input where it matters
    # inputs by their bytes, and in the folder's name
    runtime |= {"annotations", "coordinates", "tissue_weights", "artefact_weights"}
    for name in sections():
        if name == "cluster":  # where items run: none of it is in a record
            continue
        section: Settings = getattr(config, name)
        covered = set(section.result_settings())
        assert covered == set(type(section).model_fields) - runtime


def test_folder_names_carry_what_gives_the_numbers_their_meaning() -> None:
    assert Config().tile.folder_name() == "0.5mpp-224px"
    assert parse({"tile": {"mpp": 2, "tile_px": 256, "overlap": 32}}).tile.folder_name() == "2mpp-256px-overlap32"
    assert parse({"tile": {"annotations": "a"}}).tile.folder_name() == "0.5mpp-224px-annotated"
    assert parse({"tile": {"tissue": "all"}}).tile.folder_name() == "0.5mpp-224px-all"
    assert parse({"tile": {"tissue": 12}}).tile.folder_name() == "0.5mpp-224px-darker12"
    assert parse({"tile": {"tissue": "Auto"}}).tile.folder_name() == "0.5mpp-224px"
    assert Config().extract.folder_name() == "efficientnet-lite0"
    hub = parse({"extract": {"backbone": "hf-hub:../../evil name", "pooling": "cls+mean"}}).extract.folder_name()
    assert hub == "hf-hub_.._.._evil_name-cls+mean"
    assert os.sep not in hub
