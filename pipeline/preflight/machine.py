"""The machine: devices, and whether the backbone's weights are here or can be had."""

from __future__ import annotations

from ...data.errors import UsageError
from ...models.backbones.backbone import find_backbone
from ...models.backbones.devices import choose_devices
from ..config import Config
from ..doctor.backbone_weights import weights
from ..doctor.finding import Subject
from .report import Report


def check_machine(config: Config, report: Report) -> str:
    """Find devices and weights; returns the kind of device that extraction will use, with its name if it is a GPU."""
    extract = config.extract
    with report.collecting("extract"):
        find_backbone(extract.backbone, extract.pooling)
        subject = Subject(
            workspace=str(config.workspace),
            backbone=extract.backbone,
            weights=None if extract.weights is None else str(extract.weights),
            features=config.features_name(),
            devices=None,
            mark="",
        )
        found = weights(subject)
        if found.state == "failed":
            report.stops("extract", found.found, found.hint)
        elif found.state == "warning":
            report.look("extract", found.found, found.hint)
        report.fact("backbone", found.found, state=found.state)
        if extract.backbone == "efficientnet-lite0":
            what = "backbone efficientnet-lite0 knows photographs, not tissue: it is for trying things"
            report.look("extract", what, "choose a pathology backbone: wsipipe backbones")
    asked = {"extract": extract.device, "train": config.train.device, "predict": config.predict.device}
    for stage, names in asked.items():
        try:
            choose_devices(names)
        except UsageError as error:
            report.refused(stage, error)
    try:
        device = choose_devices(extract.device)
    except UsageError:
        return ""
    kind = device[0].type
    if kind == "cpu" and extract.device == "auto":
        report.look(
            "extract",
            "there is no GPU here: extraction computes on the CPU",
            "wsipipe doctor says why, if there should be one",
        )
    if kind != "cuda":
        return kind
    import torch

    name = f"cuda, {torch.cuda.get_device_name(device[0])}"
    report.fact("GPU", f"{len(device)} × {name.removeprefix('cuda, ')}")
    return name
