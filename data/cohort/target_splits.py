"""Cross-validation splits of patients with labels for several targets.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011): the class of a target that has the fewest
patients left is dealt first, each of its patients to the fold that lacks most of this class. Strata of the combinations
of labels would be the obvious way; but three targets, each of which may be missing, have 26 combinations, most of them
of one or two patients, and folds could not be even in any of them.

As in :mod:`.splits` patients are ordered by a hash of seed and id, so that the split is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import CohortError
from .outcomes import Label
from .splits import Role, Splits, Strata, deal_groups, make_splits, shuffled, too_few


@dataclass(frozen=True)
class TargetStrata:
    """The strata of several targets, such as each one's classes.

    :param of: patient → places in ``names`` of their strata, one for each target that is known.
    :param names: each must have patients in every part of every fold.
    """

    of: Mapping[str, tuple[int, ...]]
    names: tuple[str, ...]


def split_patients(
    labels: Mapping[str, Label],
    folds: int,
    seed: int,
    validation_fraction: float,
    groups: Mapping[str, str] | None,
    strata: Strata | TargetStrata,
) -> Splits:
    """Make the folds of a question with one label (:func:`~.splits.make_splits`), or with several.

    :raises CohortError: a stratum has too few patients, or none in a part of a fold; or there are too few groups.
    """
    if isinstance(strata, Strata):
        return make_splits(labels, folds, seed, validation_fraction, groups, strata)
    counts = [sum(place in own for own in strata.of.values()) for place in range(len(strata.names))]
    if min(counts) < folds:
        raise too_few(strata.names, counts, folds)
    of, names = strata.of, strata.names
    if groups is None:
        tested = deal(of, [1 / folds] * folds, len(names), seed, "test")
    else:
        tested = deal_groups(of, names, folds, seed, groups)
    roles: dict[str, list[Role]] = {patient: ["train"] * folds for patient in sorted(labels)}
    for fold in range(folds):
        rest = {patient: own for patient, own in of.items() if tested[patient] != fold}
        shares = [validation_fraction, 1 - validation_fraction]
        parts = deal(rest, shares, len(names), seed, f"validation of fold {fold}")
        for patient in of:
            roles[patient][fold] = "test" if patient not in rest else "train" if parts[patient] else "validation"
        _refuse_empty(strata, {patient: own[fold] for patient, own in roles.items()}, fold)
    in_order = dict(sorted(labels.items()))
    return Splits(in_order, {patient: tuple(roles[patient]) for patient in in_order})


def deal(
    of: Mapping[str, tuple[int, ...]], shares: Sequence[float], strata: int, seed: int, purpose: str
) -> dict[str, int]:
    """Deal patients to parts so that every part gets its share of every stratum, one patient at least; patient → part.

    A patient goes to the part that lacks most of the stratum that is dealt; of equals to the one that lacks most of the
    patient's other strata, then most patients, then to the first.

    :param of: patient → their strata; at least one.
    :param shares: of each part; their sum is 1.
    :param strata: number of strata.
    :param seed, purpose: of the order in which patients are dealt.
    """
    left = shuffled(of, seed, purpose)
    sizes = [sum(place in own for own in of.values()) for place in range(strata)]
    lacks = [[max(1.0, share * size) for size in sizes] for share in shares]
    lacks_patients = [share * len(of) for share in shares]
    part_of: dict[str, int] = {}
    while left:
        counts = [sum(place in of[patient] for patient in left) for place in range(strata)]
        rarest = min((place for place in range(strata) if counts[place]), key=lambda place: (counts[place], place))
        for patient in [patient for patient in left if rarest in of[patient]]:
            own = of[patient]
            part = max(range(len(shares)), key=lambda n: _need(lacks[n], rarest, own, lacks_patients[n], n))
            part_of[patient] = part
            lacks_patients[part] -= 1
            for place in of[patient]:
                lacks[part][place] -= 1
        left = [patient for patient in left if patient not in part_of]
    return part_of


def _need(
    lacks: Sequence[float], rarest: int, own: tuple[int, ...], patients: float, part: int
) -> tuple[float, float, float, int]:
    """How much a part needs a patient, greatest for the one that gets them."""
    return lacks[rarest], sum(lacks[place] for place in own), patients, -part


def _refuse_empty(strata: TargetStrata, roles: Mapping[str, Role], fold: int) -> None:
    """Refuse a fold that has no patient of a stratum to train, to validate or to test on."""
    parts: tuple[Role, ...] = ("train", "validation", "test")
    for role in parts:
        there = {place for patient, own in strata.of.items() if roles[patient] == role for place in own}
        lost = [name for place, name in enumerate(strata.names) if place not in there]
        if lost:
            what = f"fold {fold} has no {role} patient that is {lost[0]}"
            raise CohortError(what, hint="use fewer folds, find more of these patients, or leave this target out")
