"""`wsipipe verify` finds damage of every kind by its name, and `--repair` has the next run make again just that."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from command import told, wsipipe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trained_workspace import trained_workspace
from workspace_damage import (
    DEEP,
    FEATURES,
    LOUD,
    SILENT,
    TILES,
    Project,
    change_record,
    flip,
    flip_a_byte_of_features,
    flip_a_byte_of_tiles,
    lose_a_store,
    miscount_rows,
    name_an_output_elsewhere,
    store_nan,
    truncate_a_picture,
    write_slide,
)
from wsipipe.data.artifact import digest_of
from wsipipe.data.manifest import Manifest, Record
from wsipipe.pipeline.checks.findings import KINDS
from wsipipe.pipeline.checks.verify import Verifier
from wsipipe.stages.registry import STAGES, output_row, rows_of

SLIDES = ("a", "b", "c")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("verify"))
    (project.folder / "slides").mkdir()
    for seed, name in enumerate(SLIDES):
        write_slide(project.folder / f"slides/{name}.svs", seed)
    project.settings.write_text('[cohort]\nslides = ["slides"]\n[extract]\ndevice = "cpu"\n')
    assert project.run() == {"tile": 3, "index": 1, "extract": 3}
    return project


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Project:
    """A copy to break. Its records name the first project's slides, which are as they were."""
    shutil.copytree(made.work, tmp_path / "work", copy_function=shutil.copy2)
    (tmp_path / "wsipipe.toml").write_text(
        f'[cohort]\nslides = ["{made.folder / "slides"}"]\n[extract]\ndevice = "cpu"\n'
    )
    return Project(tmp_path)


def verify(work: Path, *words: object, code: int) -> dict[str, Any]:
    result = wsipipe("verify", "-w", work, "--json", *words)
    assert result.exit_code == code, result.output
    told_all: dict[str, Any] = json.loads(result.stdout)
    return told_all


def kinds(found: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(finding["kind"], finding["stage"], finding["item"]) for finding in found["findings"]}


# Damage: each function breaks one thing.


Damage = Callable[[Project], None]
Expected = tuple[str, str, str]
ALL = [*LOUD.items(), *SILENT.items(), *DEEP.items()]


def test_a_sound_workspace_is_clean(project: Project) -> None:
    for words in ((), ("--deep",), ("--deep", "--repair")):
        found = verify(project.work, *words, code=0)
        assert (found["findings"], found["records"], found["outputs"], found["folders"]) == ([], 7, 13, 2)
    assert "nothing is wrong" in wsipipe("verify", "-w", project.work).stdout


def test_an_empty_workspace_is_clean(tmp_path: Path) -> None:
    assert verify(tmp_path / "none", code=0)["records"] == 0


@pytest.mark.parametrize(("damage", "expected"), ALL, ids=lambda part: getattr(part, "__name__", ""))
def test_damage_is_found_by_its_name(project: Project, damage: Damage, expected: Expected) -> None:
    damage(project)
    before = project.digests()
    assert expected in kinds(verify(project.work, "--deep", code=1))
    if damage in DEEP:
        assert not [f for f in verify(project.work, code=0)["findings"] if f["severity"] != "note"]
    else:
        assert expected in kinds(verify(project.work, code=1))
    assert project.digests() == before


AGAIN = (
    lose_a_store,
    truncate_a_picture,
    flip_a_byte_of_tiles,
    flip_a_byte_of_features,
    store_nan,
    miscount_rows,
    name_an_output_elsewhere,
)
"""Of each severity and stage: those that the next run is tried with."""


@pytest.mark.parametrize(
    ("damage", "expected"), [(d, e) for d, e in ALL if d in AGAIN], ids=lambda part: getattr(part, "__name__", "")
)
def test_after_a_repair_the_next_run_makes_again_just_that(
    made: Project, project: Project, damage: Damage, expected: Expected
) -> None:
    kind, stage, item = expected
    damage(project)
    found = verify(project.work, "--deep", "--repair", code=0)
    assert [(step["command"], step["items"]) for step in found["next_run"]] == [(f"wsipipe {stage}", [item])]
    assert {(f["stage"], f["item"]) for f in found["dropped"]} == (
        {(stage, item)} if KINDS[kind].severity == "damaged" else set()
    )
    assert project.run() == {"tile": int(stage == "tile"), "index": 0, "extract": int(stage == "extract")}
    assert verify(project.work, "--deep", code=0)["findings"] == []
    assert project.digests() == made.digests()


@pytest.mark.parametrize("damage", [flip_a_byte_of_features, miscount_rows], ids=lambda d: d.__name__)
def test_without_a_repair_the_next_run_takes_it_as_good(project: Project, damage: Damage) -> None:
    damage(project)
    assert project.run() == {"tile": 0, "index": 0, "extract": 0}


