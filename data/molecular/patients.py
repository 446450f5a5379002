"""Choosing one sample of a matrix for each patient."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..cohort.sample_types import SampleType, sample_types
from ..cohort.tcga import SAMPLE_TYPES, tcga_barcode
from ..errors import ExpressionError, UsageError
from ..matrices.matrix import RawMatrix
from ..matrices.no_genes import is_date
from ..matrices.reading_facts import ReadingFacts
from ..wording import some

_ALIGNED = re.compile(
    r"(?:.*[/\\])?(.+?)(?:[._](?:Aligned|sorted\w*|out|to\w+|genome|mark\w*|dedup\w*|rmdup|hisat2|star|bwa))*\.(?:bam|sam|cram)",
    re.IGNORECASE,
)
"""Names of samples as written by featureCounts: paths of alignment files."""
_RANK: Mapping[SampleType, int] = {"primary": 0, "unknown": 1, "tumour": 1, "other": 2, "normal": 3}


def standing_samples(raw: RawMatrix, pattern: str | None, facts: ReadingFacts) -> tuple[list[int], list[str]]:
    """Choose one sample for each patient; returns the samples' indices and their patients.

    A pattern, if given, determines the patient of a sample. Otherwise a sample sheet or a column of patients does, or
    the patient's part of a TCGA barcode (12 characters) if the sample is of a primary tumour; any other name is the
    name of the patient.

    A normal sample is never used for a tumour, unless the pattern selects normal samples. Of several samples of a
    patient, primary tumours are preferred, then the first vial (A; later ones are often from paraffin), then the name
    that sorts last (in barcodes the newest portion and plate, as Broad's GDAC does).

    :param pattern: a regular expression, searched for in the sample's name; its first group, or the whole match if it
        has none, is the patient. Samples without a match are left out.
    :raises UsageError: the pattern is not a regular expression.
    :raises ExpressionError: no sample is left, or one name has two samples with different values.
    """
    files = [_ALIGNED.fullmatch(name) for name in raw.samples]
    if any(files):
        bare = tuple(found[1] if found else name for found, name in zip(files, raw.samples, strict=True))
        facts.count("file_names", sum(map(bool, files)), "samples named by alignment files shortened to the sample")
        raw = replace(raw, samples=bare)
    types = sample_types(raw.samples, raw.kinds)
    of_patient = _by_name(raw, types, facts) if pattern is None else _by_pattern(raw, pattern, types, facts)
    _refuse_case(list(of_patient))
    chosen = {patient: _standing(patient, samples, raw, types) for patient, samples in of_patient.items()}
    _count_others(chosen, of_patient, raw, types, facts, by_name=pattern is None)
    dates = [patient for patient in chosen if is_date(patient)]
    if dates and 2 * len(dates) <= len(chosen):
        what = (
            f"patients whose names a spreadsheet may have turned into dates or numbers: {len(dates)} ({some(dates, 3)})"
        )
        facts.warnings.append(what)
    return list(chosen.values()), list(chosen)


def _refuse_case(patients: Sequence[str]) -> None:
    """Refuse patients whose names differ only in case.

    :raises ExpressionError: there are such patients.
    """
    first: dict[str, str] = {}
    for patient in patients:
        other = first.setdefault(patient.casefold(), patient)
        if other != patient:
            what = f"{other} and {patient} differ only in capital letters: one patient or two?"
            raise ExpressionError(what, hint="give one patient one name, and two patients clearly different names")


def _count_others(
    stands: Mapping[str, int],
    of_patient: Mapping[str, Sequence[int]],
    raw: RawMatrix,
    types: Sequence[SampleType],
    facts: ReadingFacts,
    *,
    by_name: bool,
) -> None:
    """Report by which rule one of several samples was chosen, with examples."""
    several = {patient: samples for patient, samples in of_patient.items() if len(samples) > 1}
    extra = sum(map(len, several.values())) - len(several)
    known = any(types[sample] != "unknown" for samples in several.values() for sample in samples)
    rule = "the first vial's last portion and plate are used" if by_name else "the name that sorts last is used"
    if known and not by_name:
        rule = "primary tumours are preferred, then the first vial's last portion and plate"
    facts.count("extra_aliquots", extra, f"further aliquots left out, {rule}")
    if several:
        chosen = []
        for patient, samples in several.items():
            others = some([raw.samples[sample] for sample in samples if sample != stands[patient]], 2)
            chosen.append(f"{raw.samples[stands[patient]]} is used for {patient}, not {others}")
        facts.sentences.append(f"of several samples: {'; '.join(chosen[:3])}{' …' if len(chosen) > 3 else ''}")


def _grouped(patients: Sequence[str]) -> dict[str, list[int]]:
    of_patient: dict[str, list[int]] = {}
    for sample, patient in enumerate(patients):
        of_patient.setdefault(patient, []).append(sample)
    return of_patient


def _by_pattern(
    raw: RawMatrix, pattern: str, types: Sequence[SampleType], facts: ReadingFacts
) -> Mapping[str, list[int]]:
    samples = raw.samples
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        hint = r"a regular expression such as '^(PT-\d+)': its first group is the patient"
        what = f"{pattern!r} is not a regular expression ({error})"
        raise UsageError(what, path="patient_pattern", hint=hint) from error
    patients = [_found(compiled, sample) for sample in samples]
    of_patient = _grouped(patients)
    others = [samples[sample] for sample in of_patient.pop("", [])]
    facts.count("pattern_not_found", len(others), f"samples that do not match {pattern!r} left out ({some(others, 3)})")
    if not of_patient:
        what = f"no sample matches {pattern!r}"
        raise ExpressionError(what, hint=f"correct --patient-pattern; samples are named {some(samples, 3)}")
    normal = {
        index
        for index, patient in enumerate(patients)
        if patient and types[index] == "normal" and not _asked_for(compiled, samples[index], patient)
    }
    shown = some([samples[index] for index in sorted(normal)], 3)
    facts.count("normal_samples", len(normal), f"normal samples left out, which are not tumours ({shown})")
    tumours = {patient: [i for i in group if i not in normal] for patient, group in of_patient.items()}
    kept = {patient: group for patient, group in tumours.items() if group}
    if not kept:
        hint = "give a matrix with tumour samples, or a pattern that selects these samples, such as -11[A-Z]"
        raise ExpressionError("no sample is of a tumour: all are normal", hint=hint)
    cut = sum(map(len, kept.values())) - sum(
        samples[index] == patient for patient, group in kept.items() for index in group
    )
    facts.count("names_cut", cut, "sample names shortened to the patient by the pattern")
    return kept


def _found(pattern: re.Pattern[str], sample: str) -> str:
    """The patient in a sample's name; empty if the pattern does not match, or matches nothing."""
    match = pattern.search(sample)
    return (match[1] if pattern.groups else match[0]) or "" if match else ""


def _asked_for(pattern: re.Pattern[str], sample: str, patient: str) -> bool:
    """Whether the pattern selects this type of sample: it would not match the patient's tumour (``-01``)."""
    barcode = tcga_barcode(sample)
    if barcode is None or not barcode.sample_type:
        return False
    tumour = sample[:13] + "01" + sample[15:]
    return _found(pattern, tumour) != patient


def _by_name(raw: RawMatrix, types: Sequence[SampleType], facts: ReadingFacts) -> Mapping[str, list[int]]:
    """Samples of each patient, by the sheet or the column of patients, else by the samples' names."""
    of_patient: dict[str, list[int]] = {}
    other_types: Counter[str] = Counter()
    normal: list[str] = []
    unnamed = cut = 0
    for sample, name in enumerate(raw.samples):
        patient = name if raw.patients is None else raw.patients[sample]
        barcode = tcga_barcode(name)
        if raw.kinds is None and barcode and barcode.sample_type and types[sample] != "primary":
            other_types[barcode.sample_type] += 1
        elif not patient:
            unnamed += 1
        elif types[sample] == "normal":
            normal.append(name)
        else:
            if barcode and raw.patients is None:
                patient = barcode.patient
            cut += raw.patients is None and patient != name
            of_patient.setdefault(patient, []).append(sample)
    facts.count("unnamed_samples", unnamed, "samples without a name left out")
    facts.count("barcodes_cut", cut, "TCGA barcodes cut to the patient (12 characters)")
    for code, number in sorted(other_types.items()):
        kind = SAMPLE_TYPES.get(code, "unknown")
        facts.count(f"sample_type_{code}", number, f"samples of type {code} ({kind}) left out, not primary tumours")
    facts.count("normal_samples", len(normal), f"normal samples left out, by their names ({some(normal, 3)})")
    if not of_patient:
        hint = "give a matrix with samples of TCGA type 01, or select the samples to use with --patient-pattern"
        raise ExpressionError("no sample is a primary tumour", hint=hint)
    return of_patient


def _standing(patient: str, samples: Sequence[int], raw: RawMatrix, types: Sequence[SampleType]) -> int:
    if len(samples) == 1:
        return samples[0]
    first_type = min(_RANK[types[sample]] for sample in samples)
    samples = [sample for sample in samples if _RANK[types[sample]] == first_type]
    vials = {sample: (barcode.vial if (barcode := tcga_barcode(raw.samples[sample])) else "") for sample in samples}
    first_vial = min(vials.values())
    last = max(raw.samples[sample] for sample in samples if vials[sample] == first_vial)
    equals = [sample for sample in samples if raw.samples[sample] == last]
    if any(not np.array_equal(raw.values[equals[0]], raw.values[other], equal_nan=True) for other in equals[1:]):
        what = f"{patient} occurs {len(equals)} times under one name ({last}) with different values"
        raise ExpressionError(what, hint="keep one of them, or use their full barcodes")
    return equals[0]
