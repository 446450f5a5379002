"""Questions that the tests of the viewer ask."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from viewed_workspace import Client, Viewed, served


@contextmanager
def changed(viewed: Viewed, folder: Path) -> Iterator[tuple[Client, Path]]:
    """A viewer on a copy of the workspace, to be changed."""
    workspace = Path(shutil.copytree(viewed.workspace, folder / "work"))
    with served(workspace) as server:
        yield Client(server), workspace


def row_of(client: Client, slide: str) -> dict[str, Any]:
    [row] = [row for row in client.get("/slides.json").json["slides"] if row["id"] == slide]
    return row  # type: ignore[no-any-return]
