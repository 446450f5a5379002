"""Checks of outputs: whether the content of a file is what its record says. One function for each kind of output.

``wsipipe verify`` calls them for outputs that exist with their recorded size, and with their recorded digest where that
was compared. The rows of :mod:`.registry` name them. Each yields what is wrong; a reader's own error is passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from ..data.artifact import stamp
from ..data.errors import StoreError
from ..data.json_text import read_json
from ..data.manifest import Record

Kind = Literal["count", "shape", "not finite", "mismatch"]
"""``mismatch``: it is of another slide, fold or tile set than the record says."""

_ROWS: Final = 4096
"""Rows of features that are in memory at a time."""


@dataclass(frozen=True)
class Output:
    """An output that is checked.

    :param path: the file or folder.
    :param record: the record that owns it.
    :param inputs: paths of the outputs of other stages that it was made from, by name, if they are unchanged.
    :param deep: read everything, not only what is cheap to read.
    """

    path: Path
    record: Record
    inputs: Mapping[str, Path] = field(default_factory=dict)
    deep: bool = False


@dataclass(frozen=True)
class Fault:
    """What is wrong with an output."""

    kind: Kind
    what: str


Check = Callable[[Output], Iterator[Fault]]


def check_tiles(output: Output) -> Iterator[Fault]:
    """Compare the number of tiles in the HDF5 file, and its slide, with the record."""
    from ..data.tiling.store import read_tiles

    if not output.deep:
        yield from _count(output, "tiles", _tiles_in(output.path))
        return
    tiles = read_tiles(output.path)
    yield from _count(output, "tiles", len(tiles))
    yield from _same("its slide", tiles.slide_id, output.record.item)


def check_features(output: Output) -> Iterator[Fault]:
    """Compare rows, width and slide of a feature store with its record and its tiles; deep: all values are finite."""
    import numpy as np

    from ..data.features.store import open_features
    from ..data.tiling.store import read_tiles

    store, record = open_features(output.path), output.record
    rows, width = store.shape
    yield from _count(output, "tiles", rows)
    yield from _count(output, "bad_tiles", len(store.facts.bad_tiles))
    yield from _count(output, "width", width, kind="shape")
    yield from _same("its slide", store.facts.slide_id, record.item)
    if "tiles" in record.inputs:
        yield from _same("the digest of its tiles", store.facts.tiles_digest, record.inputs["tiles"].digest)
    tiles = output.inputs.get("tiles")
    if tiles is not None and (of_slide := _tiles_in(tiles)) != rows + len(store.facts.bad_tiles):
        yield Fault(
            "count", f"it has {rows} rows and {len(store.facts.bad_tiles)} bad tiles; its slide {of_slide} tiles"
        )
    if not output.deep:
        return
    for start in range(0, rows, _ROWS):
        bad = ~np.isfinite(store.features.stored(slice(start, start + _ROWS))).all(axis=1)
        if bad.any():
            yield Fault(
                "not finite", f"NaN or infinity in {int(bad.sum())} rows from row {start + int(bad.argmax())} on"
            )
    places = {(int(x), int(y)) for x, y in store.coords[:]}
    if tiles is not None and not places <= {(int(x), int(y)) for x, y in read_tiles(tiles).coords}:
        yield Fault("mismatch", "it has features of places where its slide has no tiles")


def check_slide_vector(output: Output) -> Iterator[Fault]:
    """Compare width, slide and tiles of a slide vector with its record and the features that it was made from."""
    import numpy as np

    from ..data.features.store import open_features

    store, record = open_features(output.path), output.record
    rows, width = store.shape
    encoding = store.facts.encoding
    if encoding is None or rows != 1:
        yield Fault("count", f"it has {rows} rows, and a slide vector is one of a slide encoder")
        return
    if encoding.tiles is not None:
        yield from _count(output, "tiles", encoding.tiles)
    yield from _count(output, "width", width, kind="shape")
    yield from _same("its slide", store.facts.slide_id, record.item)
    if "features" in record.inputs:
        yield from _same("the digest of its features", encoding.features_digest, record.inputs["features"].digest)
    if output.deep and not np.isfinite(store.features.stored(slice(0, 1))).all():
        yield Fault("not finite", "NaN or infinity in its vector")


def _tiles_in(path: Path) -> int:
    """Count the tiles in a file, once for the check of the tiles and that of the features made from them."""
    return _counted(path, stamp(path))


@lru_cache(maxsize=1_000_000)
def _counted(path: Path, _: tuple[int, int]) -> int:
    from ..data.tiling.store import count_tiles

    return count_tiles(path)


def check_expression(output: Output) -> Iterator[Fault]:
    """Compare patients and genes of an expression store with its record; its matrix with the digest in the store."""
    from ..data.molecular.store import read_expression

    table = read_expression(output.path)
    yield from _count(output, "patients", len(table.patients))
    yield from _count(output, "genes", len(table.genes))


def check_bundle(output: Output) -> Iterator[Fault]:
    """Compare a bundle's fold with its record; deep: it is a bundle, its tensors fit its network and are finite."""
    if output.deep:
        yield from check_weights(output.path)
    fold = _json(output.path / "bundle.json").get("fold")  # reading it as a bundle loads torch, for seconds
    yield from _same("its fold", f"fold-{fold}", output.record.item)


def check_weights(bundle: Path) -> Iterator[Fault]:
    """Read a bundle's network and gene panel; their numbers must be finite.

    :raises BundleError: it is damaged.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..models.bundle import read_bundle

    for name, tensor in read_bundle(bundle, torch.device("cpu")).network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            yield Fault("not finite", f"its tensor {name} holds NaN or infinity")
    genes = bundle / "genes.safetensors"
    if genes.exists():
        try:
            panel = load_file(genes)
        except SafetensorError as error:
            raise StoreError(f"cannot be read: {error}", path=genes, hint="copy it again, or train again") from error
        for name, tensor in panel.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                yield Fault("not finite", f"its gene panel's {name} holds NaN or infinity")


def check_json(output: Output) -> Iterator[Fault]:
    """Read a JSON file.

    :raises StoreError: it is none.
    """
    _json(output.path)
    yield from ()


def _json(path: Path) -> Any:
    return read_json(path, StoreError, what="JSON", hint="the next run makes it again")


def _count(output: Output, name: str, found: int, *, kind: Kind = "count") -> Iterator[Fault]:
    recorded = output.record.stats.get(name)
    if recorded is not None and recorded != found:
        yield Fault(kind, f"{name.replace('_', ' ')}: {found} in the file, {recorded} in the record")


def _same(what: str, found: str, recorded: str) -> Iterator[Fault]:
    if found != recorded:
        yield Fault("mismatch", f"{what} is {found}, and {recorded} in the record")
