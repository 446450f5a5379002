"""The runner: finished items are skipped, stale ones redone, and a failure stops no other item.

The stages are those of ``copy_stage.py``: real ones, small enough to understand.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2]
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))  # worker processes take over the path, and must find the stages

from copied_texts import last, result, run, statuses, took, write  # noqa: E402
from copy_stage import CopyStage, CountStage, copy, copy_stage  # noqa: E402
from wsipipe.data.errors import (  # noqa: E402
    BundleError,
    SlideError,
    StoreError,
    SurroundingsError,
    UsageError,
)
from wsipipe.pipeline.run.outcomes import explain  # noqa: E402


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write(tmp_path, a="apple", b="bread", c="curd")
    return tmp_path


# ----- what is done is skipped, what is stale is redone -----


def test_what_is_done_is_skipped(place: Path) -> None:
    first = copy(place)
    assert (first.done, first.before, first.failures) == (3, 0, ())
    assert result(place, "a") == "APPLE"
    assert took(place) == ["a", "b", "c"]
    records = copy_stage(place).manifest.path.read_bytes()
    second = copy(place)
    assert (second.done, second.before) == (0, 3)
    assert took(place) == []
    assert copy_stage(place).manifest.path.read_bytes() == records


def test_new_items_are_done_beside_the_old(place: Path) -> None:
    copy(place)
    took(place)
    write(place, d="date")
    summary = copy(place)
    assert (summary.done, summary.before) == (1, 3)
    assert took(place) == ["d"]


def test_other_settings_do_not_replace_results_unless_told_to(place: Path) -> None:
    copy(place)
    took(place)
    with pytest.raises(UsageError, match=r"3 texts here were made with other settings \(repeat 1 → 2\)") as caught:
        copy(place, repeat=2)
    assert "--replace" in caught.value.hint
    assert took(place) == []
    assert result(place, "a") == "APPLE"
    assert copy(place, repeat=2, replace=True).done == 3
    assert result(place, "a") == "APPLEAPPLE"
    with pytest.raises(UsageError, match="repeat 2 → 1"):
        copy(place)


def test_another_file_that_is_like_a_setting_does_not_replace_results_either(place: Path) -> None:
    (place / "style").write_text("plain")
    copy(place)
    took(place)
    (place / "style").write_text("ornate")
    with pytest.raises(UsageError, match=r"3 texts here were made with other settings \(other style\)"):
        copy(place)
    assert took(place) == []
    assert copy(place, replace=True).done == 3


def test_settings_of_the_machine_change_nothing(place: Path) -> None:
    copy(place, threads=1)
    assert copy(place, threads=7).before == 3


def test_a_new_version_of_the_stage_redoes_its_items(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(place)
    monkeypatch.setattr(CopyStage, "version", 2)
    assert copy(place).done == 3
    assert copy(place).before == 3


def test_changed_bytes_are_redone_and_only_those(place: Path) -> None:
    copy(place)
    took(place)
    write(place, b="berry")  # the same size
    os.utime(place / "texts" / "b.txt", ns=(0, 0))  # whichever way the clock has moved
    assert copy(place).done == 1
    assert took(place) == ["b"]
    assert result(place, "b") == "BERRY"


def test_a_touched_file_is_hashed_again_once_and_not_redone(place: Path) -> None:
    copy(place)
    assert took(place, "hash") == ["a", "b", "c"]
    os.utime(place / "texts" / "b.txt", ns=(1, 1))
    assert copy(place).before == 3
    assert took(place, "hash") == ["b"]
    assert copy(place).before == 3
    assert took(place, "hash") == []


def test_a_moved_input_is_not_redone(place: Path) -> None:
    copy(place)
    took(place)
    (place / "texts" / "elsewhere").mkdir()
    (place / "texts" / "b.txt").rename(place / "texts" / "elsewhere" / "b.txt")
    assert copy(place).before == 3
    assert took(place) == []
    assert last(place)["b"].inputs["text"].path == str(place / "texts" / "elsewhere" / "b.txt")


def test_a_moved_workspace_is_still_done(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy(place)
    other = tmp_path_factory.mktemp("other") / "place"
    place.rename(other)
    took(other)
    assert copy(other).before == 3
    assert took(other) == []


def test_an_input_archived_after_use_still_counts(place: Path) -> None:
    stage = copy_stage(place)
    run(place, stage)
    (place / "texts" / "b.txt").unlink()
    assert run(place, stage).before == 3


@pytest.mark.parametrize("harm", ["deleted", "truncated"])
def test_lost_output_is_made_again(place: Path, harm: str) -> None:
    copy(place)
    took(place)
    file = place / "work" / "copies" / "b.txt"
    file.unlink() if harm == "deleted" else file.write_text("BR")
    summary = copy(place)
    assert (summary.done, summary.before) == (1, 2)
    assert took(place) == ["b"]
    assert result(place, "b") == "BREAD"


def test_what_follows_is_redone_only_where_bytes_differ(place: Path) -> None:
    copies = copy_stage(place)
    counts = CountStage(place / "work" / "counts", place / "work", copies=copies, calls=place / "calls")
    run(place, copies)
    run(place, counts)
    assert took(place, "count") == ["a", "b", "c"]
    (place / "work" / "copies" / "a.txt").unlink()
    assert run(place, counts).notes == ("1 with lost outputs in copy, left out: a",)
    run(place, copies)  # a comes back with equal bytes
    write(place, b="berries")
    run(place, copies)
    took(place)
    assert run(place, counts).before == 2
    assert took(place, "count") == ["b"]


def test_an_earlier_result_counts_again_only_while_its_bytes_are_there(place: Path) -> None:
    copy(place, shout=True)
    copy(place, shout=False, replace=True)  # other bytes of the same size, under the same name
    took(place)
    with pytest.raises(UsageError, match="shout False → True"):
        copy(place, shout=True)
    assert copy(place, shout=True, replace=True).done == 3
    assert took(place) == ["a", "b", "c"]
    assert result(place, "a") == "APPLE"

    write(place, b="brittle")
    copy(place)
    took(place)
    failed = copy(place, repeat=2, replace=True)  # b fails, so its earlier result stays
    assert [failure.item for failure in failed.failures] == ["b"]
    assert took(place) == ["a", "b", "c"]
    with pytest.raises(UsageError, match="repeat 2 → 1"):
        copy(place)  # for a and c
    write(place, a="a", c="c")
    copy(place, replace=True)
    assert took(place) == ["a", "c"]
    assert statuses(place)["b"] == "done"  # the record that counts is the last one again
    assert result(place, "b") == "BRITTLE"


def test_a_failed_attempt_does_not_lift_the_guard_over_earlier_results(tmp_path: Path) -> None:
    write(tmp_path, b="brittle")
    copy(tmp_path)
    copy(tmp_path, repeat=2, replace=True)
    assert statuses(tmp_path) == {"b": "failed"}
    with pytest.raises(UsageError, match="shout True → False"):
        copy(tmp_path, shout=False)
    assert result(tmp_path, "b") == "BRITTLE"


def test_empty_is_neither_failed_nor_done_again(place: Path) -> None:
    write(place, n="nothing")
    first = copy(place)
    assert (first.done, first.empty, first.failures) == (3, 1, ())
    assert statuses(place)["n"] == "empty"
    took(place)
    assert copy(place).before == 4
    assert took(place) == []


def test_many_items(tmp_path: Path) -> None:
    write(tmp_path, **{f"t{number:03}": str(number) for number in range(300)})
    assert copy(tmp_path).done == 300
    assert copy(tmp_path).before == 300
    assert len(copy_stage(tmp_path).manifest.records()) == 300


# ----- what fails fails alone -----


def test_one_failing_item_never_stops_the_others(place: Path) -> None:
    write(place, **{"0": "broken", "aa": "full", "bb": "odd", "cc": "liar", "d": "unreadable", "reject-e": "x"})
    summary = copy(place)
    assert summary.done == 3
    assert {failure.item: failure.message.rsplit("/")[-1] for failure in summary.failures} == {
        "0": "0.txt: is broken",
        "aa": "aa.txt: could not write: the disk is full",
        "bb": "'odd'",
        "cc": "never written'",
        "d": "d.txt: could not read or write: Permission denied",
        "reject-e": "reject-e.txt: is not wanted",
    }
    failed = dict.fromkeys(["0", "aa", "bb", "cc", "d", "reject-e"], "failed")
    assert statuses(place) == dict.fromkeys("abc", "done") | failed
    assert summary.notes == ("a note", "the end")


def test_a_bad_input_waits_until_it_changes_or_is_told_to(place: Path) -> None:
    write(place, b="broken")
    assert [f.hint for f in copy(place).failures] == ["mend it"]
    took(place)
    waiting = copy(place)
    assert took(place) == []
    assert (waiting.done, waiting.before) == (0, 2)
    assert [(f.item, f.hint) for f in waiting.failures] == [("b", "mend it (tried before; --retry-failed tries again)")]
    assert len(copy(place, retry_failed=True).failures) == 1
    assert took(place) == ["b"]
    write(place, b="mended")
    assert copy(place).done == 1
    assert took(place) == ["b"]
    assert statuses(place)["b"] == "done"


@pytest.mark.parametrize(("text", "kind"), [("full", "SurroundingsError"), ("odd", "KeyError")])
def test_what_was_not_the_inputs_fault_is_tried_again(place: Path, text: str, kind: str) -> None:
    write(place, b=text)
    copy(place)
    error = last(place)["b"].error
    assert error is not None
    assert (error.type, error.retry) == (kind, True)
    took(place)
    assert len(copy(place).failures) == 1
    assert took(place) == ["b"]


def test_only_a_damaged_file_of_the_workspace_is_tried_again_unasked(place: Path) -> None:
    """It may be whole again with equal bytes; other input that failed waits until it changes."""
    workspace, outside = place / "work", place / "texts/a.txt"
    workspace.mkdir()
    inside = workspace / "a.zarr"
    inside.touch()
    verdicts = {
        StoreError("damaged", path=inside): True,
        BundleError("damaged", path=inside): True,
        StoreError("features are not finite", path=workspace / "never-written.zarr"): False,
        StoreError("another program's, damaged", path=outside): False,
        SlideError("broken, and kept in the workspace", path=inside): False,
        SurroundingsError("no memory"): True,
    }
    assert [explain(error, workspace).retry for error in verdicts] == list(verdicts.values())


def test_what_was_not_foreseen_says_how_to_see_more(place: Path) -> None:
    write(place, b="odd")
    [failure] = copy(place).failures
    assert "--debug" in failure.hint


def test_an_item_rejected_in_planning_is_recorded_once_and_told_each_time(place: Path) -> None:
    write(place, reject="x")
    for _ in range(3):
        assert [failure.item for failure in copy(place).failures] == ["reject"]
    records = [record for record in copy_stage(place).manifest.records() if record.item == "reject"]
    assert [record.status for record in records] == ["failed"]
    assert len(copy_stage(place).manifest.records()) == 4


def test_a_missing_input_fails_alone(place: Path) -> None:
    stage = copy_stage(place)
    (place / "texts" / "b.txt").unlink()
    summary = run(place, stage)
    assert summary.done == 2
    assert [failure.item for failure in summary.failures] == ["b"]
