"""Words for what a flag or an argument takes, and titles of groups of flags."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

_NAMES: Final = {
    "FILE": "aliases clinical cnv config gene_lengths gene_list gene_sets init matrix methylation mutation profile "
    "protein table artefact_weights tissue_weights weights checkpoints",
    "FOLDER": "coordinates stage_to workspace folder bundle names",
    "SLIDE": "slides",
    "COLUMN": "audit columns event_column label_column name_column time_column",
    "VALUE": "negative positive",
    "CLASS": "annotation_classes classes",
    "NAME": "backbone drop_columns encoder weights_backbone init_backbone keep_columns name signature",
    "MODEL": "model",
    "TILES": "tiles",
    "FEATURES": "features",
    "METHOD": "method methods",
    "BLOCK": "blocks",
    "BIOMARKER": "targets",
    "DEVICE": "device",
    "GPU": "gpu",
    "ADDRESS": "dask host",
    "K/N": "shard",
    "SIZE": "bag_memory stage_bytes",
    "REGEX": "patient_pattern",
    "NAME=VALUES": "nested",
    "CUT": "cut",
    "WAY": "tissue",
    "UNIT": "time_unit",
    "TIME": "horizons timeout",
    "SECONDS": "seconds tile_timeout",
    "MPP": "mpp mpp_override",
    "PIXELS": "overlap tile_px",
    "FRACTION": "alpha max_artefact max_bad_tiles min_tissue native_tolerance prevalence validation_fraction",
}
_WORDS: Final = {name: word for word, names in _NAMES.items() for name in names.split()}

TITLES: Final = {
    "tile": "Tiling",
    "extract": "Features",
    "encode": "Slide vectors",
    "genomics": "Molecular data",
    "train": "Training",
    "biomarker": "The question",
    "split": "Folds",
    "report": "The page",
    "compare": "Comparison",
    "robustness": "Robustness",
    "predict": "Prediction",
}
"""Section of the settings → what its flags are about."""
OWN: Final = "Flags"
WHERE: Final = "Where it runs, and how results are kept"
PRINTED: Final = "What is printed"
LAST: Final = (WHERE, PRINTED)
"""Groups of flags that every command has; they stand last."""


def title_of(section: str) -> str:
    """The title of a section's flags, with its name in the settings file."""
    place = "biomarkers.NAME" if section == "biomarker" else section
    return f"{TITLES.get(section, section)}, [{place}] in the settings file"


FIRST: Final = (OWN, title_of("biomarker"), title_of("split"))
"""Groups of flags that stand first: what is asked, before how it is trained."""


def word_for(name: str, kind: Any) -> str:
    """The word for what a flag or argument takes; empty for one that is on or off.

    :param kind: its type.
    """
    kind = _bare(kind)
    if get_origin(kind) is list:
        kind = _bare(get_args(kind)[0])
    if kind is bool:
        return ""
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(choice.value) for choice in kind)
    return _WORDS.get(name) or {int: "N", float: "NUMBER", Path: "PATH"}.get(kind, "TEXT")


def may_be_repeated(kind: Any) -> bool:
    """Whether a flag may be given several times."""
    return get_origin(_bare(kind)) is list


def _bare(kind: Any) -> Any:
    """A type without annotations, and without being optional."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return _bare(next(part for part in get_args(kind) if part is not NoneType))
    return kind
