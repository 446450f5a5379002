"""The methods of a comparison: each with and without soft targets, controls with a part removed, and RNA alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ...data.errors import UsageError
from ...models.training.methods import METHODS, refuse_features
from ..train.settings import TrainSettings

REFERENCE: Final = "momkd"
"""The method that the others are compared with."""
OF_THE_TARGET: Final = "ridge logistic regression on the RNA that the target is made of: high by construction"
"""What RNA alone is where the target is a signature."""
CEILING: Final = "omics"
"""RNA alone; it uses no slides."""
_CONTROLS: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "momkd-no-rna": ("MoMKD without omics", "only the histology branch", {"use_rna": False}),
    "momkd-shuffled-rna": (
        "MoMKD with shuffled RNA",
        "RNA of another patient of the same class",
        {"shuffle_rna": True},
    ),
    "momkd-fixed-memory": (
        "MoMKD with fixed memory",
        "memory slots stay where k-means placed them",
        {"memory": "fixed"},
    ),
    "evidence-no-rna": (
        "Evidence memory without omics",
        "a control: no pairing of slides with RNA",
        {"method": "evidence", "use_rna": False},
    ),
}
"""Controls, methods with one part removed: title, note, and the settings that differ."""
STARTED: Final = "+init"
"""Suffix of the name of a method that starts from the weights of another training."""
SOFT: Final = "+soft"
"""Suffix of the name of a method with soft targets."""
ON: Final = "@"
"""Between a method of slide vectors and the name of their folder: ``linear@mean-of-uni2-h``."""


@dataclass(frozen=True)
class Variant:
    """One method of the comparison.

    :param settings: None for RNA alone, which is not a network.
    """

    name: str
    title: str
    note: str
    settings: TrainSettings | None
    features: str = ""
    """Name of the folder of slide vectors that it reads in place of the comparison's features, without the tiles'."""

    @property
    def label(self) -> str:
        """The title, and whether it is trained on soft targets."""
        return label_of(self.title, soft_targets=self.settings is not None and self.settings.soft_targets)

    @property
    def needs_rna(self) -> bool:
        """Whether the method is meaningful only if there is RNA."""
        s = self.settings
        return s is None or s.soft_targets or s.shuffle_rna or not s.use_rna


def label_of(title: str, *, soft_targets: bool) -> str:
    """The full name of a method, for headings, tables and figures."""
    return f"{title} + soft targets" if soft_targets else title


def reference_of(task: str, *, slide_vectors: bool = False) -> str:
    """The method that the others are compared with: MoMKD, or ABMIL for a task that MoMKD cannot carry.

    :param slide_vectors: the features are one vector a slide; it is then the linear probe.
    """
    if slide_vectors:
        return "linear"
    return REFERENCE if task not in METHODS[REFERENCE].not_for else "abmil"


def _can(variant: Variant, task: str, targets: Collection[str]) -> bool:
    """Whether a method can carry the task and all targets: soft targets and RNA alone are for the binary task."""
    settings = variant.settings
    if settings is None:
        return task == "binary"
    if settings.soft_targets and {"binary"} != (set(targets) or {task}):
        return False
    return METHODS[settings.method].not_for.keys().isdisjoint((task, *targets))


def _reads(variant: Variant, *, slide_vectors: bool) -> bool:
    """Whether a method reads the features of the comparison, or names others; RNA alone reads none."""
    settings = variant.settings
    return settings is None or bool(variant.features) or METHODS[settings.method].of_slide_vectors == slide_vectors


def _on_vectors(name: str, known: Mapping[str, Variant]) -> Variant | None:
    """The method that a name with a folder of slide vectors means; None if it means none."""
    stem, _, features = name.partition(ON)
    variant = known.get(stem)
    if variant is None or not features or variant.settings is None:
        return None
    if not METHODS[variant.settings.method].of_slide_vectors:
        return None
    return replace(variant, name=name, title=f"{variant.title} on {features}", features=features)


def variants(
    wanted: Sequence[str],
    base: TrainSettings,
    *,
    rna: bool,
    task: str = "binary",
    targets: Collection[str] = (),
    slide_vectors: bool = False,
) -> list[Variant]:
    """The methods to compare, the reference (:func:`reference_of`) first.

    :param wanted: names of methods; one string may hold several, separated by commas. Empty: all that are meaningful.
    :param base: settings that all share; its method, soft targets and use of RNA are ignored. With weights to start
        from, the methods that can start from them are there with and without them.
    :param rna: whether the workspace has RNA.
    :param task: the question's task; methods that cannot carry it are left out, or refused if they are named.
    :param targets: the tasks of its targets, if it has some.
    :param slide_vectors: the features are one vector a slide.
    :raises UsageError: an unknown name, a method that needs RNA where there is none, or one of other features.
    """
    random = {"init": None, "init_backbone": None, "freeze": False}
    common = base.model_copy(update={"use_rna": True, "soft_targets": False, "shuffle_rna": False, **random})
    known: dict[str, Variant] = {}
    plain = {
        name: (method.title, (task != "binary" and method.otherwise) or method.source, {"method": name})
        for name, method in METHODS.items()
    }
    for name, (title, note, changes) in (plain | _CONTROLS).items():
        settings = common.model_copy(update={"method": REFERENCE, **changes})
        known[name] = Variant(name, title, note, settings)
        soft = settings.model_copy(update={"soft_targets": True})
        known[name + SOFT] = Variant(name + SOFT, title, note, soft)
    if base.init is not None:
        start = {name: getattr(base, name) for name in random}
        how = "as it is, with a head of its own" if base.freeze else "fine-tuned"
        for name in [name for name, method in METHODS.items() if method.can_start]:
            method = METHODS[name]
            settings = common.model_copy(update={"method": name, **start})
            title, note = f"{method.title} from {base.init.name}", f"weights of another training, {how}"
            known[name + STARTED] = Variant(name + STARTED, title, note, settings)
    known[CEILING] = Variant(
        CEILING, "RNA alone", "ridge logistic regression on RNA, an upper limit; uses no slides", None
    )
    wanted = [name.strip() for names in wanted for name in names.split(",")]
    known |= {name: variant for name in wanted if (variant := _on_vectors(name, known))}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        further = ", linear@mean-of-uni2-h for slide vectors beside these features"
        raise UsageError(f"{unknown[0]!r} cannot be compared", hint=f"there are {', '.join(known)}{further}")
    for variant in (known[name] for name in wanted):
        if variant.settings is not None and not _reads(variant, slide_vectors=slide_vectors):
            refuse_features(variant.settings.method, slide_vectors=slide_vectors)
    lost = [name for name in wanted if known[name].needs_rna and not rna]
    if lost:
        what = f"{lost[0]} needs RNA, and there is none"
        raise UsageError(what, hint="run wsipipe genomics first, or leave it out")
    if unable := [name for name in wanted if not _can(known[name], task, targets)]:
        able = ", ".join(name for name, variant in known.items() if _can(variant, task, targets))
        asked = f"a {task} question" + (f" of {', '.join(sorted(set(targets)))} targets" if targets else "")
        raise UsageError(f"{unable[0]} cannot answer {asked}", hint=f"these can: {able}")
    first = reference_of(task, slide_vectors=slide_vectors)
    chosen = [known[name] for name in dict.fromkeys([first, *(wanted or known)])]
    return [
        variant
        for variant in chosen
        if (rna or not variant.needs_rna)
        and _can(variant, task, targets)
        and _reads(variant, slide_vectors=slide_vectors)
    ]
