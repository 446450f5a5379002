"""Base class of settings: frozen records, from which flags, the settings file and the Python API are made.

The settings of each stage are in ``settings.py`` of its folder. Nothing heavy is imported there, because
``wsipipe --help`` reads them.

A setting is of one of four kinds, by what happens when it changes. Its field determines the kind:

    Field(…)          meaning       the numbers change: results are made again, but only with ``--replace``
    Judgement(…)      judgement     results are judged again (:meth:`Settings.judge`), but not made again
    Presentation(…)   presentation  pictures and pages are made again without asking; the numbers stay
    Runtime(…)        machine       nothing: device, threads, and paths of files (their contents are inputs)

A setting at its default is not part of a fingerprint, so a new setting does not invalidate existing results. A setting
that is missing in a record was therefore at its default: **changing a default requires a new version of the stage**
(:mod:`.registry`; ``tests/stages/test_settings.py`` checks this).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["meaning", "judgement", "presentation", "machine"]

FILE_NAME: Final = "wsipipe.toml"
"""The settings file."""

RESOLVED: Final = "resolved"
"""Key of a record's settings that holds resolved values (:meth:`wsipipe.stages.stage.Stage.resolved`)."""


def Judgement(default: Any, **about: Any) -> Any:  # noqa: N802  used as a field, like pydantic's Field
    """A setting by which finished items are judged, such as how many bad tiles a slide may have."""
    return Field(default, json_schema_extra={"kind": "judgement"}, **about)


def Presentation(default: Any, **about: Any) -> Any:  # noqa: N802
    """A setting that changes only pictures and pages."""
    return Field(default, json_schema_extra={"kind": "presentation"}, **about)


def Runtime(default: Any, **about: Any) -> Any:  # noqa: N802
    """A setting of the machine, which never changes results: device, batch size, threads, the path of a file."""
    return Field(default, json_schema_extra={"kind": "machine"}, **about)


class Settings(BaseModel):
    """Base class of settings: frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def kind(cls, name: str) -> Kind:
        """The kind of a setting; a recorded setting that no longer exists counts as one of meaning."""
        return _kinds(cls).get(name, "meaning")

    @classmethod
    def defaults(cls) -> Mapping[str, Any]:
        """The defaults, as JSON values; required settings have none."""
        return _defaults(cls)

    def result_settings(self) -> dict[str, Any]:
        """All settings except the machine's, as JSON values, for the record of an item."""
        fields = [name for name in type(self).model_fields if self.kind(name) != "machine"]
        within = {name: own for name in fields if (own := _settings_within(getattr(self, name)))}
        return self.model_dump(mode="json", include={*fields}) | within

    @classmethod
    def of_kind(cls, kind: Kind, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """The recorded settings of one kind, without those at their default (as missing ones are)."""
        defaults = cls.defaults()
        return {
            name: value
            for name, value in recorded.items()
            if name != RESOLVED and cls.kind(name) == kind and not (name in defaults and defaults[name] == value)
        }

    @classmethod
    def unlike(cls, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
        """Differences in meaning between two recorded settings, such as ``min_tissue 0.5 → 0.3``.

        If only one of the records has resolved values, they are assumed for the other too, unless its own settings
        differ.
        """
        return changed_settings(cls._meaning(old, new), cls._meaning(new, old), cls.defaults())

    @classmethod
    def _meaning(cls, recorded: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
        chosen = cls.of_kind("meaning", recorded)
        return {**chosen, **recorded[RESOLVED]} if RESOLVED in recorded else {**beside.get(RESOLVED, {}), **chosen}

    def judge(self, stats: Mapping[str, Any]) -> str:
        """What is wrong with a finished item by the judgement settings; empty if nothing is.

        :param stats: the item's recorded statistics.
        """
        return ""


@cache
def _kinds(settings: type[Settings]) -> Mapping[str, Kind]:
    extras = {name: field.json_schema_extra for name, field in settings.model_fields.items()}
    return {name: cast("Kind", extra["kind"]) for name, extra in extras.items() if isinstance(extra, dict)}


@cache
def _defaults(settings: type[Settings]) -> Mapping[str, Any]:
    known = {name: f.get_default() for name, f in settings.model_fields.items() if not f.is_required()}
    return settings.model_construct(**known).model_dump(mode="json", include=set(known), warnings=False)


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Which settings differ, such as ``min_tissue 0.5 → 0.3``.

    :param defaults: values of settings that are missing in ``old`` or ``new``.
    """
    before, now = {**defaults, **old}, {**defaults, **new}
    names = sorted(name for name in old.keys() | new.keys() if before.get(name) != now.get(name))
    return [f"{name} {_short(before.get(name))} → {_short(now.get(name))}" for name in names]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _settings_within(value: Any) -> dict[str, Any]:
    """The results' settings of each of several questions; empty for other values."""
    if not isinstance(value, dict):
        return {}
    return {name: own.result_settings() for name, own in value.items() if isinstance(own, Settings)}
