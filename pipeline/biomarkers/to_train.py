"""Inputs of training a biomarker, and the stages that split, train and evaluate, for `train` and `compare` alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ...data.errors import CohortError, ExpressionError, UsageError
from ...data.manifest import Manifest, Record
from ...data.wording import some
from ..config import Config
from ..folders import checked_name, choose_features
from ..run.runner import Runner

if TYPE_CHECKING:
    from ...stages.stage import Stage
    from ...stages.train.settings import QuestionSettings, TrainSettings


def biomarkers_of(config: Config, names: Sequence[str] | None) -> Sequence[str]:
    """The biomarkers that were named, or all.

    :raises UsageError: none is configured, or one of the names is not.
    """
    if not config.biomarkers:
        raise UsageError(
            "no biomarker is given",
            hint="add [biomarkers.NAME] to the settings file, or use --label-column, --positive and --negative",
        )
    unknown = [name for name in names or () if name not in config.biomarkers]
    if unknown:
        raise UsageError(f"no biomarker is called {unknown[0]}", hint=f"there are {', '.join(config.biomarkers)}")
    return names or list(config.biomarkers)


def cohort_table(config: Config) -> Path:
    """The cohort table.

    :raises UsageError: none is given.
    """
    if config.cohort.table is None:
        hint = "use --table, or table in [cohort]: slide_id, patient_id, labels"
        raise UsageError("no cohort table is given", hint=hint)
    return config.cohort.table


def refuse_one_prevalence_for(config: Config, names: Sequence[str], prevalence: float | None) -> None:
    """Refuse one prevalence for several biomarkers, for one without two classes, and one that cannot be.

    :raises UsageError: it is for several, for a task that has none, or does not lie between 0 and 1.
    """
    refuse_no_prevalence(prevalence)
    if prevalence is None:
        return
    if len(names) > 1:
        what = f"--prevalence is one number, and there are {len(names)} biomarkers: {', '.join(names)}"
        raise UsageError(what, hint="choose one with --name")
    if (task := config.biomarkers[names[0]].task) != "binary":
        what = f"a prevalence is of two classes, positive and negative, and the question of {names[0]} is {task}"
        raise UsageError(what, hint="leave --prevalence out")


def refuse_no_prevalence(prevalence: float | None) -> None:
    """Refuse a prevalence that cannot be.

    :raises UsageError: it does not lie between 0 and 1.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise UsageError(f"a prevalence lies between 0 and 1, not at {prevalence}", hint="15 % positive is 0.15")


def refuse_unknown_signatures(config: Config, workspace: Path) -> None:
    """Refuse signatures without RNA or without genes before slides are read, which takes days.

    :raises UsageError: no matrix is given; or no file with the genes of a set.
    :raises ExpressionError: the file of gene sets cannot be read, or has no such set.
    """
    from ...data.molecular.gene_sets import read_gmt
    from ...data.molecular.signature_names import GENE, RECURRENCE_SCORE, RECURRENCE_UNSCALED
    from ...data.molecular.store import store_name

    for name, asked in config.biomarkers.items():
        if not asked.signature:
            continue
        if config.genomics.matrix is None and not (workspace / "genomics" / store_name("rna")).exists():
            what = f"biomarker {name} is scored from RNA, and no matrix is given"
            raise UsageError(what, hint="name it as matrix in [genomics]")
        if asked.signature.startswith(GENE) or asked.signature in (RECURRENCE_SCORE, RECURRENCE_UNSCALED):
            continue
        file = asked.gene_sets or config.genomics.gene_sets
        if file is None:
            what = f"biomarker {name}: the genes of {asked.signature} are not known: no gene sets are given"
            raise UsageError(what, hint="name a .gmt as gene_sets in [genomics]; one gene is written gene:SYMBOL")
        sets = read_gmt(file)
        if asked.signature not in sets:
            what = f"no gene set is called {asked.signature}"
            raise ExpressionError(
                what, path=file, hint=f"there are {some(list(sets))}; one gene is written gene:SYMBOL"
            )


