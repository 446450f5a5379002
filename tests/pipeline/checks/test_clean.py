"""`wsipipe clean` shows what no result needs, and removes that alone, and only what wsipipe itself has made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from command import wsipipe
from planted_workspace import FEATURES, TILES, Planted, make_patients, plant
from wsipipe.data.manifest import Manifest, Record
from wsipipe.pipeline.checks.clean_command import size_text


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Slides with tiles and features, RNA, and a model of two folds that somebody else has trained."""
    made = plant(tmp_path_factory.mktemp("clean") / "project", make_patients(4))
    train(made, ["fold-0", "fold-1"], folds=2)
    return made


@pytest.fixture
def mine(planted: Planted, tmp_path: Path) -> Planted:
    return planted.copied(tmp_path / "project")


def train(planted: Planted, items: Iterable[str], *, folds: int, **settings: object) -> None:
    """What training leaves of a model, as far as cleaning looks at it."""
    extracted = Manifest.of(planted.workspace / FEATURES).latest("extract")
    of_slide = next(iter(extracted.values()))
    for item in items:
        bundle = planted.model / item
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / "bundle.json").write_text(json.dumps({"folds": folds, "fold": int(item[5:])}))
        output = replace(of_slide.outputs["features"], path=f"models/er/{item}")
        features = of_slide.outputs["features"]
        made_from = replace(of_slide.inputs["slide"], path=features.path, digest=features.digest)
        Manifest.of(planted.model).append(
            Record.model_validate(
                {
                    **of_slide.model_dump(),
                    "stage": "train",
                    "item": item,
                    "settings": settings,
                    "inputs": {"features": asdict(made_from)},
                    "outputs": {"bundle": asdict(output)},
                }
            )
        )


def clean(planted: Planted, *words: object, code: int = 0) -> dict[str, Any]:
    result = wsipipe("clean", "-w", planted.workspace, "--json", *words)
    assert result.exit_code == code, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    return said


def paths(targets: list[dict[str, Any]]) -> dict[str, str]:
    return {target["path"]: target["why"] for target in targets}


def files(planted: Planted) -> set[str]:
    found = (path for path in planted.workspace.rglob("*") if not path.is_dir() or path.is_symlink())
    return {path.relative_to(planted.workspace).as_posix() for path in found} - {
        f"{path.relative_to(planted.workspace).as_posix()}" for path in planted.workspace.rglob(".lock*")
    }


def test_a_sound_workspace_has_nothing_to_remove(mine: Planted) -> None:
    before = files(mine)
    said = clean(mine, "--yes")
    assert (said["found"], said["removed"], said["kept"]) == ([], [], {})
    assert files(mine) == before


def leave_things(planted: Planted) -> dict[str, str]:
    """Leave what may go."""
    work = planted.workspace
    (work / TILES / "gone.h5").write_bytes(b"1234")
    (work / FEATURES / "gone.zarr/features").mkdir(parents=True)
    (work / FEATURES / "gone.zarr/zarr.json").write_text("{}")
    (work / FEATURES / ".partial-half.zarr").mkdir()
    (work / TILES / ".partial-half.h5").write_bytes(b"12")
    return {
        f"{TILES}/gone.h5": "orphan",
        f"{FEATURES}/gone.zarr": "orphan",
        f"{FEATURES}/.partial-half.zarr": "leftover",
        f"{TILES}/.partial-half.h5": "leftover",
    }


def leave_other_peoples_things(planted: Planted) -> list[Path]:
    """Leave what may not go: a note, a copy of a bundle, a link to data that lies elsewhere, hidden files."""
    work, elsewhere = planted.workspace, planted.folder / "precious"
    elsewhere.mkdir()
    (elsewhere / "data.h5").write_text("precious")
    (work / TILES / "notes.txt").write_text("mine")
    shutil.copytree(planted.model / "fold-0", planted.model / "fold-0-backup")
    (work / TILES / "linked.h5").symlink_to(elsewhere / "data.h5")
    (work / FEATURES / ".partial-linked").symlink_to(elsewhere)
    (work / "models/received/fold-0").mkdir(parents=True)
    (work / "models/received/fold-0/bundle.json").write_text("{}")
    (work / "thesis.docx").write_text("mine")
    return [
        elsewhere / "data.h5",
        work / TILES / "notes.txt",
        planted.model / "fold-0-backup/bundle.json",
        work / TILES / "linked.h5",
        work / FEATURES / ".partial-linked",
        work / "models/received/fold-0/bundle.json",
        work / "thesis.docx",
    ]


