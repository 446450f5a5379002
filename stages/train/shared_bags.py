"""Bags that do not stay in memory: written once to a scratch file, from which all folds read them as they need them.

Bags stay in the memory of the process that trains if it is one process and all of them fit into its budget. Otherwise
they are read from the file, step by step. The system keeps its pages in memory as long as there is room, one copy for
all processes, and drops them where there is none, so that memory decides how fast training is and not whether it ends.
"""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ...data.allotment import usable_memory
from ...data.artifact import for_a_while
from ...data.errors import InputError, SurroundingsError, UsageError
from ...data.features.bag_file import BagFile
from ...data.features.store import open_features, read_bag
from ...data.files.reading_process import in_bytes
from ...data.scratch_folder import ScratchFolder
from ...models.mil.bag_tensors import FiledBag, bag_tensors
from ..stage import Progress

_SHARE: Final = 0.5
"""Of the memory that this process may use, what bags may take by default: networks and libraries need some too."""
_ROOM: Final = "free so much space, name a disk with more (--stage-to), or let the bags stay in memory: "


@dataclass(frozen=True)
class Budget:
    """The memory that bags may take.

    :param asked: bytes, by the setting; None for the default.
    :param processes: processes of this machine that train side by side, from one file.
    :param share: of the default, the part that this process has beside others that have files of their own.
    :param bags_per_step: the most bags that a step of training joins.
    """

    asked: int | None
    processes: int
    share: float
    bags_per_step: int

    @property
    def bytes(self) -> int | None:
        """What all processes together may take; None where the system does not say what there is."""
        if self.asked is not None:
            return self.asked
        usable = usable_memory()
        return None if usable is None else int(_SHARE * self.share * usable)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether all bags may stay in memory.

        :param sizes: slide → bytes of its bag.
        :raises UsageError: it does not even hold the bags of a step in each process.
        """
        budget = self.bytes
        if self.processes == 1 and (budget is None or sum(sizes.values()) <= budget):
            return True
        largest = max(sizes, key=lambda slide: sizes[slide], default=None)
        step = 0 if largest is None else sizes[largest] * self.bags_per_step
        if budget is not None and largest is not None and step * self.processes > budget:
            each = f" for each of {self.bags_per_step} slides of a step" if self.bags_per_step > 1 else ""
            each += f", in each of {self.processes} processes" if self.processes > 1 else ""
            whose = "bag_memory" if self.asked is not None else "half of the memory that wsipipe may use"
            raise UsageError(
                f"{in_bytes(budget)}, {whose}, cannot hold the largest bag: slide {largest} needs "
                f"{in_bytes(sizes[largest])}{each}",
                hint=f"--bag-memory {-(-step * self.processes // 10**6)}MB or more"
                + (", fewer --bags-per-step" if self.bags_per_step > 1 else "")
                + (", or fewer devices" if self.processes > 1 else ""),
            )
        return False


@contextmanager
def filed_bags(
    stores: Mapping[str, Path],
    budget: Budget,
    *,
    neighbours: int,
    folder: Path,
    progress: Progress,
    scratch_place: Path | None = None,
) -> Iterator[Mapping[str, FiledBag]]:
    """Write the bags that do not stay in memory to a file that lasts as long as the block.

    A store that cannot be read is left out: the folds that need it say why.

    :param stores: slide → its feature store.
    :param folder: where in the workspace the file is to lie.
    :param scratch_place: a folder on a local disk, in which it lies instead.
    :returns: slide → its bag; none where all stay in memory.
    :raises UsageError: the budget does not hold the largest bag.
    :raises SurroundingsError: the disk has no room for the file.
    """
    sizes = _sizes(stores, neighbours)
    if budget.holds(sizes):
        yield {}
        return
    with _scratch_file(folder, scratch_place) as scratch:
        yield _written(scratch, {slide: stores[slide] for slide in sizes}, sum(sizes.values()), neighbours, progress)


@contextmanager
def _scratch_file(folder: Path, scratch_place: Path | None) -> Iterator[Path]:
    if scratch_place is None:
        with for_a_while(folder / f"bags-{secrets.token_hex(4)}") as scratch:
            yield scratch
    else:
        with ScratchFolder(scratch_place) as own:
            yield own.path / "bags"


def _sizes(stores: Mapping[str, Path], neighbours: int) -> dict[str, int]:
    """Slide → bytes of its bag in memory, with its graph; without those that cannot be read."""
    sizes = {}
    for slide, path in stores.items():
        try:
            features = open_features(path).features
        except InputError:
            continue
        (tiles, width), number = features.shape, features.dtype.itemsize
        edges = tiles * max(1, min(neighbours, tiles - 1))
        sizes[slide] = tiles * width * number + 2 * edges * np.dtype(np.int32).itemsize
    return sizes


def _written(
    scratch: Path, stores: Mapping[str, Path], size: int, neighbours: int, progress: Progress
) -> dict[str, FiledBag]:
    free = shutil.disk_usage(scratch.parent).free
    if free < size:
        what = f"training needs {in_bytes(size)} here for a scratch file of its bags, and {in_bytes(free)} are free"
        raise SurroundingsError(what, path=scratch.parent, hint=_way_out(size))
    file, bags = BagFile(scratch), {}
    for place, (slide, path) in enumerate(stores.items()):
        progress.say(f"bags to the scratch file: {place} of {len(stores)} slides")
        try:
            bag = bag_tensors(read_bag(path), neighbours)
        except InputError:
            continue
        try:
            bags[slide] = bag.filed(file)
        except SurroundingsError as error:
            full = isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
            raise SurroundingsError(error.what, path=scratch, hint=_way_out(size) if full else error.hint) from error
    return bags


def _way_out(size: int) -> str:
    return f"{_ROOM}--bag-memory {-(-size // 10**9)}GB, on one device"
