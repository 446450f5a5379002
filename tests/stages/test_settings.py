"""Settings say what follows when they change, and their defaults do not change unnoticed."""

from __future__ import annotations

from typing import Any

import pytest
from wsipipe.stages.compare.stage import CompareStageSettings
from wsipipe.stages.encode.settings import EncodeSettings
from wsipipe.stages.evaluate.cohort import ExternalSettings
from wsipipe.stages.exchange.settings import ExportSettings
from wsipipe.stages.extract.settings import ExtractSettings
from wsipipe.stages.genomics.settings import GenomicsSettings
from wsipipe.stages.predict.settings import PredictSettings
from wsipipe.stages.registry import VERSIONS
from wsipipe.stages.robustness.stage import RobustnessStageSettings
from wsipipe.stages.settings import Settings
from wsipipe.stages.tile.settings import TileSettings
from wsipipe.stages.train.cross_validate import CrossValidateSettings
from wsipipe.stages.train.settings import BiomarkerSettings, ReportSettings, TrainSettings
from wsipipe.stages.train.split import SplitStageSettings

QUESTION = {"task": "binary", "positive": ["positive"], "negative": ["negative"], "classes": [], "robust": False}
QUESTION |= {"time_column": "", "event_column": "", "loss": "hazards", "horizons": [], "time_unit": ""}
QUESTION |= {"signature": "", "signature_score": "auto", "cut": ""}
QUESTION |= {"targets": [], "of_targets": {}}
SPLIT = {
    "folds": 5,
    "validation_fraction": 0.2,
    "split_by": "patient",
    "seed": 0,
    "drop_conflicts": False,
    "tcga_slides": "diagnostic",
}
TRAIN = {
    "method": "momkd",
    "soft_targets": False,
    "preset": "standard",
    "hidden": None,
    "shared": None,
    "slots": None,
    "memory": "gradient",
    "init_backbone": None,
    "freeze": False,
    "use_rna": True,
    "shuffle_rna": False,
    "genes": 768,
    "gene_selection": "anova",
    "blocks": ["rna"],
    "neighbours": 8,
    "epochs": 100,
    "patience": None,
    "bags_per_step": 1,
    "precision": "fp32",
    "learning_rate": 2e-4,
    "weight_decay": 1e-4,
    "clip": 16.0,
    "nested": [],
    "seed": 0,
}
DEFAULTS: dict[str, tuple[type[Settings], int, dict[str, Any]]] = {
    "tile": (
        TileSettings,
        3,
        {
            "mpp": 0.5,
            "tile_px": 224,
            "overlap": 0,
            "min_tissue": 0.5,
            "min_sharpness": 0.0,
            "max_artefact": None,
            "native_tolerance": 0.02,
            "level_policy": "coarsest",
            "allow_upsample": False,
            "tissue": "auto",
            "annotation_classes": [],
            "artefact_mpp": None,
        },
    ),
    "extract": (
        ExtractSettings,
        2,
        {"backbone": "efficientnet-lite0", "pooling": None, "precision": "auto", "store_dtype": "float16"},
    ),
    "encode": (EncodeSettings, 1, {"encoder": "mean", "weights_backbone": None}),
    "genomics": (
        GenomicsSettings,
        4,
        {
            "unit": "auto",
            "orientation": "auto",
            "name_column": None,
            "numbers_are_names": False,
            "drop_columns": [],
            "keep_columns": [],
            "patient_pattern": None,
            "cnv_unit": "auto",
            "protein_unit": "auto",
        },
    ),
    "split": (SplitStageSettings, 1, {**QUESTION, **SPLIT}),
    "train": (TrainSettings, 4, TRAIN),
    "omics": (TrainSettings, 7, TRAIN),
    "cross_validate": (CrossValidateSettings, 9, {"bootstrap_rounds": 2000, "seed": 0}),
    "external_evaluate": (
        ExternalSettings,
        11,
        {**QUESTION, "drop_conflicts": False, "tcga_slides": "diagnostic", "bootstrap_rounds": 2000, "seed": 0},
    ),
    "predict": (PredictSettings, 5, {}),
    "compare": (CompareStageSettings, 10, QUESTION),
    "robustness": (
        RobustnessStageSettings,
        4,
        {**QUESTION, "columns": ["site"], "neighbours": 10, "bootstrap_rounds": 1000, "seed": 0},
    ),
    "import-checkpoint": (BiomarkerSettings, 1, {n: value for n, value in QUESTION.items() if n != "of_targets"}),
    "report": (ReportSettings, 12, {}),
    "export": (ExportSettings, 1, {"format": "clam"}),
}
"""Stage → its settings, its version, and the defaults that give numbers their meaning in this version."""


@pytest.mark.parametrize("stage", DEFAULTS)
def test_a_default_changes_with_the_version_of_its_stage_alone(stage: str) -> None:
    """A record says nothing of a setting that is younger: it was at its default, which must then stay what it was.

    Where this fails: for a new setting add a line above. For another default raise the stage's version in
    stages/registry.py too: what was made by the default before is then made again.
    """
    settings, version, defaults = DEFAULTS[stage]
    now = {name: value for name, value in settings.defaults().items() if settings.kind(name) == "meaning"}
    assert (VERSIONS[stage], now) == (version, defaults)


def test_every_setting_is_of_one_of_four_kinds() -> None:
    by_stage = {
        (settings, kind): {field for field in settings.model_fields if settings.kind(field) == kind}
        for settings, _, _ in DEFAULTS.values()
        for kind in ("judgement", "presentation")
    }
    assert {key: fields for key, fields in by_stage.items() if fields} == {
        (ExtractSettings, "judgement"): {"max_bad_tiles"},
        (PredictSettings, "presentation"): {"top_tiles", "scale", "prevalence", "alpha"},
        (CrossValidateSettings, "presentation"): {"prevalence"},
        (ExternalSettings, "presentation"): {"prevalence", "audit"},
        (CompareStageSettings, "presentation"): {"audit"},
        (ReportSettings, "presentation"): {"audit", "figures"},
    }
    assert {TileSettings.kind("workers"), ExtractSettings.kind("device")} == {"machine"}
    assert TileSettings.kind("a setting that is no more") == "meaning"


def test_settings_are_unlike_where_their_numbers_mean_something_else() -> None:
    old = ExtractSettings(max_bad_tiles=0.5, device="cpu").result_settings()
    assert ExtractSettings.unlike(old, ExtractSettings().result_settings()) == []
    assert ExtractSettings.unlike({}, old) == []
    gpu, cpu = ({**old, "resolved": {"precision": precision}} for precision in ("bf16", "fp32"))
    assert ExtractSettings.unlike(gpu, cpu) == ["precision bf16 → fp32"]
    assert ExtractSettings.unlike(gpu, old) == []  # what auto comes to is not known here
    assert ExtractSettings.unlike(cpu, ExtractSettings(precision="fp32").result_settings()) == []
    assert ExtractSettings.unlike(gpu, ExtractSettings(precision="fp32").result_settings()) == ["precision bf16 → fp32"]


@pytest.mark.parametrize(("bad", "limit", "passes"), [(0, 0.0, True), (1, 0.01, True), (2, 0.01, False)])
def test_a_slide_is_judged_by_its_counts(bad: int, limit: float, passes: bool) -> None:
    complaint = ExtractSettings(max_bad_tiles=limit).judge({"tiles": 100 - bad, "bad_tiles": bad})
    assert complaint == ("" if passes else "2 of 100 tiles are missing, over the 1.0% allowed (max_bad_tiles)")
