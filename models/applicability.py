"""What a model knows of the slides and patients that trained it: enough to say when it should not answer.

``applicability.json`` lies beside the bundles of a model and is written by cross-validation, since it is made of slides
and patients that a fold has not seen. It holds

- how the features of slides and of tiles spread (:mod:`.evaluation.feature_distance`), and the distance that a share of
  :data:`SHARE` of the held-out slides passes;
- how few tiles, how little sharpness and how many undecoded tiles a slide had;
- how strange held-out patients looked for their own class (:mod:`.evaluation.conformal`), or how far a predicted number
  was from the label.

Means, variances and probabilities: no id, no slide, no name. It holds the digests of the bundles that it belongs to and
one of itself. A model without it, of an earlier version or imported, cannot judge.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, PlainSerializer, ValidationError

from ..data.artifact import digest_of, digest_of_value, whole
from ..data.errors import BundleError
from ..data.json_text import fault, read_json
from .evaluation.feature_distance import FeatureSpread, Vectors
from .evaluation.prediction_limit import lower_limit, upper_limit

FILE: Final = "applicability.json"
ENCODING_TYPE: Final = "wsipipe-applicability"
ENCODING_VERSION: Final = "1"
SHARE: Final = 0.01
"""Share of the held-out slides that would be called far, too small or blurred."""
TILES_A_SLIDE: Final = 64
"""Tiles of a slide whose distance is measured, evenly spread over its rows."""
_AGAIN: Final = "copy the model again; or remove the file and run wsipipe train: the folds are not trained again"


def _decoded(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    values = np.frombuffer(base64.b64decode(given, validate=True), "<f4").astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    return values


def _encoded(values: NDArray[np.float64]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


Floats = Annotated[NDArray[np.float64], BeforeValidator(_decoded), PlainSerializer(_encoded)]
"""Numbers of 32 bits, in base64."""


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Spread(_Facts):
    """How feature vectors spread, and how far held-out ones lie."""

    mean: Floats
    components: Floats
    variances: Floats
    rest: float = Field(gt=0, allow_inf_nan=False)
    usual: FiniteFloat
    """Median distance of held-out slides."""
    limit: FiniteFloat
    """The distance that a share of :data:`SHARE` of them passes."""

    @property
    def space(self) -> FeatureSpread:
        """The spread itself.

        :raises ValueError: its parts do not fit.
        """
        components = self.components.reshape(len(self.variances), len(self.mean))
        if (self.variances <= 0).any():
            raise ValueError("a variance is not above zero")
        return FeatureSpread(self.mean, components, self.variances, self.rest)


class Held(_Facts):
    """What cross-validation says of one question."""

    classes: list[str] = []
    """Names of the classes, in the order of their labels; empty of a number."""
    strangeness: list[dict[int, list[FiniteFloat]]] = []
    """Of each class: fold → how strange its patients are for it."""
    residuals: list[FiniteFloat] = []
    """Of a number: distance of the prediction from the label, of each patient."""


class Applicability(_Facts):
    """What a model knows of the slides and patients that trained it."""

    bundles: list[str]
    """Digests of the folds' bundles, in their order."""
    slides: int = Field(ge=1)
    """Number of slides of cross-validation."""
    slide_spread: Spread | None
    """Of the mean features of slides; None with too few slides."""
    tile_spread: Spread | None
    """Of the features of tiles."""
    fewest_tiles: int = Field(ge=1)
    """Of a slide of cross-validation."""
    most_tiles: int
    tiles_limit: FiniteFloat | None
    """Number of tiles below which at most a share of :data:`SHARE` of further slides lies."""
    sharpness_limit: FiniteFloat | None
    """The same of the median sharpness of a slide's tiles; None if tiling did not measure it."""
    sharpness_usual: FiniteFloat | None
    most_bad_tiles: float = Field(ge=0, le=1)
    """The largest share of a slide's tiles that could not be decoded."""
    held: dict[str, Held]
    """Target → what is known of its question; of a model of one question its only key is empty."""

    def measured(self, features: Vectors, *, sharpness: float | None, bad_tiles: int) -> Fitness:
        """Measure how a slide compares with those that trained the model.

        :param features: (N, D) of its tiles.
        :param sharpness: median over its tiles, if tiling measured it.
        :param bad_tiles: number of tiles that could not be decoded.
        """
        slide, tiles = self.slide_spread, self.tile_spread
        return Fitness(
            tiles=len(features),
            slide_distance=None if slide is None else float(slide.space.distances(slide_mean(features))[0]),
            tile_distance=None if tiles is None else float(tiles.space.distances(some_tiles(features)).mean()),
            sharpness=sharpness,
            bad_tiles=bad_tiles / (bad_tiles + len(features)),
            by=self.digest,
        )

    @property
    def digest(self) -> str:
        """Digest of its content."""
        return digest_of_value(self.model_dump(mode="json"))


class Fitness(BaseModel):
    """How a slide compares with those that trained the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiles: int
    slide_distance: FiniteFloat | None
    """Of the mean of its tiles' features; about 1 for a slide of training."""
    tile_distance: FiniteFloat | None
    """Mean over its tiles of their distances."""
    sharpness: FiniteFloat | None
    bad_tiles: float = Field(ge=0, le=1)
    """Share of its tiles that could not be decoded."""
    by: str
    """Digest of what it was compared with."""


