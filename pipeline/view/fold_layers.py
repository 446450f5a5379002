"""The layers of single folds: attention, evidence and memory slots of a slide, as one network of a model reads it.

`wsipipe predict` writes means over the folds that may read a slide. Here one fold's own are computed when somebody asks
for them, by the same reading of the same features, on the processor: a run may need the GPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from ...data.errors import StoreError, WsipipeError
from ...data.features.store import Bag, read_bag
from ...data.tiling.grid import Coords
from ...models.bundle import Bundle, read_bundle, read_facts
from ...models.mil.bag_tensors import BagBatch, bag_tensors
from ...models.tasks.task import Task
from ...stages.predict.pictures import NO_TILES, score_names
from .fold_source import FoldSource
from .inside import inside, stamp
from .layers import Layer, SlotTiles
from .tile_columns import places_in

ATTENTION: Final = "attention"
"""Of the layers of a prediction, the one that is no score."""
_MOST_NETWORKS: Final = 12
"""Networks that stay in memory, of a few MB each."""
_MOST_KEPT: Final = 24
"""Folds whose layers stay in memory: of 100,000 tiles some MB each."""
_AGAIN: Final = "run wsipipe extract, then predict or train again"


class FoldLayers:
    """The layers of folds that were asked for last. Many threads may ask at once; each is computed once."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._lock = Lock()
        self._computing = Lock()
        self._networks: OrderedDict[Hashable, Bundle] = OrderedDict()
        self._kept: OrderedDict[Hashable, tuple[Coords, Mapping[str, Layer]]] = OrderedDict()

    def of(self, source: FoldSource, fold: int, coords: Coords) -> Mapping[str, Layer]:
        """The layers of a slide as a fold reads it, by their ids.

        :param coords: (N, 2) the slide's present tiles.
        :raises LookupError: this fold may not read the slide.
        :raises BundleError: there is no such model, or its features are not what it was trained on.
        :raises StoreError: the features cannot be read, lie outside of the workspace, or are of other tiles.
        """
        if fold not in source.folds:
            raise LookupError(f"fold {fold} of {source.name} was trained on this patient, or is not there")
        bundle = inside(self._workspace, Path(source.model) / f"fold-{fold}")
        store = inside(self._workspace, source.store)
        version = stamp(bundle / "bundle.json"), stamp(bundle / "model.safetensors")
        key = (source.name, fold, id(coords), store, stamp(store / "zarr.json"), *version)
        if (known := self._known(key)) is not None:
            return known
        with self._computing:
            if (known := self._known(key)) is None:
                network = self._network(bundle, version)
                known = {layer.id: layer for layer in _layers(network, store, coords, source.named(fold))}
                with self._lock:
                    self._kept[key] = coords, known  # while they are held, no others have their id
                    while len(self._kept) > _MOST_KEPT:
                        self._kept.popitem(last=False)
            return known

    def scores_are_signed(self, model: str) -> bool:
        """Whether the scores of a model's tiles are for and against, as those of classes are.

        False too if the model does not lie in the workspace, or cannot be read.
        """
        try:
            return is_signed(read_facts(inside(self._workspace, Path(model) / "fold-0")).task)
        except WsipipeError:  # said when a fold is asked for
            return False

    def _known(self, key: Hashable) -> Mapping[str, Layer] | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][1]

    def _network(self, bundle: Path, version: Hashable) -> Bundle:
        key = bundle, version
        if key not in self._networks:
            self._networks[key] = read_bundle(bundle)
            while len(self._networks) > _MOST_NETWORKS:
                self._networks.popitem(last=False)
        self._networks.move_to_end(key)
        return self._networks[key]


def is_signed(task: Task) -> bool:
    """Whether a tile's score above zero is for a class, and one below against it."""
    return bool(task.classes)


def _layers(bundle: Bundle, store: Path, coords: Coords, of: str) -> Sequence[Layer]:
    bag = read_bag(store)
    if bag.facts.encoding is not None:
        raise StoreError(NO_TILES, path=store)
    reading = bundle.read(bag, store)
    at = _places(bag, coords, store)

    def column(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        whole = np.full(len(coords), np.nan)
        whole[at] = values
        return whole

    scores = reading.scores.astype(np.float64)
    names, columns = score_names(bundle.network.task, scores), scores.reshape(len(reading.attention), -1).T
    layers = [Layer(of, ATTENTION, column(reading.attention))]
    signed = is_signed(bundle.network.task)
    layers += [Layer(of, name, column(values), signed=signed) for name, values in zip(names, columns, strict=True)]
    if (slots := bundle.network.slots_shown) is not None:
        bags = BagBatch.of([bag_tensors(bag, bundle.facts.recipe.neighbours)], bundle.network.device)
        with torch.inference_mode():
            near = bundle.network.nearness_to_slots(bags).float().cpu().numpy()
        gallery = SlotTiles(slots.names, slots.weights, column(near.max(axis=1)), column(reading.attention))
        layers.append(Layer(of, "slot", column(near.argmax(axis=1)), slots=gallery))
    return layers


def _places(bag: Bag, coords: Coords, store: Path) -> npt.NDArray[np.intp]:
    """Where the bag's tiles are among the slide's."""
    at = places_in(coords, bag.coords)
    if (at < 0).any():
        what = f"{(at < 0).sum()} of {len(at)} tiles are not those of the slide's present tile set"
        raise StoreError(what, path=store, hint=_AGAIN)
    return at
