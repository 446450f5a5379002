"""train: one model a fold, from the training and validation patients of that fold alone.

Nothing here opens a slide, an expression row or a label of the fold's test patients: the epoch is chosen and the
threshold is set on what the fold may see (:mod:`.fold`). :mod:`.evaluate` meets the test patients first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from scipy.special import expit

from .. import __version__
from ..data.artifact import remove
from ..data.blocks import BLOCKS
from ..data.errors import CohortError
from ..data.expression import store_name
from ..data.features import FeatureFacts
from ..data.manifest import Manifest, OutputRecord, Record
from ..models.bag_tensors import BagTensors
from ..models.bundle import BagRecipe, BundleFacts, Question, seen_hashes, write_bundle
from ..models.devices import choose_device
from ..models.fit import Epoch, Fit, FitSettings, PatientBags, fit, memory_usage, patient_logits
from ..models.metrics import youden_threshold
from ..models.momkd import MoMKD, MoMKDConfig, preset
from .fold import FoldCohort, FoldRna, patients_of, read_bags, read_gene_list
from .settings import BiomarkerSettings, TrainSettings
from .split import split_output
from .stage import FileInput, Input, Item, Outcome, OutputInput, Plan, Progress, Stage, ValueInput, upstream
from .versions import VERSIONS

SMALL_BAG = 100
"""Tiles in a mean bag below which one thread computes."""


class TrainStage(Stage[TrainSettings]):
    """Items are folds.

    :param biomarker: the question; the folder's name is the model's.
    :param tiles, features: folders of the stages whose slides are used.
    :param genomics: folder of the stores of RNA and of further blocks, if they are to teach.
    """

    name = "train"
    version = VERSIONS["train"]
    items = "folds"
    unit = "epochs"

    def __init__(
        self,
        settings: TrainSettings,
        folder: Path,
        workspace: Path,
        *,
        biomarker: BiomarkerSettings,
        tiles: Path,
        features: Path,
        genomics: Path | None,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.biomarker, self.tiles, self.features, self.genomics = biomarker, tiles, features, genomics

    def plan(self) -> Plan:
        split = split_output(self.manifest, self.workspace)
        splits, slides_of = split.splits, split.slides_of
        features = upstream(Manifest.of(self.features), "extract", self.workspace).records
        tile, extract = _settings_of(Manifest.of(self.tiles).latest("tile")), _settings_of(features)
        molecular: dict[str, Input] = {
            _INPUT_OF.get(block, block): OutputInput(_store_record(store)) for block, store in self._stores().items()
        }
        if molecular and self.settings.gene_list is not None:
            molecular["gene_list"] = FileInput(self.settings.gene_list.resolve(), is_setting=True)
        items = []
        for fold in range(splits.folds):
            parts = {
                role: {p: (splits.labels[p], slides_of[p]) for p in splits.patients(fold, role)}
                for role in ("train", "validation")
            }
            slides = [s for part in parts.values() for _, ids in part.values() for s in ids]
            stores = {s: features[s].outputs["features"] for s in slides}
            cohort = FoldCohort(
                fold=fold,
                folds=splits.folds,
                splits_digest=split.record.digest,
                train=parts["train"],
                validation=parts["validation"],
                test_patients=len(splits.patients(fold, "test")),
                slides={s: (self.workspace / stores[s].path, features[s].inputs["slide"].digest) for s in slides},
                tile=tile,
                extract=extract,
            )
            inputs: dict[str, Input] = {
                "splits": OutputInput(split.record),
                "slides": ValueInput({p: list(ids) for part in parts.values() for p, (_, ids) in part.items()}),
                **{f"features of {s}": OutputInput(store) for s, store in stores.items()},
                **molecular,
            }
            items.append(Item(f"fold-{fold}", inputs, cohort, size=self.settings.epochs))
        return Plan(items)

    def _stores(self) -> dict[str, Path]:
        """The stores that teach, by block; RNA may be missing, what is asked for beside it may not."""
        if self.genomics is None or not self.settings.use_rna:
            return {}
        stores = {block: self.genomics / store_name(block) for block in BLOCKS if block in self.settings.blocks}
        missing = [block for block, store in stores.items() if block != "rna" and not store.exists()]
        if missing:
            hint = f"run wsipipe genomics --{missing[0]} FILE"
            raise CohortError(f"there is no store of {missing[0]} in this workspace", path=self.genomics, hint=hint)
        return {block: store for block, store in stores.items() if store.exists()}

    def process(self, item: Item, progress: Progress) -> Outcome:
        cohort: FoldCohort = item.payload
        settings = self.settings
        device = choose_device(settings.device)
        bags, facts = read_bags(cohort, settings.neighbours, device)
        with _threads_for(bags):
            return self._train(item, progress, bags, facts, device)

    def _train(
        self,
        item: Item,
        progress: Progress,
        bags: Mapping[str, BagTensors],
        facts: FeatureFacts,
        device: torch.device,
    ) -> Outcome:
        cohort: FoldCohort = item.payload
        settings = self.settings
        stores = self._stores()
        rna = FoldRna.fitted(
            cohort,
            stores.pop("rna", None),
            settings,
            blocks=list(stores.values()),
            gene_list=read_gene_list(settings.gene_list) if settings.gene_list else (),
        )
        train = patients_of(cohort.train, bags, rna)
        validation = patients_of(cohort.validation, bags, None)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed + cohort.fold)
            model = MoMKD(_network(settings, facts, rna)).to(device)
        partial = self.folder / "partial" / item.fingerprint.removeprefix("sha256:")[:16]
        told = 0

        def tell(epoch: Epoch) -> None:
            nonlocal told
            auc = "" if epoch.validation_auc is None else f", validation AUC {epoch.validation_auc:.3f}"
            progress.say(f"fold {cohort.fold}, epoch {epoch.epoch + 1}{auc}")
            progress.advance(1)
            told += 1

        fitted = fit(
            model,
            train,
            validation,
            _fit_settings(settings, cohort.fold),
            resume=partial / "state.pt",
            tell=tell,
        )
        progress.advance(settings.epochs - told)  # what early stopping saved
        path = self.folder / item.id
        facts_of_bundle = self._facts(cohort, model, fitted, facts, rna, train, validation)
        write_bundle(path, facts_of_bundle, model, rna.arrays if rna else {})
        remove(partial)
        with suppress(OSError):  # other folds may still keep theirs
            partial.parent.rmdir()
        best = fitted.history[fitted.best_epoch]
        return Outcome(
            outputs={"bundle": path},
            stats={
                "epochs": len(fitted.history),
                "best_epoch": fitted.best_epoch,
                "validation_auc": best.validation_auc,
                "train_patients": len(train),
                "train_patients_with_rna": sum(p.expression is not None for p in train),
                "validation_patients": len(validation),
            },
        )

    def _facts(
        self,
        cohort: FoldCohort,
        model: MoMKD,
        fitted: Fit,
        facts: FeatureFacts,
        rna: FoldRna | None,
        train: Sequence[PatientBags],
        validation: Sequence[PatientBags],
    ) -> BundleFacts:
        logits = patient_logits(model, validation)
        threshold = youden_threshold([p.label for p in validation], expit(list(logits.values())))
        seen = seen_hashes([*cohort.train, *cohort.validation], [digest for _, digest in cohort.slides.values()])
        return BundleFacts(
            question=Question(name=self.folder.name, **self.biomarker.model_dump()),
            fold=cohort.fold,
            folds=cohort.folds,
            splits_digest=cohort.splits_digest,
            recipe=BagRecipe(
                tile=cohort.tile,
                extract=cohort.extract,
                tile_px=facts.tile_px,
                backbone=facts.backbone,
                pooling=facts.pooling,
                weights_digest=facts.weights_digest,
                width=model.config.in_features,
                neighbours=self.settings.neighbours,
            ),
            method="momkd",
            network=model.config,
            threshold=0.5 if threshold is None else threshold,
            seen=seen,
            patients={"train": len(train), "validation": len(validation), "test": cohort.test_patients},
            genes=list(rna.genes) if rna else [],
            gene_panel=rna.description if rna else {},
            training={
                "settings": self.settings.result_settings(),
                "best_epoch": fitted.best_epoch,
                "history": [asdict(epoch) for epoch in fitted.history],
                "memory": memory_usage(model, train),
                "patients_with_rna": sum(p.expression is not None for p in train),
                "threshold_from": "Youden on the validation patients" if threshold is not None else "default 0.5",
            },
            versions={"wsipipe": __version__, "torch": torch.__version__},
        )


def _network(settings: TrainSettings, facts: FeatureFacts, rna: FoldRna | None) -> MoMKDConfig:
    sizes = {name: getattr(settings, name) for name in ("hidden", "shared", "slots")}
    config = preset(settings.preset, facts.width, len(rna.genes) if rna else 0)
    given = {name: value for name, value in sizes.items() if value is not None}
    return MoMKDConfig.model_validate({**config.model_dump(), **given, "memory": settings.memory})


def _fit_settings(settings: TrainSettings, fold: int) -> FitSettings:
    return FitSettings(
        epochs=settings.epochs,
        patience=settings.patience,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        seed=settings.seed + fold,
    )


@contextmanager
def _threads_for(bags: Mapping[str, BagTensors]) -> Iterator[None]:
    """One thread where bags are small: there threads gain nothing, and on a busy machine each step waits for them."""
    before = torch.get_num_threads()
    if sum(len(bag.features) for bag in bags.values()) < SMALL_BAG * len(bags):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _settings_of(records: Mapping[str, Record]) -> dict[str, Any]:
    """The settings of a folder's results; the runner keeps those of other settings apart."""
    settings = [record.settings for record in records.values() if record.status == "done"]
    if not settings:
        raise CohortError("no slide has features", hint="run wsipipe tile and wsipipe extract first")
    return settings[-1]


_INPUT_OF = {"rna": "expression"}
"""What a block's store is called among a fold's inputs, where that is not the block's name."""


def _store_record(store: Path) -> OutputRecord:
    for record in Manifest.of(store.parent).latest("genomics").values():
        output = record.outputs.get("expression")
        if record.status == "done" and output is not None and Path(output.path).name == store.name:
            return output
    raise CohortError("the store is not recorded", path=store, hint="run wsipipe genomics")
