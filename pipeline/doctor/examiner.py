"""A process that runs checks, one after the other, and can be killed when one hangs or takes the process down.

Parent and process exchange lines of JSON: a request names a check and its subject, the answer is its finding.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import IO, Final, Self

from ...data import errors
from ..run.outcomes import explain
from .checks import Check
from .finding import Finding, Subject, failed

_START: Final = """
import json, sys
first = json.loads(sys.stdin.readline())
sys.path[:] = first["path"]
import importlib
importlib.import_module(first["module"]).answer_requests()
"""
START_SECONDS: Final = 60.0
"""Time for a process to start: on network storage Python alone may take a while."""
_LAST_LINES: Final = 3


class Examiner:
    """The parent's side: starts the process when it is needed, and again after it had to be killed.

    :param seconds: time limit of each check; None: its own.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: list[str | None] = []
        self._readers: list[threading.Thread] = []
        self.killed = False
        """Whether a process had to be killed, which then could not clear away what it wrote."""
        self.hung = False
        """Whether the last check did not answer in its time."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end(kill=error is not None)

    def run(self, check: Check, subject: Subject) -> Finding:
        """Make a check; whatever happens to it, there is a finding, in about its time limit."""
        self.hung = False
        return self._begun(check) or self._asked(
            json.dumps([check.place, asdict(subject)]), self._seconds or check.seconds, check
        )

    def _begun(self, check: Check) -> Finding | None:
        """Start the process, unless it runs; a finding if it cannot be started."""
        if self._process is not None and self._process.poll() is None:
            return None
        self._answers, self._errors = queue.SimpleQueue(), []
        try:
            self._start()
        except (OSError, RuntimeError) as error:  # no memory, no more files, processes or threads
            return failed(f"no process can be started: {error}", "look at `ulimit -a`, and end what is not needed")
        found = self._asked(
            json.dumps({"path": sys.path, "module": __name__}), max(START_SECONDS, self._seconds or 0), check
        )
        return None if found.state == "ok" else found

    def _start(self) -> None:
        command = [sys.executable, "-P", "-c", _START]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # so that what it starts can be ended with it
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=_read, args=(self._process.stdout, self._answers.put), daemon=True),
            threading.Thread(target=_read, args=(self._process.stderr, self._errors.append), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _asked(self, request: str, seconds: float, check: Check) -> Finding:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            self.hung = True
            self._end(kill=True)
            return failed(f"no answer in {seconds:g} s", check.group.hangs)
        except OSError:
            answer = None
        if answer is not None:
            found = Finding(**json.loads(answer))
            if found.state == "failed" and (check.group.each_device or "trace" in found.figures):
                # After most failures of a GPU nothing runs on it any more in the same process, and a package that
                # could not be imported is left half imported.
                self._end()
            return found
        return self._died(process)

    def _died(self, process: subprocess.Popen[str]) -> Finding:
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        code = process.returncode
        how = f"exit code {code}" if code is None or code >= 0 else _signal_name(-code)
        self._end(kill=True)
        last = "; ".join([line.strip() for line in self._errors if line and line.strip()][-_LAST_LINES:])
        hint = "a package is built for another processor or is damaged, or memory ran out: install it again"
        return failed(f"the process that made this check died ({how})" + (f": {last}" if last else ""), hint)

    def _end(self, *, kill: bool = False) -> None:
        """End the process; one that waits for a dead disk or GPU cannot be killed, and is left behind.

        :param kill: it does not end by itself: it is asked to, so that it can clear away its files, and then killed.
        """
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        if kill:
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
        self.killed |= process.poll() != 0
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)  # and whatever it has started
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
        for reader in self._readers:  # they end with the last process that can write to them
            reader.join(1)


def _read(stream: IO[str], take: Callable[[str | None], None]) -> None:
    """Hand on what a process writes, line by line, and None at its end."""
    with stream:
        for line in stream:
            take(line)
    take(None)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# ----- in the process -----


def answer_requests() -> None:
    """Answer requests until there are no more. What libraries print does not get between the answers."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answers.write(json.dumps(asdict(Finding("ok", "ready"))) + "\n")
    answers.flush()
    for line in sys.stdin:
        place, subject = json.loads(line)
        answers.write(_answer(place, Subject(**subject)) + "\n")
        answers.flush()


def _answer(place: str, subject: Subject) -> str:
    module, _, function = place.partition(":")
    try:
        check = getattr(importlib.import_module(f".{module}", __package__), function)
        return json.dumps(asdict(check(subject)), default=str, allow_nan=False)
    except Exception as error:  # noqa: BLE001  the boundary of a check: what it raises is its finding
        record = explain(error)
        said = (record.message.strip() or record.type).splitlines()[0]
        if hasattr(errors, record.type):  # one of ours says all that a user needs
            found = failed(said, record.hint)
        else:
            found = failed(f"{record.type}: {said}", record.hint, trace=traceback.format_exc())
    return json.dumps(asdict(found))
