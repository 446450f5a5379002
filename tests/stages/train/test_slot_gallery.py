"""The gallery of memory slots: which tiles are shown, of which slides, and what it says where slides are not there."""

from __future__ import annotations

import base64
import re
import shutil

import cv2
import msgspec
import numpy as np
import pytest
import torch
from command import wsipipe
from html_page import Page
from PIL import Image
from planted_workspace import FEATURES, SIDE, TILE_PX, TILES, Planted, make_patients, plant
from wsipipe.data.cohort.splits import read_splits
from wsipipe.data.features.store import read_bag
from wsipipe.data.manifest import ErrorRecord, Manifest
from wsipipe.models.bundle import read_bundle
from wsipipe.models.mil.bag_tensors import BagBatch, bag_tensors
from wsipipe.pipeline.results import Summary
from wsipipe.stages.pages.slot_table import read_gallery
from wsipipe.stages.train.slot_gallery import TILES_A_SLOT, TILES_OF_A_SLIDE, SlotGallerySettings, SlotGalleryStage


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    planted = plant(tmp_path_factory.mktemp("gallery"), make_patients(12), epochs=1)
    assert wsipipe("train", "-c", planted.settings).exit_code == 0
    return planted


@pytest.fixture
def planted(trained: Planted) -> Planted:
    """The workspace without any slide's file. It cannot be copied, since records say where slides lie."""
    shutil.rmtree(trained.folder / "slides", ignore_errors=True)
    (trained.model / "slots.html").unlink(missing_ok=True)
    return trained


def draw_slides(planted: Planted, slides: list[str]) -> None:
    """Slides of tiles whose grey says where they lie, and whose red says whose they are."""
    for number, slide in enumerate(slides):
        pixels = np.zeros((SIDE * TILE_PX, SIDE * TILE_PX, 3), np.uint8)
        for y in range(SIDE):
            for x in range(SIDE):
                own = (slice(y * TILE_PX, (y + 1) * TILE_PX), slice(x * TILE_PX, (x + 1) * TILE_PX))
                pixels[own] = (4 * number, 40 * x + 20, 40 * y + 20)
        planted.picture(slide).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(planted.picture(slide))


def gallery(planted: Planted) -> Summary:
    stage = SlotGalleryStage(
        SlotGallerySettings(device="cpu"), planted.model, planted.workspace, features=planted.workspace / FEATURES
    )
    return planted.runner().run(stage)


