"""What a reader does with many damaged copies of a file: it must read them or refuse them with an error of ours.

The reader works in a process of its own, whose memory is limited and which is ended when it takes too long, so that
what a damaged file does to it is found here and harms nothing else.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import pickle
import resource
import select
import signal
import struct
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

import wsipipe
from mutants import mutants
from wsipipe.data.errors import WsipipeError, is_out_of_memory

SECONDS: Final = 5.0
"""Of processor time, which does not depend on what else the machine does, for a file of up to :data:`SIZE`."""
SIZE: Final = 10_000_000
"""A file of up to twice as many bytes may take twice as long, and so on: it may hold a large picture, honestly read."""
MEMORY: Final = 1 << 30
_SECONDS_OF_WAITING: Final = 60.0
"""After which something that uses no processor time is taken to hang."""
_PACKAGE: Final = Path(wsipipe.__file__).parent
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Finding:
    """A mutant that a reader does not survive: ``kind`` is foreign, hang, balloon or death."""

    number: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"mutant {self.number}: {self.kind}: {self.text}"

    @property
    def alike(self) -> str:
        """The same for the same error at the same line, whatever its message says."""
        return f"{self.kind} {self.text.partition(':')[0]} {self.text.rpartition(' at ')[2]}"


@dataclass(slots=True)
class Trial:
    """What came of all mutants: how many were read and refused, and what was found."""

    tried: int = 0
    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        refused = sum(self.refused.values())
        return f"{self.tried} tried, {self.read} read, {refused} refused, {len(self.findings)} found"

    def report(self) -> str:
        """The counts, and each kind of finding at each place once, with the number of its first mutant."""
        first: dict[str, Finding] = {}
        for finding in self.findings:
            first.setdefault(finding.alike, finding)
        often = Counter(finding.alike for finding in self.findings)
        return "\n".join([str(self), *(f"{count} × {first[alike]}" for alike, count in often.most_common(30))])


def trial(
    reader: Callable[[Path], object], data: bytes, path: Path, *, count: int, seed: int, seconds: float = 3600.0
) -> Trial:
    """Have ``reader`` read ``count`` damaged copies of ``data``, each written to ``path`` in turn.

    :param reader: opens a path and reads all that the program would; what it gives is thrown away.
    :param path: where each mutant lies, with the ending that the reader expects. What lies beside it stays as it is.
    :param seconds: processor time after which no further mutant is tried; ``tried`` says how many were.
    """
    return _tried(reader, lambda: mutants(data, count, seed), path, count, seconds, _allowed(data))


def alone(reader: Callable[[Path], object], data: bytes, path: Path) -> Trial:
    """Have ``reader`` read one file as it is: one that is whole, and yet more than a machine can hold."""
    return _tried(reader, lambda: iter([data]), path, 1, float("inf"), _allowed(data))


def _allowed(data: bytes) -> float:
    """The processor time that reading a damaged copy of a file may take."""
    return SECONDS * max(1, -(-len(data) // SIZE))


_Files = Callable[[], Iterator[bytes]]


def _tried(
    reader: Callable[[Path], object], files: _Files, path: Path, count: int, seconds: float, allowed: float
) -> Trial:
    result = Trial()
    spent = 0.0
    while result.tried < count and spent < seconds:
        spent += _one_child(reader, files, path, seconds - spent, allowed, result)
    return result


def _one_child(
    reader: Callable[[Path], object], files: _Files, path: Path, seconds: float, allowed: float, result: Trial
) -> float:
    """Go on from file ``result.tried`` until one ends the process or all are done; gives the processor time."""
    receiving, sending = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fork beside threads: none of them holds a lock while a test waits here
        child = os.fork()
    if not child:
        os.close(receiving)
        _work(reader, files, path, result.tried, seconds, allowed, os.fdopen(sending, "wb"))
    os.close(sending)
    spent = 0.0
    began: float | None = None  # it makes again all files before its first, which of large ones takes long
    with os.fdopen(receiving, "rb") as answers:
        while True:
            waiting = time.monotonic()
            while not select.select([answers], [], [], 0.2)[0]:
                spent = _processor_time(child)
                waited = time.monotonic() - waiting
                if began is not None and (spent - began > allowed or waited > _SECONDS_OF_WAITING):
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    result.findings.append(Finding(result.tried, "hang", f"longer than {allowed:g} s"))
                    result.tried += 1
                    return spent
            head = answers.read(4)
            if len(head) < 4:
                break
            outcome, name, took = pickle.loads(answers.read(struct.unpack("<I", head)[0]))
            if began is not None:
                _count(outcome, name, result)
            began = spent = took
    _, status = os.waitpid(child, 0)
    if status:
        result.findings.append(Finding(result.tried, "death", f"the process ended: {_ending(status)}"))
        result.tried += 1
    return max(spent, 0.01)


def _count(outcome: str, name: str, result: Trial) -> None:
    if outcome == "read":
        result.read += 1
    elif outcome == "refused":
        result.refused[name] += 1
    else:
        result.findings.append(Finding(result.tried, outcome, name))
    result.tried += 1


def _work(
    reader: Callable[[Path], object],
    files: _Files,
    path: Path,
    start: int,
    seconds: float,
    allowed: float,
    answers: BinaryIO,
) -> None:
    """The child's work, which never returns: read mutants and send what came of each."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        faulthandler.disable()  # a process that dies here is counted, not told of at length
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)  # what C libraries write of damaged files
        os.dup2(silence, 2)
        warnings.simplefilter("ignore")
        sizes = Path("/proc/self/statm")
        if sizes.exists():
            limit = int(sizes.read_text().split()[0]) * resource.getpagesize() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        gc.freeze()  # collecting is quick: none of what was there before is looked at

        def answer(outcome: str, name: str) -> None:
            content = pickle.dumps((outcome, name, time.process_time()))
            answers.write(struct.pack("<I", len(content)) + content)
            answers.flush()

        for number, content in enumerate(islice(files(), start, None)):
            path.write_bytes(content)
            if number == 0:
                answer("begins", "")
            before = time.process_time()
            outcome, name = _outcome(reader, path)
            gc.collect()  # what an error's traceback holds is freed at some time anyway: each mutant counts for itself
            if (took := time.process_time() - before) > allowed:
                outcome, name = "hang", f"{took:.0f} s of processor time; then {outcome} {name}"
            answer(outcome, name)
            if time.process_time() > seconds:
                break
        code = 0
    finally:
        os._exit(code)


def _outcome(reader: Callable[[Path], object], path: Path) -> tuple[str, str]:
    try:
        reader(path)
    except BaseException as error:  # noqa: BLE001 — whatever it is, it is what this looks for
        if any(is_out_of_memory(link) for link in _chain(error)):
            return "balloon", _place(error)
        if isinstance(error, WsipipeError):
            return "refused", type(error).__name__
        return "foreign", _place(error)
    return "read", ""


def _chain(error: BaseException | None) -> list[BaseException]:
    links: list[BaseException] = []
    while error is not None:
        links.append(error)
        error = error.__cause__ or error.__context__
    return links


def _place(error: BaseException) -> str:
    """The error, and where in our own code it came up."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if _PACKAGE in Path(frame.filename).parents]
    last = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
    return f"{type(error).__name__}: {str(error)[:120]!r} at {last}"


def _processor_time(process: int) -> float:
    """Seconds of processor time that a process has used, with all its threads."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _ending(status: int) -> str:
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
