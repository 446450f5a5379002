"""Commands of wsipipe in processes of their own.

Most of them fork from one process in which everything is imported already: a command then costs what it does, and not
the seconds in which torch is loaded. Each is a process of its own with its own session, as from a shell.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

PRELOADED = [
    *("wsipipe.pipeline.cli", "wsipipe.pipeline.chain", "wsipipe.pipeline.biomarkers.training"),
    *("wsipipe.pipeline.biomarkers.comparison", "wsipipe.pipeline.run.worker", "timm"),
    *("wsipipe.pipeline.status", "wsipipe.pipeline.catalogue.backbones", "wsipipe.models.backbones.weights"),
    *("wsipipe.stages.tile.stage", "wsipipe.stages.tile.index_stage", "wsipipe.stages.extract.stage"),
    *("wsipipe.stages.genomics.stage", "wsipipe.stages.train.stage", "wsipipe.stages.train.cross_validate"),
    *("wsipipe.stages.train.report_stage", "wsipipe.stages.predict.stage", "wsipipe.stages.evaluate.stage"),
    *("wsipipe.stages.predict.prediction_report", "wsipipe.stages.exchange.export", "wsipipe.models.mil.momkd"),
]
NOT_POSSIBLE = 77
"""Exit code of a process in which a disturbance could not be made."""
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
            import pytest  # not in each process that imports this module

            pytest.skip("mounts of its own: not allowed here")
        return Ended(code, *((self._place / name).read_text("utf-8", "replace") for name in ("out", "err")))


class SignalWhen:
    """A signal to the process, and to those that it has started, once there are so many files that are not empty.

    It looks whenever the process opens, makes or renames something in their folder, so that no clock decides.

    :param pattern: of the files, below the folder.
    :param sent: the signal; by default the process is killed without warning.
    """

    def __init__(self, folder: Path, pattern: str, number: int = 1, sent: signal.Signals = signal.SIGKILL) -> None:
        self._folder, self._pattern, self._number, self._sent = folder, pattern, number, sent

    @contextmanager
    def __call__(self) -> Iterator[None]:
        waiting = True

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal waiting
            below = event in ("open", "os.mkdir", "os.rename") and str(arguments[0]).startswith(str(self._folder))
            if not waiting or not below:
                return
            with suppress(FileNotFoundError):  # another thread has renamed one
                found = [path for path in self._folder.glob(self._pattern) if path.stat().st_size]
                waiting = len(found) < self._number
            if not waiting:
                os.killpg(0, self._sent)

        sys.addaudithook(watch)
        yield


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


def start_server() -> None:
    """Start the process that commands are forked from: one that a stage's workers started would have imported less."""
    get_context("forkserver").set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()


def forked(
    cwd: Path, *words: object, disturbed: tuple[Disturbance, ...] = (), environment: Mapping[str, str] | None = None
) -> Running:
    """Start a command in a folder, disturbed from its first moment."""
    start_server()
    place = _place(cwd)
    arguments = (cwd, place, [str(word) for word in words], disturbed, dict(environment or {}))
    process = get_context("forkserver").Process(target=_command, args=arguments)
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # else the process imports pytest again
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main
    return Running(process, place)


def ran(*words: object, disturbed: tuple[Disturbance, ...] = (), environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command to its end, in an empty folder."""
    with TemporaryDirectory() as made:
        cwd = Path(made) / "here"
        cwd.mkdir()
        return forked(cwd, *words, disturbed=disturbed, environment=environment).ended()


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
