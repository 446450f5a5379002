"""Commands of wsipipe in processes of their own, and what they leave behind.

Most of them fork from one process in which everything is imported already: a command then costs what it does, and not
the seconds in which torch is loaded. Each is a process of its own with its own session, as from a shell.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from disturbances import NOT_POSSIBLE
from wsipipe.data.manifest import Manifest

PRELOADED = [
    *("wsipipe.pipeline.cli", "wsipipe.pipeline.chain", "wsipipe.pipeline.training", "wsipipe.pipeline.comparison"),
    *("wsipipe.pipeline.status", "wsipipe.pipeline.backbone_table", "wsipipe.models.backbones.weights"),
    *("wsipipe.stages.tile.stage", "wsipipe.stages.tile.index_stage", "wsipipe.stages.extract.stage"),
    *("wsipipe.stages.genomics.stage", "wsipipe.stages.train.stage", "wsipipe.stages.train.cross_validate"),
    *("wsipipe.stages.train.report_stage", "wsipipe.stages.predict.stage", "wsipipe.stages.evaluate.stage"),
    *("wsipipe.stages.predict.prediction_report", "wsipipe.stages.exchange.export", "wsipipe.models.mil.momkd"),
]
Disturbance = Callable[[], AbstractContextManager[None]]
PATIENCE = 1800
"""Seconds that a test waits for what must come: no test depends on how fast the machine is."""


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit code (minus the number of the signal that killed it) and what it wrote."""

    code: int | None
    out: str
    err: str


class Running:
    """A command that runs.

    :param process: of :mod:`multiprocessing`, or of :mod:`subprocess`.
    """

    def __init__(self, process: Any, place: Path) -> None:
        self.process, self._place = process, place
        _started.append(self)

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.poll() is None
        return bool(self.process.is_alive())

    def ended(self) -> Ended:
        """Wait for its end."""
        if isinstance(self.process, subprocess.Popen):
            code: int | None = self.process.wait(PATIENCE)
        else:
            self.process.join(PATIENCE)
            code = self.process.exitcode
        if code == NOT_POSSIBLE:
            pytest.skip("mounts of its own: not allowed here")
        return Ended(code, *((self._place / name).read_text("utf-8", "replace") for name in ("out", "err")))


_started: list[Running] = []


def end_what_runs() -> None:
    """Kill the commands of a test that has failed, also those that it had stopped: pytest would wait for them."""
    for running in _started:
        if running.lives:
            with suppress(ProcessLookupError):  # it has not begun a session of its own yet
                os.killpg(running.pid, signal.SIGKILL)
            running.process.kill()
            running.ended()
    _started.clear()


def forked(
    cwd: Path, *words: object, disturbed: tuple[Disturbance, ...] = (), environment: Mapping[str, str] | None = None
) -> Running:
    """Start a command in a folder, disturbed from its first moment."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    place = _place(cwd)
    arguments = (cwd, place, [str(word) for word in words], disturbed, dict(environment or {}))
    process = context.Process(target=_command, args=arguments)
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # else the process imports pytest again
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main
    return Running(process, place)


def _command(
    cwd: Path, place: Path, words: list[str], disturbed: tuple[Disturbance, ...], environment: dict[str, str]
) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.update(environment)
    for number, name in enumerate(("out", "err"), 1):
        os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["wsipipe", *words]
    from wsipipe.pipeline.entry import main

    with ExitStack() as stack:
        for disturbance in disturbed:
            stack.enter_context(disturbance())
        main()


def spawned(
    cwd: Path, *words: object, before: tuple[str, ...] = (), environment: Mapping[str, str] | None = None, **how: Any
) -> Running:
    """Start a command from nothing, as a shell does.

    :param before: words before it, of a program that starts it.
    :param how: further arguments for ``Popen``.
    """
    place = _place(cwd)
    command = [*before, sys.executable, "-c", "from wsipipe.pipeline.entry import main; main()", *map(str, words)]
    own = {**os.environ, "OMP_NUM_THREADS": "1"} if environment is None else dict(environment)
    with (place / "out").open("w") as out, (place / "err").open("w") as err:
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **how}
        return Running(subprocess.Popen(command, cwd=cwd, env=own, start_new_session=True, **streams), place)


def _place(cwd: Path) -> Path:
    """A new folder for what a command writes, beside the one in which it works."""
    number = len(list(cwd.parent.glob("streams-*")))
    place = cwd.parent / f"streams-{number}"
    place.mkdir()
    return place


def alive(session: int) -> list[int]:
    """Processes of a command's session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(of) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


Meaning = dict[tuple[str, str, str], Any]


def meaning(project: Path) -> Meaning:
    """What counts in all manifests below a folder: of each item the last record, without times and places.

    Each output must be there with the bytes that its record says.
    """
    found: Meaning = {}
    for file in sorted(project.rglob("manifest.jsonl")):
        workspace = next(parent for parent in file.parents if parent.name.startswith("work"))
        latest = {(record.stage, record.item): record for record in Manifest(file).records()}
        for (stage, item), record in latest.items():
            assert record.is_whole(workspace, check_digest=True), (stage, item)
            outputs: dict[str, Any] = {n: (output.path, output.digest) for n, output in record.outputs.items()}
            if stage == "compare":  # it tells how long each method took
                outputs = {"table": _without_seconds(file.with_name("comparison.csv"))}
            inputs = {name: source.digest for name, source in record.inputs.items()}
            error = record.error.message if record.error else ""
            key = (file.parent.relative_to(project).as_posix(), stage, item)
            found[key] = (record.status, record.fingerprint, inputs, outputs, error)
    return found


def _without_seconds(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as stream:
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(stream)]


def left_behind(project: Path) -> list[str]:
    """Unfinished work below a folder: scratch files, results set aside, states of training, a holder's name."""
    unfinished = [
        p for pattern in (".partial-*", ".aside-*", "partial", ".lock-holder*") for p in project.rglob(pattern)
    ]
    return sorted(path.relative_to(project).as_posix() for path in unfinished)
