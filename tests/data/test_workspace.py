"""Nothing is written or removed outside of the workspace, wherever links and names in it lead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from wsipipe.data.artifact import recover, remove, whole
from wsipipe.data.errors import UsageError
from wsipipe.data.manifest import Manifest
from wsipipe.data.workspace import keep_within, make_folder


def listing(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, to the last byte."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is none of the workspace's, with what a run would remove or restore in its own."""
    folder = tmp_path / "outside"
    (folder / "important").mkdir(parents=True)
    for name in ("important/a", ".partial-thesis", ".aside-thesis.docx", "thing", "manifest.jsonl"):
        (folder / name).write_text("precious")
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    (folder / "tiles/t").mkdir(parents=True)
    keep_within(folder)
    return folder


def write(path: Path) -> None:
    with whole(path) as scratch:
        scratch.write_text("new")


@pytest.mark.parametrize("link", ["tiles", "tiles/t", "tiles/t/contours"])
def test_nothing_is_written_through_a_link_that_leads_out(work: Path, outside: Path, link: str) -> None:
    before = listing(outside)
    place = work / link
    if place.is_dir():
        place.rename(work / "away")
    place.symlink_to(outside)
    for path in (place / "thing", place / "important/a", place / "new/deep/thing"):
        with pytest.raises(UsageError, match=f"is a link that leads out of the workspace, to {outside}") as caught:
            write(path)
        assert caught.value.path == str(place)
        assert "--workspace" in caught.value.hint
        with pytest.raises(UsageError, match="leads out of the workspace"):
            remove(path)
    with pytest.raises(UsageError, match="leads out of the workspace"), Manifest.of(place).lock():
        pytest.fail("it was locked")
    with pytest.raises(UsageError, match="leads out of the workspace"):
        recover(place.parent if place.name == "contours" else place)
    assert listing(outside) == before


def test_nothing_is_written_where_dots_lead_out(work: Path, outside: Path) -> None:
    before = listing(outside)
    for name in ("../../../outside/important", "../../../outside/thing"):
        for act in (write, remove):
            with pytest.raises(UsageError, match="lies outside of the workspace"):
                act(work / "tiles/t" / name)
    assert listing(outside) == before


def test_links_that_lead_in_a_circle_are_refused(work: Path) -> None:
    (work / "tiles/t/one").symlink_to("two")
    (work / "tiles/t/two").symlink_to("one")
    with pytest.raises(Exception, match="one"):  # there is no such place
        write(work / "tiles/t/one/thing")


def test_a_link_in_the_place_of_an_output_is_replaced_and_removed_itself(work: Path, outside: Path) -> None:
    before = listing(outside)
    for name, target in (("file", outside / "thing"), ("folder", outside / "important"), ("gone", outside / "gone")):
        for link in (work / "tiles/t" / name, work / "tiles/t" / f".partial-{name}", work / f"tiles/t/.aside-{name}"):
            link.symlink_to(target)
        write(work / "tiles/t" / name)
        assert (work / "tiles/t" / name).read_text() == "new"
        assert not (work / "tiles/t" / name).is_symlink()
    (work / "tiles/t/.partial-more").symlink_to(outside)
    recover(work / "tiles/t")
    assert sorted(path.name for path in (work / "tiles/t").iterdir()) == ["file", "folder", "gone"]
    assert listing(outside) == before


def test_a_workspace_may_be_a_link_and_hold_links_within(tmp_path: Path, work: Path) -> None:
    here = tmp_path / "here"
    here.symlink_to(work)
    keep_within(here)
    (work / "tiles/other").symlink_to("t")
    for folder in (here / "tiles/t", here / "tiles/other", work / "tiles/other"):
        with Manifest.of(folder).lock():
            write(folder / "thing")
            assert recover(folder) == []
    assert (work / "tiles/t/thing").read_text() == "new"
    write(tmp_path / "elsewhere/thing")  # what is in no workspace is nobody's


def test_recovering_leaves_the_folders_of_other_stages_and_of_links_alone(work: Path) -> None:
    for name in ("own", "running", "other"):
        (work / "tiles/t" / name).mkdir()
        for unfinished in (".partial-fold-0", ".aside-fold-1"):
            (work / "tiles/t" / name / unfinished).write_text("half")
    (work / "tiles/t/running/.lock").touch()
    (work / "tiles/t/other/manifest.jsonl").touch()
    (work / "tiles/u").mkdir()
    (work / "tiles/u/link").symlink_to("../t/running")
    assert recover(work / "tiles/u") == []
    assert recover(work / "tiles/t") == ["restored fold-1", "removed the unfinished fold-0"]
    assert [path.name for path in (work / "tiles/t/own").iterdir()] == ["fold-1"]
    for name in ("running", "other"):
        assert {".partial-fold-0", ".aside-fold-1"} <= {path.name for path in (work / "tiles/t" / name).iterdir()}


def test_unfinished_names_of_nothing_are_removed(work: Path) -> None:
    for name in (".aside-", ".aside-.", ".aside-..", ".partial-", ".partial-."):
        (work / "tiles/t" / name).write_text("x")
    recover(work / "tiles/t")
    assert list((work / "tiles/t").iterdir()) == []


def test_a_folder_that_another_host_has_just_made_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NFS client has still in its cache that the folder is not there, until it lists the folder above."""
    made = tmp_path / "work" / "tiles"
    made.mkdir(parents=True)
    unknown, is_dir, listdir = {tmp_path / "work", made}, Path.is_dir, os.listdir

    def list_folder(folder: Path) -> list[str]:
        names = listdir(folder)
        unknown.difference_update(folder / name for name in names)
        return names

    monkeypatch.setattr(Path, "is_dir", lambda path: path not in unknown and is_dir(path))
    monkeypatch.setattr(os, "listdir", list_folder)
    make_folder(made)
    make_folder(made / "0.5mpp")
    assert is_dir(made / "0.5mpp")


def test_a_file_in_the_way_of_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "work").touch()
    for folder in (tmp_path / "work", tmp_path / "work" / "tiles"):
        with pytest.raises(OSError, match=r"exists|Not a directory"):
            make_folder(folder)