def test_it_shows_first_and_removes_with_yes_what_wsipipe_has_made_alone(mine: Planted) -> None:
    sound = files(mine)
    others = leave_other_peoples_things(mine)
    with_others = files(mine)
    left = leave_things(mine)
    everything = files(mine)
    shown = clean(mine)
    assert paths(shown["found"]) == left
    assert shown["removed"] == []
    assert files(mine) == everything
    sizes = {target["path"]: target["bytes"] for target in shown["found"]}
    assert sizes[f"{TILES}/gone.h5"] == 4
    assert shown["bytes"] == sum(sizes.values()) == 8
    assert paths(clean(mine, "--yes")["removed"]) == left
    assert files(mine) == with_others >= sound
    assert all(path.exists() for path in others)


def test_people_see_a_table_and_how_to_go_on(mine: Planted) -> None:
    leave_things(mine)
    said = wsipipe("clean", "-w", mine.workspace).stdout
    assert "orphan in tiles/0.5mpp-224px: gone.h5" in said
    assert "nothing was removed; `wsipipe clean --yes` removes 8 bytes" in said


def test_folds_that_the_model_does_not_have_any_more_go_with_their_records(mine: Planted) -> None:
    train(mine, ["fold-2", "fold-3"], folds=4)
    assert paths(clean(mine, "--yes")["removed"]) == {"models/er/fold-2": "old fold", "models/er/fold-3": "old fold"}
    assert set(Manifest.of(mine.model).latest("train")) == {"fold-0", "fold-1"}
    assert {path.name for path in mine.model.glob("fold-*")} == {"fold-0", "fold-1"}
    assert (mine.model / "manifest.before-1.jsonl").is_file()
    assert clean(mine)["found"] == []


def save_state(planted: Planted, *, seconds: float) -> Path:
    """Saved work of an interrupted training, so many seconds after the last fold was done."""
    state = planted.model / "partial/0123456789abcdef/state.pt"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"epochs")
    done = max(record.start.timestamp() + record.seconds for record in Manifest.of(planted.model).records())
    os.utime(state, (done + seconds, done + seconds))
    return state


def test_saved_training_goes_only_when_a_later_training_was_finished(mine: Planted) -> None:
    state = save_state(mine, seconds=60)
    said = clean(mine, "--yes")
    assert said["removed"] == []
    assert list(said["kept"]) == ["models/er/partial/0123456789abcdef"]
    shutil.rmtree(state.parents[1])
    state = save_state(mine, seconds=-60)
    assert paths(clean(mine, "--yes")["removed"]) == {"models/er/partial/0123456789abcdef": "overtaken"}
    assert not (mine.model / "partial").exists()


@pytest.mark.parametrize("unfinished", ["another setting", "a fold is not done", "no model yet"])
def test_saved_training_stays_while_it_may_be_of_the_training_that_is_under_way(mine: Planted, unfinished: str) -> None:
    if unfinished == "another setting":
        train(mine, ["fold-0"], folds=2, epochs=7)
    elif unfinished == "a fold is not done":
        train(mine, ["fold-0"], folds=3)
    else:
        shutil.rmtree(mine.model / "fold-0")
    state = save_state(mine, seconds=-60)
    clean(mine, "--yes")
    assert state.exists()


def test_a_folder_of_results_goes_as_a_whole_by_its_name(mine: Planted) -> None:
    before = files(mine)
    shown = clean(mine, "features/0.5mpp-224px/efficientnet-lite0")
    [target] = shown["found"]
    assert target["used_by"] == ["models/er"]
    assert target["bytes"] > 1000
    assert files(mine) == before
    clean(mine, "features/0.5mpp-224px/efficientnet-lite0", "--yes")
    assert files(mine) == {path for path in before if not path.startswith("features/")}
    assert not (mine.workspace / "features").exists()


