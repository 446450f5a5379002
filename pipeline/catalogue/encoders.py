"""``wsipipe encoders``: the slide encoders as a table."""

from __future__ import annotations

from rich.table import Table

from ...data.manifest import Json
from ...models.backbones.weights import at_hand
from ...models.slide_encoders.registry import EncoderCard, registry
from ..console import Console


def show_encoders(console: Console) -> None:
    """Print every slide encoder: those that can be run, and those that cannot with the reason."""
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("encoder", "reads features of", "width", "tiles", "weights", "licence", "here"):
        table.add_column(name, justify="right" if name == "width" else "left")
    rows: list[Json] = []
    for card in registry().values():
        place = at_hand(card.name, card.hub_id, card.hub_file) if card.network else ""
        table.add_row(*_row(card, place))
        rows.append({**card.model_dump(mode="json"), "weights_here": place})
    console.table(table)
    for card in registry().values():
        if card.why_not:
            console.line(f"{card.name}: {card.why_not}; instead: {card.instead}")
    console.line("with --json: each one's source, and what could not be checked without its weights")
    console.result({"encoders": rows})


def _row(card: EncoderCard, place: str) -> tuple[str, ...]:
    tiles = f"{card.tile_px} px at {card.mpp:g}" if card.tile_px and card.mpp else "any"
    return (
        card.name,
        card.backbone or "any backbone",
        str(card.width or "–"),
        tiles,
        place or (("on request" if card.gated else "a file") if card.needs_weights else "none"),
        card.licence,
        "yes" if card.network else "no",
    )
