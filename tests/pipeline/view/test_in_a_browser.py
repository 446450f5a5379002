"""The viewer as a person uses it, in a real browser; skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser, browser
from viewed_workspace import HOSTILE, TILE, TILES, Viewed, served
from wsipipe.pipeline.view.server import ViewServer


@pytest.fixture(scope="module")
def server(viewed: Viewed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewServer]:
    """A viewer on a copy of the workspace."""
    workspace = Path(shutil.copytree(viewed.workspace, tmp_path_factory.mktemp("browser") / "work"))
    with served(workspace) as started:
        yield started


@pytest.fixture(scope="module")
def running(server: ViewServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that was given the address."""
    with browser(tmp_path_factory.mktemp("profile")) as started:
        started.window(1200, 800)
        started.open(server.address(token=server.access.token))
        started.wait("document.querySelectorAll('.slide').length === 3")
        yield started


@pytest.fixture
def page(running: Browser) -> Iterator[Browser]:
    """The page, which complains of nothing while it is used; slide ``a`` is open at first."""
    running.complaints.clear()
    running.window(1200, 800)
    show(running, "a")
    yield running
    assert running.complaints == []
    assert running.run("document.querySelector('#problems').hidden")


def show(page: Browser, slide: str) -> None:
    """Click a slide in the list, and wait until it is drawn."""
    named = f"one => one.querySelector('.id').textContent === {slide!r}"
    page.run(f"[...document.querySelectorAll('.slide')].find({named}).click()")
    page.wait(f"document.querySelector('#name').textContent === {slide!r} && {DRAWN}")


def enter(page: Browser, selector: str, value: object, number: int = 0) -> None:
    """Give an input or a choice a value, as a person does."""
    page.run(f"""(input => {{
        input.value = {value!r};
        for (const event of ["input", "change"]) input.dispatchEvent(new Event(event));
    }})(document.querySelectorAll({selector!r})[{number}])""")


DRAWN = (
    "document.querySelectorAll('.slide-layer canvas').length > 0 &&"
    " !document.querySelector(':is(.slide-layer, .values-layer) canvas:not(.leaflet-tile-loaded)')"
)
SHOWN = """[...document.querySelectorAll('.pane:first-child .values-layer canvas')].reduce((sum, canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, 256, 256);
    return sum + data.filter((part, at) => at % 4 === 3 && part).length;
}, 0)"""
"""Coloured pixels of the first view's layer."""


def choose(page: Browser, layer: str, pane: int = 0) -> None:
    """Choose a layer, and wait until it is drawn."""
    enter(page, ".pane .layer", layer, pane)
    page.wait(DRAWN)


def text(page: Browser, selector: str) -> str:
    return str(page.run(f"document.querySelector({selector!r}).innerText"))


def test_the_token_leaves_the_address_and_the_page_survives_a_reload(page: Browser, server: ViewServer) -> None:
    assert page.run("location.href") == f"{server.address()}#tiles={TILES}&slide=a"
    assert page.run("document.cookie") == ""  # no script can read the token
    page.reload()
    page.wait(f"document.querySelector('#name').textContent === 'a' && {DRAWN}")


def test_the_list_shows_what_is_predicted_and_filters(page: Browser) -> None:
    words = text(page, ".slide[aria-current=true]")
    assert "her2: uncertain positive 0.914" in words
    assert "er: negative 0.2" in words
    assert "her2 (evaluated): positive 0.91, target positive: right" in words
    other = str(
        page.run("[...document.querySelectorAll('.slide')].find(one => one.innerText.startsWith('b')).innerText")
    )
    assert "her2 (evaluated): positive 0.7, target negative: wrong" in other
    assert "artefacts 9.05 %, 2 tiles dropped" in other
    assert page.run("document.querySelector('.slide img').naturalWidth") > 0
    for selector, value, left in (
        ("#search", "er: negative", ["a"]),
        ("#state", "tiled", ["b"]),
        ("#call", "her2: uncertain", [HOSTILE, "a"]),
        ("#call", "her2 (evaluated): wrong", ["b"]),
        ("#call", "her2 (evaluated): target positive", ["a"]),
        ("#artefacts", "dropped", ["b"]),
        ("#artefacts", "none", []),
    ):
        enter(page, selector, value)
        assert page.run("[...document.querySelectorAll('.slide .id')].map(one => one.textContent)") == left
        enter(page, selector, "")
    assert page.run("document.querySelectorAll('.slide').length") == 3


