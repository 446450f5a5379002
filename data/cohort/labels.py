"""Labels of patients, and a reason for each patient without a label.

Label values are compared as ids are: without regard to case, and ``1.0`` is ``1``. The caller lists the positive and
negative values; ``columns.toml`` lists values that mean missing, not evaluated and equivocal; any other value is
reported by itself. Every patient is used or dropped with a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..columns import label_words
from ..errors import CohortError
from ..wording import some
from .ids import id_key
from .outcomes import Label, Survival
from .slide_match import SlideMatch
from .table import CohortTable
from .tcga import is_frozen


@dataclass(frozen=True)
class PatientLabels:
    """The patients that can be used for one label, and those that cannot.

    Every patient of the table is in exactly one of ``labels`` and ``dropped``.

    :param column: name of the label's column in the table.
    :param labels: patient → label, sorted by patient; of a binary question 1 (positive) or 0 (negative).
    :param slides: patient → ids on disk of the slides to use, sorted; the same patients as ``labels``. Empty where
        the labels were read without slides.
    :param dropped: patient → why the patient is left out.
    :param frozen_slides: TCGA's frozen slides on disk that were left out.
    :param classes: names of the classes; empty if labels are numbers or follow-ups.
    """

    column: str
    labels: Mapping[str, Label]
    slides: Mapping[str, tuple[str, ...]]
    dropped: Mapping[str, str]
    frozen_slides: tuple[str, ...]
    classes: tuple[str, ...] = ("negative", "positive")

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of patients by class, the last class first, or with and without an event; empty for numbers."""
        follow_ups = [label for label in self.labels.values() if isinstance(label, Survival)]
        if follow_ups:
            events = sum(label.event for label in follow_ups)
            return {"with the event": events, "censored": len(follow_ups) - events}
        places = Counter(self.labels.values())
        return {name: places[place] for place, name in reversed(list(enumerate(self.classes)))}

    @property
    def reasons(self) -> dict[str, int]:
        """Reason → patients dropped for it, the most frequent first."""
        return dict(sorted(Counter(self.dropped.values()).items(), key=lambda item: (-item[1], item[0])))

    def notes(self) -> list[str]:
        """Sentences on how many patients were used, and how many dropped for which reason."""
        slides = sum(map(len, self.slides.values()))
        total = len(self.labels) + len(self.dropped)
        numbers = [f"{count} {name}" for name, count in self.counts.items()] + ([f"{slides} slides"] if slides else [])
        listed = f" ({', '.join(numbers)})" if numbers else ""
        notes = [f"{self.column}: {len(self.labels)} of {total} patients used{listed}"]
        notes += [f"dropped, {reason}: {count}" for reason, count in self.reasons.items()]
        if self.frozen_slides:
            notes.append(f"frozen TCGA slides left out: {len(self.frozen_slides)} ({some(self.frozen_slides, 3)})")
        return notes


def patient_labels(
    table: CohortTable,
    column: str,
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    match: SlideMatch | None = None,
    unusable: Mapping[str, str] | None = None,
    keep_frozen: bool = False,
    drop_conflicts: bool = False,
    one_class_is_enough: bool = False,
) -> PatientLabels:
    """Read the patients' labels from one column.

    Rows of one patient must agree; rows without a value (missing, not evaluated) are ignored if the patient has other
    rows. A patient with a clear value in one row and an equivocal or unknown one in another is dropped.

    :param positive: values that mean 1, in any case.
    :param negative: values that mean 0, in any case.
    :param match: the slides on disk; without it, patients need no slides.
    :param unusable: slide id on disk → why it cannot be used (``"slide failed"``, ``"no tissue"``): a patient's
        reason when none is left.
    :param keep_frozen: use TCGA's frozen slides too.
    :param drop_conflicts: drop patients with both positive and negative rows, with that reason, instead of refusing
        the table.
    :param one_class_is_enough: accept a table without a row of one class, if all its values are known.
    :raises CohortError: no such column; a value listed as both positive and negative; patients with both labels (all
        are listed); a class without patients.
    """
    column = table.column(column)
    classes = _classes(table, column, positive, negative, one_is_enough=one_class_is_enough)
    values = table.by_patient(column)
    conflicts = {
        patient: " and ".join(sorted(set(written)))
        for patient, written in sorted(values.items())
        if {0, 1} <= {classes.get(id_key(value)) for value in written}
    }
    if conflicts and not drop_conflicts:
        listed = ", ".join(f"{patient} ({both})" for patient, both in conflicts.items())
        what = f"column {column}: {len(conflicts)} patients are both positive and negative: {listed}"
        raise CohortError(what, path=table.source, hint="correct these rows: a label is the patient's, not the slide's")

    label_of = {
        patient: "labels conflict" if patient in conflicts else _label(written, classes)
        for patient, written in values.items()
    }
    return join_labels(table, column, label_of, match=match, unusable=unusable, keep_frozen=keep_frozen)


