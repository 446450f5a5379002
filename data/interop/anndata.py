"""AnnData: the features of a slide as a table with an observation a tile, for scanpy, squidpy and the like.

Slide vectors are one table of the cohort, with an observation a slide (:func:`vectors_to_anndata`).

===================  ===========================================================================
X                    the features, float32 (many tools that take AnnData know no float16)
obsm["spatial"]      x, y of the tiles' upper left corners, in pixels of level 0
obs["slide_id"]      the slide, as a category, so that slides can be concatenated
obs_names            ``<slide>:<row>``;  var_names: ``<backbone>:<column>``
uns["wsipipe"]       the store's facts; ``tile_size_level0`` is what squidpy calls a spot's diameter
===================  ===========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import write_elem

from ..errors import StoreError
from ..features.store import Bag
from ..files.hdf5 import whole_hdf5


def to_anndata(bag: Bag) -> AnnData:
    """A slide as AnnData, an observation a tile."""
    tiles, width = bag.features.shape
    facts = _without_none(bag.facts.model_dump(mode="json"))
    facts["bad_tiles"] = np.array(bag.facts.bad_tiles, np.int64).reshape(-1, 2)
    return AnnData(
        X=bag.features.astype(np.float32),
        obs=pd.DataFrame(
            {"slide_id": pd.Categorical([bag.slide_id] * tiles, categories=[bag.slide_id])},
            index=pd.Index([f"{bag.slide_id}:{row}" for row in range(tiles)], dtype=object),
        ),
        var=pd.DataFrame(
            index=pd.Index([f"{bag.facts.backbone}:{column}" for column in range(width)], dtype=object),
        ),
        obsm={"spatial": bag.coords},
        uns={"wsipipe": facts},
    )


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """AnnData's files have no way to say None that older versions read."""
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def write_anndata(path: Path, bag: Bag) -> None:
    """Write :func:`to_anndata` as ``.h5ad``, whole. The same bag gives the same bytes with the same version of anndata.

    :raises SurroundingsError: the disk is full or read-only.
    """
    with whole_hdf5(path) as file:
        write_elem(file, "/", to_anndata(bag))


def vectors_to_anndata(bags: Sequence[Bag], obs: pd.DataFrame) -> AnnData:
    """The vectors of a cohort's slides as AnnData, an observation a slide; X is float32.

    :param bags: of slide vectors, all made in the same way.
    :param obs: what is known of the slides, by slide id in the order of the bags.
    :raises StoreError: vectors of different encoders, weights, backbones or widths.
    """
    first = bags[0].facts
    for bag in bags:
        for name in ("slide_encoder", "backbone", "pooling", "weights_digest", "width"):
            own, other = getattr(bag.facts, name), getattr(first, name)
            if own != other:
                what = f"{name} of {bag.slide_id} is {own}, and {other} of {bags[0].slide_id}"
                raise StoreError(f"holds vectors that cannot stand in one table: {what}", hint="run wsipipe encode")
    assert first.encoding is not None
    shared = first.model_dump(mode="json", include={"backbone", "architecture", "pooling", "weights_digest", "width"})
    shared |= first.encoding.model_dump(include={"encoder", "tile_width"}, exclude_none=True)
    return AnnData(
        X=np.concatenate([bag.features.astype(np.float32) for bag in bags]),
        obs=obs,
        var=pd.DataFrame(
            index=pd.Index([f"{first.encoding.encoder}:{column}" for column in range(first.width)], dtype=object)
        ),
        uns={"wsipipe": {**shared, "encoder_weights_digest": first.encoding.weights_digest}},
    )


def write_vectors_anndata(path: Path, bags: Sequence[Bag], obs: pd.DataFrame) -> None:
    """Write :func:`vectors_to_anndata` as ``.h5ad``, whole.

    :raises StoreError: vectors that were made in different ways.
    :raises SurroundingsError: the disk is full or read-only.
    """
    with whole_hdf5(path) as file:
        write_elem(file, "/", vectors_to_anndata(bags, obs))