def test_it_zooms_to_the_slides_own_pixels_and_back(page: Browser) -> None:
    before = text(page, ".ruler")
    x, y = page.middle(".map")
    for _ in range(4):
        page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-240)
    page.wait(f"document.querySelector('.ruler').innerText !== {before!r}")
    page.wait(DRAWN)
    page.click("#fit")
    page.wait(f"document.querySelector('.ruler').innerText === {before!r}")


def test_a_layer_is_toggled_and_made_transparent(page: Browser) -> None:
    choose(page, "her2/attention")
    coloured = page.run(SHOWN)
    assert coloured > 1000
    assert text(page, ".meaning").split() == ["0", "20"]
    choose(page, "")
    assert page.run(SHOWN) == 0
    choose(page, "kept")
    assert page.run(SHOWN) > coloured
    assert text(page, ".meaning").split("\n") == ["kept", "dropped", "cannot be decoded"]
    choose(page, "her2/attention")
    enter(page, ".pane .opacity", 20)
    assert page.run("document.querySelector('.values-layer').style.opacity") == "0.2"


def test_a_threshold_hides_the_lower_tiles_at_once(page: Browser) -> None:
    choose(page, "her2/attention")
    every = page.run(SHOWN)
    enter(page, ".pane .threshold", 50)
    half = page.run(SHOWN)
    assert 0.4 < half / every < 0.62
    assert text(page, ".pane output") == "the top 50 %, at least 10"
    enter(page, ".pane .threshold", 100)
    assert 0 < page.run(SHOWN) < 0.1 * every
    choose(page, "her2/score")
    assert "for +" in text(page, ".meaning")
    choose(page, "her2/slot")
    enter(page, ".only", "1")
    assert 0.2 < page.run(SHOWN) / every < 0.45


def test_hovering_says_the_values_of_the_tile(page: Browser, viewed: Viewed) -> None:
    choose(page, "her2/attention")
    page.click("#fit")
    page.wait(DRAWN)
    middle_x, middle_y = page.middle(".map")
    microns = page.run("parseFloat(document.querySelector('.ruler').innerText)")
    scale = page.run("parseFloat(document.querySelector('.ruler span').style.width)") / microns * 0.5
    x, y = viewed.tiles("a").coords[4]
    left, top = middle_x + (x + TILE / 2 - 1024) * scale, middle_y + (y + TILE / 2 - 1024) * scale
    page.mouse("mouseMoved", left, top)
    page.wait("!document.querySelector('.values').hidden")
    said = text(page, ".values")
    assert f"tile at {x}, {y}: kept" in said
    assert "her2 · attention\n4" in said
    page.mouse("mouseMoved", 5, 5)
    page.wait("document.querySelector('.values').hidden")


def test_a_top_tile_jumps_to_its_place(page: Browser) -> None:
    choose(page, "her2/attention")
    assert page.run("document.querySelectorAll('#strip button').length") == 12
    page.run("document.querySelector('#strip button').click()")
    page.wait(DRAWN)
    assert page.run("document.querySelector('#strip button').getAttribute('aria-pressed')") == "true"
    x, y = page.middle(".map")
    page.mouse("mouseMoved", x, y)
    page.wait("!document.querySelector('.values').hidden")
    assert "her2 · attention\n20" in text(page, ".values")
    page.mouse("mouseMoved", 5, 5)
    page.wait("document.querySelector('.values').hidden")