@dataclass(frozen=True)
class HeldOutSlide:
    """A slide of cross-validation, as far as new slides are compared with it."""

    fold: int
    """The one that was not trained on it."""
    mean: NDArray[np.float32]
    """(D,)"""
    some: Vectors
    """(n, D), some of its tiles."""
    tiles: int
    bad_tiles: int
    sharpness: float | None

    @classmethod
    def of(cls, fold: int, features: Vectors, *, bad_tiles: int, sharpness: float | None) -> HeldOutSlide:
        """Keep what is needed of a slide's features (N, D)."""
        mean = slide_mean(features)[0].astype(np.float32)
        return cls(fold, mean, some_tiles(features).copy(), len(features), bad_tiles, sharpness)


def slide_mean(features: Vectors) -> NDArray[np.float64]:
    """The mean over a slide's tiles, (N, D) → (1, D)."""
    mean: NDArray[np.float64] = features.mean(axis=0, dtype=np.float64, keepdims=True)
    return mean


def some_tiles(features: Vectors) -> Vectors:
    """At most :data:`TILES_A_SLIDE` tiles of a slide, evenly spread over its rows."""
    if len(features) <= TILES_A_SLIDE:
        return features
    return features[np.linspace(0, len(features) - 1, TILES_A_SLIDE).round().astype(np.intp)]


def applicability_of(
    slides: Sequence[HeldOutSlide], held: Mapping[str, Held], bundles: Sequence[Path]
) -> Applicability:
    """Measure the slides of cross-validation, each against those of the other folds."""
    sharp = [slide.sharpness for slide in slides if slide.sharpness]
    return Applicability(
        bundles=[digest_of(bundle) for bundle in bundles],
        slides=len(slides),
        slide_spread=_spread(slides, lambda slide: slide.mean[None]),
        tile_spread=_spread(slides, lambda slide: slide.some),
        fewest_tiles=min(slide.tiles for slide in slides),
        most_tiles=max(slide.tiles for slide in slides),
        tiles_limit=lower_limit([slide.tiles for slide in slides], SHARE),
        sharpness_limit=lower_limit(sharp, SHARE) if len(sharp) == len(slides) else None,
        sharpness_usual=float(np.median(sharp)) if sharp else None,
        most_bad_tiles=max(slide.bad_tiles / (slide.bad_tiles + slide.tiles) for slide in slides),
        held=dict(held),
    )


def _spread(slides: Sequence[HeldOutSlide], vectors: Any) -> Spread | None:
    """The spread of all slides' vectors, and the limit of distances of slides that the spread was made without.

    Two distances decide, each at half of :data:`SHARE`.
    """
    everything = FeatureSpread.of(np.concatenate([vectors(slide) for slide in slides]))
    distances: list[float] = []
    for fold in sorted({slide.fold for slide in slides}):
        others = [vectors(slide) for slide in slides if slide.fold != fold]
        known = FeatureSpread.of(np.concatenate(others)) if others else None
        if known is not None:
            distances += [float(known.distances(vectors(s)).mean()) for s in slides if s.fold == fold]
    limit = upper_limit(distances, SHARE / 2)
    if everything is None or limit is None:
        return None
    return Spread(
        mean=everything.mean,
        components=everything.components.ravel(),
        variances=everything.variances,
        rest=everything.rest,
        usual=float(np.median(distances)),
        limit=limit,
    )


def write_applicability(path: Path, known: Applicability) -> None:
    """Write ``applicability.json``. Equal content gives equal bytes."""
    content = known.model_dump(mode="json")
    document = {
        "encoding-type": ENCODING_TYPE,
        "encoding-version": ENCODING_VERSION,
        "digest": digest_of_value(content),
    }
    with whole(path) as scratch:
        text = json.dumps({**document, **content}, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        scratch.write_text(text + "\n", encoding="utf-8")


def read_applicability(model: Path, folds: Sequence[Path]) -> Applicability | None:
    """Read what a model knows of its training slides; None if it has none, or if it is of an earlier training.

    :param model: its folder.
    :param folds: its bundles.
    :raises BundleError: damaged, changed, or of another version.
    """
    path = model / FILE
    if not path.exists():
        return None
    content = read_json(path, BundleError, what="applicability", hint=_AGAIN)
    try:
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        kind, version = content.pop("encoding-type", None), content.pop("encoding-version", None)
        if (kind, version) != (ENCODING_TYPE, ENCODING_VERSION):
            what = f"is {kind} version {version}, not {ENCODING_TYPE} version {ENCODING_VERSION}"
            raise BundleError(what, path=path, hint="use the wsipipe that wrote it")
        if content.pop("digest", None) != digest_of_value(content):
            raise BundleError("was changed since it was written", path=path, hint=_AGAIN)
        known = Applicability.model_validate(content)
        for spread in (known.slide_spread, known.tile_spread):
            if spread is not None:
                spread.space  # noqa: B018  its parts must fit
    except (ValueError, ValidationError) as error:
        raise BundleError(f"is damaged: {fault(error)}", path=path, hint=_AGAIN) from error
    return known if known.bundles == [digest_of(fold) for fold in folds] else None
