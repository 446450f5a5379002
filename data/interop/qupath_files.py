"""Files of annotations: where the one of a slide lies, and the JSON in it, plain or packed."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

from ..errors import SlideError, about
from ..files.packed import FEWEST_BYTES, LONGER, unpacked
from ..plain_files import refuse_pipe
from ..surroundings import patiently
from ..wording import some
from .slide_files import file_of_slide

FROM_QUPATH: Final = "export the annotations from QuPath: File > Export objects as GeoJSON"

_ENDINGS: Final = (".geojson", ".json", ".geojson.zip", ".json.zip", ".zip", ".geojson.gz", ".json.gz")
_PLACES: Final = ("", "contours/", "contours_geojson/")


def find_annotations(folder: Path, slide_id: str, file_name: str = "") -> Path:
    """The annotations of a slide, called by its id or its file's name (``a.geojson``, ``a.svs.geojson``, ``a.json``),
    plain, zipped or gzipped, in a folder, or one level below it where our tiles (``contours/``) and TRIDENT
    (``contours_geojson/``) keep theirs.

    :raises SlideError: there are none, or several in one place.
    """
    names = [f"{name}{ending}" for name in dict.fromkeys((slide_id, file_name or slide_id)) for ending in _ENDINGS]
    places = [[f"{below}{name}" for name in names] for below in _PLACES]
    plain = ", ".join(f"{below}{slide_id}{ending}" for below in _PLACES for ending in (".geojson", ".json"))
    return file_of_slide(
        f"annotations of {slide_id!r}",
        folder,
        places,
        hint="put it there under the slide's name, or leave the slide out",
        looked_for=f"{plain}, also zipped or gzipped",
    )


def annotation_json(path: Path) -> Any:
    """What a file of annotations holds.

    :raises SlideError: it is not there, cannot be read, or is no JSON.
    :raises SurroundingsError: the disk is at fault, for some seconds.
    """
    if not path.exists():
        raise SlideError("there is no such file", path=path, hint=FROM_QUPATH)
    refuse_pipe(path, SlideError)
    try:
        with about(path):
            return json.loads(_unpacked(patiently(path.read_bytes, path)))
    except OSError as error:
        raise SlideError(f"could not be read: {error.strerror or error}", path=path, hint=FROM_QUPATH) from error
    except (ValueError, RecursionError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        # RuntimeError is zipfile's for a password, and for a kind of packing that it does not know.
        raise SlideError(f"not JSON: {error}", path=path, hint=FROM_QUPATH) from error


def _unpacked(content: bytes) -> bytes:
    """The text in what a file holds, gzipped or zipped.

    :raises ValueError: a zip file that does not hold just one.
    """
    if content.startswith(b"\x1f\x8b"):
        with unpacked(io.BytesIO(content), len(content)) as stream:
            return stream.read()
    if not content.startswith(b"PK\x03\x04"):
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        hidden = ("__MACOSX/", ".")
        names = [name for name in archive.namelist() if name.lower().endswith("json") and not name.startswith(hidden)]
        if len(names) != 1:
            raise ValueError(f"the zip file holds {len(names)} GeoJSON files ({some(names) or 'none'}), not one")
        size = archive.getinfo(names[0]).file_size
        if size > max(FEWEST_BYTES, LONGER * len(content)):
            raise ValueError(f"the zip file holds {size / 2**20:.0f} MiB, far more than annotations packed to its size")
        return archive.read(names[0])
