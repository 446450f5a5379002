"""Comparing methods: runs the stages that train and evaluate each of them on the same splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...data.manifest import Json, Manifest
from ...stages.features_folder import holds_slide_vectors
from ..config import Config
from ..folders import choose_features
from ..results import Summary, summed
from ..run.runner import Runner
from .to_train import ToTrain, biomarkers_of, features_of, name_of_features, refuse_one_prevalence_for

if TYPE_CHECKING:
    from ...stages.compare.variants import Variant
    from ...stages.train.settings import TrainSettings


def compare(
    config: Config,
    runner: Runner,
    names: Sequence[str] | None = None,
    *,
    features: str | None = None,
    prevalence: float | None = None,
) -> tuple[list[Summary], dict[str, Json]]:
    """Train and evaluate methods on the same splits; returns the paths of the comparisons, by biomarker.

    A model that `wsipipe train` has made with the same settings is used, and not trained again.

    :param names: the biomarkers; all by default.
    :param features: name of the features' folder; needed only where there are several.
    :param prevalence: the one that probabilities are shown at; default: the training patients'.
    :raises UsageError: a biomarker that is not configured, an unknown method, or one prevalence for several biomarkers.
    """
    summaries: list[Summary] = []
    results: dict[str, Json] = {}
    chosen = biomarkers_of(config, names)
    refuse_one_prevalence_for(config, chosen, prevalence)
    if names is None and len(chosen) > 1:
        what = f"compare: all {len(chosen)} biomarkers, one after another: {', '.join(chosen)}"
        runner.console.note(f"{what}; --name chooses one")
    for name in chosen:
        ran, results[name] = _compare_one(config, runner, name, features, prevalence)
        summaries += ran
    return summaries, results


def _compare_one(
    config: Config, runner: Runner, name: str, features: str | None, prevalence: float | None
) -> tuple[list[Summary], Json]:
    from ...stages.compare.stage import CompareStage, CompareStageSettings
    from ...stages.compare.variants import OF_THE_TARGET, ON, variants
    from ...stages.train.signature_labels import read_signatures

    rna = config.train.model_copy(update={"use_rna": True})
    to_train = ToTrain.of(config.model_copy(update={"train": rna}), runner, name, features, "comparisons")
    to_train = replace(to_train, prevalence=prevalence)
    if config.train.use_rna:
        to_train.refuse_unread_rna()
    to_train.refuse_other_audit()
    comparison = to_train.folder
    asked = to_train.biomarker
    targets = [question.task for question in asked.of_targets.values()]
    rna_there = bool(to_train.stores)
    chosen = variants(
        config.compare.methods,
        config.train,
        rna=rna_there,
        task=asked.task,
        targets=targets,
        slide_vectors=holds_slide_vectors(to_train.features),
    )
    if asked.signature:
        chosen = [replace(one, note=OF_THE_TARGET) if one.settings is None else one for one in chosen]
    reference = chosen[0].name
    networks, folds = [one.name for one in chosen if one.settings is not None], config.split.folds
    to_fit = f"{len(networks)} methods on {folds} folds each, {len(networks) * folds} fits but for those that are there"
    runner.console.note(f"{name}: {to_fit}: {', '.join(networks)}; --methods chooses some")
    vectors = {
        variant.name: choose_features(runner, "", f"{to_train.features.parent.name}/{variant.features}")
        for variant in chosen
        if variant.features
    }
    there = sorted(file.parent for file in comparison.glob("*/manifest.jsonl"))
    to_train.refuse_other_features([folder for folder in there if ON not in folder.name])
    summaries = [runner.run(to_train.split())]
    compared, waiting = [], []
    for variant in chosen:
        runner.console.heading(f"{name}: {variant.label}")
        own = replace(to_train, features=vectors.get(variant.name, to_train.features))
        folder, ran = _train_one(config, runner, variant, own, runner.workspace / "models" / name)
        summaries += ran
        if waits := ran[-1].waits:
            waiting.append(f"{variant.name}: {waits}")
        elif not ran[-1].failures:
            compared.append((variant, folder))
    if waiting:
        return summed(summaries, comparison), {"name": name, "waits": "; ".join(waiting)}
    if reference not in {variant.name for variant, _ in compared}:
        return summed(summaries, comparison), {"name": name, "failed": reference}
    runner.console.heading(f"{name}: comparison")
    facts = [
        ("features", name_of_features(to_train.features)),
        ("folds", f"{config.split.folds}, by {config.split.split_by}, seed {config.split.seed}"),
        ("epochs at most", str(config.train.epochs)),
        ("seed of the training", str(config.train.seed)),
    ]
    if to_train.biomarker.signature:
        signature = read_signatures(comparison)[0]
        facts.insert(0, ("target", f"{signature.name}: {signature.words}"))
    settings = CompareStageSettings(**to_train.biomarker.model_dump(), audit=config.report.audit)
    stage = CompareStage(settings, comparison, runner.workspace, compared=compared, facts=facts, table=to_train.table)
    summaries.append(runner.run(stage))
    if summaries[-1].failures:
        return summed(summaries, comparison), {"name": name, "failed": stage.name}
    paths = {kind: str(comparison / f"comparison.{kind}") for kind in ("csv", "html", "png")}
    return summed(summaries, comparison), {"name": name, **paths}


def _train_one(
    config: Config, runner: Runner, variant: Variant, comparison: ToTrain, trained: Path
) -> tuple[Path, list[Summary]]:
    """Train and judge one method of a comparison: where it is, and what ran.

    :param comparison: with the features of this method.
    :param trained: where `wsipipe train` puts a model of this biomarker; it is used if it is this one.
    """
    from ...stages.compare.omics_ceiling import OmicsCeilingStage

    if variant.settings is None:
        ceiling = OmicsCeilingStage(
            config.train,
            comparison.folder / variant.name,
            runner.workspace,
            splits=comparison.folder,
            stores=comparison.stores,
            prevalence=comparison.prevalence,
        )
        return ceiling.folder, [runner.run(ceiling)]
    reuse = _is_trained(trained, variant.settings, comparison)
    folder = trained if reuse else comparison.folder / variant.name
    splits = replace(comparison, folder=trained) if reuse else comparison
    ran = [runner.run(splits.train(variant.settings, folder))]
    if not ran[-1].failures:
        ran.append(runner.run(splits.cross_validate(variant.settings, folder)))
    return folder, ran


def _is_trained(model: Path, settings: TrainSettings, comparison: ToTrain) -> bool:
    """Whether a model was trained with exactly these settings, on the features and splits of the comparison."""
    splits = [Manifest.of(folder).latest("split").get("splits") for folder in (model, comparison.folder)]
    made = [record.outputs if record else {} for record in splits]
    digests = {frozenset((name, output.digest) for name, output in outputs.items()) for outputs in made}
    folds = Manifest.of(model).latest("train").values()
    return (
        len(digests) == 1
        and frozenset() not in digests
        and features_of(folds) == {name_of_features(comparison.features)}
        and not any(settings.unlike(fold.settings, settings.result_settings()) for fold in folds)
    )