def test_what_is_missing_is_valid_again_when_its_disk_is_back(project: Project) -> None:
    manifest = project.work / FEATURES / "manifest.jsonl"
    before = manifest.read_bytes()
    away = Path(shutil.move(project.work / FEATURES / "b.zarr", project.folder / "away"))
    verify(project.work, "--repair", code=0)
    assert manifest.read_bytes() == before
    shutil.move(away, project.work / FEATURES / "b.zarr")
    assert verify(project.work, "--deep", code=0)["findings"] == []


def test_lines_that_are_no_records_are_found_and_removed_and_the_manifest_is_kept(project: Project) -> None:
    manifest = project.work / FEATURES / "manifest.jsonl"
    first, *rest = manifest.read_bytes().splitlines(keepends=True)
    damaged = first + b"\x00\xff garbage\n" + b"".join(rest) + b'{"schema": 1, "st'
    manifest.write_bytes(damaged)
    found = verify(project.work, code=1)
    assert {("bad line", "", "line 2"), ("torn line", "", "line 5")} <= kinds(found)
    assert found["records"] == 7  # the others are still judged
    repaired = verify(project.work, "--repair", code=0)
    assert repaired["removed_lines"] == {f"{FEATURES}/manifest.before-1.jsonl": 2}
    assert (project.work / FEATURES / "manifest.before-1.jsonl").read_bytes() == damaged
    assert manifest.read_bytes() == first + b"".join(rest)
    assert project.run() == {"tile": 0, "index": 0, "extract": 0}


def test_a_record_that_became_garbage_is_an_item_that_is_made_again(project: Project) -> None:
    manifest = project.work / FEATURES / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(lines[0] + lines[1][:40] + b"\n" + lines[2])
    lost = json.loads(lines[1])["item"]
    verify(project.work, "--repair", code=0)
    assert ("orphan", "", f"{lost}.zarr") in kinds(verify(project.work, code=0))
    assert project.run()["extract"] == 1
    assert verify(project.work, "--deep", code=0)["findings"] == []


def test_a_newer_record_is_no_garbage(project: Project) -> None:
    manifest = project.work / FEATURES / "manifest.jsonl"
    line = json.dumps({**json.loads(manifest.read_bytes().splitlines()[0]), "schema": 99})
    with manifest.open("a") as stream:
        stream.write(line + "\n")
    assert ("newer line", "", "line 4") in kinds(verify(project.work, "--repair", code=1))
    assert line in manifest.read_text()


def test_what_a_killed_run_left_is_named_and_changes_no_exit_code(project: Project) -> None:
    (project.work / TILES / "contours/.partial-d.geojson").write_text("half")
    (project.work / FEATURES / ".aside-a.zarr").mkdir()
    (project.work / FEATURES / ".lock-holder.json").write_text('{"host": "gone", "pid": 1}')
    (project.work / TILES / "d.h5").write_bytes(b"of no record")
    (project.work / TILES / "notes.txt").write_text("mine")
    (project.work / "models/copied").mkdir(parents=True)
    found = kinds(verify(project.work, code=0))
    assert found == {
        ("leftover", "", "contours/.partial-d.geojson"),
        ("leftover", "", ".aside-a.zarr"),
        ("dead lock", "", ".lock-holder.json"),
        ("orphan", "", "d.h5"),
        ("foreign", "", "notes.txt"),
        ("foreign", "", "models/copied"),
    }
    before = project.digests()
    verify(project.work, "--repair", code=0)
    assert project.digests() == before
    assert ("dead lock", "", ".lock-holder.json") not in kinds(verify(project.work, code=0))


def test_a_folder_in_which_a_run_is_writing_is_left_as_it_is(project: Project) -> None:
    flip_a_byte_of_features(project)
    manifest = Manifest.of(project.work / FEATURES)
    before = manifest.path.read_bytes()
    with manifest.lock():
        (project.work / FEATURES / ".partial-d.zarr").mkdir()
        found = verify(project.work, "--deep", "--repair", code=1)
        assert {("in use", "", "lock"), ("bytes", "extract", "b")} == kinds(found)
        assert list(found["left"]) == [FEATURES]
    assert manifest.path.read_bytes() == before


def test_what_has_changed_is_stale_and_not_damaged(made: Project, project: Project) -> None:
    elsewhere = project.folder / "slides"
    shutil.copytree(made.folder / "slides", elsewhere, copy_function=shutil.copy2)
    project.settings.write_text('[cohort]\nslides = ["slides"]\n[extract]\ndevice = "cpu"\n')
    assert project.run()["extract"] == 0
    write_slide(elsewhere / "b.svs", 9)
    found = kinds(verify(project.work, code=0))
    assert {("stale", "tile", "b"), ("stale", "extract", "b")} <= found
    words = wsipipe("verify", "-w", project.work).stdout
    assert "nothing is damaged; what is listed needs no repair" in " ".join(words.split())
    assert not {item for _, _, item in found} & {"a", "c"}


