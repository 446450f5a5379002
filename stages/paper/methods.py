"""The table of methods: dates, host, device, versions, label, digests; and all settings as a file that trains again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePath
from typing import Any, Final

from ...data.manifest import Record
from ..pages.asked_question import Question
from ..pages.numbers import duration
from ..settings import RESOLVED

Rows = tuple[tuple[str, str], ...]
SECTIONS: Final = ("tile", "extract", "encode", "genomics", "split", "train", "report")
"""Sections of the settings file that say how a model was made, beside its biomarkers."""


def methods_table(
    records: Mapping[str, Record],
    question: Question,
    values: Mapping[str, Sequence[str]],
    versions: Mapping[str, str],
    digest: str,
    genomics: Record | None,
) -> Rows:
    """What a methods section is written from.

    :param records: of the split, each fold and the cross-validation, by item.
    :param values: class → the values of the table that mean it.
    :param versions: of the packages that trained the model.
    :param digest: of the model.
    :param genomics: the record of the expression matrix, if there is one.
    """
    folds = [record for item, record in records.items() if item.startswith("fold-")]
    table = records["splits"].inputs.get("table")
    last = max(folds, key=lambda record: record.start)
    seeds = [("split", "splits"), ("training", "fold-0"), ("bootstrap", "cross-validation")]
    return (
        *([("cohort table", f"{_name(table.path)}, {table.digest}")] if table is not None else []),
        ("label", f"{question.label_column}: {_values(values) or question.task}"),
        ("split", _date(records["splits"].start)),
        ("training", f"{_date(min(record.start for record in folds))} to {_date(_end(last))}, {len(folds)} folds, "
         f"{duration(sum(record.seconds for record in folds))} of work"),
        ("cross-validation", _date(records["cross-validation"].start)),
        ("host", ", ".join(dict.fromkeys(record.host for record in folds))),
        ("device", ", ".join(dict.fromkeys(str(record.stats.get("device", "not recorded")) for record in folds))),
        ("software", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("seeds", ", ".join(f"{name} {records[item].settings.get('seed', 0)}" for name, item in seeds)),
        ("model digest", digest),
        *([("expression matrix", matrix)] if (matrix := _matrix(genomics)) else []),
    )  # fmt: skip


@dataclass(frozen=True)
class SlideVectors:
    """Slide vectors that a model was trained on.

    :param features: the folder's name, as ``--features`` takes it.
    :param imported: the settings of their import, if another program has made them.
    """

    features: str
    imported: Mapping[str, Any] | None


def commands(name: str, *, rna: bool, vectors: SlideVectors | None = None) -> tuple[str, ...]:
    """The command lines that make the model again from the settings file beside it.

    :param name: of the biomarker.
    :param rna: whether an expression matrix was read.
    :param vectors: None of a model that reads tiles.
    """
    file = "-c settings.toml"
    steps = ["tile", "extract", *(["encode"] if vectors is not None else [])]
    if vectors is not None and vectors.imported is not None:
        said = [f"--{flag.replace('_', '-')} {value}" for flag, value in vectors.imported.items()]
        steps = [f"import VECTORS {' '.join(said)}"]
    steps += ["genomics"] if rna else []
    of_vectors = "" if vectors is None else f" --features {vectors.features}"
    return (*(f"wsipipe {step} {file}" for step in steps), f"wsipipe train {file} --name {name}{of_vectors}")


def settings_file(sections: Mapping[str, Mapping[str, Any]], biomarkers: Mapping[str, Mapping[str, Any]]) -> str:
    """Write settings as TOML, a section each; those that are None are left out, since they are at their default.

    :param sections: section → settings, as JSON values.
    :param biomarkers: name → settings.
    """
    parts = {**sections, **{f"biomarkers.{json.dumps(name)}": own for name, own in biomarkers.items()}}
    text = (
        "# The settings of this model, as recorded. Paths are names only: put the folders of your files before them,\n"
        "# and the slides under [cohort].\n"
    )
    for section, settings in parts.items():
        lines = [f"{name} = {_toml(value)}" for name, value in settings.items() if _is_written(name, value)]
        if lines:
            text += "\n".join(["", f"[{section}]", *lines, ""])
    return text


def settings_rows(sections: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Rows of a table: section, setting, value."""
    for section, settings in sections.items():
        for name, value in settings.items():
            if name != RESOLVED:
                yield section, name, "" if value is None else str(value)


def _is_written(name: str, value: Any) -> bool:
    return name != RESOLVED and value is not None and not isinstance(value, dict)


def _toml(value: Any) -> str:
    """A value as TOML; JSON writes text, numbers, booleans and lists of them in the same way."""
    return json.dumps(value, ensure_ascii=False)


def _values(values: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{name} is {' or '.join(own)}" if list(own) != [name] else name for name, own in values.items())


def _matrix(genomics: Record | None) -> str:
    if genomics is None or "matrix" not in genomics.inputs:
        return ""
    matrix = genomics.inputs["matrix"]
    return f"{_name(matrix.path)}, {matrix.digest}, unit {genomics.settings.get('unit', 'not recorded')}"


def _name(path: str | None) -> str:
    """The name of a file without its folders, which are of a machine."""
    return PurePath(path.replace("\\", "/")).name if path else "–"


def _end(record: Record) -> datetime:
    return record.start + timedelta(seconds=record.seconds)


def _date(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
