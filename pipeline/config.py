"""The settings file ``wsipipe.toml``: every setting of a project. Flags override it; every setting has a default.

The file's sections are the settings of the stages, so each setting is described in one place only.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ByteSize, Field, ValidationError, create_model, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ..data.errors import UsageError
from ..data.plain_files import refuse_pipe, url_of
from ..stages.compare.settings import CompareSettings
from ..stages.encode.settings import EncodeSettings
from ..stages.extract.settings import ExtractSettings
from ..stages.genomics.settings import GenomicsSettings
from ..stages.predict.settings import NewSlides, PredictSettings
from ..stages.registry import steps
from ..stages.robustness.settings import RobustnessSettings
from ..stages.settings import FILE_NAME, Settings
from ..stages.tile.settings import TileSettings
from ..stages.train.settings import BiomarkerSettings, QuestionSettings, ReportSettings, SplitSettings, TrainSettings
from .cluster.settings import ClusterSettings


class CohortSettings(Settings):
    """Which slides, and what is known of them."""

    slides: list[Path] = Field([], description="slide files, folders of slides (searched through), or URLs of either")
    table: Path | None = Field(
        None,
        examples=["cohort.csv"],
        description="CSV or TSV with slide_id, patient_id, labels and, where needed, path, mpp, site",
    )


class PredictSection(PredictSettings, NewSlides):
    """Predictions on new slides, from histology alone."""


class Sections(Settings):
    """All settings of a project."""

    workspace: Path = Field(Path("work"), description="folder that holds everything wsipipe makes")
    shard: str | None = Field(
        None,
        examples=["2/8"],
        description="do one part of the items, such as the second of eight, beside the jobs that do the others",
    )
    stage_to: Path | None = Field(
        None,
        examples=["/scratch/me"],
        description="folder on a local disk, to which the next slides are copied while others are worked on; "
        "training's scratch file lies there too",
    )
    stage_bytes: ByteSize | None = Field(
        None,
        gt=0,
        examples=["200GB"],
        description="most bytes of these copies at a time; default: half of what is free",
    )
    cohort: CohortSettings = CohortSettings()
    tile: TileSettings = TileSettings()
    extract: ExtractSettings = ExtractSettings()
    encode: EncodeSettings = EncodeSettings()
    genomics: GenomicsSettings = GenomicsSettings()
    split: SplitSettings = SplitSettings()
    train: TrainSettings = TrainSettings()
    report: ReportSettings = ReportSettings()
    compare: CompareSettings = CompareSettings()
    robustness: RobustnessSettings = RobustnessSettings()
    predict: PredictSection = PredictSection()
    cluster: ClusterSettings = ClusterSettings()
    biomarkers: dict[str, BiomarkerSettings] = Field(default={}, description="biomarkers to predict; one model each")

    @field_validator("biomarkers")
    @classmethod
    def _targets_are_other_biomarkers(cls, biomarkers: dict[str, BiomarkerSettings]) -> dict[str, BiomarkerSettings]:
        for name, biomarker in biomarkers.items():
            for target in biomarker.targets:
                if target not in biomarkers:
                    known = {other.casefold(): other for other, one in biomarkers.items() if not one.targets}
                    near = difflib.get_close_matches(target.casefold(), known, 1, cutoff=0.5)
                    there = ", ".join(known.values()) or "none"
                    listed = f"did you mean {known[near[0]]}?" if near else f"there are {there}"
                    raise ValueError(f"{name} has the target {target}, and no biomarker is called so ({listed})")
                if biomarkers[target].targets:
                    raise ValueError(f"{name} has the target {target}, which has targets itself: name those instead")
        return biomarkers

    def question(self, name: str) -> QuestionSettings:
        """A biomarker together with the questions of its targets."""
        biomarker = self.biomarkers[name]
        of_targets = {target: self.biomarkers[target].model_dump() for target in biomarker.targets}
        return QuestionSettings.model_validate({**biomarker.model_dump(), "of_targets": of_targets})

    def features_name(self) -> str:
        """Name of the features' folder, such as ``0.5mpp-224px/uni2-h``: tiles and backbone together define them."""
        return f"{self.tile.folder_name()}/{self.extract.folder_name()}"


if TYPE_CHECKING:

    class Config(Sections):
        """All settings of a project."""

else:
    # A registered stage that is not listed above gets its section from its row in the table of stages.
    Config = create_model(
        "Config",
        __base__=Sections,
        __doc__=Sections.__doc__,
        **{
            row.name: (row.settings_type, row.settings_type())
            for row in steps().values()
            if row.name not in Sections.model_fields
        },
    )


