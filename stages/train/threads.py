"""How many threads training takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch
from threadpoolctl import threadpool_limits

from ...data.allotment import usable_cores
from ...models.mil.bag_tensors import AnyBag

_SMALL_BAG: Final = 100
"""Mean number of tiles per bag below which training uses one thread."""


@contextmanager
def threads_for(bags: Mapping[str, AnyBag], of: int) -> Iterator[None]:
    """Limit torch to one thread if bags are small: more gain nothing, and on a busy machine each step waits for all.

    :param of: number of processes that train at the same time and share the cores.
    """
    before = torch.get_num_threads()
    small = sum(bag.tiles for bag in bags.values()) < _SMALL_BAG * len(bags)
    threads = 1 if small else max(1, min(before, usable_cores()) // of)
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):  # for scikit-learn, which torch's setting does not affect
            yield
    finally:
        torch.set_num_threads(before)