def test_each_slot_shows_the_nearest_of_its_tiles(planted: Planted) -> None:
    slides = [slide for patient in planted.patients for slide in patient.slides]
    draw_slides(planted, slides)
    summary = gallery(planted)
    assert (summary.done, summary.failures) == (1, ())
    page = (planted.model / "slots.html").read_text()
    shown = page.split("<details")[1:]
    splits = read_splits(planted.model / "splits.csv")
    of_patient = {patient.id: list(patient.slides) for patient in planted.patients}
    for fold, text in enumerate(shown):
        network = read_bundle(planted.model / f"fold-{fold}", torch.device("cpu")).network
        slots = network.slots_shown
        assert slots is not None
        assert len(slots.names) == 6
        assert slots.names[:2] == ("negative 1", "negative 2")
        expected: dict[str, list[tuple[float, str, int]]] = {name: [] for name in slots.names}
        for slide in (slide for patient in splits.patients(fold, "test") for slide in of_patient[patient]):
            with torch.inference_mode():
                near = network.nearness_to_slots(BagBatch.of([bag_tensors(read_bag(planted.store(slide)), 8)], "cpu"))
            best, values = near.argmax(dim=1), near.amax(dim=1)
            for k, name in enumerate(slots.names):
                own = sorted(((float(values[t]), slide, int(t)) for t in (best == k).nonzero()[:, 0]), reverse=True)
                expected[name] += own[:TILES_OF_A_SLIDE]
        for name, tiles in expected.items():
            figure = re.search(rf"<figcaption>{name} <span>.*?</figure>", text, re.DOTALL)
            assert bool(figure) == bool(tiles), name
            if figure is None:
                assert name in text.split("Nearest to no tile: ")[1]
                continue
            found = re.findall(r'base64,([^"]+)".*?>(−?[\d.]+) <span title="(\w+)"', figure[0])
            best_first = sorted(tiles, key=lambda tile: (-tile[0], tile[1]))[:TILES_A_SLOT]
            assert [slide for *_, slide in found] == [slide for _, slide, _ in best_first]
            for (data, nearness, slide), (value, _, tile) in zip(found, best_first, strict=True):
                assert float(nearness.replace("−", "-")) == pytest.approx(value, abs=0.006)
                decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
                assert decoded is not None
                colour = (4 * slides.index(slide), 40 * (tile % SIDE) + 20, 40 * (tile // SIDE) + 20)
                assert np.abs(decoded[..., ::-1].reshape(-1, 3).mean(axis=0) - colour).max() < 4, "the tile's pixels"
        table = [tile for tile in read_gallery(planted.model / "slots.csv") if tile.fold == fold]
        said = {name: [(t.slide_id, t.x, t.y, t.side) for t in table if t.slot == name] for name in expected}
        for name, tiles in expected.items():
            best_first = sorted(tiles, key=lambda tile: (-tile[0], tile[1]))[:TILES_A_SLOT]
            places = [(s, t % SIDE * TILE_PX, t // SIDE * TILE_PX, float(TILE_PX)) for _, s, t in best_first]
            assert said[name] == places, "where they lie, for the viewer"
    uses = [float(use) for use in re.findall(r"use ([\d.]+) %", shown[0])]
    assert sum(uses) == pytest.approx(100, abs=0.3)
    Page(page)
    assert gallery(planted).before == 1


def test_slides_that_are_not_there_count_and_show_no_tiles(planted: Planted) -> None:
    summary = gallery(planted)
    assert (summary.done, summary.failures) == (0, ())
    assert "no gallery of memory slots: the slides' files are not there" in " ".join(summary.notes)
    assert not (planted.model / "slots.html").exists()
    draw_slides(planted, ["S00a", "S01a"])
    planted.picture("S01a").write_bytes(b"no picture")
    summary = gallery(planted)
    assert (summary.done, summary.failures) == (1, ())
    assert "not there, and without tiles in the gallery" in " ".join(summary.notes)
    page = (planted.model / "slots.html").read_text()
    assert set(re.findall(r'<span title="(\w+)"', page)) == {"S00a"}
    assert "No tile: the slides nearest to it are not there." in page


def test_tiles_that_cannot_be_read_are_counted_and_the_others_shown(planted: Planted) -> None:
    draw_slides(planted, ["S00a", "S01a"])
    tiles = planted.workspace / TILES / "S01a.h5"
    content = tiles.read_bytes()
    tiles.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
    try:
        summary = gallery(planted)
    finally:
        tiles.write_bytes(content)
    assert (summary.done, summary.failures) == (1, ())
    assert "tiles of the gallery could not be read" in " ".join(summary.notes)
    assert set(re.findall(r'<span title="(\w+)"', (planted.model / "slots.html").read_text())) == {"S00a"}


def test_slides_whose_tiles_are_not_valid_show_none(planted: Planted) -> None:
    """Their features stay valid where they were imported, or made by an earlier version."""
    draw_slides(planted, ["S00a", "S01a"])
    manifest = Manifest.of(planted.workspace / TILES)
    before = manifest.path.read_bytes()
    record = manifest.latest("tile")["S01a"]
    why = ErrorRecord(type="SlideError", message="damaged", retry=False)
    manifest.append(msgspec.structs.replace(record, status="failed", outputs={}, error=why))
    try:
        summary = gallery(planted)
    finally:
        manifest.path.write_bytes(before)
    assert (summary.done, summary.failures) == (1, ())
    assert "not there, and without tiles in the gallery" in " ".join(summary.notes)
    assert set(re.findall(r'<span title="(\w+)"', (planted.model / "slots.html").read_text())) == {"S00a"}


def test_training_makes_it_and_its_page_leads_there(planted: Planted) -> None:
    draw_slides(planted, [slide for patient in planted.patients for slide in patient.slides])
    for words in ((), ("--method", "evidence", "--replace")):
        assert wsipipe("train", "-c", planted.settings, *words).exit_code == 0
        assert 'href="./slots.html"' in (planted.model / "report.html").read_text()
    assert re.search("weight [+−][0-9]", (planted.model / "slots.html").read_text())
    assert wsipipe("train", "-c", planted.settings, "--method", "abmil", "--replace").exit_code == 0
    assert "slots.html" not in (planted.model / "report.html").read_text(), "of another model"
    assert not [*planted.model.glob("slots.*")]
    assert "slots.html" not in wsipipe("verify", "-w", planted.workspace).output, "nor is it missed"
