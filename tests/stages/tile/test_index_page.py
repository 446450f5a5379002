"""The page over the QC images: every slide once, links that lead to files, odd names escaped, outliers first."""

from __future__ import annotations

import shutil
import subprocess
import time
from datetime import UTC, datetime
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import html_page
import pytest
from wsipipe.data.manifest import ErrorRecord, OutputRecord, Record, Status
from wsipipe.stages.tile.index_page import MUCH_INK, render_index

FOLDER: Final = Path("/somewhere/work/tiles/0.5mpp-224px")
WORKSPACE: Final = Path("/somewhere/work")
HOSTILE: Final = (
    '"quoted"',
    "it's",
    "a<b>&amp;",
    "a b",
    "50%25",
    "no #1?x=y",
    "a:b",
    "玻片é",
    "</script><script>alert(1)</script>".replace("/", "∕"),
    "-->",
    "{{ name }}",
    "semi;colon",
    "javascript:alert(1)",
)


def record(item: str, status: Status = "done", error: ErrorRecord | None = None, **stats: Any) -> Record:
    usual = {"tiles": 1000, "tissue_mm2": 12.5, "tissue_verdict": "tissue and glass", "ink_fraction": 0.0}
    usual |= {"sharpness_median": 40.0, "dropped_not_sharp": 0, "unread_fraction": 0.0}
    names = {"tiles": f"{item}.h5", "contours": f"contours/{item}.geojson", "qc": f"qc/{item}.jpg"}
    made = {n: OutputRecord(path=f"tiles/0.5mpp-224px/{p}", bytes=1, digest="d") for n, p in names.items()}
    return Record(
        stage="tile",
        stage_version=1,
        item=item,
        status=status,
        fingerprint="f",
        settings={},
        inputs={},
        outputs={} if status == "failed" else made,
        stats={} if status == "failed" else usual | stats,
        error=error,
        start=datetime(2026, 1, 1, tzinfo=UTC),
        seconds=1.0,
        wsipipe="0",
    )


def failed(item: str, message: str = "damaged", hint: str = "copy it again") -> Record:
    return record(item, "failed", ErrorRecord(type="SlideError", message=message, hint=hint, retry=False))