def test_a_fold_reads_the_slide_when_it_is_asked_for_and_its_slots_jump_to_their_place(page: Browser) -> None:
    choose(page, "her2/attention")
    page.key("f")
    page.wait(f"document.querySelector('.pane .layer').value === 'her2, fold 0/attention' && {DRAWN}")
    assert page.run(SHOWN) > 1000
    page.key("2")
    page.wait(f"document.querySelectorAll('.map').length === 2 && {DRAWN}")
    choose(page, "her2, fold 1/", 1)  # beside it another fold, which has not read the slide yet
    page.wait(f"document.querySelectorAll('.pane .layer')[1].value === 'her2, fold 1/attention' && {DRAWN}")
    page.key("2")
    page.wait("document.querySelectorAll('.map').length === 1")
    choose(page, "her2, fold 0/slot")
    every, first = page.run(SHOWN), text(page, "#strip .slot b")
    assert first.split()[0] in ("negative", "positive")
    assert "of attention" in text(page, "#strip .slot")
    page.run("document.querySelector('#strip .slot').click()")
    assert 0 < page.run(SHOWN) < every
    assert page.run("document.activeElement === document.querySelector('#strip .slot[aria-pressed=true]')")
    page.key("t")
    page.wait(DRAWN)
    x, y = page.middle(".map")
    page.mouse("mouseMoved", x, y)
    page.wait("!document.querySelector('.values').hidden")
    assert f"her2, fold 0 · slot\n{first}" in text(page, ".values")
    page.mouse("mouseMoved", 5, 5)
    page.wait("document.querySelector('.values').hidden")
    show(page, HOSTILE)  # the next slide is read by the same fold
    page.wait(f"document.querySelector('.pane .layer').value === 'her2, fold 0/slot' && {DRAWN}")
    page.key("F")
    page.wait(f"document.querySelector('.pane .layer').value === 'her2/{HOSTILE}' && {DRAWN}".replace("\"'", "\"\\'"))
    show(page, "a")


def test_a_tile_of_the_gallery_opens_its_slide_there(page: Browser, viewed: Viewed) -> None:
    page.key("g")
    page.wait("document.querySelectorAll('#gallery .tiles img').length === 2")
    assert text(page, "#gallery figcaption") == "positive 1 use 50\u00a0%, attention 25\u00a0%"
    assert page.run("[...document.querySelectorAll('#gallery .tiles span')].map(one => one.textContent)") == [
        "a",
        HOSTILE,
    ]
    page.wait("[...document.querySelectorAll('#gallery img')].every(one => one.naturalWidth > 0)")
    page.key("n")  # keys of the page behind do nothing
    page.run("document.querySelectorAll('#gallery .tiles button')[1].click()")
    page.wait(f"document.querySelector('#name').textContent === {HOSTILE!r} && {DRAWN}")
    page.wait(f"document.querySelector('.pane .layer').value === 'her2, fold 0/slot' && {DRAWN}")
    assert not page.run("document.querySelector('#gallery').open")
    x, y = page.middle(".map")
    page.mouse("mouseMoved", x, y)
    page.wait("!document.querySelector('.values').hidden")
    left, top = viewed.tiles(HOSTILE).coords[-1]
    assert f"tile at {left}, {top}: kept" in text(page, ".values")
    page.mouse("mouseMoved", 5, 5)
    page.wait("document.querySelector('.values').hidden")
    page.key("g")
    page.key("Escape")
    page.wait("!document.querySelector('#gallery').open")
    assert text(page, "#name") == HOSTILE
    show(page, "a")
    choose(page, "her2/attention")


def test_tiles_that_artefacts_cost_are_marked(page: Browser) -> None:
    show(page, "b")
    choose(page, "kept")
    assert text(page, ".meaning").split("\n")[-1] == "dropped for artefacts"
    choose(page, "/artefacts")
    assert text(page, "#strip .tile").strip() == "0.9"
    page.run("document.querySelector('#strip .tile').click()")
    page.wait(DRAWN)
    x, y = page.middle(".map")
    page.mouse("mouseMoved", x, y)
    page.wait("!document.querySelector('.values').hidden")
    assert ": dropped for artefacts" in text(page, ".values")
    assert "artefacts: fold\n0.9" in text(page, ".values")
    page.mouse("mouseMoved", 5, 5)
    page.wait("document.querySelector('.values').hidden")
    show(page, "a")


