"""train: trains one model per fold, on the training and validation patients of that fold alone.

No slide, expression row or label of the fold's test patients is read here: epoch and threshold are chosen on the fold's
validation patients (:mod:`.fold`). Test patients are predicted in :mod:`.cross_validate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch

from ...data.allotment import usable_cores
from ...data.artifact import remove
from ...data.errors import CohortError, UsageError
from ...data.features.store import FeatureFacts
from ...data.files.reading_process import in_bytes
from ...data.manifest import Manifest, Record
from ...data.version import __version__
from ...models.backbones.backbone import find_backbone
from ...models.backbones.devices import choose_device, choose_devices
from ...models.bundle import BundleFacts, Question, write_bundle
from ...models.feature_recipe import FeatureRecipe
from ...models.mil.bag_tensors import AnyBag, FiledBag
from ...models.mil.momkd import MoMKD
from ...models.mil.starting_weights import read_starting_weights
from ...models.patient_hashes import hashes_of
from ...models.training.fit import Epoch
from ...models.training.methods import (
    BY_STEPS,
    find_method,
    refuse_features,
    refuse_start,
    refuse_targets,
    refuse_task,
)
from ..encode.settings import EncodeSettings
from ..extract.settings import ExtractSettings
from ..features_folder import holds_imported_vectors, holds_slide_vectors
from ..registry import VERSIONS
from ..settings import RESOLVED, Settings
from ..slide_records import extraction_of, identity_of_slide, latest, recipe_of_imported, tiling_of
from ..stage import FileInput, Input, Item, Outcome, OutputInput, Plan, Progress, Stage, ValueInput
from ..tile.networks import networks_in, recipe_of_tiles
from ..tile.settings import TileSettings
from .fold import FoldCohort, read_bags
from .fold_training import INNER_FOLDS, FoldData, TrainedFold, train_fold
from .molecular_data import MolecularData, molecular_inputs
from .settings import BiomarkerSettings, QuestionSettings, TrainSettings
from .shared_bags import Budget, filed_bags
from .split import features_of, split_output
from .threads import threads_for


class TrainStage(Stage[TrainSettings]):
    """The train stage; its items are folds.

    :param biomarker: the question; the folder's name is the model's.
    :param tiles, features: folders of the stages whose slides are used.
    :param stores: the stores of RNA and further blocks that training uses.
    :param splits: folder of the split to train on; default: the model's own.
    :param question: the question's name; default: the folder's.
    """

    name = "train"
    version = VERSIONS["train"]
    items = "folds"
    unit = "epochs"
    distributes = True

    def __init__(
        self,
        settings: TrainSettings,
        folder: Path,
        workspace: Path,
        *,
        biomarker: BiomarkerSettings,
        tiles: Path,
        features: Path,
        stores: Sequence[Path],
        splits: Path | None = None,
        question: str = "",
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.biomarker = QuestionSettings.model_validate(biomarker.model_dump())
        self.tiles, self.features, self.stores = tiles, features, stores
        self.splits, self.question = splits or folder, question
        self._bags: dict[str, AnyBag] = {}
        self._has_bags = False
        self._of = 1
        self._cores: int | None = None
        self._notes: Sequence[str] = ()

    @property
    def devices(self) -> Sequence[str]:
        return [str(device) for device in choose_devices(self.settings.device)]

    def on(self, device: str, of: int) -> Self:
        stage = super().on(device, of)
        stage._of = of
        return stage

    def for_worker(self, device: str | None, cores: int) -> Self:
        stage = super().for_worker(device, cores)
        stage._cores = cores
        return stage

    @contextmanager
    def sharing(self, items: Sequence[Item], progress: Progress) -> Iterator[None]:
        stores = {slide: path for item in items for slide, (path, _) in item.payload.slides.items()}
        settings = self.settings
        several = settings.candidates() if settings.nested else [settings]
        budget = Budget(
            asked=settings.bag_memory,
            processes=max(1, min(len(self.devices), len(items))),
            share=1.0 if self._cores is None else min(1.0, self._cores / usable_cores()),
            bags_per_step=max(one.bags_per_step for one in several),
        )
        with filed_bags(
            stores,
            budget,
            neighbours=settings.neighbours,
            folder=self.folder,
            progress=progress,
            scratch_place=self.scratch_place,
        ) as filed:
            self._bags |= filed
            self._has_bags = True
            try:
                yield
            finally:
                self._bags = {slide: bag for slide, bag in self._bags.items() if not isinstance(bag, FiledBag)}
                self._has_bags = False
                size = sum(bag.bytes for bag in filed.values())
                self._notes = [f"bags of {in_bytes(size)} were read as needed, from a scratch file"] if filed else []

    def closing_notes(self) -> Sequence[str]:
        return self._notes

    def plan(self) -> Plan:
        self.refuse_settings()
        split = split_output(Manifest.of(self.splits), self.workspace)
        used = split.slides
        features = features_of(used, self.features, self.workspace)
        tiled = latest(tiling_of(self.tiles, self.features))
        made = self._made(used, tiled)
        self._refuse_other_features(made["extract"])
        molecular = molecular_inputs(self._molecular, self.settings.gene_list, self.workspace)
        sites = split.sites if self.settings.nested else {}
        items = []
        for fold in range(split.splits.folds):
            train, validation = split.part(fold, "train"), split.part(fold, "validation")
            own = {**train, **validation}
            slides = [slide for _, ids in own.values() for slide in ids]
            cohort = FoldCohort(
                fold=fold,
                folds=split.splits.folds,
                splits_digest=split.record.digest,
                train=train,
                validation=validation,
                test_patients=len(split.splits.patients(fold, "test")),
                slides={s: (self.workspace / features[s].path, identity_of_slide(s, tiled[s])) for s in slides},
                tile=made["tile"],
                extract=made["extract"],
                sites={patient: sites[patient] for patient in own} if sites else {},
                signature=split.targets.signatures[fold] if split.targets else None,
                encode=made.get("encode"),
            )
            inputs: dict[str, Input] = {
                "splits": OutputInput(split.record),
                **split.inputs,
                "slides": ValueInput({patient: list(ids) for patient, (_, ids) in own.items()}),
                **{f"features of {slide}": OutputInput(features[slide]) for slide in slides},
                **molecular,
            }
            if self.settings.init is not None:
                inputs["init"] = FileInput(self.settings.init.resolve(), is_setting=True)
            if cohort.sites:
                inputs["sites"] = ValueInput(dict(cohort.sites))
            if self.biomarker.task != "binary":  # two questions may have the same labels, and so the same splits
                inputs["question"] = ValueInput(self._question())
            items.append(Item(f"fold-{fold}", inputs, cohort, size=self._epochs(), place=fold))
        return Plan(items)

    def _made(self, slides: Sequence[str], tiled: Mapping[str, Record]) -> dict[str, dict[str, Any]]:
        """The settings of each stage that made the slides' features, to be used for new slides too."""
        if holds_imported_vectors(self.features):
            return recipe_of_imported(slides, tiled, self.features)
        extraction = extraction_of(self.features)
        made = {
            "tile": _settings_of(slides, tiled, self.tiles, TileSettings),
            "extract": _settings_of(slides, latest(extraction), extraction[0], ExtractSettings),
        }
        if holds_slide_vectors(self.features):
            encoded = Manifest.of(self.features).latest("encode")
            made["encode"] = _settings_of(slides, encoded, self.features, EncodeSettings)
        return made

    def refuse_settings(self) -> None:
        """Refuse settings that do not fit the question, the method or the data.

        :raises UsageError: naming those that do not.
        """
        task = self.biomarker.task
        if self.biomarker.of_targets:
            refuse_targets(self.settings.method, {n: q.task for n, q in self.biomarker.of_targets.items()})
        refuse_task(self.settings.method, task)
        refuse_features(self.settings.method, slide_vectors=holds_slide_vectors(self.features))
        if self.settings.init is not None:
            refuse_start(self.settings.method)
        others = [t for t in [q.task for q in self.biomarker.of_targets.values()] or [task] if t != "binary"]
        if self.settings.soft_targets and others:
            what = f"soft targets are for the binary task, and this question is {others[0]}"
            raise UsageError(what, hint="leave --soft-targets out: RNA still teaches the methods that use it")
        if self.biomarker.asked().compares_patients and find_method(self.settings.method).fit_at == BY_STEPS:
            least = min(candidate.bags_per_step for candidate in self.settings.candidates())
            if least < 2:
                what = f"loss = {self.biomarker.loss} compares the patients of a step, and a step has one slide"
                raise UsageError(
                    what, hint="--bags-per-step 16, or 2 at least; loss = hazards learns from single slides"
                )
        requested = [name for name in ("soft_targets", "shuffle_rna") if getattr(self.settings, name)]
        if requested and not self.stores:
            what = f"--{requested[0].replace('_', '-')} needs RNA, and there is none"
            raise UsageError(what, path=self.workspace, hint="run wsipipe genomics first")

    def _refuse_other_features(self, extract: Mapping[str, Any]) -> None:
        """Refuse weights to start from that read features of another backbone."""
        wanted = self.settings.init_backbone
        if wanted and find_backbone(wanted).name != find_backbone(extract["backbone"]).name:
            what = f"its weights were trained on features of {wanted}, and these are of {extract['backbone']}"
            raise UsageError(what, path=self.settings.init, hint=f"--backbone {wanted}, or leave --init out")

    def _question(self) -> dict[str, Any]:
        """What of the question decides how a model is trained, beside the labels."""
        said = self.biomarker.model_dump(mode="json", include={"classes", "robust", "loss", "horizons", "time_unit"})
        return {"task": self.biomarker.task, **self.biomarker.of_kind("meaning", said)}

    @property
    def _molecular(self) -> Sequence[Path]:
        """The stores if this training uses them; otherwise none, so that a changed store does not cause retraining."""
        settings = self.settings
        with_rna = find_method(settings.method).uses_rna and settings.use_rna
        return self.stores if with_rna or settings.soft_targets else ()

    def _epochs(self) -> int:
        """Compute the maximum number of epochs of a fold, including those of nested settings on the inner folds."""
        fits = 1 + (INNER_FOLDS * len(self.settings.candidates()) if self.settings.nested else 0)
        return self.settings.epochs * fits

    def process(self, item: Item, progress: Progress) -> Outcome:
        if not self._has_bags:  # on a worker of a cluster, which shares no memory with the others
            with self.sharing([item], progress):
                return self.process(item, progress)
        cohort: FoldCohort = item.payload
        device = choose_device(self.settings.device)
        self._bags |= read_bags(cohort, self.settings.neighbours, device, self._bags)
        bags = {slide: self._bags[slide] for slide in cohort.slides}
        facts = next(iter(bags.values())).facts
        assert facts is not None  # every bag comes from a store
        with threads_for(bags, self._of), self._curves(item.id) as draw:
            epochs: Counter[str] = Counter()
            measure = self.biomarker.asked().measure

            def tell(what: str, epoch: Epoch) -> None:
                inner = "" if what == "state" else f" ({what})"
                progress.say(
                    f"fold {cohort.fold}{inner}, epoch {epoch.epoch + 1}, validation {_in_validation(epoch, measure)}"
                )
                progress.advance(1)
                epochs[what] += 1
                if what == "state":
                    draw(epoch)

            partial = self.folder / "partial" / item.fingerprint.removeprefix("sha256:")[:16]
            molecular = MolecularData.read(self._molecular, self.settings.gene_list)
            start = None if self.settings.init is None else read_starting_weights(self.settings.init)
            asked = self.biomarker.asked()
            data = FoldData(cohort, bags, facts.width, molecular, device, partial, tell, asked, start)
            trained = train_fold(data, self.settings)
            path = self.folder / item.id
            write_bundle(
                path, self._facts(cohort, trained, facts), trained.network, trained.rna.arrays if trained.rna else {}
            )
        progress.advance(max(0, item.size - epochs.total()))  # the epochs saved by early stopping
        remove(partial)
        with suppress(OSError):  # other folds may still have theirs
            partial.parent.rmdir()
        best = trained.fitted.history[trained.fitted.best_epoch]
        return Outcome(
            outputs={"bundle": path},
            stats={
                "device": str(device),
                "epochs": len(trained.fitted.history),
                "best_epoch": trained.fitted.best_epoch,
                "validation_auc": best.validation_auc,
                "train_patients": len(trained.train),
                "train_patients_with_rna": sum(p.expression is not None for p in trained.train),
                "validation_patients": len(trained.validation),
            },
        )

    @contextmanager
    def _curves(self, fold: str) -> Iterator[Callable[[Epoch], None]]:
        """Provide a function that writes epochs for TensorBoard, or does nothing if that is off."""
        if not self.settings.tensorboard:
            yield lambda _: None
            return
        from .tensorboard import tensorboard_curves

        with tensorboard_curves(self.folder / "tensorboard" / fold) as write:
            yield write

    def _facts(self, cohort: FoldCohort, trained: TrainedFold, facts: FeatureFacts) -> BundleFacts:
        fitted, rna = trained.fitted, trained.rna
        threshold, threshold_from = trained.threshold()
        patients, digests = [*cohort.train, *cohort.validation], [digest for _, digest in cohort.slides.values()]
        hashes = hashes_of(patients, digests, cohort.slides, cohort.splits_digest)
        network = trained.network
        return BundleFacts(
            question=Question(name=self.question or self.folder.name, **self.biomarker.result_settings()),
            signature=cohort.signature,
            fold=cohort.fold,
            folds=cohort.folds,
            splits_digest=cohort.splits_digest,
            recipe=FeatureRecipe(
                tile=cohort.tile,
                extract=cohort.extract,
                tile_px=facts.tile_px,
                backbone=facts.backbone,
                pooling=facts.pooling,
                weights_digest=facts.weights_digest,
                width=facts.width,
                neighbours=self.settings.neighbours,
                transform=facts.transform,
                encode=cohort.encode,
                slide_encoder=facts.slide_encoder,
            ),
            method=trained.settings.method,
            network=network.config.model_dump(mode="json"),
            prevalence=network.task.prevalence([patient.label for patient in trained.train]),
            threshold=threshold,
            seen=hashes,
            hashed_by="scrypt",
            patients={
                "train": len(trained.train),
                "validation": len(trained.validation),
                "test": cohort.test_patients,
            },
            genes=list(rna.genes) if rna else [],
            gene_panel=rna.description if rna else {},
            task_state=network.task.state(),
            of_targets=trained.of_targets(),
            training={
                "settings": trained.settings.result_settings(),
                "best_epoch": fitted.best_epoch,
                "history": [asdict(epoch) for epoch in fitted.history],
                "memory": network.slot_shares(trained.train) if isinstance(network, MoMKD) else {},
                "soft_targets": trained.targets.description if trained.targets else {},
                "choice": trained.choice,
                "patients_with_rna": sum(p.expression is not None for p in trained.train),
                "threshold_from": threshold_from,
            },
            versions={"wsipipe": __version__, "torch": torch.__version__},
        )


