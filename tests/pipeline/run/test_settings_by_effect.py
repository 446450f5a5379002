"""What follows when a setting changes: made again, judged again, drawn again, or nothing at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from copy_stage import CopySettings, CopyStage, CountStage
from wsipipe.data.errors import UsageError
from wsipipe.data.manifest import Manifest
from wsipipe.pipeline.console import Console
from wsipipe.pipeline.results import Summary
from wsipipe.pipeline.run.runner import Runner
from wsipipe.stages.settings import Judgement, Presentation


class LaterSettings(CopySettings):
    """As a later version has them, with one of each kind more."""

    indent: int = 0
    most_letters: int = Judgement(100)
    colour: str = Presentation("red")

    def judge(self, stats: Mapping[str, Any]) -> str:
        letters = int(stats.get("letters", 0))
        return f"{letters} letters, over {self.most_letters}" if letters > self.most_letters else ""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    for name, text in {"a": "apple", "b": "raspberry"}.items():
        (tmp_path / f"texts/{name}.txt").write_text(text)
    return tmp_path


def stage(place: Path, kind: type[CopySettings] = LaterSettings, **settings: object) -> CopyStage:
    texts, work = sorted(place.glob("texts/*.txt")), place / "work"
    return CopyStage(kind.model_validate(settings), work / "copies", work, texts=texts, calls=place / "calls")


def run(place: Path, kind: type[CopySettings] = LaterSettings, *, replace: bool = False, **settings: object) -> Summary:
    return Runner(place / "work", Console(json_only=True), replace=replace).run(stage(place, kind, **settings))


def took(place: Path) -> list[str]:
    """The texts that were worked on since it was asked last."""
    calls = place / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return [line.split()[1] for line in lines if line.startswith("do ")]


def counted(place: Path) -> list[str]:
    """What the next stage builds on."""
    work = place / "work"
    count = CountStage(work / "counts", work, copies=stage(place), calls=place / "calls")
    return [item.id for item in count.plan().items]


def test_a_new_setting_at_its_default_leaves_all_as_it_is_and_at_another_value_does_not(place: Path) -> None:
    run(place, CopySettings)
    took(place)
    assert run(place).before == 2
    assert took(place) == []
    with pytest.raises(UsageError, match="indent 0 → 4"):
        run(place, indent=4)
    assert run(place, indent=4, replace=True).done == 2


def test_a_setting_that_is_no_more_has_given_its_numbers_their_meaning(place: Path) -> None:
    run(place, indent=4)
    with pytest.raises(UsageError, match="indent 4 → None"):
        run(place, CopySettings)


def test_records_keep_all_settings_but_the_machines(place: Path) -> None:
    run(place, threads=3)
    kept = Manifest.of(place / "work/copies").latest()["a"].settings
    assert kept == {"repeat": 1, "shout": True, "indent": 0, "most_letters": 100, "colour": "red"}
    assert run(place, most_letters=50).before == 2
    assert Manifest.of(place / "work/copies").latest()["a"].settings["most_letters"] == 50


def test_what_is_done_is_judged_again_and_never_made_again(place: Path) -> None:
    run(place)
    took(place)
    strict = run(place, most_letters=6)
    assert (strict.before, [(f.item, f.message) for f in strict.failures]) == (1, [("b", "9 letters, over 6")])
    assert counted(place) == ["a"]
    records = len(Manifest.of(place / "work/copies").records())
    assert len(run(place, most_letters=6).failures) == 1
    assert len(Manifest.of(place / "work/copies").records()) == records  # it is recorded once
    assert len(run(place, most_letters=7).failures) == 1
    assert run(place).before == 2
    assert counted(place) == ["a", "b"]
    assert took(place) == []


def test_what_was_judged_and_has_been_lost_since_is_made_again_when_it_may_pass(place: Path) -> None:
    run(place)
    run(place, most_letters=6)
    (place / "work/copies/b.txt").unlink()
    took(place)
    assert len(run(place, most_letters=6).failures) == 1
    assert took(place) == []
    assert run(place, most_letters=9).done == 1
    assert took(place) == ["b"]


def test_what_failed_is_tried_again_by_other_judgement(place: Path) -> None:
    (place / "texts/a.txt").write_text("broken")
    run(place)
    took(place)
    assert len(run(place).failures) == 1
    assert took(place) == []
    assert len(run(place, most_letters=99).failures) == 1
    assert took(place) == ["a"]


def test_other_presentation_is_drawn_unasked(place: Path) -> None:
    run(place)
    took(place)
    assert run(place, colour="blue").done == 2
    assert took(place) == ["a", "b"]
    assert run(place, colour="blue").before == 2
