"""Commands that exchange with other tools: export, import, import-checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ...data.errors import UsageError
from ...stages.train.settings import BiomarkerSettings
from ..command import Call, works
from ..steps import Tiles, Weights

Pooling = Annotated[
    Literal["cls", "mean", "cls+mean"] | None,
    typer.Option(help="how the backbone's tokens were pooled; default: as the backbone's card recommends"),
]


def add_exchange(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (export, import_):
        works(app)(command)
    works(app, biomarker=BiomarkerSettings)(import_checkpoint)


def export(
    call: Call,
    format: Annotated[Literal["clam", "trident", "anndata"], typer.Argument(help="the tool whose format is written")],
    *,
    tiles: Tiles = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="export these features, such as 0.5mpp-224px/uni2-h, instead of the tiles; slide vectors, such as "
            "0.5mpp-224px/mean-of-uni2-h, become one AnnData of all slides"
        ),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="of slide vectors: cohort table, whose columns are written beside them")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="of slide vectors: a model of this workspace, whose predictions are written beside them"),
    ] = None,
) -> None:
    """Write tiles, or with --features features, in the format of another tool; nothing of wsipipe's is changed."""
    from .. import chain
    from .slide_vectors import export_vectors

    call.flags["cohort"] = {"table": table}
    config, runner = call.open()
    summary = export_vectors(config, runner, format, features, model)
    call.finish([summary or chain.export(config, runner, format, tiles=tiles, features=features)])


def import_(
    call: Call,
    folder: Annotated[
        Path,
        typer.Argument(
            help="features of tiles, of TRIDENT or CLAM: a folder of <slide>.h5; or slide vectors, of TRIDENT "
            "(slide_features_titan), STAMP or slide2vec (slide_embeddings)"
        ),
    ],
    *,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="the backbone that made them: a name from `wsipipe backbones`; of slide vectors the tiles' backbone, "
            "where the encoder reads several"
        ),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="of slide vectors: the slide encoder, where folder and files do not say it")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="of slide vectors: µm per pixel of their tiles, where the files do not say it")
    ] = None,
    tile_px: Annotated[
        int | None, typer.Option(help="of slide vectors: side of their tiles, where the files do not say it")
    ] = None,
    pooling: Pooling = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="the backbone's weights file; without it, models of these features cannot predict on slides"),
    ] = None,
    tiles: Annotated[
        str | None,
        typer.Option(help="tiles they were extracted from, such as 0.5mpp-256px-imported; default: the imported ones"),
    ] = None,
) -> None:
    """Import features of tiles imported with `tile --coordinates`, or slide vectors, that other programs have made."""
    from .. import chain
    from .import_vectors import Said, are_vectors, import_vectors

    if are_vectors(folder, encoder):
        if pooling is not None or weights is not None:
            what = "--pooling and --weights go with features of tiles, and these are slide vectors"
            raise UsageError(what, path=folder, hint="leave them out: whose weights made such vectors no file tells")
        _, runner = call.open()
        said = Said(encoder=encoder, backbone=backbone, mpp=mpp, tile_px=tile_px, tiles=tiles)
        return call.finish([import_vectors(runner, folder, said)])
    if mpp is not None or tile_px is not None:
        what = "--mpp and --tile-px go with slide vectors; features of tiles have those of their tiles"
        raise UsageError(what, path=folder, hint="leave them out, or add --encoder if these are slide vectors")
    if backbone is None:
        what = "nobody says which backbone made these features"
        raise UsageError(what, path=folder, hint="give --backbone; or --encoder if these are slide vectors")
    call.flags["extract"] = {"backbone": backbone, "pooling": pooling, "weights": weights}
    call.finish([chain.import_features(*call.open(), folder, tiles=tiles)])


def import_checkpoint(
    call: Call,
    checkpoints: Annotated[list[Path], typer.Argument(help="the authors' files, s_<fold>_mkd_checkpoint.pt, in order")],
    *,
    name: Annotated[str, typer.Option(help="name of the model, such as her2")],
    backbone: Annotated[str, typer.Option(help="the backbone of its features: a name from `wsipipe backbones`")],
    mpp: Annotated[float, typer.Option(help="µm per pixel of its tiles")],
    tile_px: Annotated[int, typer.Option(help="side of its tiles, in pixels")],
    pooling: Pooling = None,
    weights: Weights = None,
    prevalence: Annotated[
        float | None,
        typer.Option(help="share of positives among its training patients; without it, predict asks for one"),
    ] = None,
) -> None:
    """Import checkpoints of the MoMKD authors' code as a model for predict; flags add what checkpoints lack."""
    from .. import chain

    biomarker = {key: value for key, value in call.flags.pop("biomarker").items() if value is not None}
    call.flags["biomarkers"] = {name: biomarker}
    call.flags["tile"] = {"mpp": mpp, "tile_px": tile_px}
    call.flags["extract"] = {"backbone": backbone, "pooling": pooling, "weights": weights}
    call.finish([chain.import_checkpoint(*call.open(), checkpoints, name, prevalence=prevalence)])
