"""Labels of patients for several targets: who has a label of any, and how many have one of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .labels import PatientLabels
from .outcomes import TargetLabels


@dataclass(frozen=True)
class LabelsOfTargets(PatientLabels):
    """Patients with a label of one target at least.

    :param of_targets: target → the labels of it alone.
    :param absent: target → why the table has no labels of it at all.
    """

    of_targets: Mapping[str, PatientLabels] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of patients by target and class; of a target of numbers, of patients who have one."""
        counts: dict[str, int] = {}
        for name in self.of_targets:
            own = of_target(self, name)
            of_classes = own.counts or {"": len(own.labels)}
            counts |= {f"{name} {one}".strip(): count for one, count in of_classes.items()}
        return counts

    def notes(self) -> list[str]:
        """Sentences on how many patients were used and dropped, and how many of the used miss which label."""
        notes = super().notes()
        notes += [f"target {name} is left out: {why}" for name, why in self.absent.items()]
        for name, own in self.of_targets.items():
            why = Counter(reason for patient, reason in own.dropped.items() if patient in self.labels)
            if why:
                listed = ", ".join(f"{reason} ({count})" for reason, count in why.most_common())
                notes.append(f"without {name}, used for the other targets: {sum(why.values())}: {listed}")
        return notes


def join_targets(
    of_targets: Mapping[str, PatientLabels], absent: Mapping[str, str], order: Sequence[str]
) -> LabelsOfTargets:
    """Join the labels of several targets; who has none of them is dropped, with the reasons.

    :param of_targets: target → labels of the same table and slides; at least one.
    :param absent: target → why the table has no labels of it.
    :param order: all targets, in the order of a patient's labels.
    """
    first = next(iter(of_targets.values()))
    everyone = sorted({*first.labels, *first.dropped})
    used = {
        patient: _labels_of(patient, of_targets, order)
        for patient in everyone
        if any(patient in own.labels for own in of_targets.values())
    }
    slides = {
        patient: next(own.slides[patient] for own in of_targets.values() if patient in own.slides) for patient in used
    }
    dropped = {patient: _why(patient, of_targets) for patient in everyone if patient not in used}
    frozen = tuple(sorted({slide for own in of_targets.values() for slide in own.frozen_slides}))
    column = ", ".join(own.column for own in of_targets.values())
    return LabelsOfTargets(column, used, slides, dropped, frozen, (), of_targets, absent)


def _labels_of(patient: str, of_targets: Mapping[str, PatientLabels], order: Sequence[str]) -> TargetLabels:
    own = [of_targets[name].labels.get(patient) if name in of_targets else None for name in order]
    return TargetLabels(own)  # type: ignore[arg-type]  # each is of one target


def _why(patient: str, of_targets: Mapping[str, PatientLabels]) -> str:
    """Why a patient has no label of any target: one reason, or that of each."""
    reasons = {name: own.dropped[patient] for name, own in of_targets.items()}
    if len(set(reasons.values())) == 1:
        return next(iter(reasons.values()))
    return "no label of any target: " + ", ".join(f"{name} {reason}" for name, reason in reasons.items())


def of_target(labels: LabelsOfTargets, name: str) -> PatientLabels:
    """The patients of one target among those that are still used; who misses its label is dropped from it.

    :param labels: of which further patients may have been dropped since.
    """
    own = labels.of_targets[name]
    gone = {patient: labels.dropped[patient] for patient in own.labels if patient not in labels.labels}
    return replace(
        own,
        labels={patient: label for patient, label in own.labels.items() if patient not in gone},
        slides={patient: labels.slides[patient] for patient in own.labels if patient not in gone},
        dropped={**own.dropped, **gone},
    )
