"""Follow-ups as tables spell them: what is read, what is dropped with a reason, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from wsipipe.data.cohort.measured import survival_labels
from wsipipe.data.cohort.outcomes import Survival
from wsipipe.data.cohort.table import read_cohort
from wsipipe.data.errors import CohortError


def labels(folder: Path, rows: list[tuple[str, str]], column: str = "status"):  # type: ignore[no-untyped-def]
    table = folder / "cohort.csv"
    lines = [f"S{n},P{n},{time},{event}" for n, (time, event) in enumerate(rows)]
    table.write_text("\n".join([f"slide_id,patient_id,months,{column}", *lines]) + "\n")
    return survival_labels(read_cohort(table), "months", column)


@pytest.mark.parametrize(
    ("event", "censored"),
    [
        ("1", "0"),
        ("1.0", "0.0"),
        ("yes", "No"),
        ("TRUE", "FALSE"),
        ("dead", "alive"),
        ("Deceased", "Living"),
        ("event", "censored"),
        ("1:DECEASED", "0:LIVING"),
        ("1: Recurred/Progressed", "0:DiseaseFree"),
        ("1:DEAD WITH TUMOR", "0:CENSORED"),
    ],
)
def test_spellings_of_an_event(tmp_path: Path, event: str, censored: str) -> None:
    found = labels(tmp_path, [("3", event), ("4.5", censored)])
    assert found.labels == {"P0": Survival(3.0, True), "P1": Survival(4.5, False)}
    assert found.counts == {"with the event": 1, "censored": 1}


def test_whoever_lacks_time_or_event_is_dropped_with_the_reason(tmp_path: Path) -> None:
    found = labels(tmp_path, [("3", "1"), ("4", ""), ("", "1"), ("5", "[Not Available]"), ("0", "0"), ("NA", "NA")])
    assert found.labels == {"P0": Survival(3.0, True)}
    assert found.dropped == {
        "P1": "event missing",
        "P2": "follow-up missing",
        "P3": "event missing",
        "P4": "no follow-up: censored at the time 0",
        "P5": "follow-up missing",
    }


@pytest.mark.parametrize(
    ("time", "event", "wrong"),
    [
        ("-1", "0", "times cannot be negative"),
        ("-0.5", "1", "times cannot be negative"),
        ("0", "1", "has the event at the time 0"),
        ("inf", "1", "is no number"),
        ("3", "2", "an event is 1 where it happened"),
        ("3", "-1", "an event is 1 where it happened"),
        ("3", "0.5", "an event is 1 where it happened"),
        ("3", "0:DECEASED", "an event is 1 where it happened"),
        ("3", "1:LIVING", "an event is 1 where it happened"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, time: str, event: str, wrong: str) -> None:
    with pytest.raises(CohortError, match=wrong) as refused:
        labels(tmp_path, [("3", "1"), ("4", "0"), (time, event)])
    if "an event" in wrong:
        assert f"{event} (1)" in refused.value.hint  # the values of the column


def test_decimal_commas_are_named_as_such(tmp_path: Path) -> None:
    for comma, hint in (("10,3", "write 10.3; 2 cells of the column have one"), ("about 3", "correct it")):
        with pytest.raises(CohortError, match="is no number") as refused:
            labels(tmp_path, [("3", "1"), (f'"{comma}"', "0"), ('"-4,25"', "0")])
        assert hint in refused.value.hint


@pytest.mark.parametrize("column", ["censored", "CNSR", "cens", "alive", "is_living", "Survived"])
def test_a_column_that_says_the_contrary_needs_words(tmp_path: Path, column: str) -> None:
    for event in ("1", "0", "yes", "false"):
        with pytest.raises(CohortError, match="may mean censored, or the event"):
            labels(tmp_path, [("3", event)], column)
    found = labels(tmp_path, [("3", "dead"), ("4", "censored")], column)
    assert [label.event for label in found.labels.values()] == [True, False]
