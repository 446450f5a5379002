"""A small project in which every command can run, as it is before and after each of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from commands import Meaning, left_behind, meaning
from disturbances import AtMoments
from new_slides import Clinic
from own_process import forked
from planted_workspace import make_patients, plant

ON_CPU = ("--device", "cpu")
COMMANDS: dict[str, tuple[str, ...]] = {
    "tile": ("tile", "clinic/slides", "-w", "clinic/work"),
    "extract": ("extract", "-w", "clinic/work", *ON_CPU),
    "predict": ("predict", "clinic/slides", "--model", "clinic/her2", "-w", "clinic/work", *ON_CPU),
    "genomics": ("genomics", "-c", "planted/wsipipe.toml"),
    "train": ("train", "-c", "planted/wsipipe.toml"),
    "export": ("export", "trident", "--features", "0.5mpp-224px/efficientnet-lite0", "-w", "clinic/work"),
    "compare": ("compare", "-c", "planted/wsipipe.toml", "--methods", "mean", "--methods", "abmil"),
    "evaluate": (
        *("evaluate", "--model", "planted/work/models/er", "--table", "planted/cohort.csv", "-w", "planted/work"),
        "--training-patients",
        *("--other-patients", *ON_CPU),
    ),
}
"""Command → its words, run in the project's folder, in this order."""
SHORT = ("tile", "extract", "predict", "genomics", "train")


def workspace_of(command: str) -> str:
    """The workspace that a command writes to."""
    return "clinic/work" if "clinic/work" in COMMANDS[command] else "planted/work"


@dataclass(frozen=True)
class Steps:
    """The project before each command, and what an undisturbed run of it comes to.

    :param moments: how often a command opens, makes, renames or removes something in its workspace.
    """

    folder: Path
    after: dict[str, Meaning]
    moments: dict[str, int]

    def before(self, command: str, place: Path) -> Path:
        """A copy of the project as it is before a command, to disturb."""
        return Path(shutil.copytree(self.folder / command, place / "project"))


def take_steps(place: Path, commands: tuple[str, ...]) -> Steps:
    """Make the project and run each command once."""
    project = place / "project"
    clinic = Clinic(project / "clinic")
    clinic.folder.mkdir(parents=True)
    for number in range(3):
        clinic.slide(f"s{number}")
    clinic.model()
    plant(project / "planted", make_patients(12))
    shutil.rmtree(project / "planted/work/genomics")
    after, moments = {}, {}
    for command in commands:
        shutil.copytree(project, place / command)
        count = place / f"count-{command}"
        watched = AtMoments(project / workspace_of(command), count=count)
        ended = forked(project, *COMMANDS[command], disturbed=(watched,)).ended()
        assert ended.code == 0, ended.err
        assert not left_behind(project)
        after[command], moments[command] = meaning(project), count.stat().st_size
    return Steps(place, after, moments)


def spread(moments: int, number: int) -> Iterator[int]:
    """So many moments of a command, from its first to its last."""
    yield from sorted({1 + round(n * (moments - 1) / max(1, number - 1)) for n in range(number)})