def join_labels(
    table: CohortTable,
    column: str,
    label_of: Mapping[str, Label | str],
    *,
    match: SlideMatch | None,
    unusable: Mapping[str, str] | None,
    keep_frozen: bool,
    classes: tuple[str, ...] = ("negative", "positive"),
) -> PatientLabels:
    """Join labels with the slides on disk; every patient of the table is used or dropped with a reason.

    :param label_of: patient → label, or why there is none.
    :param match, unusable, keep_frozen: as for :func:`patient_labels`.
    """
    on_disk = _slides_of(table, match)
    # The name of a renamed file may no longer contain the slide's type, but its row may.
    rows = {} if match is None or keep_frozen else match.rows
    frozen = {slide for slide, row in rows.items() if is_frozen(slide) or is_frozen(row)}
    labels: dict[str, Label] = {}
    slides: dict[str, tuple[str, ...]] = {}
    dropped: dict[str, str] = {}
    for patient, label in sorted(label_of.items()):
        usable = _usable(on_disk.get(patient, ()), frozen, unusable or {})
        if match is not None and patient not in on_disk:
            dropped[patient] = "no slide on disk"
        elif isinstance(label, str):
            dropped[patient] = label
        elif match is not None and isinstance(usable, str):
            dropped[patient] = usable
        else:
            labels[patient] = label
            slides[patient] = () if isinstance(usable, str) else usable
    return PatientLabels(column, labels, slides, dropped, tuple(sorted(frozen)), classes)


def class_labels(
    table: CohortTable,
    column: str,
    classes: Mapping[str, Sequence[str]],
    *,
    match: SlideMatch | None = None,
    unusable: Mapping[str, str] | None = None,
    keep_frozen: bool = False,
    drop_conflicts: bool = False,
    all_needed: bool = True,
) -> PatientLabels:
    """Read which of several classes each patient is of; the rules are those of :func:`patient_labels`.

    :param classes: name of a class → the values that mean it; a label is the place of its class, from 0.
    :param all_needed: whether every class must have a row.
    :raises CohortError: no such column; patients of two classes; a class without a row.
    """
    column = table.column(column)
    place_of = {id_key(value): place for place, values in enumerate(classes.values()) for value in values}
    there = Counter(id_key(value) for value in table.frame[column])
    for place, (name, own) in enumerate(classes.items()):
        if all_needed and not any(place_of.get(value) == place for value in there):
            what = f"no row of column {column} is of class {name}: none is {' or '.join(own)}"
            hint = f"choose classes among its values: {values_there(table, column)}"
            raise CohortError(what, path=table.source, hint=hint)
    values = table.by_patient(column)
    label_of: dict[str, Label | str] = {}
    conflicts = []
    for patient, written in sorted(values.items()):
        found = {place_of[id_key(value)] for value in written if id_key(value) in place_of}
        label_of[patient] = "labels conflict" if len(found) > 1 else _label(written, place_of, "of none of the classes")
        if len(found) > 1:
            conflicts.append(f"{patient} ({' and '.join(sorted(set(written)))})")
    if conflicts and not drop_conflicts:
        what = f"column {column}: {len(conflicts)} patients are of two classes: {', '.join(conflicts)}"
        raise CohortError(what, path=table.source, hint="correct these rows: a label is the patient's, not the slide's")
    names = tuple(classes)
    return join_labels(table, column, label_of, match=match, unusable=unusable, keep_frozen=keep_frozen, classes=names)


def values_there(table: CohortTable, column: str) -> str:
    """The values of a column in the spelling that occurs first, each with its number of rows."""
    rows = Counter(id_key(value) for value in table.frame[column])
    spelled = {id_key(value): value for value in reversed(list(table.frame[column]))}
    return some([f"{spelled[value] or '(empty)'} ({count})" for value, count in rows.most_common()], 12)