def _settings_of(
    slides: Sequence[str], records: Mapping[str, Record], folder: Path, settings: type[Settings]
) -> dict[str, Any]:
    """Find the settings with which all these slides were processed, to be used for new slides too.

    :raises CohortError: they differ, because a run with other settings was stopped half-way.
    """
    first = records[slides[0]].settings
    for slide in slides:
        if other := settings.unlike(first, records[slide].settings):
            what = f"{slides[0]} and {slide} were made with different settings ({', '.join(other)})"
            raise CohortError(what, path=folder, hint="run wsipipe tile and wsipipe extract to the end")
        if networks_in(records[slide]) != networks_in(records[slides[0]]):
            what = f"{slides[0]} and {slide} were tiled with different weights of networks"
            raise CohortError(what, path=folder, hint="run wsipipe tile and wsipipe extract to the end")
    if settings is TileSettings:
        return recipe_of_tiles(records[slides[0]])
    return {name: value for name, value in first.items() if name != RESOLVED}


def _in_validation(epoch: Epoch, measure: str) -> str:
    """Describe the epoch's validation score."""
    if epoch.validation_rank is not None:
        return f"rank correlation {epoch.validation_rank:.3f}"
    if epoch.validation_auc is None:
        return f"loss {epoch.validation_loss:.3f}"
    return f"{measure} {epoch.validation_auc:.3f}"
