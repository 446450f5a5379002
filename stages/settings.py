"""What settings are: frozen records, from which flags, the settings file and the Python API are made.

Each stage's own lie in its folder, in ``settings.py``. Nothing heavy is imported there: ``wsipipe --help`` reads them.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def Runtime(default: Any, **about: Any) -> Any:  # noqa: N802  used as a field, like pydantic's Field
    """A setting that never changes results (device, batch size, threads): no part of a fingerprint."""
    return Field(default, json_schema_extra={"runtime": True}, **about)


class Settings(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def result_settings(self) -> dict[str, Any]:
        """The settings that change results, as JSON values: what a fingerprint covers."""
        fields = type(self).model_fields
        keep = {name for name, field in fields.items() if not (field.json_schema_extra or {}).get("runtime")}  # type: ignore[union-attr]
        return self.model_dump(mode="json", include=keep)
