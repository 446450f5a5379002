"""How much memory a stage took at most: of this process and those that it has started, and of each GPU.

The system shares memory between processes, so each page counts once (its proportional set size, Linux only), every
second: looking takes the system a tenth of one, and a stage that ends sooner has no figure. Of a GPU it is what PyTorch
has reserved on it, in this process; workers on further GPUs are not seen.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any, Final, Self

_SECONDS: Final = 1.0
_SHARE: Final = 50
"""Pauses are so many times as long as looking takes, which for processes of very much memory is not short."""


class Usage:
    """Watches the memory while a block runs."""

    def __init__(self) -> None:
        self.memory = 0
        """The most bytes at once; 0 where the system does not say, and in a stage's first second."""
        self.gpus: dict[str, int] = {}
        """GPU → the most bytes that were reserved on it."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory of this stage", daemon=True)

    def __enter__(self) -> Self:
        for device in _gpus():
            _torch().cuda.reset_peak_memory_stats(device)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def look_at_gpus(self) -> None:
        """Bring the figures of the GPUs up to date; PyTorch keeps them, whenever they were reached."""
        self.gpus = {f"cuda:{n}": _torch().cuda.max_memory_reserved(n) for n in _gpus()}

    def _watch(self) -> None:
        pause = _SECONDS
        while not self._end.wait(pause):
            begin = time.monotonic()
            self.memory = max(self.memory, memory_of(Path("/proc/self")))
            pause = max(_SECONDS, _SHARE * (time.monotonic() - begin))


def memory_of(process: Path) -> int:
    """Bytes of a process and all that it has started, in which shared memory counts once; 0 where it cannot be read.

    :param process: its folder in ``/proc``.
    """
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
        kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
        children = [name for file in process.glob("task/*/children") for name in file.read_text().split()]
    except (OSError, ValueError):  # it has ended meanwhile, or is another user's
        return 0
    return kilobytes * 1024 + sum(memory_of(Path("/proc") / child) for child in children)


def _torch() -> Any:
    return sys.modules["torch"]


def _gpus() -> range:
    """GPUs that this process uses. PyTorch is not loaded for this question."""
    used = "torch" in sys.modules and _torch().cuda.is_available() and _torch().cuda.is_initialized()
    return range(_torch().cuda.device_count() if used else 0)
