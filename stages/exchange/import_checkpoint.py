"""import-checkpoint: makes bundles, a fold each, of models that the authors' MoMKD code has trained.

Their files hold tensors and nothing else: backbone and tiles of the features and the meaning of the classes must be
given. The training patients are unknown, so that every fold predicts every patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ...data.artifact import digest_of
from ...data.errors import BundleError, UsageError
from ...data.version import __version__
from ...models.backbones.backbone import find_backbone
from ...models.backbones.weights import digest_of_weights, find_weights
from ...models.bundle import BundleFacts, Question, write_bundle
from ...models.feature_recipe import FeatureRecipe
from ...models.mil.momkd import MoMKD
from ...models.mil.momkd_checkpoint import read_momkd_checkpoint
from ...models.tasks.prediction import log_odds
from ..extract.settings import ExtractSettings
from ..registry import VERSIONS
from ..stage import FileInput, Item, Outcome, Plan, Progress, Stage, ValueInput
from ..tile.networks import recipe_of_settings
from ..tile.settings import TileSettings
from ..train.settings import BiomarkerSettings

NEIGHBOURS = 8
"""Neighbours of a tile in its graph, as in the public code."""


class ImportCheckpointStage(Stage[BiomarkerSettings]):
    """Items are folds, in the order of their files.

    :param checkpoints: the authors' files (``s_<fold>_mkd_checkpoint.pt``).
    :param tile, extract: how the slides were tiled and their features extracted.
    :param prevalence: the share of positives among the training patients; without it, predict asks for one.
    """

    name = "import-checkpoint"
    version = VERSIONS["import-checkpoint"]
    items = "checkpoints"

    def __init__(
        self,
        settings: BiomarkerSettings,
        folder: Path,
        workspace: Path,
        *,
        checkpoints: Sequence[Path],
        tile: TileSettings,
        extract: ExtractSettings,
        prevalence: float | None = None,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.checkpoints, self.tile, self.extract, self.prevalence = checkpoints, tile, extract, prevalence

    def plan(self) -> Plan:
        if self.settings.signature:
            what = f"a checkpoint does not say how its target {self.settings.signature} was scored"
            raise UsageError(what, hint="name the column of the label: --label-column")
        if self.settings.task != "binary":
            what = f"the authors' checkpoints are of two classes, and the question is {self.settings.task}"
            raise UsageError(what, hint="give --positive and --negative, and leave --task and --targets out")
        if self.prevalence is not None:
            log_odds(self.prevalence)  # refuses what is none
        backbone = find_backbone(self.extract.backbone, self.extract.pooling)
        weights = find_weights(
            backbone.name, backbone.hub_id, gated=backbone.gated, file=self.extract.weights, hub_file=backbone.hub_file
        )
        recipe = FeatureRecipe(
            tile=recipe_of_settings(self.tile),
            extract=self.extract.result_settings(),
            tile_px=self.tile.tile_px,
            backbone=backbone.name,
            pooling=backbone.pooling,
            weights_digest=digest_of_weights(weights.path),
            width=backbone.width or 0,
            neighbours=NEIGHBOURS,
            transform=backbone.transform,
        )
        said = {} if self.prevalence is None else {"prevalence": self.prevalence}
        given = ValueInput({"recipe": recipe.model_dump(mode="json"), "folds": len(self.checkpoints), **said})
        return Plan(
            [
                Item(f"fold-{fold}", {"checkpoint": FileInput(path.resolve()), "recipe": given}, (fold, path, recipe))
                for fold, path in enumerate(self.checkpoints)
            ]
        )

    def process(self, item: Item, progress: Progress) -> Outcome:
        fold, path, recipe = item.payload
        config, state = read_momkd_checkpoint(path)
        if recipe.width and recipe.width != config.in_features:
            wrong = f"it takes features of {config.in_features} numbers, and {recipe.backbone} gives {recipe.width}"
            raise BundleError(wrong, path=path, hint="give the --backbone (and --pooling) that it was trained on")
        model = MoMKD(config)
        model.load_state_dict(state)
        bundle = self.folder / item.id
        write_bundle(bundle, self._facts(fold, path, recipe, model), model, {})
        return Outcome({"bundle": bundle}, {"features": config.in_features, "slots": config.slots})

    def _facts(self, fold: int, path: Path, recipe: FeatureRecipe, model: MoMKD) -> BundleFacts:
        training: Mapping[str, object] = {"imported": path.name, "digest": digest_of(path), "history": []}
        return BundleFacts(
            question=Question(name=self.folder.name, **self.settings.result_settings()),
            fold=fold,
            folds=len(self.checkpoints),
            splits_digest="unknown: imported from a checkpoint",
            recipe=recipe.model_copy(update={"width": model.config.in_features}),
            method="momkd",
            network=model.config.model_dump(mode="json"),
            prevalence=self.prevalence,
            threshold=0.5,
            seen=[],
            patients={},
            genes=[],
            gene_panel={},
            training=dict(training),
            versions={"wsipipe": __version__, "torch": torch.__version__},
        )
