"""The batches of a fit, step by step: bags that lie in a file are read while the step before is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

from .bag_tensors import AnyBag, BagBatch, BagTensors, FiledBag

T = TypeVar("T")


def batches(steps: Iterable[tuple[T, Sequence[AnyBag]]], device: torch.device) -> Iterator[tuple[T, BagBatch]]:
    """Join the bags of each step on a device.

    The next step's bags are read in a thread of their own. Beside the batch at work, no more than the bags of one step
    are in memory: those of a step are let go before the next are read.

    :param steps: for each step anything that belongs to it, and its bags; the next one is taken before a step begins.
    :raises SurroundingsError: a bag cannot be read.
    """
    coming = iter(steps)
    with ThreadPoolExecutor(1, thread_name_prefix="bags") as reader:
        step = _begun(coming, reader)
        while step is not None:
            what, bags = step
            batch = BagBatch.of(bags(), device)
            del step, bags
            step = _begun(coming, reader)
            yield what, batch


def _begun(
    steps: Iterator[tuple[T, Sequence[AnyBag]]], reader: ThreadPoolExecutor
) -> tuple[T, Callable[[], Sequence[AnyBag]]] | None:
    """The next step with what gives its bags, which are being read; None if there is none."""
    for what, bags in steps:
        ahead = any(isinstance(bag, FiledBag) for bag in bags)
        return what, reader.submit(_read, bags).result if ahead else partial(_read, bags)
    return None


def _read(bags: Sequence[AnyBag]) -> list[BagTensors]:
    return [bag.read() for bag in bags]
