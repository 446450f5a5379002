"""``wsipipe backbones``: the registry as a table."""

from __future__ import annotations

from rich.table import Table

from ...data.manifest import Json
from ...models.backbones.backbone import Backbone, registry
from ...models.backbones.weights import at_hand
from ..console import Console

_LEFT_OUT = {"arguments", "formerly"}
"""Of the table's fields; all others are in the JSON."""


def show_backbones(console: Console) -> None:
    """Print every backbone of the registry; any other timm model can be used by its timm name."""
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("backbone", "parameters", "width", "pooling", "tiles", "weights here", "access", "licence", "hub"):
        table.add_column(name, justify="right" if name in ("parameters", "width") else "left")
    rows: list[Json] = []
    for backbone in registry().values():
        place = at_hand(backbone.name, backbone.hub_id, backbone.hub_file)
        table.add_row(*_row(backbone, place))
        rows.append({**backbone.model_dump(mode="json", exclude=_LEFT_OUT), "weights": place})
    console.table(table)
    console.line("any other timm model works by its timm name; weights come from the hub, its cache, or --weights FILE")
    console.line("with --json: each one's transform, its source, and where sources disagree")
    console.result({"backbones": rows})


def _row(backbone: Backbone, place: str) -> tuple[str, ...]:
    return (
        backbone.name,
        f"{(backbone.parameters or 0) / 1e6:,.0f} M",
        str(backbone.width),
        backbone.pooling,
        f"{backbone.tile_px} px at {backbone.mpp:g}",
        place or "–",
        "on request" if backbone.gated else "free",
        backbone.licence,
        backbone.hub_id or "–",
    )
