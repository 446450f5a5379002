"""Labels that are measured: a number of each patient, or a follow-up with or without an event.

Rows of one patient must agree; rows without a value are ignored if the patient has other rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite

from ..columns import label_words
from ..errors import CohortError
from ..wording import some
from .ids import id_key
from .labels import PatientLabels, join_labels, values_there
from .outcomes import Label, Survival
from .slide_match import SlideMatch
from .table import CohortTable

EVENT_WORDS: Mapping[str, bool] = {
    **dict.fromkeys(("1", "true", "yes", "event", "dead", "deceased", "died"), True),
    **dict.fromkeys(("0", "false", "no", "censored", "alive", "living"), False),
}
"""How an event column may spell whether there was one, beside the ``0:LIVING`` and ``1:DECEASED`` of cBioPortal."""
WORDS_ALONE = frozenset({"event", "dead", "deceased", "died", "censored", "alive", "living"})
"""Words that say by themselves which of both they mean, whatever the column is called."""
NAMES_OF_THE_CONTRARY = ("cens", "cnsr", "alive", "living", "survived")
"""Parts of names of columns in which 1 usually means that there was no event."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
"""A number as spreadsheets write it in many languages; by itself it may also be thousands, so that it is asked."""


def number_labels(
    table: CohortTable,
    column: str,
    *,
    match: SlideMatch | None = None,
    unusable: Mapping[str, str] | None = None,
    keep_frozen: bool = False,
    drop_conflicts: bool = False,
) -> PatientLabels:
    """Read one number of each patient.

    :param match, unusable, keep_frozen: as for :func:`.labels.patient_labels`.
    :param drop_conflicts: drop patients whose rows differ, with that reason, instead of refusing the table.
    :raises CohortError: no such column, a value that is no number, or patients with two numbers.
    """
    column = table.column(column)
    written = table.by_patient(column)
    label_of = _agreed({p: [_number(table, column, v) for v in own] for p, own in written.items()})
    return _joined(table, column, label_of, match, unusable, keep_frozen, drop_conflicts)


def survival_labels(
    table: CohortTable,
    time_column: str,
    event_column: str,
    *,
    match: SlideMatch | None = None,
    unusable: Mapping[str, str] | None = None,
    keep_frozen: bool = False,
    drop_conflicts: bool = False,
) -> PatientLabels:
    """Read each patient's follow-up: its length, and whether it ended with the event.

    :param match, unusable, keep_frozen: as for :func:`.labels.patient_labels`.
    :param drop_conflicts: drop patients whose rows differ, with that reason, instead of refusing the table.
    :raises CohortError: no such column; a time that is negative or no number, or 0 with the event; an event that is
        neither 0 nor 1, or in a column whose name says the contrary; patients with two follow-ups.
    """
    time_column, event_column = table.column(time_column), table.column(event_column)
    times, events = table.by_patient(time_column), table.by_patient(event_column)
    found: dict[str, list[Label | str]] = {}
    for patient, own in times.items():
        found[patient] = [
            _follow_up(table, patient, (time_column, time), (event_column, event))
            for time, event in zip(own, events[patient], strict=True)
        ]
    name = f"{time_column} and {event_column}"
    return _joined(table, name, _agreed(found), match, unusable, keep_frozen, drop_conflicts)


def _number(table: CohortTable, column: str, value: str) -> Label | str:
    """The number, or why there is none; the words for missing values are those of ``columns.toml``."""
    for kind, reason in (("missing", "missing"), ("not_evaluated", "not evaluated"), ("equivocal", "equivocal")):
        if id_key(value) in label_words(kind):
            return f"label {reason}{f' ({id_key(value)})' if kind != 'missing' else ''}"
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        what = f"column {column} holds {value!r}, which is no number"
        hint = "correct it, or leave the cell empty if it is not known"
        if _DECIMAL_COMMA.fullmatch(value):
            commas = sum(bool(_DECIMAL_COMMA.fullmatch(cell)) for cell in table.frame[column])
            point = value.replace(",", ".")
            hint = f"if that is a decimal comma, write {point}; {commas} cells of the column have one"
        raise CohortError(what, path=table.source, hint=hint)
    return number


def _follow_up(table: CohortTable, patient: str, time: tuple[str, str], event: tuple[str, str]) -> Label | str:
    length = _number(table, *time)
    happened = _event(table, *event)
    if isinstance(length, str) or isinstance(happened, str):
        return "follow-up missing" if isinstance(length, str) else "event missing"
    assert isinstance(length, float)
    if length < 0:
        what = f"column {time[0]}: the time of patient {patient} is {length:g}, and times cannot be negative"
        raise CohortError(what, path=table.source, hint="correct it: a follow-up begins at 0")
    if length == 0 and happened:
        what = f"column {time[0]}: patient {patient} has the event at the time 0"
        hint = "leave the cell empty if the time is not known; if it was so, give the time as half of the unit"
        raise CohortError(what, path=table.source, hint=hint)
    return Survival(length, happened) if length > 0 else "no follow-up: censored at the time 0"


def _event(table: CohortTable, column: str, value: str) -> bool | str:
    key = id_key(value)
    if key in label_words("missing") or key in label_words("not_evaluated"):
        return "event missing"
    code, colon, words = (part.strip() for part in key.partition(":"))
    happened = EVENT_WORDS.get(code)
    in_words = EVENT_WORDS.get(words) if colon else happened
    if happened is None or (in_words is not None and in_words != happened):
        what = f"column {column} holds {value!r}: an event is 1 where it happened, and 0 where the patient was censored"
        raise CohortError(what, path=table.source, hint=f"write 0 or 1; the column has {values_there(table, column)}")
    if not ({code, words} & WORDS_ALONE) and any(part in id_key(column) for part in NAMES_OF_THE_CONTRARY):
        what = f"column {column} holds {value!r}: by the column's name {value!r} may mean censored, or the event"
        hint = "write event and censored into it; or, if 1 is the event, give the column another name"
        raise CohortError(what, path=table.source, hint=hint)
    return happened


def _agreed(found: Mapping[str, Sequence[Label | str]]) -> dict[str, tuple[Label | str, ...]]:
    """Patient → their different labels, or the reason if there is none."""
    agreed: dict[str, tuple[Label | str, ...]] = {}
    for patient, own in found.items():
        labels = tuple(dict.fromkeys(label for label in own if not isinstance(label, str)))
        agreed[patient] = labels or (own[0],)
    return agreed


def _joined(
    table: CohortTable,
    column: str,
    found: Mapping[str, tuple[Label | str, ...]],
    match: SlideMatch | None,
    unusable: Mapping[str, str] | None,
    keep_frozen: bool,
    drop_conflicts: bool,
) -> PatientLabels:
    conflicts = [f"{patient} ({' and '.join(map(str, own))})" for patient, own in found.items() if len(own) > 1]
    if conflicts and not drop_conflicts:
        what = f"column {column}: {len(conflicts)} patients have two different values: {some(conflicts)}"
        raise CohortError(what, path=table.source, hint="correct these rows: a label is the patient's, not the slide's")
    label_of = {patient: own[0] if len(own) == 1 else "labels conflict" for patient, own in found.items()}
    return join_labels(table, column, label_of, match=match, unusable=unusable, keep_frozen=keep_frozen, classes=())
