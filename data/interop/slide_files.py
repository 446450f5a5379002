"""Where another program's file of a slide lies in the folder that it has written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import SlideError
from ..slides.finding import existing
from ..wording import some


def file_of_slide(what: str, folder: Path, places: Iterable[Sequence[str]], *, hint: str, looked_for: str = "") -> Path:
    """The file of a slide, from the first place that has one, in whichever Unicode form its name lies on disk.

    :param what: what it holds of which slide, for messages: ``coordinates for 'S1'``.
    :param places: of each place, best first, the names that count as one another's equals, below the folder.
    :param hint: the way out where there is none.
    :param looked_for: what to say was looked for; by default all names.
    :raises SlideError: there is none, or several in one place.
    """
    places = [*places]
    for names in places:
        found = [file for name in names if (file := existing(folder / name)) and file.is_file()]
        if len(found) > 1:
            wrong = f"several {what}: {some([file.name for file in found])}"
            raise SlideError(wrong, path=found[0].parent, hint="keep the one that counts")
        if found:
            return found[0]
    looked_for = looked_for or ", ".join(name for names in places for name in names)
    raise SlideError(f"no {what}; looked for {looked_for}", path=folder, hint=hint)
