"""Slides of several files, as tests that only copy them write them. No viewer opens them."""

from __future__ import annotations

from pathlib import Path


def several_files(folder: Path) -> list[Path]:
    """A slide of several files of each kind."""
    (folder / "m").mkdir(parents=True)
    (folder / "m.mrxs").write_bytes(b"index")
    (folder / "m/Slidedat.ini").write_text("ini")
    (folder / "m/Data0000.dat").write_bytes(b"data" * 100)
    (folder / "v.vms").write_text("[Virtual Microscope Specimen]\nImageFile=v(0).jpg\nMapFile=v_map.jpg\n")
    for name in ("v(0).jpg", "v_map.jpg", "of another slide.jpg"):
        (folder / name).write_bytes(name.encode())
    (folder / "d/deep").mkdir(parents=True)
    (folder / "d/1.dcm").write_bytes(b"1")
    (folder / "d/deep/2.dcm").write_bytes(b"2")
    return [folder / "m.mrxs", folder / "v.vms", folder / "d"]