def load_config(file: str | Path | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """Read a configuration file and lay flags over it.

    :param file: default: ``wsipipe.toml`` in the current folder, if there is one. Paths in it are relative to its
        folder.
    :param flags: as the file's sections, such as ``{"tile": {"mpp": 0.25}}``; paths are relative to the current folder.
    :raises UsageError: lists everything that is wrong, with the setting that was probably meant.
    """
    if file is None:
        file = Path(FILE_NAME) if Path(FILE_NAME).is_file() else None
    file = None if file is None else Path(file)
    content = {} if file is None else _read(file)
    config, mistakes = _validated(_merge(content, flags or {}))
    if config is None:
        of_file = set(_validated(content)[1])
        if of_file.isdisjoint(mistakes):
            raise _refusal(mistakes, None)
        raise _refusal([what if what in of_file else f"{what} (by a flag)" for what in mistakes], file)
    return config


def parse(content: Mapping[str, Any]) -> Config:
    """Make a configuration from plain values.

    :raises UsageError: lists everything that is wrong with them.
    """
    config, mistakes = _validated(content)
    if config is None:
        raise _refusal(mistakes, None)
    return config


def _refusal(mistakes: Sequence[str], file: Path | None) -> UsageError:
    hint = f"`wsipipe init` writes a {FILE_NAME} that shows every setting with its meaning"
    return UsageError("; ".join(mistakes), path=file, hint=hint)


def _read(file: Path) -> dict[str, Any]:
    refuse_pipe(file, UsageError)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError("no such configuration file", path=file, hint="`wsipipe init` writes one") from error
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, and brackets in brackets in …
        raise UsageError(
            f"is not valid TOML: {error}", path=file, hint="strings need quotes; lists need brackets"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", path=file, hint="check --config") from error
    here = file.resolve().parent
    content.setdefault("workspace", "work")
    return _from_folder(content, Config, here)


def _located(here: Path, path: str) -> str:
    if url_of(path):
        return path
    # os.path's expanduser, because pathlib's raises for a ~user that there is none of
    return str(here / os.path.expanduser(path))  # noqa: PTH111


def _from_folder(content: dict[str, Any], model: type[BaseModel], here: Path) -> dict[str, Any]:
    """Make relative paths in a file relative to the file's own folder."""
    located = dict(content)
    for name, field in model.model_fields.items():
        value, kind = content.get(name), field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, dict):
            located[name] = _from_folder(value, kind, here)
        elif kind == dict[str, BiomarkerSettings] and isinstance(value, dict):
            tables = {key: table for key, table in value.items() if isinstance(table, dict)}
            located[name] = value | {key: _from_folder(table, BiomarkerSettings, here) for key, table in tables.items()}
        elif "Path" in str(kind):
            if isinstance(value, str):
                located[name] = _located(here, value)
            elif isinstance(value, list):
                located[name] = [_located(here, v) if isinstance(v, str) else v for v in value]
    return located


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping):
            part = merged.get(key, {})  # if the file has no table here, the validation reports it
            merged[key] = _merge(part, value) if isinstance(part, Mapping) else part
        elif value is not None:
            merged[key] = value
    return merged


def _validated(content: Mapping[str, Any]) -> tuple[Config | None, list[str]]:
    """The configuration, or None and the list of what is wrong with it."""
    try:
        return Config.model_validate(content), []
    except ValidationError as error:
        return None, [_sentence(detail) for detail in error.errors()]


def _sentence(detail: ErrorDetails) -> str:
    *section, name = [str(part) for part in detail["loc"]]
    where = ".".join([*section, name])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, _known(section), 1, cutoff=0.5)
        return f"unknown setting {where}" + (f" (did you mean {near[0]}?)" if near else "")
    if detail["type"] == "missing":
        return f"{where} is missing (or --{name.replace('_', '-')})"
    message = detail["msg"].removeprefix("Value error, ")
    given = "" if isinstance(detail["input"], Mapping) else f" = {json.dumps(detail['input'], default=str)}"
    return f"{where}{given}: {message[:1].lower()}{message[1:]}"


def _known(section: list[str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in section:
        kind = model.model_fields[part].annotation if part in model.model_fields else BiomarkerSettings
        model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else BiomarkerSettings
        if kind == dict[str, BiomarkerSettings]:
            return list(BiomarkerSettings.model_fields)
    return list(model.model_fields)


def template() -> str:
    """The text of a ``wsipipe.toml`` with every setting, its meaning and its default, commented out."""
    return "\n".join(_template()) + "\n"


def _template() -> Iterator[str]:
    yield "# Settings of a wsipipe project. Lines that begin with # show the defaults: remove the # to change one."
    yield "# A setting without a default shows an example, marked as such."
    yield "# Relative paths are relative to this file's folder. Flags on the command line override this file.\n"
    yield from _setting("workspace", Config.model_fields["workspace"])
    for name in ("shard", "stage_to", "stage_bytes"):
        yield from _setting(name, Config.model_fields[name])
    for section, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield f"\n# {(field.annotation.__doc__ or '').strip()}\n[{section}]"
            for name, setting in field.annotation.model_fields.items():
                yield from _setting(name, setting)
        if section == "cohort":
            yield from _biomarkers()


def _biomarkers() -> Iterator[str]:
    yield "\n# The biomarkers: a table each, named as its model will be. Add as many as you like.\n# [biomarkers.her2]"
    for name, setting in BiomarkerSettings.model_fields.items():
        yield from _setting(name, setting)
    yield "# Several biomarkers that one model learns together are a table that names them: [biomarkers.receptors] with"
    yield '# targets: ["er", "pr", "her2"]; each has a table of its own, and a patient may miss labels of some.'


def _setting(name: str, field: FieldInfo) -> Iterator[str]:
    unlisted = [choice for choice in _choices(field) if choice not in (field.description or "")]
    one_of = f" (one of {', '.join(_choices(field))})" if unlisted else ""
    if field.default is None or field.is_required():
        [example] = field.examples or []
        yield f"# {name} = {json.dumps(example)}  # (an example) {field.description}{one_of}"
    else:
        yield f"# {name} = {json.dumps(field.default, default=str)}  # {field.description}{one_of}"


def _choices(field: FieldInfo) -> list[str]:
    """The values that a setting may have, if they are few and named."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