@dataclass(frozen=True)
class ToTrain:
    """A biomarker, and the inputs that its models are trained from.

    :param folder: folder of the split.
    :param stores: stores of RNA and further molecular blocks.
    """

    config: Config
    runner: Runner
    name: str
    folder: Path
    table: Path
    features: Path
    stores: list[Path]
    prevalence: float | None = None
    """The one that probabilities are shown at; default: the training patients'."""

    @classmethod
    def of(cls, config: Config, runner: Runner, name: str, features: str | None, place: str) -> Self:
        """Find the inputs in a workspace.

        :param name: name of the biomarker.
        :param features: name of the features' folder; needed only where there are several.
        :param place: folder of the workspace in which the biomarker's folder will lie (``models``, ``comparisons``).
        :raises UsageError: no cohort table, no features, or an invalid name for a model.
        :raises CohortError: a molecular block other than RNA is configured for training and has no store.
        """
        from ...stages.train.molecular_data import molecular_stores

        workspace, table = runner.workspace, cohort_table(config)
        folder = workspace / place / checked_name(name, "a model")
        source = choose_features(runner, config.features_name(), features)
        stores = molecular_stores(workspace / "genomics", config.train)
        return cls(config, runner, name, folder, table, source, stores)

    @property
    def biomarker(self) -> QuestionSettings:
        return self.config.question(self.name)

    def split(self) -> Stage[Any]:
        from ...stages.train.split import SplitStage, SplitStageSettings

        settings = SplitStageSettings(**self.config.split.model_dump(), **self.biomarker.model_dump())
        return SplitStage(
            settings,
            self.folder,
            self.runner.workspace,
            table=self.table,
            tiles=self._tiles,
            features=self.features,
            molecular=self.stores,
            gene_sets=self._gene_sets,
        )

    def train(self, settings: TrainSettings, folder: Path) -> Stage[Any]:
        from ...stages.train.stage import TrainStage

        return TrainStage(
            settings,
            folder,
            self.runner.workspace,
            biomarker=self.biomarker,
            tiles=self._tiles,
            features=self.features,
            stores=self.stores if settings.use_rna or settings.soft_targets else [],
            splits=self.folder,
            question=self.name,
        )

    def cross_validate(self, settings: TrainSettings, folder: Path) -> Stage[Any]:
        from ...stages.train.cross_validate import CrossValidateSettings, CrossValidateStage

        of_test = CrossValidateSettings(device=settings.device, prevalence=self.prevalence)
        return CrossValidateStage(of_test, folder, self.runner.workspace, features=self.features, splits=self.folder)

    def refuse_unread_rna(self) -> None:
        """Refuse to train without RNA that is configured, or was given to genomics, but has not been read.

        :raises CohortError: it has no store, because it could not be read or was not read yet.
        """
        from ...data.molecular.store import store_name

        folder, train = self.runner.workspace / "genomics", self.config.train
        if not train.use_rna or "rna" not in train.blocks or (folder / store_name("rna")).exists():
            return
        matrix = self.config.genomics.matrix
        record = Manifest.of(folder).latest("genomics").get("expression")
        failed = record is not None and record.error is not None
        if matrix is None and not failed:
            return
        if failed and record is not None and record.error is not None:
            what = f"the expression matrix could not be read: {record.error.message}"
        else:
            what = "the expression matrix that the settings name has not been read in this workspace"
        hint = (
            "run wsipipe genomics and correct what it reports; "
            "to train on histology alone: --no-use-rna (use_rna = false)"
        )
        raise CohortError(what, path=matrix or folder, hint=hint)

    def refuse_other_features(self, models: Iterable[Path]) -> None:
        """Refuse to replace models of other features, unless the user asks for it.

        :raises UsageError: naming both, and the ways out.
        """
        present = name_of_features(self.features)
        for folder in models:
            folds = sorted(Manifest.of(folder).latest("train").values(), key=lambda fold: fold.start)
            other = features_of(folds[-1:]) - {present}  # an earlier split may have left more folds
            if other and not self.runner.replace:
                raise UsageError(
                    f"the model here was trained on the features {min(other)}, not on {present}",
                    path=folder,
                    hint=f"--features {min(other)} continues with those; --replace trains again; to keep both, use "
                    "another --name",
                )

    def refuse_other_audit(self) -> None:
        """Refuse columns to audit that the table lacks, before hours of training.

        :raises CohortError: there is one.
        :raises UsageError: the biomarker has several targets.
        """
        if self.config.report.audit:
            from ...stages.train.audit import Audited

            Audited.of(self.config.report.audit, self.table, self.biomarker)

    @property
    def _gene_sets(self) -> Path | None:
        """The file of a signature's genes: the biomarker's own, else that of the settings, else what genomics had."""
        given = self.biomarker.gene_sets or self.config.genomics.gene_sets
        if given is not None or not self.biomarker.signature:
            return given
        record = Manifest.of(self.runner.workspace / "genomics").latest("genomics").get("expression")
        read = record.inputs.get("gene_sets") if record is not None else None
        return Path(read.path) if read is not None and read.path is not None and Path(read.path).exists() else None

    @property
    def _tiles(self) -> Path:
        return self.runner.workspace / "tiles" / self.features.parent.name


def features_of(folds: Iterable[Record]) -> set[str]:
    """Names of the features that folds were trained on, from their records."""
    stores = (i.path for fold in folds for name, i in fold.inputs.items() if name.startswith("features of "))
    return {name_of_features(Path(store).parent) for store in stores if store}


def name_of_features(folder: Path) -> str:
    """The name of a features folder, such as ``0.5mpp-224px/uni2-h``."""
    return f"{folder.parent.name}/{folder.name}"
