"""The tissue mask of other stains, and the methods that --tissue selects."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from drawn_overviews import DENSE, PINK, agreement, ellipse, glass, jpeg, overview_of, stain, tissue_of
from other_stain_pictures import BEYOND_HE
from tissue_pictures import CASES
from wsipipe.data.tiling.tissue import find_tissue


@pytest.mark.parametrize("case", BEYOND_HE)
def test_other_stains(case):
    """Most of the tissue and nothing else. Where a stain is faint, clusters of no nuclei are as pale as glass."""
    picture = BEYOND_HE[case]()
    result = tissue_of(picture.pixels)
    if not picture.truth.any():
        assert not result.mask.any()
        assert result.verdict == ("dark background" if "glow" in case else "nothing")
        return
    recall, precision, _ = picture.scores(result.mask)
    assert recall >= (0.8 if "faint" in case else 0.9)
    assert precision >= 0.93
    assert not (result.mask & result.pen).any()


def test_only_colour_in_plenty_of_glass_or_what_is_unlike_it_is_asked_for():
    """The second opinion changes nothing where it agrees: H&E is as it was."""
    picture = CASES["plain section"]().pixels
    auto, colour = (find_tissue(overview_of(picture), way) for way in ("auto", "colour"))
    np.testing.assert_array_equal(auto.mask, colour.mask)
    assert auto.verdict == colour.verdict == "tissue and glass"
    faint = BEYOND_HE["faint counterstain"]().pixels
    auto, glass = (find_tissue(overview_of(faint), way) for way in ("auto", "glass"))
    assert auto.verdict == glass.verdict == "unlike glass"
    assert agreement(auto.mask, glass.mask) > 0.99


def test_tissue_without_colour_or_contrast_is_named_and_glass_finds_it():
    """Grey and pale: dirt, or tissue that is not stained. Nobody knows but who put it there."""
    picture = CASES["grey smear"]()
    result = tissue_of(picture.pixels)
    assert result.verdict == "not understood"
    assert not result.mask.any()
    smear = ellipse(1000, 750, (600, 400), (200, 100))
    assert find_tissue(overview_of(picture.pixels), "glass").mask[smear].mean() > 0.5
    assert find_tissue(overview_of(picture.pixels), 12).mask[smear].mean() > 0.95


@pytest.mark.parametrize("colour", [(140, 90, 60), (90, 90, 92)])
def test_a_background_that_is_neither_glass_nor_tissue_is_named(colour):
    picture = glass(colour=colour)
    stain(picture, ellipse(800, 600, (400, 300), (150, 120)), DENSE)
    assert tissue_of(picture).verdict == "not understood"


def test_all_of_it_is_tissue_but_what_nobody_has_seen():
    picture = glass()
    unread, unscanned = np.zeros((600, 800), bool), np.zeros((600, 800), bool)
    unread[:10], unscanned[:, 700:] = True, True
    result = find_tissue(replace(overview_of(picture), unread=unread, unscanned=unscanned), "all")
    np.testing.assert_array_equal(result.mask, ~(unread | unscanned))
    assert result.verdict == "all of it"


def test_grey_levels_below_the_glass():
    picture = glass(colour=(225, 224, 228))
    for column, darker in ((100, 6), (300, 14), (500, 40)):
        picture[200:400, column : column + 120] = (225 - darker, 224, 228)
    found = find_tissue(overview_of(picture), 10)
    assert [bool(found.mask[300, column]) for column in (160, 360, 560)] == [False, True, True]
    assert (found.verdict, found.threshold) == ("darker than glass", 10)
    assert not find_tissue(overview_of(glass()), 10).mask.any()


def test_what_was_not_scanned_is_no_tissue():
    """As a scanner fills it: with white, with black, with the last picture that it took."""
    picture = glass()
    stain(picture, ellipse(800, 600, (300, 300), (150, 120)), PINK)
    unscanned = np.zeros((600, 800), bool)
    unscanned[:, 350:] = True
    for fill in ((255, 255, 255), (0, 0, 0), PINK, (30, 130, 70)):
        filled = picture.copy()
        filled[unscanned] = fill
        result = find_tissue(replace(overview_of(filled), unscanned=unscanned))
        assert not result.mask[unscanned].any()
        assert agreement(result.mask, ellipse(800, 600, (300, 300), (150, 120)) & ~unscanned) > 0.94


@pytest.mark.parametrize("ink", [(45, 70, 170), (30, 130, 70), (205, 30, 45), (25, 25, 28)])
@pytest.mark.parametrize("stain_", ["plain section", "faint counterstain"])
def test_streaky_ink_across_tissue_stays_ink(ink, stain_):
    """It has texture, of its own and of the tissue below it, but not the colour of the tissue."""
    picture = (CASES | BEYOND_HE)[stain_]()
    line = np.zeros(picture.truth.shape, np.uint8)
    cv2.polylines(line, [np.array([[60, 60], [560, 380], [900, 740]])], False, 1, 36)
    streaks = cv2.GaussianBlur(np.random.default_rng(3).standard_normal(line.shape), (0, 0), 3)
    thickness = cv2.GaussianBlur(line.astype(float), (0, 0), 1.5) * (1 + 0.15 * streaks / streaks.std())
    inked = picture.pixels * np.exp(thickness[..., None] * np.log((np.array(ink) + 1) / 244))
    result = tissue_of(jpeg(inked.clip(0, 255).astype(np.uint8), 80))
    assert result.mask[line > 0].mean() < 0.02
    assert picture.truth[result.mask].mean() > 0.97
