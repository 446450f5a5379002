"""What a check is given, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...data.manifest import Json

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is checked. It is sent to the process that runs the checks as JSON, so it holds plain values alone."""

    workspace: str
    """Absolute. It need not exist."""
    backbone: str
    weights: str | None
    """The weights file that was named, if any."""
    features: str
    """Name of the features' folder by the settings, such as ``0.5mpp-224px/uni2-h``."""
    devices: str | None
    """The devices asked for, such as ``cuda:0,cuda:1``; None: all that there are."""
    configured: tuple[str, ...] = ()
    """The devices that the settings name."""
    mark: str
    """Part of the name of every folder that a check makes, so that no two runs meet."""
    device: str = "cpu"
    """The device to check, for checks that are made once for each."""


@dataclass(frozen=True)
class Finding:
    """What a check found, whether that is well, and the way out if it is not."""

    state: State
    found: str
    hint: str = ""
    figures: dict[str, Json] = field(default_factory=dict)
    """What was measured, for programs."""


def ok(found: str, **figures: Json) -> Finding:
    """All is well."""
    return Finding("ok", found, "", figures)


def warning(found: str, hint: str, **figures: Json) -> Finding:
    """The work can be done, but slower, with less, or with a risk that somebody should know of."""
    return Finding("warning", found, hint, figures)


def failed(found: str, hint: str, **figures: Json) -> Finding:
    """Something that the work needs does not work."""
    return Finding("failed", found, hint, figures)


def gigabytes(size: float) -> str:
    """A number of bytes in GiB or MiB, such as ``79.1 GiB`` and ``64 MiB``."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"
