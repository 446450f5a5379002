"""Which samples of a matrix stand for which patients, one each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ..cohort.tcga import SAMPLE_TYPES, tcga_barcode
from ..errors import ExpressionError, UsageError
from ..wording import some
from .matrix import RawMatrix
from .reading_facts import ReadingFacts


def standing_samples(raw: RawMatrix, pattern: str | None, facts: ReadingFacts) -> tuple[list[int], list[str]]:
    """Samples and their patients, one each.

    With a pattern, it alone says whose a sample is. Without one, a sample sheet does, or a TCGA barcode cut to the
    patient (12 characters) where the sample type is 01; any other name is the patient's own.

    Of several samples of a patient the one of the first vial (A; later ones are often from paraffin), and among these
    the one whose name sorts last (in barcodes the newest portion and plate, as Broad's GDAC does), stands.

    :param pattern: a regular expression, searched for in the sample's name; its first group, or all of it where it has
        none, is the patient. Samples in which it is not found are left out.
    :raises UsageError: the pattern is none.
    :raises ExpressionError: no sample is left, or one name has two samples with different values.
    """
    if pattern is not None:
        of_patient = _by_pattern(raw.samples, pattern, facts)
    elif raw.patients is not None:
        of_patient = _grouped(raw.patients)
    else:
        of_patient = _by_name(raw.samples, facts)
    stands = {patient: _standing(patient, samples, raw) for patient, samples in of_patient.items()}
    extra = sum(map(len, of_patient.values())) - len(stands)
    rule = "the first vial's last portion and plate stand" if pattern is None else "the name that sorts last stands"
    facts.count("extra_aliquots", extra, f"further aliquots left out, {rule}")
    return list(stands.values()), list(stands)


def _grouped(patients: Sequence[str]) -> dict[str, list[int]]:
    of_patient: dict[str, list[int]] = {}
    for sample, patient in enumerate(patients):
        of_patient.setdefault(patient, []).append(sample)
    return of_patient


def _by_pattern(samples: Sequence[str], pattern: str, facts: ReadingFacts) -> Mapping[str, list[int]]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        hint = r"a regular expression such as '^(PT-\d+)': its first group is the patient"
        raise UsageError(f"{pattern!r} is no pattern ({error})", path="patient_pattern", hint=hint) from error
    found = [compiled.search(sample) for sample in samples]
    # A group that took no part, and a match of nothing, name no patient.
    patients = [(match[1] if compiled.groups else match[0]) or "" if match else "" for match in found]
    of_patient = _grouped(patients)
    others = [samples[sample] for sample in of_patient.pop("", [])]
    facts.count(
        "pattern_not_found", len(others), f"samples without the pattern {pattern!r} left out ({some(others, 3)})"
    )
    if not of_patient:
        what = f"no sample has the pattern {pattern!r}"
        raise ExpressionError(what, hint=f"correct --patient-pattern; samples are called {some(samples, 3)}")
    cut = sum(map(len, of_patient.values())) - sum(
        sample == patient for sample, patient in zip(samples, patients, strict=True)
    )
    facts.count("names_cut", cut, "sample names cut to the patient by the pattern")
    return of_patient


def _by_name(samples: Sequence[str], facts: ReadingFacts) -> Mapping[str, list[int]]:
    of_patient: dict[str, list[int]] = {}
    other_types: Counter[str] = Counter()
    unnamed = cut = 0
    for sample, name in enumerate(samples):
        barcode = tcga_barcode(name)
        if barcode and barcode.sample_type not in ("", "01"):
            other_types[barcode.sample_type] += 1
        elif not name:
            unnamed += 1
        else:
            patient = barcode.patient if barcode else name
            cut += patient != name
            of_patient.setdefault(patient, []).append(sample)
    facts.count("unnamed_samples", unnamed, "samples without a name left out")
    facts.count("barcodes_cut", cut, "TCGA barcodes cut to the patient (12 characters)")
    for code, number in sorted(other_types.items()):
        kind = SAMPLE_TYPES.get(code, "unknown")
        facts.count(f"sample_type_{code}", number, f"samples of type {code} ({kind}) left out, not primary tumours")
    if not of_patient:
        hint = "give a matrix with samples of TCGA type 01, or say which are meant with --patient-pattern"
        raise ExpressionError("no sample is a primary tumour", hint=hint)
    return of_patient


def _standing(patient: str, samples: Sequence[int], raw: RawMatrix) -> int:
    if len(samples) == 1:
        return samples[0]
    vials = {sample: (barcode.vial if (barcode := tcga_barcode(raw.samples[sample])) else "") for sample in samples}
    first_vial = min(vials.values())
    last = max(raw.samples[sample] for sample in samples if vials[sample] == first_vial)
    equals = [sample for sample in samples if raw.samples[sample] == last]
    if any(not np.array_equal(raw.values[equals[0]], raw.values[other], equal_nan=True) for other in equals[1:]):
        what = f"{patient} is there {len(equals)} times under one name ({last}) with different values"
        raise ExpressionError(what, hint="keep one of them, or give them their full barcodes")
    return equals[0]
