"""A workspace that came from somebody else: no command writes or removes anything outside of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command import wsipipe
from new_slides import Clinic

TILES = "tiles/0.5mpp-224px"


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one tiled slide."""
    clinic = Clinic(tmp_path_factory.mktemp("tiled"))
    assert wsipipe("tile", clinic.slide("a"), "-w", clinic.workspace).exit_code == 0
    return clinic.folder


@pytest.fixture
def clinic(tiled: Path, tmp_path: Path) -> Clinic:
    """A copy of it, beside what is none of its business."""
    shutil.copytree(tiled, tmp_path / "in/received")
    important = tmp_path / "outside/important"
    important.mkdir(parents=True)
    for name in ("thesis.docx", ".partial-chapter", ".aside-chapter", "manifest.jsonl", "report.html"):
        (important / name).write_text("precious\nhalf a li")
    return Clinic(tmp_path / "in/received")


def outside(clinic: Clinic) -> dict[str, bytes]:
    folder = clinic.folder.parent.parent
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_relative_to(clinic.folder)
    }


def rewrite(clinic: Clinic, **changes: object) -> None:
    file = clinic.workspace / TILES / "manifest.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line | (changes if line["stage"] == "tile" else {})) + "\n" for line in lines))


@pytest.mark.parametrize("item", ["../../../../../../outside/important", "/tmp/x", "..", ".partial-a"])
@pytest.mark.parametrize("command", [("extract",), ("export", "clam"), ("status",), ("tile",)])
def test_an_item_that_leads_out_is_refused(clinic: Clinic, item: str, command: tuple[str, ...]) -> None:
    before = outside(clinic)
    rewrite(clinic, item=item)
    slides = (clinic.folder / "slides",) if command == ("tile",) else ()
    result = wsipipe(*command, *slides, "-w", clinic.workspace)
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert f"the item {item!a}" in said
    assert "manifest.jsonl" in said
    assert "remove that line" in said
    assert outside(clinic) == before


def test_an_output_that_leads_out_is_refused(clinic: Clinic) -> None:
    before = outside(clinic)
    important = "../../../outside/important/thesis.docx"
    rewrite(clinic, outputs={"tiles": {"path": important, "bytes": 18, "digest": "sha256:0"}})
    result = wsipipe("extract", "-w", clinic.workspace)
    assert result.exit_code == 1
    assert "the output '../" in " ".join(result.stderr.split())
    assert outside(clinic) == before


def _extract(clinic: Clinic) -> tuple[object, ...]:
    return ("extract", "--device", "cpu")


def _tile(clinic: Clinic) -> tuple[object, ...]:
    return ("tile", clinic.folder / "slides", "--min-tissue", "0.4", "--replace")


@pytest.mark.parametrize(
    ("link", "command"),
    [
        ("features", _extract),
        ("features/0.5mpp-224px", _extract),
        ("features/0.5mpp-224px/efficientnet-lite0", _extract),
        (f"{TILES}/contours", _tile),
        (f"{TILES}/qc", _tile),
        (f"{TILES}/more", _tile),
    ],
)
def test_a_link_that_leads_out_is_refused_with_the_way_out(
    clinic: Clinic, link: str, command: Callable[[Clinic], tuple[object, ...]]
) -> None:
    before = outside(clinic)
    place = clinic.workspace / link
    if place.exists():
        place.rename(clinic.folder / "away")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(clinic.folder.parent.parent / "outside/important")
    result = wsipipe(*command(clinic), "-w", clinic.workspace)
    assert result.exit_code == 2, result.output
    said = " ".join(result.stderr.split())
    assert "is a link that leads out of the workspace" in said
    assert "mount --bind" in said
    assert outside(clinic) == before


@pytest.mark.parametrize("file", ["manifest.jsonl", ".lock", ".lock-holder.json"])
def test_links_among_a_stages_own_files_are_not_followed(clinic: Clinic, file: str) -> None:
    before = outside(clinic)
    place = clinic.workspace / TILES / file
    place.unlink(missing_ok=True)
    place.symlink_to(clinic.folder.parent.parent / "outside/important/manifest.jsonl")
    result = wsipipe("tile", clinic.folder / "slides", "-w", clinic.workspace)
    assert result.exit_code == (0 if file == ".lock-holder.json" else 2), result.output
    assert outside(clinic) == before


def test_a_link_in_place_of_an_output_is_replaced(clinic: Clinic) -> None:
    before = outside(clinic)
    names = ("a.h5", "qc/a.jpg", "contours/a.geojson")
    for name in names:
        place = clinic.workspace / TILES / name
        place.unlink()
        place.symlink_to(clinic.folder.parent.parent / "outside/important/thesis.docx")
    result = wsipipe(*_tile(clinic), "-w", clinic.workspace)
    assert result.exit_code == 0, result.output
    assert not any(
        (clinic.workspace / TILES / name).is_symlink() for name in ("a.h5", "qc/a.jpg", "contours/a.geojson")
    )
    assert outside(clinic) == before


def test_a_workspace_that_is_a_link_works(clinic: Clinic) -> None:
    (clinic.folder / "linked").symlink_to(clinic.workspace)
    assert wsipipe(*_tile(clinic), "-w", clinic.folder / "linked").exit_code == 0


@pytest.mark.parametrize("name", [".partial-x", ".aside-y"])
def test_a_slide_that_is_called_like_unfinished_work_is_refused(clinic: Clinic, name: str) -> None:
    result = wsipipe("tile", clinic.slide(name), "-w", clinic.workspace)
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert f"the slide id '{name}' begins with" in said
    assert "rename the slide" in said


def test_a_settings_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/wsipipe.toml").symlink_to(tmp_path / "outside.toml")
    assert wsipipe("init", tmp_path / "project").exit_code == 0
    assert not (tmp_path / "outside.toml").exists()
    assert (tmp_path / "project/wsipipe.toml").is_file()
