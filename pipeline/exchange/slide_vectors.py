"""Export of slide vectors: chooses the folder, the cohort table and the model whose predictions go with them."""

from __future__ import annotations

from ...data.errors import UsageError
from ...stages.features_folder import holds_slide_vectors
from ..config import Config
from ..folders import checked_name, choose_features
from ..results import Summary
from ..run.runner import Runner


def export_vectors(
    config: Config, runner: Runner, format: str, features: str | None, model: str | None
) -> Summary | None:
    """Write the slide vectors that are named as one AnnData; None if no slide vectors are named.

    :param model: name of a model of the workspace.
    :raises UsageError: another format, or a model that does not go with tiles or their features.
    """
    from ...stages.exchange.export_vectors import ExportVectorsStage
    from ...stages.exchange.settings import ExportSettings

    folder = None if features is None else choose_features(runner, "", features)
    if folder is None or not holds_slide_vectors(folder):
        if model is not None:
            raise UsageError("--model goes with slide vectors", hint="--features 0.5mpp-224px/mean-of-uni2-h, say")
        return None
    if format != "anndata":
        what = f"the files of {format} hold features of tiles, and these are one vector a slide"
        raise UsageError(what, hint="wsipipe export anndata")
    root = runner.workspace
    place = root / "exports" / format / folder.parent.name / folder.name
    own = None if model is None else root / "models" / checked_name(model, "a model")
    settings = ExportSettings(format="anndata")
    table = config.cohort.table
    return runner.run(ExportVectorsStage(settings, place, root, features=folder, table=table, model=own))
