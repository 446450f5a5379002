"""Settings of training that have no effect on the chosen method, so that a note can name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...stages.train.settings import NETWORK_SIZES, TrainSettings

_OF_RNA = ("shuffle_rna", "genes", "gene_selection", "gene_list", "blocks")
_OF_STEPS = ("patience", "epochs", "learning_rate", "weight_decay", "clip")


def idle_settings(train: TrainSettings) -> list[str]:
    """Names of the settings that were given, by a flag or in the file, and that the method does not use."""
    from ...models.mil.momkd import PATIENCE, PRESETS, MoMKD
    from ...models.training.methods import BY_STEPS, find_method

    method = find_method(train.method)
    stepless = method.fit_at != BY_STEPS
    idle = {name for name in NETWORK_SIZES if name not in method.network.Config.model_fields}
    if not method.uses_rna:
        idle.add("use_rna")
    if not ((method.uses_rna and train.use_rna) or train.soft_targets):
        idle.update(_OF_RNA)
    if stepless:
        idle.update(_OF_STEPS)
    if not method.uses_graph:
        idle.add("neighbours")
    presets: list[Mapping[Any, Any]] = [PRESETS] if method.network is MoMKD else []
    if train.patience is None and not stepless:
        presets.append(PATIENCE)
    if train.preset != "standard" and all(values[train.preset] == values["standard"] for values in presets):
        idle.add("preset")
    nested = {choice.partition("=")[0].strip().replace("-", "_") for choice in train.nested}
    return [name for name in TrainSettings.model_fields if name in idle & (train.model_fields_set | nested)]
