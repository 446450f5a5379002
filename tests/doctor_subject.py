"""A subject for single checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsipipe.pipeline.doctor.checks import CHECKS, Check
from wsipipe.pipeline.doctor.finding import Subject


def subject_in(workspace: Path, **further: Any) -> Subject:
    """What is checked by default, for a workspace."""
    plain: dict[str, Any] = {
        "workspace": str(workspace),
        "backbone": "efficientnet-lite0",
        "weights": None,
        "features": "0.5mpp-224px/efficientnet-lite0",
        "devices": None,
        "mark": "doctor-of-a-test",
    }
    return Subject(**plain | further)


def check_called(name: str) -> Check:
    """The check of that name."""
    [check] = [check for check in CHECKS if check.name == name]
    return check