def test_verifying_writes_nothing(project: Project) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {str(p): ((s := p.lstat()).st_mtime_ns, s.st_size) for p in sorted(project.work.rglob("*"))}

    flip_a_byte_of_features(project)
    before = state()
    verify(project.work, "--deep", code=1)
    assert state() == before


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(draw=st.data())
def test_any_flipped_bit_of_any_output_is_found(made: Project, draw: st.DataObject) -> None:
    """Of every file of every recorded output, at any place."""
    outputs = sorted(file for file in map(made.work.joinpath, made.digests()) if file.stat().st_size)
    file = draw.draw(st.sampled_from(outputs), label="file")
    at, bit = draw.draw(st.integers(0, file.stat().st_size - 1)), draw.draw(st.integers(0, 7))
    content = file.read_bytes()
    file.write_bytes(content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :])
    try:
        found = Verifier(made.work, deep=True).run()
    finally:
        file.write_bytes(content)
    relative = file.relative_to(made.work).as_posix()
    wrong = found.of("damaged")
    assert [f.kind for f in wrong] == ["bytes"]
    assert relative == wrong[0].path or relative.startswith(f"{wrong[0].path}/")


@pytest.mark.parametrize("columns", [80, 120])
def test_the_tables_fit(project: Project, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    flip_a_byte_of_features(project)
    lose_a_store(project)
    monkeypatch.setenv("COLUMNS", str(columns))
    said = wsipipe("verify", "-w", project.work, "--deep").stdout
    assert "missing in features/0.5mpp-224px/efficientnet-lite0 (extract): b" in said
    assert "the next `wsipipe extract` makes again" in said


# Models


@pytest.fixture
def trained(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Any:
    return trained_workspace(tmp_path_factory.getbasetemp()).copied(tmp_path / "trained")


def test_a_damaged_fold_is_trained_again_alone_and_is_what_it_was(trained: Any) -> None:
    before = digest_of(trained.model / "fold-1")
    assert verify(trained.workspace, "--deep", code=0)["findings"] == []
    flip(trained.model / "fold-1/model.safetensors", -50)
    assert ("bytes", "train", "fold-1") in kinds(verify(trained.workspace, "--deep", "--repair", code=0))
    stages = told("train", "-c", trained.settings)
    assert {name: (stage["done"], stage["before"]) for name, stage in stages.items()} == {
        "split": (0, 1),
        "train": (1, 1),
        "cross_validate": (0, 1),
        "report": (0, 1),
    }
    assert digest_of(trained.model / "fold-1") == before
    assert verify(trained.workspace, "--deep", code=0)["findings"] == []


def test_a_damaged_expression_store_is_found(trained: Any) -> None:
    stats = Manifest.of(trained.workspace / "genomics").latest("genomics")["expression"].stats
    change_record(
        Project(trained.folder),
        "genomics",
        "genomics",
        "expression",
        stats={**stats, "patients": stats["patients"] - 1},
    )
    assert ("count", "genomics", "expression") in kinds(verify(trained.workspace, code=1))


def test_every_output_of_a_model_has_a_row_in_the_table_of_stages(trained: Any, made: Project) -> None:
    seen = Counter[str]()
    for work in (trained.workspace, made.work):
        for file in work.rglob("manifest.jsonl"):
            folder = file.parent.relative_to(work)
            for record in Manifest(file).records():
                rows = [row for row in rows_of(folder) if row.name == record.stage]
                for output in record.outputs.values():
                    assert output_row(rows, PurePosixPath(output.path).relative_to(folder.as_posix())), output.path
                    seen[record.stage] += 1
    assert {"tile", "index", "extract", "genomics", "split", "train", "cross_validate", "report"} <= seen.keys()


def test_what_the_rows_name_is_there() -> None:
    assert all(callable(out.checker()) for row in STAGES for out in row.outputs if out.check)


def test_a_received_bundle_is_checked_where_it_lies(trained: Any, tmp_path: Path) -> None:
    received = Path(shutil.copytree(trained.model, tmp_path / "received"))
    assert wsipipe("verify", received).exit_code == 0
    assert wsipipe("verify", received / "fold-0").exit_code == 0
    (received / "fold-1/model.safetensors").write_bytes(b"short")
    result = wsipipe("verify", received, "--json")
    assert result.exit_code == 1
    assert list(json.loads(result.stdout)["wrong"]) == [str(received / "fold-1")]
    assert wsipipe("verify", tmp_path / "nothing").exit_code == 2
    assert wsipipe("verify", received, "--repair").exit_code == 2


def test_a_record_of_a_repair_says_what_was_wrong(project: Project) -> None:
    flip_a_byte_of_features(project)
    verify(project.work, "--deep", "--repair", code=0)
    record: Record = Manifest.of(project.work / FEATURES).latest("extract")["b"]
    assert record.status == "failed"
    assert record.error is not None
    assert "b.zarr" in record.error.message
    status = json.loads(wsipipe("status", "-w", project.work, "--json").stdout)["items"]
    assert [item["hint"] for item in status if item["state"] == "failed"] == [record.error.hint]
