"""Stages whose first item stays in work the first time, until its worker is killed; each makes what it always makes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Self

from wsipipe.stages.encode.settings import EncodeSettings
from wsipipe.stages.encode.stage import EncodeStage
from wsipipe.stages.evaluate.cohort import ExternalSettings, ExternalTask
from wsipipe.stages.evaluate.stage import ReadSlidesSettings, ReadSlidesStage
from wsipipe.stages.stage import Item, Outcome, Progress

FEATURES = "0.5mpp-224px-all/efficientnet-lite0"


def stay(stage: Any, item: Item) -> None:
    """Stay, if no item was begun before."""
    calls = stage.workspace.parent / "calls"
    try:
        with calls.open("x") as stream:
            stream.write(f"do {item.id} {os.getpid()} \n")
    except FileExistsError:
        return
    time.sleep(1800)


class StayingEncode(EncodeStage):
    """``encode``."""

    @classmethod
    def of(cls, workspace: Path, table: Path) -> Self:
        """The stage of a workspace of one folder of features."""
        return cls.made(EncodeSettings(), workspace, workspace / "features" / FEATURES)

    def process(self, item: Item, progress: Progress) -> Outcome:
        stay(self, item)
        return super().process(item, progress)


class StayingRead(ReadSlidesStage):
    """``read_slides``, of ``evaluate``."""

    @classmethod
    def of(cls, workspace: Path, table: Path) -> Self:
        """The stage of the workspace's model and the patients of a table."""
        model = workspace / "models/er"
        task = ExternalTask(
            model=model,
            table=table,
            tiles=workspace / "tiles/0.5mpp-224px-all",
            features=workspace / "features" / FEATURES,
            asked=ExternalSettings.of(model, training_patients=True),
        )
        return cls(ReadSlidesSettings(), workspace / "evaluations/er", workspace, task)

    def process(self, item: Item, progress: Progress) -> Outcome:
        stay(self, item)
        return super().process(item, progress)