def test_a_name_may_leave_out_its_kind_if_only_one_fits(mine: Planted) -> None:
    assert [target["path"] for target in clean(mine, "er")["found"]] == ["models/er"]
    assert [target["path"] for target in clean(mine, mine.model)["found"]] == ["models/er"]
    assert "several kinds" in clean(mine, "0.5mpp-224px", code=2)["error"]["message"]
    for name in ("nothing", "..", ".", "/", mine.folder, "models/../../precious"):
        assert "error" in clean(mine, name, "--yes", code=2)


def test_of_a_named_folder_what_others_have_put_there_stays(mine: Planted) -> None:
    others = leave_other_peoples_things(mine)
    said = clean(mine, TILES.as_posix(), "--yes", code=1)
    assert "they stay" in said["kept"][TILES.as_posix()]
    assert all(path.exists() for path in others)
    assert sorted(path.name for path in (mine.workspace / TILES).iterdir()) == ["linked.h5", "notes.txt"]


def test_a_folder_that_is_a_link_is_left_with_what_it_points_to(mine: Planted) -> None:
    elsewhere = mine.folder / "disk"
    shutil.move(mine.workspace / "features", elsewhere)
    (mine.workspace / "features").symlink_to(elsewhere)
    leave_things(mine)
    before = files(mine), sorted(elsewhere.rglob("*"))
    said = clean(mine, FEATURES.as_posix(), "--yes", code=1)
    assert "link" in said["kept"][FEATURES.as_posix()]
    assert paths(clean(mine, "--yes")["removed"]) == {
        f"{TILES}/gone.h5": "orphan",
        f"{TILES}/.partial-half.h5": "leftover",
    }
    assert sorted(elsewhere.rglob("*")) == before[1]


def test_links_inside_a_store_that_goes_are_not_followed(mine: Planted) -> None:
    precious = mine.folder / "precious"
    precious.mkdir()
    (precious / "data").write_text("precious")
    orphan = mine.workspace / FEATURES / "gone.zarr"
    orphan.mkdir()
    (orphan / "inner").symlink_to(precious)
    clean(mine, "--yes")
    assert not orphan.exists()
    assert (precious / "data").read_text() == "precious"


def test_where_a_run_is_writing_nothing_goes(mine: Planted) -> None:
    leave_things(mine)
    with Manifest.of(mine.workspace / FEATURES).lock():
        said = clean(mine, "--yes")
        assert set(paths(said["removed"])) == {f"{TILES}/gone.h5", f"{TILES}/.partial-half.h5"}
        assert "a run is writing here" in said["kept"][FEATURES.as_posix()]
        clean(mine, FEATURES.as_posix(), "--yes", code=1)
    assert mine.store("S00a").exists()


def test_outputs_whose_record_is_unreadable_are_no_orphans(mine: Planted) -> None:
    manifest = mine.workspace / FEATURES / "manifest.jsonl"
    first, *rest = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(first[:50] + b"\n" + b"".join(rest))
    said = clean(mine, "--yes")
    assert said["removed"] == []
    assert "verify --repair" in said["kept"][FEATURES.as_posix()]


def test_a_record_that_names_what_lies_elsewhere_removes_nothing_there(mine: Planted) -> None:
    """Paths of records are compared with what is found in the folder; they never say what is removed."""
    manifest = Manifest.of(mine.workspace / FEATURES)
    record = next(iter(manifest.latest("extract").values()))
    elsewhere = replace(record.outputs["features"], path=f"{TILES}/S00a.h5")
    manifest.append(record.model_copy(update={"item": "evil", "outputs": {"features": elsewhere}}))
    clean(mine, FEATURES.as_posix(), "--yes")
    assert (mine.workspace / TILES / "S00a.h5").exists()


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (1500, "1.5 kB"), (2 * 10**12, "2.0 TB")])
def test_sizes_are_read_at_a_glance(size: int, text: str) -> None:
    assert size_text(size) == text
