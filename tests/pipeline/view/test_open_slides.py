"""Slides that stay open: bounded, opened once, closed when nobody reads, opened again when they are replaced."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from viewed_workspace import draw_slide
from wsipipe.data.errors import SlideError
from wsipipe.data.slides.slide import Slide
from wsipipe.data.units import Level0Px, LevelPx
from wsipipe.pipeline.view.open_slides import OpenSlides


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("slides")
    return [draw_slide(folder / f"{number}.tif", seed=number) for number in range(4)]


def pixel(slide: Slide) -> list[int]:
    return [int(part) for part in slide.read(0, Level0Px(300), Level0Px(300), LevelPx(1), LevelPx(1))[0, 0]]


def handles(file: Path) -> int:
    """How often this process has a file open."""
    return sum(os.path.realpath(link) == str(file.resolve()) for link in Path("/proc/self/fd").iterdir())


def test_only_so_many_stay_open_and_the_least_recently_used_is_closed(files: list[Path]) -> None:
    slides = OpenSlides(2)
    for file in (files[0], files[1], files[0], files[2]):
        with slides.reading(file) as (slide, _):
            pixel(slide)
    assert len(slides) == 2
    assert [handles(file) > 0 for file in files[:3]] == [True, False, True]
    slides.close()
    assert not any(map(handles, files))


def test_a_slide_that_is_read_is_closed_only_after_it(files: list[Path]) -> None:
    slides = OpenSlides(1)
    with slides.reading(files[0]) as (slide, _):
        with slides.reading(files[1]):
            assert len(slides) == 1
        expected = pixel(slide)  # still open, though it is none of those that stay open
    assert not handles(files[0])
    with slides.reading(files[0]) as (slide, _):
        assert pixel(slide) == expected
    slides.close()


def test_of_many_who_ask_at_once_one_opens_it(files: list[Path]) -> None:
    slides, together = OpenSlides(2), Barrier(8)

    def look(_: int) -> tuple[int, list[int]]:
        together.wait()
        with slides.reading(files[0]) as (slide, _stamp):
            return id(slide), pixel(slide)

    with ThreadPoolExecutor(8) as threads:
        seen = list(threads.map(look, range(8)))
    assert len({one for one, _ in seen}) == 1
    assert len({tuple(colour) for _, colour in seen}) == 1
    slides.close()


def test_many_slides_at_once_are_read_rightly_however_few_stay_open(files: list[Path]) -> None:
    slides = OpenSlides(1)
    expected = {}
    for file in files:
        with slides.reading(file) as (slide, _):
            expected[file] = pixel(slide)

    def look(number: int) -> bool:
        file = files[number % 4]
        with slides.reading(file) as (slide, _):
            return pixel(slide) == expected[file]

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(look, range(60)))
    slides.close()
    assert not any(map(handles, files))


def test_a_replaced_slide_is_opened_again(tmp_path: Path) -> None:
    slides, file = OpenSlides(), draw_slide(tmp_path / "a.tif", seed=1)
    with slides.reading(file) as (slide, first):
        before = pixel(slide)
    draw_slide(tmp_path / "b.tif", seed=2).replace(file)
    with slides.reading(file) as (slide, second):
        assert pixel(slide) != before
    assert first != second
    slides.close()


def test_a_slide_that_is_gone_or_broken_says_so_and_may_come_back(tmp_path: Path) -> None:
    slides, file = OpenSlides(), tmp_path / "a.tif"
    with pytest.raises(SlideError, match="cannot be found"), slides.reading(file):
        pass
    file.write_bytes(b"no slide")
    for _ in range(2):
        with pytest.raises(SlideError, match=r"a\.tif"), slides.reading(file):
            pass
    file.unlink()
    draw_slide(file)
    with slides.reading(file) as (slide, _):
        assert pixel(slide)
    slides.close()
