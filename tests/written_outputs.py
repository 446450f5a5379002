"""Outputs that are a file or a folder, written and read by the tests of artifacts."""

from __future__ import annotations

from pathlib import Path


def put(path: Path, text: str, *, folder: bool) -> None:
    """A file, or a folder with a file below, that holds ``text``."""
    if folder:
        (path / "below").mkdir(parents=True)
        path = path / "below" / "file"
    path.write_text(text)


def got(path: Path) -> str:
    return (path / "below" / "file").read_text() if path.is_dir() else path.read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
