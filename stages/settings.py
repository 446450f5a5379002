"""What settings are: frozen records, from which flags, the settings file and the Python API are made.

Each stage's own lie in its folder, in ``settings.py``. Nothing heavy is imported there: ``wsipipe --help`` reads them.

A setting is of one of four kinds, by what follows when it changes. The field says which:

    Field(…)          meaning       the numbers are others: made again, and only if the user says so (``--replace``)
    Judgement(…)      judgement     what was made is judged again (:meth:`Settings.judge`), and not made again
    Presentation(…)   presentation  what people look at is drawn again, unasked: the numbers stay
    Runtime(…)        machine       nothing: device, threads, and where files lie, whose bytes are inputs

A setting at its default takes no part in a fingerprint, so that a new one leaves what is there as it is. What a record
does not say was therefore at its default: **who changes a default raises the stage's version** (:mod:`.registry`;
``tests/stages/test_settings.py`` holds the defaults against it).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["meaning", "judgement", "presentation", "machine"]

RESOLVED: Final = "resolved"
"""Under this name a record's settings hold what they came to (:meth:`wsipipe.stages.stage.Stage.resolved`)."""


def Judgement(default: Any, **about: Any) -> Any:  # noqa: N802  used as a field, like pydantic's Field
    """A setting by which finished items are judged: how many bad tiles a slide may have."""
    return Field(default, json_schema_extra={"kind": "judgement"}, **about)


def Presentation(default: Any, **about: Any) -> Any:  # noqa: N802
    """A setting that changes pictures and pages alone."""
    return Field(default, json_schema_extra={"kind": "presentation"}, **about)


def Runtime(default: Any, **about: Any) -> Any:  # noqa: N802
    """A setting of the machine, which never changes results: device, batch size, threads, the place of a file."""
    return Field(default, json_schema_extra={"kind": "machine"}, **about)


class Settings(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def kind(cls, name: str) -> Kind:
        """The kind of a setting; one that is no more gave its numbers their meaning."""
        field = cls.model_fields.get(name)
        extra = field.json_schema_extra if field is not None else None
        kind: Kind = cast("Kind", extra.get("kind", "meaning")) if isinstance(extra, dict) else "meaning"
        return kind

    @classmethod
    def defaults(cls) -> Mapping[str, Any]:
        """The defaults, as JSON values; a setting that must be given has none."""
        return _defaults(cls)

    def result_settings(self) -> dict[str, Any]:
        """All settings but the machine's, as JSON values: what a record keeps."""
        fields = type(self).model_fields
        return self.model_dump(mode="json", include={name for name in fields if self.kind(name) != "machine"})

    @classmethod
    def of_kind(cls, kind: Kind, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Of recorded settings those of a kind, without those at their default: what is not said was at its default."""
        defaults = cls.defaults()
        return {
            name: value
            for name, value in recorded.items()
            if name != RESOLVED and cls.kind(name) == kind and not (name in defaults and defaults[name] == value)
        }

    @classmethod
    def unlike(cls, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
        """In what recorded settings give numbers another meaning than others, such as ``min_tissue 0.5 → 0.3``.

        Where only one of them says what its settings came to, the other's are taken to have come to the same unless
        they ask for something else.
        """
        return changed_settings(cls._meaning(old, new), cls._meaning(new, old), cls.defaults())

    @classmethod
    def _meaning(cls, recorded: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
        asked = cls.of_kind("meaning", recorded)
        return {**asked, **recorded[RESOLVED]} if RESOLVED in recorded else {**beside.get(RESOLVED, {}), **asked}

    def judge(self, stats: Mapping[str, Any]) -> str:
        """What is wrong with a finished item by the settings that judge, or nothing.

        :param stats: recorded of it, or to be recorded.
        """
        return ""


@cache
def _defaults(settings: type[Settings]) -> Mapping[str, Any]:
    known = {name: f.get_default() for name, f in settings.model_fields.items() if not f.is_required()}
    return settings.model_construct(**known).model_dump(mode="json", include=set(known), warnings=False)


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Such as ``min_tissue 0.5 → 0.3``.

    :param defaults: what a setting is that is not said.
    """
    before, now = {**defaults, **old}, {**defaults, **new}
    names = sorted(name for name in old.keys() | new.keys() if before.get(name) != now.get(name))
    return [f"{name} {_short(before.get(name))} → {_short(now.get(name))}" for name in names]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "…"
