"""Slides that are copied to a local disk ahead of their turn: whole, within the bytes allowed, and gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from command import told, wsipipe
from new_slides import Clinic
from several_files import several_files
from wsipipe.data.manifest import Manifest, Record
from wsipipe.data.slides.finding import slide_identity
from wsipipe.data.slides.staging import SlideCopier

PATIENCE = 600


def until(condition: object) -> None:
    patience = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < patience
        time.sleep(0.01)


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def slides_of(folder: Path, sizes: list[int]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.svs" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(bytes([size % 251]) * size)
    return paths


def test_a_slide_of_several_files_is_copied_as_a_whole(tmp_path: Path, place: Path) -> None:
    slides = several_files(tmp_path / "slides")
    with SlideCopier(place, slides, 10**6) as copier:
        copies = [copier.slides.at_hand(slide) for slide in slides]
        assert [copy.name for copy in copies] == ["m.mrxs", "v.vms", "d"]
        for slide, copy in zip(slides, copies, strict=True):
            assert copy.is_relative_to(place)
            assert slide_identity(copy) == slide_identity(slide)
        assert files_in(copies[1].parent) == ["v(0).jpg", "v.vms", "v_map.jpg"]
        for slide in slides:
            copier.release(slide)
        assert not any(copy.parent.exists() for copy in copies)
    assert list(place.iterdir()) == []


def test_the_next_ones_are_copied_while_one_is_worked_on_but_no_more_than_fit(tmp_path: Path, place: Path) -> None:
    slides = slides_of(tmp_path / "slides", [40, 30, 30, 40, 10])
    with SlideCopier(place, slides, 100) as copier:
        folder, keys = copier.slides.folder, [copier.slides.key(slide) for slide in slides]

        def there() -> list[int]:
            return [number for number, key in enumerate(keys) if (folder / key).is_dir()]

        copier.slides.at_hand(slides[0])
        until(lambda: there() == [0, 1, 2])
        copier.release(slides[0])
        until(lambda: there() == [1, 2, 3])
        assert copier.slides.at_hand(slides[1]).read_bytes() == slides[1].read_bytes()
        copier.release(slides[1])
        until(lambda: there() == [2, 3, 4])


def test_a_slide_that_does_not_fit_or_is_gone_is_read_from_its_place(tmp_path: Path, place: Path) -> None:
    slides = slides_of(tmp_path / "slides", [200, 20, 30])
    slides[1].unlink()
    with SlideCopier(place, slides, 100) as copier:
        assert copier.slides.at_hand(slides[0]) == slides[0]
        assert copier.slides.at_hand(slides[1]) == slides[1]
        assert copier.slides.at_hand(slides[2]).read_bytes() == slides[2].read_bytes()
    assert list(place.iterdir()) == []


def test_one_that_comes_before_its_turn_waits_for_nobody(tmp_path: Path, place: Path) -> None:
    slides = slides_of(tmp_path / "slides", [50, 50, 50, 50])
    with SlideCopier(place, slides, 100) as copier:
        assert copier.slides.at_hand(slides[3]).read_bytes() == slides[3].read_bytes()
        got: list[Path] = []
        threads = [threading.Thread(target=lambda s=slide: got.append(copier.slides.at_hand(s))) for slide in slides]
        for thread in threads:
            thread.start()
        for slide in slides:
            until(lambda slide=slide: any(path.name == slide.name for path in got))
            copier.release(slide)


def test_the_copies_of_a_killed_run_are_removed_by_the_next_and_nothing_else(tmp_path: Path, place: Path) -> None:
    slides = slides_of(tmp_path / "slides", [50, 60])
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom wsipipe.data.slides.staging import SlideCopier\n"
        "with SlideCopier(Path(sys.argv[1]), [Path(sys.argv[2])], 100) as copier:\n"
        "    copier.slides.at_hand(Path(sys.argv[2]))\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(place), str(slides[0])], check=False)
    [left] = place.iterdir()
    (place / "wsipipe-notes").mkdir()
    (place / "mine.txt").write_text("mine")
    with SlideCopier(place, [slides[0]], 100) as living:
        living.slides.at_hand(slides[0])
        with SlideCopier(place, [slides[1]], 100) as copier:
            copier.slides.at_hand(slides[1])
            assert not left.exists()
            assert living.slides.at_hand(slides[0]).exists()
    assert sorted(path.name for path in place.iterdir()) == ["mine.txt", "wsipipe-notes"]


# ----- commands -----


def story(workspace: Path) -> dict[tuple[str, str], object]:
    """What the records say, without times."""
    found: dict[tuple[str, str], object] = {}
    for file in sorted(workspace.rglob("manifest.jsonl")):
        records: list[Record] = Manifest(file).records()
        for r in records:
            outputs = {name: (output.path, output.digest) for name, output in r.outputs.items()}
            inputs = {name: (given.path, given.digest) for name, given in r.inputs.items()}
            error = (r.error.type, r.error.message) if r.error else None
            found[r.stage, r.item] = (r.status, r.fingerprint, r.settings, inputs, outputs, r.stats, error)
    return found


def test_commands_come_to_the_same_and_nothing_of_the_copies_is_in_the_workspace(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = Clinic(tmp_path)
    slides = [clinic.slide(f"s{number}") for number in range(4)]
    broken = slides[0].with_name("broken.svs")
    broken.write_bytes(slides[0].read_bytes()[:2000])
    monkeypatch.chdir(tmp_path)
    staged = ("--stage-to", place, "--stage-bytes", "1MB")
    for way in ((), staged):
        for workers in (1, 2):
            wsipipe("tile", "slides", "-w", "work", "--workers", workers, *way)
            wsipipe("extract", "-w", "work", "--device", "cpu", *way)
        if way == ():
            expected = story(tmp_path / "work")
            shutil.rmtree(tmp_path / "work")
    assert story(tmp_path / "work") == expected
    assert expected["tile", "broken"][0] == "failed"  # type: ignore[index]
    assert str(broken) in expected["tile", "broken"][-1][1]  # type: ignore[index]
    for file in (path for path in (tmp_path / "work").rglob("*") if path.is_file()):
        assert os.fsencode(place) not in file.read_bytes(), file
        assert b"wsipipe-" + os.uname().nodename.encode() not in file.read_bytes(), file
    assert list(place.iterdir()) == []


def test_predictions_are_made_from_copies(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clinic = Clinic(tmp_path)
    clinic.slide("a")
    clinic.model()
    monkeypatch.chdir(tmp_path)
    words = ("predict", "slides", "--model", "her2", "--device", "cpu")
    assert told(*words, "-w", "work")["predict"]["done"] == 1
    assert told(*words, "-w", "staged", "--stage-to", place)["predict"]["done"] == 1
    kinds = {"heatmaps/a.png", "geojson/a.geojson", "slides/a.json", "tiles/a.png"}
    for name in kinds:
        of_both = [(tmp_path / work / "predictions/her2" / name).read_bytes() for work in ("work", "staged")]
        assert of_both[0] == of_both[1], name
    assert list(place.iterdir()) == []
