"""Two small stages for the runner's tests, in a module of their own so that worker processes can import them.

What an item does stands in its file, so that it differs from item to item and can be mended like a real slide.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from copy import copy as copy_of
from pathlib import Path

from wsipipe.data.artifact import digest_of, whole
from wsipipe.data.errors import SlideError, SurroundingsError
from wsipipe.pipeline.console import Console
from wsipipe.pipeline.results import Summary
from wsipipe.pipeline.run.runner import Runner
from wsipipe.stages.settings import Runtime, Settings
from wsipipe.stages.stage import FileInput, Item, Outcome, OutputInput, Plan, Progress, Stage, upstream

VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What decides how fast a process computes, and how it uses memory."""


class StreamError(Exception):
    """Ends the whole stream, as the death of one of its threads does."""


class CopySettings(Settings):
    repeat: int = 1
    shout: bool = True
    threads: int = Runtime(1)
    seconds: float | None = Runtime(None)
    devices: list[str] = Runtime([])
    device: str = Runtime("cpu")


class CopyStage(Stage[CopySettings]):
    """Writes each text in capital letters, ``repeat`` times.

    :param calls: a file that hears of every text that is worked on or hashed.
    """

    name = "copy"
    version = 1
    items = "texts"
    processes = True
    distributes = True

    def __init__(
        self,
        settings: CopySettings,
        folder: Path,
        workspace: Path,
        *,
        texts: Sequence[Path],
        calls: Path,
        workers: int = 1,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.texts, self.calls, self.workers_wanted = texts, calls, workers
        self.device = settings.devices[0] if len(settings.devices) == 1 else ""

    @property
    def workers(self) -> int:
        return self.workers_wanted

    @property
    def devices(self) -> list[str]:
        return self.settings.devices

    def closing_notes(self) -> list[str]:
        return ["the end"]

    def on(self, device: str, of: int) -> CopyStage:
        stage = copy_of(self)
        stage.device = device
        return stage

    def for_worker(self, device: str | None, cores: int) -> CopyStage:
        stage = super().for_worker(device, cores)
        stage.device = device or ""
        return stage

    @property
    def seconds_an_item(self) -> float | None:
        return self.settings.seconds

    def _say(self, what: str) -> None:
        with self.calls.open("a") as stream:
            stream.write(what + "\n")

    def _meet(self) -> None:
        """Wait until another process is here too."""
        self.calls.with_name(f"here-{os.getpid()}").touch()
        patience = time.monotonic() + 1800
        while len(list(self.calls.parent.glob("here-*"))) < 2 and time.monotonic() < patience:
            time.sleep(0.01)

    def _first_time(self, item: str) -> bool:
        return sum(line.startswith(f"do {item} ") for line in self.calls.read_text().splitlines()) == 1

    def _outlive(self, item: str) -> None:
        """Wait until the process that works on another item is gone."""
        patience = time.monotonic() + 1800
        while time.monotonic() < patience:
            begun = [line.split() for line in self.calls.read_text().splitlines() if line.startswith(f"do {item} ")]
            if begun and not runs(int(begun[0][2])):
                return
            time.sleep(0.01)

    def _wait_for(self, item: str) -> None:
        """Wait until another item has begun."""
        patience = time.monotonic() + 1800
        while f"do {item} " not in self.calls.read_text() and time.monotonic() < patience:
            time.sleep(0.01)

    def _hash(self, path: Path) -> str:
        self._say(f"hash {path.stem}")
        _refuse_unreadable(path)
        return digest_of(path)

    def plan(self) -> Plan:
        style = self.calls.with_name("style")
        common = {"style": FileInput(style, is_setting=True)} if style.exists() else {}
        bad = {p.stem: SlideError("is not wanted", path=p) for p in self.texts if p.stem.startswith("reject")}
        good = [p for p in self.texts if p.stem not in bad]
        items = [Item(p.stem, {"text": FileInput(p, self._hash), **common}, p, _letters(p)) for p in good]
        return Plan(items, bad, ["a note"] if bad else [])

    def setup(self) -> None:
        if any(path.stem == f"no-setup{self.device}" for path in self.texts):
            raise SurroundingsError("the machine is not ready")

    def stream(self, items: Iterable[Item], progress: Progress) -> Iterator[tuple[Item, Outcome | Exception]]:
        for item, outcome in super().stream(items, progress):
            if isinstance(outcome, StreamError):
                raise outcome
            yield item, outcome

    def process(self, item: Item, progress: Progress) -> Outcome:
        text = Path(item.payload).read_text()
        progress.say(item.id)
        _refuse_unreadable(item.payload)
        self._say(f"do {item.id} {os.getpid()} {self.device}")
        if self.device.startswith("deadly"):
            os._exit(4)
        match text:
            case "broken":
                raise SlideError("is broken", path=item.payload, hint="mend it")
            case "brittle" if self.settings.repeat > 1:
                raise SlideError("does not bear that", path=item.payload)
            case "full":
                raise SurroundingsError("could not write: the disk is full", path=item.payload)
            case "odd":
                raise KeyError("odd")
            case "interrupt":
                raise KeyboardInterrupt
            case "exit":
                os._exit(3)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                ctypes.PyDLL(None).sleep(600)  # keeps the interpreter's lock, as a decoder that hangs may
            case "crash":
                ctypes.string_at(0)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "nap":
                time.sleep(2)
            case "end the stream":
                raise StreamError("no more of this")
            case meeting if meeting.startswith("meet"):
                self._meet()
            case patient if patient.startswith("outlive "):
                self._outlive(patient.split()[1])
            case late if " after " in late:
                self._wait_for(late.split(" after ")[1])
                match late.split(" after ")[0]:
                    case "crash":
                        ctypes.string_at(0)
                    case "exit":
                        os._exit(3)
                    case "die":
                        os.kill(os.getpid(), signal.SIGKILL)
            case "slow":
                time.sleep(60)
            case "stay" if self._first_time(item.id):
                time.sleep(1800)
            case "eat":
                self.eaten = bytearray(os.urandom(1)) * 600_000_000
                time.sleep(1800)
            case "kill the worker":
                os.kill(parent_of(os.getppid()), signal.SIGKILL)  # the parent is the server that forks
                time.sleep(1800)
            case "kill the worker of a GPU":
                os.kill(parent_of(os.getppid()), signal.SIGKILL)  # its nanny too, which would start another
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(1800)
            case "environment":
                text = " ".join(f"{name}={os.environ.get(name)}" for name in VARIABLES)
            case "nothing":
                return Outcome(status="empty", stats={"letters": 0})
            case "liar":
                return Outcome({"copy": self.folder / "never written"})
        if self.device.startswith("bad") or text == "poison" or (text == "hiccup" and self._first_time(item.id)):
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be …")
        path = self.folder / f"{item.id}.txt"
        with whole(path) as scratch:
            scratch.write_text((text.upper() if self.settings.shout else text) * self.settings.repeat)
        return Outcome({"copy": path}, {"letters": len(text)})


def runs(pid: int) -> bool:
    """Whether a process is there and not dead already."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second if it ends as it is read
        return False


def parent_of(pid: int) -> int:
    """The process that has started another one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def _letters(path: Path) -> int:
    return path.stat().st_size if path.exists() else 1


def _refuse_unreadable(path: Path) -> None:
    """What the system says of a file that may not be read, for tests that may run as root."""
    if path.read_text() == "unreadable":
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


class CountStage(Stage[Settings]):
    """Counts the letters of the copies."""

    name = "count"
    version = 1

    def __init__(self, folder: Path, workspace: Path, *, copies: CopyStage, calls: Path) -> None:
        super().__init__(Settings(), folder, workspace)
        self.copies, self.calls = copies, calls

    def plan(self) -> Plan:
        done = upstream(self.copies.manifest, "copy", self.workspace)
        copies = {name: record.outputs["copy"] for name, record in done.records.items()}
        return Plan(
            [Item(name, {"copy": OutputInput(copy)}, copy.path) for name, copy in copies.items()], {}, done.notes
        )

    def process(self, item: Item, progress: Progress) -> Outcome:
        with self.calls.open("a") as stream:
            stream.write(f"count {item.id}\n")
        path = self.folder / f"{item.id}.txt"
        with whole(path) as scratch:
            scratch.write_text(str(len((self.workspace / item.payload).read_text())))
        return Outcome({"count": path})


def copy(
    place: Path, *, workers: int = 1, retry_failed: bool = False, replace: bool = False, **settings: object
) -> Summary:
    """Run the copy stage over the texts of ``place``."""
    runner = Runner(place / "work", Console(json_only=True), retry_failed=retry_failed, replace=replace)
    return runner.run(copy_stage(place, workers=workers, **settings))


def copy_stage(place: Path, *, workers: int = 1, **settings: object) -> CopyStage:
    return CopyStage(
        CopySettings.model_validate(settings),
        place / "work" / "copies",
        place / "work",
        texts=sorted(place.glob("texts/**/*.txt")),
        calls=place / "calls",
        workers=workers,
    )


if __name__ == "__main__":
    copy(Path(sys.argv[1]), workers=int(sys.argv[2]))
