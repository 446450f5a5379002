"""The heatmaps within a model's report: drawn of the right slides by the right fold, and what is missing is said."""

from __future__ import annotations

import base64
import re
import shutil

import cv2
import numpy as np
import pytest
from command import wsipipe
from html_page import Page, assert_alone
from PIL import Image
from planted_workspace import FEATURES, SIDE, TILE_PX, Planted, make_patients, plant
from wsipipe.data.features.store import read_bag
from wsipipe.data.manifest import Manifest, Record
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.overview import read_overview
from wsipipe.data.units import Mpp
from wsipipe.models.bundle import read_bundle
from wsipipe.pipeline.results import Summary
from wsipipe.stages.examples import stage as examples_stage
from wsipipe.stages.examples.stage import ExampleSlidesSettings, ExampleSlidesStage
from wsipipe.stages.predict.heatmap import draw_heatmap


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A model of slides whose own files are there."""
    planted = plant(tmp_path_factory.mktemp("examples"), make_patients(12), epochs=1)
    draw = np.random.default_rng(0)
    for slide in (slide for patient in planted.patients for slide in patient.slides):
        planted.picture(slide).parent.mkdir(exist_ok=True)
        pixels = draw.integers(90, 250, (SIDE, SIDE, 3), np.uint8).repeat(TILE_PX, 0).repeat(TILE_PX, 1)
        Image.fromarray(pixels).save(planted.picture(slide))
    assert wsipipe("train", "-c", planted.settings).exit_code == 0
    return planted


def draw_again(planted: Planted) -> Summary:
    settings = ExampleSlidesSettings(device="cpu")
    return planted.runner().run(
        ExampleSlidesStage(settings, planted.model, planted.workspace, features=planted.workspace / FEATURES)
    )


def drawn(planted: Planted) -> Record:
    return Manifest.of(planted.model).latest("example_slides")["examples"]


def test_the_page_holds_them_beside_their_rule(planted: Planted) -> None:
    page = (planted.model / "report.html").read_text()
    assert_alone(page)
    text = Page(page).text
    assert "The rule: Of each class the patient who is rightly called of it with most certainty" in text
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="(\w+) beside its attention', page)
    record = drawn(planted)
    assert {slide for _, slide in pictures} == {
        name.split()[1] for name in record.outputs if name.startswith("heatmap")
    }
    assert 3 <= len(pictures) <= 8
    for data, slide in pictures:
        path = planted.workspace / record.outputs[f"heatmap {slide}"].path
        assert base64.b64decode(data) == path.read_bytes(), "as it lies beside the page"
    assert "What the memory has learnt" in text
    assert "the slots with most attention" in text, "MoMKD's slots have no weight"
    assert page.count('<figure class="slot">') >= 2


def test_a_slide_is_read_by_the_fold_that_tests_its_patient(planted: Planted) -> None:
    record = drawn(planted)
    inputs = Manifest.of(planted.model).latest("example_slides")["examples"].inputs
    assert {"examples", "away", "fold-0", "fold-1"} <= inputs.keys()
    rows = (planted.model / "oof_predictions.csv").read_text().splitlines()
    fold_of = {line.split(",")[0]: int(line.split(",")[1]) for line in rows[1:]}
    patient_of = {slide: patient.id for patient in planted.patients for slide in patient.slides}
    slide = next(name.split()[1] for name in record.outputs if name.startswith("heatmap"))
    fold = fold_of[patient_of[slide]]
    bag = read_bag(planted.store(slide))
    attention = read_bundle(planted.model / f"fold-{fold}").read(bag, planted.store(slide)).attention
    with open_slide(planted.picture(slide), mpp_override=0.5) as opened:
        overview = read_overview(opened)
    sheet = draw_heatmap(
        overview.pixels, overview.downsample, bag.coords, TILE_PX, attention.astype(float),
        caption=f"{slide} · fold {fold}", mpp=Mpp(0.5), longest=(480, 560),
    )  # fmt: skip
    expected = cv2.imdecode(np.frombuffer(sheet.jpeg(82), np.uint8), cv2.IMREAD_COLOR)
    found = cv2.imread(str(planted.workspace / record.outputs[f"heatmap {slide}"].path))
    assert np.array_equal(found, expected)


def test_what_is_away_is_said_and_what_was_drawn_stays(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    before = drawn(planted)
    slides = planted.picture("x").parent
    aside = planted.folder / "aside"
    slides.rename(aside)
    assert draw_again(planted).before == 1, "archived: the pictures stay"
    shutil.rmtree(planted.model / "examples")
    summary = draw_again(planted)
    assert not summary.failures
    assert drawn(planted).status == "empty"
    assert set(drawn(planted).stats["missing"].values()) == {"the slide's file is not there"}
    assert wsipipe("train", "-c", planted.settings).exit_code == 0
    text = Page((planted.model / "report.html").read_text()).text
    assert text.count("no picture, the slide's file is not there.") == before.stats["slides"]
    aside.rename(slides)
    broken = next(name.split()[1] for name in before.outputs)
    whole = planted.picture(broken).read_bytes()
    planted.picture(broken).write_bytes(b"no picture")
    summary = draw_again(planted)
    assert not summary.failures
    assert [*drawn(planted).stats["missing"]] == [broken], "the others are drawn"
    planted.picture(broken).write_bytes(whole)
    facts = planted.store(broken) / "zarr.json"
    whole = facts.read_bytes()
    facts.write_bytes(b"x" * len(whole))
    shutil.rmtree(planted.model / "examples")
    summary = draw_again(planted)
    assert not summary.failures
    assert [*drawn(planted).stats["missing"]] == [broken], "features that are damaged are of one slide alone"
    facts.write_bytes(whole)
    monkeypatch.setattr(examples_stage, "MOST_BYTES", 1)
    shutil.rmtree(planted.model / "examples")
    assert not draw_again(planted).failures
    assert "held below" in next(iter(drawn(planted).stats["missing"].values()))
