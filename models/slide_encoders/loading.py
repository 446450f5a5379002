"""Loading a slide encoder with its weights, and the refusal of features that it was not made for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.cohort.tcga import tcga_barcode
from ...data.errors import BundleError, StoreError, UsageError
from ...data.features.store import Bag, FeatureFacts
from ..backbones.registry import same_backbone
from ..backbones.weights import find_weights
from ..bundle import BundleFacts, read_facts
from ..mil.starting_weights import read_starting_weights
from .madeleine import read_madeleine
from .networks import GatedAttentionMean, Mean, MeanAndDeviation, SlideEncoder
from .registry import EncoderCard, find_encoder

_OF_PRETRAINING: Final = ("att_head", "text_to_vision", "organ_embedding")
"""Layers of CHIEF's file that its slide vector does not need."""
_METHODS: Final = ("abmil", "clam-sb")
"""Methods whose bundles hold one gated attention."""


@dataclass(frozen=True)
class EncoderChoice:
    """An encoder, the file of its weights, and the backbone whose features it reads.

    :param file: None for an encoder without weights.
    :param backbone: None for any.
    :param bundle: what the model says that the weights are of, if they are of a model of this project.
    """

    card: EncoderCard
    file: Path | None
    backbone: str | None
    bundle: BundleFacts | None = None

    @classmethod
    def of(cls, name: str, *, weights: Path | None, backbone: str | None) -> Self:
        """Find an encoder and its weights.

        :param weights: a file, or the folder of a fold of a trained model.
        :param backbone: the backbone on whose features its weights were trained, where the encoder does not say it.
        :raises UsageError: no such encoder; weights or a backbone that it needs are not given, or ones it has not.
        :raises BackboneError: the weights cannot be had from the hub.
        :raises BundleError: the weights are of a model that is no gated attention.
        """
        card = find_encoder(name)
        if not card.needs_weights:
            if weights is not None or backbone is not None:
                what = f"{name} has no weights, and reads the features of any backbone"
                raise UsageError(what, hint="leave --weights and --weights-backbone out")
            return cls(card, None, None)
        if weights is None and card.hub_id is None:
            raise UsageError(f"{name} needs weights", hint=f"--weights (of predict: --encoder-weights) {card.weights}")
        if weights is None:
            found = find_weights(name, card.hub_id, gated=card.gated, hub_file=card.hub_file)
            return cls(card, found.path, card.backbone)
        folder = weights if weights.is_dir() else weights.parent
        bundle = None
        if (folder / "bundle.json").is_file():
            bundle = read_facts(folder)
            weights = folder / "model.safetensors"
            if bundle.method not in _METHODS or card.name != "abmil":
                what = f"is of a model trained with {bundle.method}, and {name} reads gated attention"
                raise BundleError(what, path=folder, hint=f"--encoder abmil, and a model of {' or '.join(_METHODS)}")
        own = card.backbone or (bundle.recipe.backbone if bundle else None)
        if backbone is not None and own is not None and not same_backbone(own, backbone):
            raise UsageError(f"{name} was trained on features of {own}, not of {backbone}", hint="correct the backbone")
        if own is None and backbone is None:
            what = "the file does not say on which backbone's features its weights were trained"
            raise UsageError(what, path=weights, hint="--weights-backbone uni2-h, say")
        return cls(card, weights, own or backbone, bundle)

    def refuse_other(self, facts: FeatureFacts, path: Path) -> None:
        """Refuse features that the encoder was not made for.

        :raises StoreError: they are of another backbone, or vectors of whole slides; the message names both.
        :raises BundleError: they differ from those that the model was trained on.
        """
        if facts.encoding is not None:
            what = f"is the vector of a whole slide already, by {facts.encoding.encoder}"
            raise StoreError(what, path=path, hint="give a folder of tiles' features, such as 0.5mpp-224px/uni2-h")
        if self.backbone is not None and not same_backbone(self.backbone, facts.backbone):
            what = f"{self.card.name} reads features of {self.backbone}, and these are of {facts.backbone}"
            raise StoreError(what, path=path, hint=f"wsipipe extract --backbone {self.backbone}, or another --encoder")
        if self.bundle is not None:
            self.bundle.recipe.refuse_other(facts, path)

    def has_seen(self, slide_id: str, slide_digest: str | None) -> bool:
        """Whether the weights were trained on the slide or its patient, as far as the model and TCGA's barcode say."""
        barcode = tcga_barcode(slide_id)
        patient = barcode.patient if barcode else None
        return self.bundle is not None and self.bundle.saw(patient, slide_digest, slide_id)

    def other_tiles(self, mpps: Collection[float], tile_px: Collection[int]) -> str:
        """Say how tiles differ from those that the encoder was trained on; empty if they do not, or nobody says it."""
        card = self.card
        if card.mpp is None or card.tile_px is None:
            return ""
        side, sides = card.mpp * card.tile_px, [m * px for m in mpps for px in tile_px]
        if all(abs(own / side - 1) < 0.05 for own in sides):
            return ""
        here = ", ".join(f"{px} px at {mpp:.3g}" for mpp in sorted(mpps) for px in sorted(tile_px))
        return f"{card.name} was trained on tiles of {card.tile_px} px at {card.mpp:g} µm per pixel; these are {here}"

    def load(self, device: torch.device) -> LoadedEncoder:
        """Build the network with its weights.

        :raises BundleError: the weights are not those of this encoder.
        """
        network = self._network().requires_grad_(False).eval().to(device)
        return LoadedEncoder(self, network, device)

    def _network(self) -> SlideEncoder:
        match self.card.network:
            case "mean":
                return Mean()
            case "mean-std":
                return MeanAndDeviation()
        assert self.file is not None  # the others have weights
        if self.card.network == "madeleine":
            return read_madeleine(self.file)
        beside = _OF_PRETRAINING if self.card.name == "chief" else ()
        start = read_starting_weights(self.file, beside=beside)
        return GatedAttentionMean(start, of_tiles=self.card.network == "attention-of-tiles")


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder on a device, ready to encode slides."""

    choice: EncoderChoice
    network: SlideEncoder
    device: torch.device

    def encode(self, bag: Bag, path: Path) -> NDArray[np.float32]:
        """Compute the vector (W) of a slide, float32.

        :param path: the bag's store, for messages.
        :raises StoreError: features that it was not made for, or a vector that is not finite.
        """
        self.choice.refuse_other(bag.facts, path)
        name, width = self.choice.card.name, self.network.tile_width
        if width is not None and width != bag.facts.width:
            what = f"{name} reads features of {width} numbers, and these have {bag.facts.width}"
            raise StoreError(what, path=path, hint="the weights are of another backbone, or of another pooling")
        if not len(bag.features):
            raise StoreError("has no tile, so that there is no vector of it", path=path, hint="tile the slide again")
        with torch.inference_mode():
            vector = self.network(torch.from_numpy(bag.features).to(self.device).float())
        wanted = self.choice.card.width
        if wanted is not None and len(vector) != wanted:
            what = f"its vectors have {len(vector)} numbers, and {name}'s have {wanted}"
            raise BundleError(what, path=self.choice.file, hint=f"give the weights of {name}, or take --encoder abmil")
        if not bool(vector.isfinite().all()):
            raise StoreError("its vector is not finite", path=path, hint="check the encoder's weights")
        numbers: NDArray[np.float32] = vector.cpu().numpy()
        return numbers
