"""The cohort table: labels and what they are read as, folds, and the patients that slides, labels and RNA share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ...data.cohort.ids import id_key
from ...data.cohort.labels import PatientLabels, value_readings
from ...data.cohort.slide_match import SlideMatch, match_slides
from ...data.cohort.splits import Splits, Strata
from ...data.cohort.table import CohortTable
from ...data.errors import CohortError, about
from ...data.molecular.store import ExpressionTable
from ...data.wording import in_words, some
from ...models.tasks.multitask import MultiTask
from ...models.tasks.question import class_values
from ...models.training.methods import METHODS, find_method
from ...stages.train.audit import Audited
from ...stages.train.label_genes import refuse_labels
from ...stages.train.question_labels import question_labels
from ...stages.train.settings import BiomarkerSettings, QuestionSettings
from ...stages.train.split import SplitStageSettings, folds_of, not_joined
from ...stages.train.stage import TrainStage
from ..config import Config
from ..folders import checked_name
from .report import Report
from .slides import SlidesFound

_FEW_TO_TEST = 3
_EXAMPLES = 3


def check_cohort(
    config: Config, table: CohortTable | None, slides: SlidesFound, tables: Sequence[ExpressionTable], report: Report
) -> None:
    """Read the labels of every biomarker, and join them with slides and RNA as training will.

    :param tables: what training is given of RNA and further blocks.
    """
    match: SlideMatch | None = None
    if table is not None and slides.slides:
        with report.collecting("train"):
            match = match_slides(slides.ids, table)
            _tell_matches(table, match, report)
            _look_at_twins(table, match, slides, report)
    if table is not None:
        _join_rna(config, table, match, tables, report)
    for name in config.biomarkers:
        with report.collecting("train"), about(f"biomarkers.{name}"):
            question = config.question(name)
            # The faults of its table are looked for even if the method cannot answer it.
            with report.collecting("train"), about(f"biomarkers.{name}"):
                _refuse(config, name, question, tables)
            if table is None:
                continue
            with about(table.source):
                Audited.of(config.report.audit, table, question)
                _check_biomarker(config, name, question, table, match, slides, tables, report)


def _refuse(config: Config, name: str, question: QuestionSettings, tables: Sequence[ExpressionTable]) -> None:
    """Refuse what training would refuse before it reads a slide."""
    workspace = config.workspace
    place = workspace / "features" / config.features_name()
    stage = TrainStage(
        config.train,
        workspace / "models" / checked_name(name, "a model"),
        workspace,
        biomarker=question,
        tiles=workspace / "tiles" / place.parent.name,
        features=place,
        stores=[place for _ in tables] or [place for _ in config.genomics.sources()],
    )
    stage.refuse_settings()


def _tell_matches(table: CohortTable, match: SlideMatch, report: Report) -> None:
    patient_of = table.patient_of()
    with_slide = {patient_of[row] for row in match.rows.values()}
    report.fact(
        "patients",
        f"{len(table.patients):,} in the table, {len(with_slide):,} of them with slides ({len(match.rows):,} slides "
        f"matched{'' if not match.by_rule else ' by ' + some(list(match.by_rule), 2)})",
        **{"patients": len(table.patients), "with_slides": len(with_slide), "slides_matched": len(match.rows)},
        **{"only_on_disk": list(match.only_on_disk), "only_in_table": list(match.only_in_table)},
    )
    if match.only_on_disk:
        there = some(match.only_in_table or list(match.rows.values()), 1)
        lost = f"{len(match.only_on_disk):,} ({some(match.only_on_disk, _EXAMPLES)})"
        what = f"{table.source}: slides on disk that no row names: {lost}"
        report.look("train", what, f"slide_id is the file's name without extension; the table has such as {there}")
    if match.only_in_table:
        lost = f"{len(match.only_in_table):,} ({some(match.only_in_table, _EXAMPLES)})"
        what = f"{table.source}: slides of the table not on disk: {lost}"
        report.look("train", what, "check slides in [cohort]; patients without a slide are left out")


def _look_at_twins(table: CohortTable, match: SlideMatch, slides: SlidesFound, report: Report) -> None:
    """Slides of the same bytes are refused in training if they are of two patients."""
    patient_of = table.patient_of()
    further = f", and so have {len(slides.twins) - _EXAMPLES} more pairs" if len(slides.twins) > _EXAMPLES else ""
    for twins in slides.twins[:_EXAMPLES]:
        patients = {patient_of[match.rows[slide]] for slide in twins if slide in match.rows}
        what = f"slides {in_words(twins, _EXAMPLES)} have the same bytes{further}"
        if len(patients) > 1:
            hint = "remove the row that is wrong; if they are one person, give both rows one patient_id"
            report.stops("train", f"{table.source}: {what}, of patients {in_words(sorted(patients), _EXAMPLES)}", hint)
        else:
            report.look("train", what, "remove one of them; a patient's slides share the patient's weight")


def _join_rna(
    config: Config,
    table: CohortTable,
    match: SlideMatch | None,
    tables: Sequence[ExpressionTable],
    report: Report,
) -> None:
    """Say who has RNA, and whether training will read it."""
    rna = next((one for one in tables if one.block == "rna"), None)
    if rna is None:
        return
    patient_of = table.patient_of()
    patients = set(table.patients) if match is None else {patient_of[row] for row in match.rows.values()}
    joined = [patient for patient in sorted(patients) if patient in rna]
    known = {id_key(patient) for patient in table.patients}
    strangers = [patient for patient in rna.patients if id_key(patient) not in known]
    what = f"{len(joined):,} of {len(patients):,} patients with slides have RNA"
    if strangers:
        what += f"; {len(strangers):,} of the matrix are not in the table ({some(strangers, _EXAMPLES)})"
    report.fact("joined", what, with_rna=len(joined), with_slides=len(patients), only_in_matrix=strangers)
    method = find_method(config.train.method)
    if not config.train.soft_targets and not (method.uses_rna and config.train.use_rna):
        readers = in_words([name for name, one in METHODS.items() if one.uses_rna], len(METHODS))
        what = f"not read by {config.train.method} as it is set: {readers} read it, and every method with soft_targets"
        report.fact("rna in training", what)
    for note in not_joined(list(rna.patients), table):
        report.look(
            "train", f"{rna.source}: {note}", "write them alike, or give --patient-pattern; they stay two people"
        )
    if patients and not joined:
        what = f"{rna.source}: none of its patients has a slide; it has such as {some(rna.patients, _EXAMPLES)}"
        hint = f"the table has such as {some(table.patients, _EXAMPLES)}: use the same ids"
        if len(strangers) < len(rna.patients):
            hint = f"{len(rna.patients) - len(strangers):,} of them are in the table, and their slides are not found"
            hint += ": check slides in [cohort]"
        report.stops("train", what, hint)


def _check_biomarker(
    config: Config,
    name: str,
    question: QuestionSettings,
    table: CohortTable,
    match: SlideMatch | None,
    slides: SlidesFound,
    tables: Sequence[ExpressionTable],
    report: Report,
) -> None:
    """Read one biomarker's labels and deal its folds.

    :raises CohortError: what training would raise.
    """
    if question.signature:
        report.fact(name, f"{question.signature}: scored from RNA when genomics is done; folds are dealt then")
        return
    _tell_values(name, question, table, report)
    settings = SplitStageSettings(**config.split.model_dump(), **question.model_dump())
    labels = question_labels(
        table,
        settings,
        match=match,  # type: ignore[arg-type]  # without slides the labels alone are read
        unusable=slides.unusable,
        keep_frozen=settings.tcga_slides == "all",
        drop_conflicts=settings.drop_conflicts,
        to_train=True,
    )
    if not labels.labels:
        why = ", ".join(f"{reason} ({count})" for reason, count in labels.reasons.items())
        what = f"none of its {len(labels.dropped)} patients can be used: {why}"
        raise CohortError(what, path=table.source, hint="labels come from the table, slides from [cohort]")
    splits, _ = folds_of(table, labels, settings)
    _tell_folds(name, settings, labels, splits, report)
    task = settings.asked()
    of_targets = [task.known(one, labels.labels) for one in task.targets] if isinstance(task, MultiTask) else []
    for own in of_targets or [dict(labels.labels)]:
        for note in refuse_labels(tables, own):
            report.look("train", f"{tables[0].source}: {note}", "leave them out with --drop-columns if they are not")


def _tell_values(name: str, question: BiomarkerSettings, table: CohortTable, report: Report) -> None:
    """Say what each value of the column is read as; values that are no class may be a typing error."""
    if isinstance(question, QuestionSettings):
        for target in question.targets:
            _tell_values(f"{name}.{target}", question.of_targets[target], table, report)
    classes: Mapping[str, Sequence[str]]
    if question.task == "binary":
        classes = {"negative": question.negative, "positive": question.positive}
    elif question.task in ("multiclass", "ordinal"):
        classes = class_values(question.classes)
    else:
        return
    readings = value_readings(table, question.label_column, classes)
    said = []
    for reading, values in sorted(readings.items(), key=lambda own: own[0] not in classes):
        written = [f"{value or '(empty)'} ({rows})" for value, rows in values.items()]
        said.append(f"{reading}: {some(written, 4)}")
    column = table.column(question.label_column)
    report.fact(f"{name} values", f"{column}, by rows: {'; '.join(said)}", column=column, read_as=readings)
    unknown: dict[str, int] = {}
    for reading, values in readings.items():
        if reading not in classes and "none of the classes" in reading:
            unknown |= values
    if unknown:
        listed = some([f"{value} ({rows})" for value, rows in unknown.items()])
        what = f"{table.source}: column {column} has values that are of no class: {listed}"
        report.look("train", what, f"if they are, add them to the values of biomarkers.{name}; else they are dropped")


def _tell_folds(name: str, settings: SplitStageSettings, labels: PatientLabels, splits: Splits, report: Report) -> None:
    used, *dropped = labels.notes()
    strata = settings.asked().strata_of_split(labels.labels)
    counts = [Counter[str]() for _ in range(splits.folds)]
    for patient in splits.labels:
        own = strata.of[patient]
        for place in (own,) if isinstance(own, int) else own:
            counts[splits.test_fold(patient)][strata.names[place]] += 1
    least = {one: min(count[one] for count in counts) for one in strata.names}
    most = {one: max(count[one] for count in counts) for one in strata.names}
    each = [f"{low if low == most[one] else f'{low} to {most[one]}'} {one}" for one, low in reversed(least.items())]
    report.fact(
        name,
        f"{used}; {splits.folds} folds test {', '.join(each) or 'patients'} each",
        **{"patients": len(labels.labels), "classes": labels.counts, "dropped": labels.reasons},
        folds=[dict(count) for count in counts],
    )
    if dropped:
        report.fact(f"{name} dropped", "; ".join(note.removeprefix("dropped, ") for note in dropped))
    few = {one: low for one, low in least.items() if low < _FEW_TO_TEST}
    if few and isinstance(strata, Strata):
        listed = ", ".join(f"{low} {one}" for one, low in few.items())
        what = f"biomarkers.{name}: a fold tests {listed} only: its figures will say little"
        report.look("train", what, f"find more patients, or use fewer folds than {splits.folds}")