class Page(HTMLParser):
    """What a browser without scripts sees."""

    VOID: Final = {"meta", "img", "br", "input"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.cards: list[dict[str, str]] = []
        self.rows: list[list[str]] = []
        self.scripts = 0
        self.feed(html)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        its = dict(attrs)
        if tag not in self.VOID:
            self.open.append((tag, its))
        self.scripts += tag == "script"
        assert not its.get("src") or tag == "img"
        if tag == "li":
            self.cards.append({"id": "", "why": "", "text": "", "figures": its["data-v"] or ""})
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag == "a" and its.get("href"):
            self.links.append(its["href"] or "")
        if tag == "img" and its.get("src"):
            self.images.append(its)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        inside = [tag for tag, _ in self.open]
        if "td" in inside or "th" in inside:
            self.rows[-1][-1] += data
        if "li" in inside:
            self.cards[-1]["text"] += data
            if inside[-1] == "b":
                self.cards[-1]["id"] += data
            if inside[-1] == "p" and self.open[-1][1].get("class") == "look":
                self.cards[-1]["why"] += data


def page_of(*records: Record) -> Page:
    return Page(render_index(records, FOLDER, WORKSPACE))


def target(link: str) -> Path:
    """The file that a link on the page leads to."""
    parts = urlsplit(link)
    assert parts == ("", "", parts.path, "", ""), "neither scheme nor host, query or fragment"
    path = FOLDER / "qc"
    for part in unquote(parts.path).split("/"):
        path = path.parent if part == ".." else path / part
    return path


# ----------------------------------------------------------------------------------------- contents


def test_every_slide_is_there_once_and_in_order() -> None:
    slides = [record("s10"), record("s9"), failed("s3"), record("s1", "empty", tiles=0, tissue_verdict="nothing")]
    page = page_of(*slides)
    assert [card["id"] for card in page.cards] == ["s1", "s9", "s10"], "the empty one first, 9 before 10"
    assert [row[0] for row in page.rows[1:]] == ["s3"]


def test_of_several_attempts_the_last_counts() -> None:
    page = page_of(failed("a"), record("b"), record("a", tiles=7), failed("b"))
    assert [card["id"] for card in page.cards] == ["a"]
    assert "7 tiles" in page.cards[0]["text"]
    assert [row[0] for row in page.rows[1:]] == ["b"]


def test_failed_slides_say_what_is_wrong_and_the_way_out() -> None:
    page = page_of(failed("a", "/s/a.svs: says no mpp <b>", "give --mpp-override & run again"), failed("b", hint=""))
    assert page.rows[1:] == [
        ["a", "/s/a.svs: says no mpp <b>", "give --mpp-override & run again"],
        ["b", "damaged", "–"],
    ]
    assert not page.cards


def test_the_sums_are_right() -> None:
    html = render_index(
        [record("a", tiles=1200, tissue_mm2=1.5), record("b", tiles=34, tissue_mm2=2.0), failed("c")], FOLDER, WORKSPACE
    )
    words = " ".join(html.split())
    for value, name in (("3", "slides"), ("2", "done"), ("0", "empty"), ("1", "failed"), ("1,234", "tiles in all")):
        assert f'<span class="value">{value}</span> {name}' in words
    assert '<span class="value">3.5</span> mm² of tissue' in words


def test_what_the_script_sorts_by_is_what_the_record_says() -> None:
    page = page_of(record("a", tiles=12, tissue_mm2=0.25, ink_fraction=0.011, sharpness_median=None))
    assert page.cards[0]["figures"] == "0,done,12,0.25,0.011,"
    page = page_of(record("a", "empty", tiles=0, tissue_mm2=0.0, ink_fraction=0.0))
    assert page.cards[0]["figures"] == "1,empty,0,0,0,40"


def test_records_of_before_a_figure_was_taken_are_shown() -> None:
    old = record("a").model_copy(update={"stats": {"tiles": 3}})
    assert page_of(old).cards[0]["text"].strip().startswith("a\n3 tiles\n")


def test_no_slides_and_one_slide() -> None:
    assert "no slide with a picture" in render_index([], FOLDER, WORKSPACE)
    assert len(page_of(record("a")).cards) == 1


# ---------------------------------------------------------------------------------- names and links


@pytest.mark.parametrize("name", HOSTILE)
def test_odd_names_are_shown_as_they_are_and_their_links_lead_to_files(name: str) -> None:
    page = page_of(record(name))
    assert page.scripts == 1, "the page's own"
    assert page.cards[0]["id"] == name
    assert [image["loading"] for image in page.images] == ["lazy"]
    assert [target(str(image["src"])) for image in page.images] == [FOLDER / "qc" / f"{name}.jpg"]
    assert [target(link) for link in page.links] == [
        FOLDER / "qc" / f"{name}.jpg",
        FOLDER / "contours" / f"{name}.geojson",
        FOLDER / f"{name}.h5",
    ]
    assert page_of(failed(name)).rows[1][0] == name


def test_nothing_is_fetched_from_outside() -> None:
    html = render_index([record("a"), failed("b")], FOLDER, WORKSPACE)
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    assert "url(" not in html


def test_the_same_records_give_the_same_bytes_wherever_they_lie() -> None:
    slides = [record("a"), failed("b")]
    moved = Path("/elsewhere")
    html = render_index(slides, FOLDER, WORKSPACE)
    assert html == render_index(slides, moved / "tiles/0.5mpp-224px", moved)
    later = [slide.model_copy(update={"start": datetime(2027, 1, 1, tzinfo=UTC), "seconds": 9.0}) for slide in slides]
    assert html == render_index(later, FOLDER, WORKSPACE)


# ----------------------------------------------------------------------------------- worth a look


def cohort(*odd: Record) -> dict[str, str]:
    """Why each of some odd slides is worth a look, among twenty that are like each other."""
    usual = [record(f"usual-{i}", tiles=900 + 20 * i, tissue_mm2=11 + 0.2 * i) for i in range(20)]
    why = {card["id"]: card["why"] for card in page_of(*usual, *odd).cards}
    assert not any(why[slide.item] for slide in usual), "those that are usual are left in peace"
    assert list(why)[: len(odd)] == [slide.item for slide in odd], "the odd ones come first"
    return {slide.item: why[slide.item] for slide in odd}


def test_each_reason_is_said_plainly() -> None:
    assert cohort(
        record("a", tiles=30, tissue_mm2=0.4),
        record("b", tiles=9000, tissue_mm2=120.0),
        record("c", tiles=20),
        record("d", sharpness_median=4.0),
        record("e", ink_fraction=0.11),
        record("f", dropped_not_sharp=500),
        record("g", unread_fraction=0.004),
        record("h", "empty", tiles=0, tissue_mm2=0.0, tissue_verdict="dark background"),
    ) == {
        "a": "little tissue: 0.4 mm², the median is 12.5",
        "b": "much tissue: 120 mm², the median is 12.5",
        "c": "few tiles: 20, the median is 1,040",
        "d": "little sharpness: 4, the median is 40",
        "e": "ink on 11 % of it",
        "f": "33 % of the tiles on tissue are not sharp",
        "g": "0.4 % could not be read",
        "h": "empty: bright colours on black, as in fluorescence",
    }


def test_tiles_that_cannot_be_decoded_are_worth_a_look() -> None:
    assert cohort(record("a", bad_tiles=1200))["a"] == "1,200 tiles cannot be decoded"


def test_doubt_about_the_tissue_is_said() -> None:
    assert cohort(
        record("a", "empty", tiles=0, tissue_mm2=0.0, tissue_verdict="not understood"),
        record("b", tissue_verdict="not understood"),
        record("c", tissue_verdict="unlike glass"),
    ) == {
        "a": "empty: tissue could not be recognised reliably; choose with --tissue",
        "b": "tissue could not be recognised reliably; choose with --tissue",
        "c": "not coloured like H&E: tissue was found by its difference from the glass",
    }


def test_several_reasons_are_all_said() -> None:
    why = cohort(record("a", ink_fraction=MUCH_INK + 0.01, unread_fraction=0.25))["a"]
    assert why == "ink on 6 % of it; 25 % could not be read"


def test_few_slides_have_no_outliers() -> None:
    page = page_of(*(record(f"s{i}", tiles=10**i, tissue_mm2=10.0**i) for i in range(7)))
    assert not any(card["why"] for card in page.cards)


def test_like_slides_have_no_outliers_within_a_factor_of_two() -> None:
    page = page_of(*(record(f"s{i}") for i in range(20)), record("more", tiles=1900, tissue_mm2=24.0))
    assert not any(card["why"] for card in page.cards)


def test_a_mixed_cohort_still_shows_the_tenth_of_its_median() -> None:
    mixed = [record(f"s{i}", tiles=round(100 * 1.7**i), tissue_mm2=1.7**i) for i in range(9)]
    page = page_of(*mixed, record("tiny", tiles=5, tissue_mm2=0.05))
    assert [card["id"] for card in page.cards if card["why"]] == ["tiny"]


# ------------------------------------------------------------------------------------------- scale


def test_two_thousand_slides_make_a_page_of_two_megabytes_in_a_second() -> None:
    name = "TCGA-3C-AALI-01Z-00-DX1.F6E9A5DF-D8FB-45CF-B4BD-C6B7629{:05d}"
    slides = [record(name.format(i), ink_fraction=0.1 * (i % 10 == 0)) for i in range(1900)]
    slides += [failed(name.format(i), f"/data/{name.format(i)}.svs: says no mpp") for i in range(1900, 2000)]
    start = time.process_time()
    html = render_index(slides, FOLDER, WORKSPACE)
    assert time.process_time() - start < 1
    assert len(html.encode()) < 2_000_000
    assert len(Page(html).cards) == 1900


# ---------------------------------------------------------------------------------- in a browser

MARK: Final = "document.title='run'"
RUNNING: Final = (
    f"<script>{MARK}</script>",
    f"<img src=x onerror={MARK}>",
    f'" onmouseover="{MARK}" autofocus onfocus="{MARK}',
    f"' onload='{MARK}",
    f"</script><script>{MARK}</script>",
    f"</style><svg onload={MARK}>",
    f"javascript:{MARK}",
    f"<!--<script>{MARK}",
    "{{ 7 * 7 }}${7*7}",
)
CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def page_with(names: tuple[str, ...]) -> str:
    """A page with these names as ids (which have no slashes) of good, odd and failed slides, and as messages."""
    ids = [name.replace("/", "∕") for name in names]
    bad = [failed(f"{i} failed", name, name) for i, name in zip(ids, names, strict=True)]
    odd = [record(f"{i} odd", ink_fraction=0.5, tissue_verdict=name) for i, name in zip(ids, names, strict=True)]
    return render_index([*map(record, ids), *odd, *bad], FOLDER, WORKSPACE)


def test_no_element_and_no_attribute_comes_from_a_name() -> None:
    names = (*RUNNING, html_page.HOSTILE)
    plain = tuple(f"plain {number}" for number in range(len(names)))
    assert sorted(html_page.outline(page_with(names))) == sorted(html_page.outline(page_with(plain)))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_nothing_of_a_name_runs(tmp_path: Path) -> None:
    file = tmp_path / "index.html"
    opened = "<script>document.querySelector('a.big').click()</script>"  # its dialog shows the first slide's texts
    file.write_text(page_with(RUNNING) + opened, encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    seen = subprocess.run(
        [*command, "--virtual-time-budget=3000", "--dump-dom", file.as_uri()], capture_output=True, check=True
    ).stdout.decode()
    assert "<title>0.5mpp-224px · tiles</title>" in seen
    assert f"{2 * len(RUNNING)} of {2 * len(RUNNING)} slides" in seen, "the page's own script has run"
    assert "<dialog" in seen
    assert seen[seen.index("<dialog") :].startswith('<dialog aria-label="QC image" open')
    for name in RUNNING:
        assert escape(name, quote=False) in seen
