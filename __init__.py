"""wsipipe: from raw whole-slide images to a model that predicts a molecular biomarker from an H&E slide.

>>> import wsipipe
>>> config = wsipipe.load_config(flags={"workspace": "work", "cohort": {"slides": ["slides/"]}})
>>> wsipipe.run(config, "tile", "extract")  # doctest: +SKIP

Every name below is loaded when it is first used: ``import wsipipe`` itself loads neither torch nor OpenSlide.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .data.version import __version__ as __version__

if TYPE_CHECKING:
    from .data.errors import WsipipeError as WsipipeError
    from .data.features.store import open_features as open_features
    from .data.features.store import read_bag as read_bag
    from .data.features.store import read_bags as read_bags
    from .data.manifest import Manifest as Manifest
    from .data.molecular.store import read_expression as read_expression
    from .data.slides.readers import open_slide as open_slide
    from .data.tiling.store import read_tile as read_tile
    from .data.tiling.store import read_tiles as read_tiles
    from .models.backbones.backbone import find_backbone as find_backbone
    from .models.backbones.backbone import load_embedder as load_embedder
    from .models.bundle import read_bundle as read_bundle
    from .pipeline.api import check as check
    from .pipeline.api import compare as compare
    from .pipeline.api import evaluate as evaluate
    from .pipeline.api import extract as extract
    from .pipeline.api import predict as predict
    from .pipeline.api import robustness as robustness
    from .pipeline.api import run as run
    from .pipeline.api import tile as tile
    from .pipeline.api import train as train
    from .pipeline.config import Config as Config
    from .pipeline.config import load_config as load_config
    from .pipeline.read_results import read_heatmap as read_heatmap
    from .pipeline.read_results import read_predictions as read_predictions
    from .pipeline.read_results import read_thumbnail as read_thumbnail
    from .pipeline.read_results import read_tile_scores as read_tile_scores

__path__.append(f"{__path__[0]}/pipeline/as_module")  # __main__.py is there, for python -m wsipipe

_PLACES = {
    "WsipipeError": ".data.errors",
    "read_expression": ".data.molecular.store",
    "open_features": ".data.features.store",
    "read_bag": ".data.features.store",
    "read_bags": ".data.features.store",
    "Manifest": ".data.manifest",
    "open_slide": ".data.slides.readers",
    "read_tile": ".data.tiling.store",
    "read_tiles": ".data.tiling.store",
    "find_backbone": ".models.backbones.backbone",
    "load_embedder": ".models.backbones.backbone",
    "read_bundle": ".models.bundle",
    "check": ".pipeline.api",
    "compare": ".pipeline.api",
    "evaluate": ".pipeline.api",
    "extract": ".pipeline.api",
    "predict": ".pipeline.api",
    "robustness": ".pipeline.api",
    "run": ".pipeline.api",
    "tile": ".pipeline.api",
    "train": ".pipeline.api",
    "Config": ".pipeline.config",
    "load_config": ".pipeline.config",
    "read_heatmap": ".pipeline.read_results",
    "read_predictions": ".pipeline.read_results",
    "read_thumbnail": ".pipeline.read_results",
    "read_tile_scores": ".pipeline.read_results",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