def value_readings(table: CohortTable, column: str, classes: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """What each value of a label's column is read as: a class, or why it is no label → value → rows.

    :param classes: name of a class → the values that mean it.
    :raises CohortError: no such column.
    """
    place_of = {id_key(value): place for place, values in enumerate(classes.values()) for value in values}
    names, readings = tuple(classes), dict[str, dict[str, int]]()
    for value, rows in Counter(table.frame[table.column(column)]).most_common():
        label = _label([value], place_of, "of none of the classes")
        readings.setdefault(names[label] if isinstance(label, int) else label, {})[value] = rows
    return readings


_NO_LABEL = ("missing", "not_evaluated", "equivocal")
"""Kinds of values in ``columns.toml`` that are not a label."""


def _classes(
    table: CohortTable, column: str, positive: Sequence[str], negative: Sequence[str], *, one_is_enough: bool
) -> dict[str, int]:
    """Casefolded value → class."""
    folded = [{id_key(value) for value in side} for side in (negative, positive)]
    both = folded[0] & folded[1]
    if both:
        what = f"{', '.join(sorted(both))} cannot mean both positive and negative"
        raise CohortError(what, path=table.source, hint="give each value to one of --positive and --negative")
    there = Counter(id_key(value) for value in table.frame[column])
    clear = folded[0] | folded[1]
    known = clear.union(*(label_words(kind) for kind in _NO_LABEL))
    one_is_enough = one_is_enough and not clear.isdisjoint(there) and known.issuperset(there)
    for name, side in zip(("negative", "positive"), folded, strict=True):
        if not side & set(there) and not one_is_enough:
            what = f"no row of column {column} is {name}: none is {' or '.join(sorted(side)) or 'anything'}"
            hint = f"choose --{name} among its values: {values_there(table, column)}"
            raise CohortError(what, path=table.source, hint=hint)
    return {value: label for label, side in enumerate(folded) for value in side}


def _label(values: Sequence[str], classes: Mapping[str, int], none: str = "neither positive nor negative") -> int | str:
    """The patient's label, or why there is none; conflicts between rows have been handled before.

    :param none: what a value of no class is.
    """
    folded = sorted({id_key(value) for value in values})
    missing = [value for value in folded if value not in classes and value in label_words("missing")]
    not_evaluated = [value for value in folded if value not in classes and value in label_words("not_evaluated")]
    clear = {classes[value] for value in folded if value in classes}
    unclear = [
        value for value in folded if value not in classes and value not in missing and value not in not_evaluated
    ]
    equivocal = [value for value in unclear if value in label_words("equivocal")]
    if clear and unclear:
        return f"label clear in one row and {unclear[0]!r} in another"
    if clear:
        return clear.pop()
    if equivocal:
        return f"label equivocal ({equivocal[0]})"
    if unclear:
        return f"label is {none} ({unclear[0]})"
    return f"label not evaluated ({not_evaluated[0]})" if not_evaluated else "label missing"


def _slides_of(table: CohortTable, match: SlideMatch | None) -> dict[str, tuple[str, ...]]:
    """Patient → its slides on disk, sorted."""
    if match is None:
        return {}
    patient_of = table.patient_of()
    slides: dict[str, list[str]] = {}
    for slide, row in sorted(match.rows.items()):
        slides.setdefault(patient_of[row], []).append(slide)
    return {patient: tuple(found) for patient, found in slides.items()}


def _usable(slides: Sequence[str], frozen: Collection[str], unusable: Mapping[str, str]) -> tuple[str, ...] | str:
    """The usable slides, or the reason why there are none."""
    wanted = [slide for slide in slides if slide not in frozen]
    if not wanted:
        return "frozen slides only"
    usable = tuple(slide for slide in wanted if slide not in unusable)
    return usable or " and ".join(sorted({unusable[slide] for slide in wanted}))


def patient_sites(table: CohortTable, patients: Iterable[str]) -> dict[str, str]:
    """Patient → site, for splits that keep sites apart.

    :raises CohortError: a patient without a site, or with two.
    """
    sites: dict[str, set[str]] = {patient: set() for patient in sorted(set(patients))}
    for patient, site in zip(table.frame["patient_id"], table.frame["site"], strict=True):
        if patient in sites and site:
            sites[patient].add(site)
    doubtful = [f"{p} ({' and '.join(sorted(names)) or 'none'})" for p, names in sites.items() if len(names) != 1]
    if doubtful:
        what = f"{len(doubtful)} patients do not have one site: {some(doubtful)}"
        raise CohortError(what, path=table.source, hint="fill the site column, or split by patient")
    return {patient: names.pop() for patient, names in sites.items()}
