"""``wsipipe backbones``: the registry as a table."""

from __future__ import annotations

from rich.table import Table

from ..models.backbone import registry
from ..models.weights import at_hand
from .console import Console


def show_backbones(console: Console) -> None:
    """Print every backbone of the registry; any other timm model works by its own name."""
    rows = [
        {
            "name": backbone.name,
            "parameters": backbone.parameters,
            "width": backbone.width,
            "pooling": backbone.pooling,
            "mpp": backbone.mpp,
            "tile_px": backbone.tile_px,
            "licence": backbone.licence,
            "gated": backbone.gated,
            "weights": at_hand(backbone.name, backbone.hub_id),
            "hub_id": backbone.hub_id,
        }
        for backbone in registry().values()
    ]
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("backbone", "parameters", "width", "pooling", "tiles", "weights here", "access", "licence", "hub"):
        table.add_column(name, justify="right" if name in ("parameters", "width") else "left")
    for row in rows:
        table.add_row(
            str(row["name"]),
            f"{(row['parameters'] or 0) / 1e6:,.0f} M",
            str(row["width"]),
            str(row["pooling"]),
            f"{row['tile_px']} px at {row['mpp']:g}",
            str(row["weights"]) or "–",
            "on request" if row["gated"] else "free",
            str(row["licence"]),
            str(row["hub_id"] or "–"),
        )
    console.table(table)
    console.line("any other model of timm works by its name; weights come from the hub, its cache, or --weights FILE")
    console.result({"backbones": rows})