def test_two_views_show_two_models_at_the_same_place(page: Browser) -> None:
    page.key("2")
    page.wait(f"document.querySelectorAll('.map').length === 2 && {DRAWN}")
    choose(page, "her2/attention")
    choose(page, "er/attention", 1)
    page.run("document.querySelector('#strip button').click()")
    page.wait(DRAWN)
    assert page.run(
        "document.querySelectorAll('.ruler')[0].innerText === document.querySelectorAll('.ruler')[1].innerText"
    )
    for pane, value in ((1, "her2 · attention\n20"), (2, "er · attention\n0")):
        x, y = page.middle(f".pane:nth-child({pane}) .map")
        page.mouse("mouseMoved", x, y)
        page.wait(f"!document.querySelector('.pane:nth-child({pane}) .values').hidden")
        assert value in text(page, f".pane:nth-child({pane}) .values")
        page.mouse("mouseMoved", 5, 5)
    page.key("2")
    page.wait("document.querySelectorAll('.map').length === 1")


def test_the_keyboard_does_what_the_mouse_does(page: Browser) -> None:
    choose(page, "kept")
    page.key("l")
    page.wait("document.querySelector('.pane .layer').value === '/tissue'")
    page.key("L")
    page.wait("document.querySelector('.pane .layer').value === 'kept'")
    page.key("o")
    assert page.run("document.querySelector('#outline').checked") is False
    page.key("o")
    page.key("n")
    page.wait(f"document.querySelector('#name').textContent === 'b' && {DRAWN}")
    page.key("p")
    page.wait(f"document.querySelector('#name').textContent === 'a' && {DRAWN}")
    page.key("?")
    page.wait("document.querySelector('#help').open")
    page.key("Escape")
    page.wait("!document.querySelector('#help').open")
    page.key("/")
    assert page.run("document.activeElement.id") == "search"
    page.run("document.activeElement.blur()")


def test_names_with_markup_are_text(page: Browser) -> None:
    show(page, HOSTILE)
    choose(page, f"her2/{HOSTILE}")
    assert text(page, "#name") == HOSTILE
    assert HOSTILE in page.run("document.querySelector('#said span').title")
    assert page.run("document.querySelectorAll('img[src=x]').length") == 0
    show(page, "a")


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (900, False), (900, True), (1440, True)])
def test_it_fits_the_window_and_the_light(page: Browser, width: int, dark: bool) -> None:
    page.window(width, 800, dark=dark)
    page.wait(DRAWN)
    assert page.run("document.documentElement.scrollWidth") <= width
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(21, 24, 27)") == dark
    beyond = "one => one.getBoundingClientRect().right > innerWidth + 1"
    assert page.run(f"[...document.querySelectorAll('#viewer > header *')].filter({beyond}).length") == 0


def test_a_slide_that_vanishes_gives_a_message_and_the_page_lives(
    running: Browser, server: ViewServer, viewed: Viewed
) -> None:
    running.window(1200, 800)
    show(running, "b")
    aside = viewed.slide("b").rename(viewed.folder / "aside.tif")
    try:
        running.run("document.querySelector('.leaflet-control-zoom-in').click()")
        running.wait("!document.querySelector('#problems').hidden")
        assert "the slide's file cannot be found" in text(running, "#problems")
        assert "moved after it was tiled" in text(running, "#problems")
        show(running, "a")
        assert running.run("document.querySelector('#problems').hidden")
    finally:
        aside.rename(viewed.slide("b"))
    show(running, "b")
    running.complaints.clear()


def test_a_viewer_that_has_ended_is_said(running: Browser, server: ViewServer) -> None:
    show(running, "a")
    server.shutdown()
    server.server_close()
    server.access.token = "another"  # threads of open connections still answer
    running.run("document.querySelector('.leaflet-control-zoom-in').click()")
    running.wait("!document.querySelector('#problems').hidden")
    assert "wsipipe view" in text(running, "#problems")
