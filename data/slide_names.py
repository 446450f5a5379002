"""What a slide is called, by the name of its file."""

from __future__ import annotations

import re

from .columns import names


def slide_name(file_name: str) -> str:
    """A slide's id from a file name: without folder (``/`` or ``\\``) and without the extension of a slide format.

    >>> slide_name("batch 1/S1.ome.tif"), slide_name("TCGA-A7-A0DA-01Z-00-DX1.4E6EB156.svs"), slide_name("12.345")
    ('S1', 'TCGA-A7-A0DA-01Z-00-DX1.4E6EB156', '12.345')
    """
    return without_extension(re.split(r"[/\\]", file_name)[-1])


def without_extension(file_name: str, *others: str) -> str:
    """A file name without the longest extension that fits, whatever its case: that of a slide format, or another one.

    :param others: extensions that count as well, with their dot.
    """
    extensions = (*names("slide", "suffixes"), *others)
    fitting = [extension for extension in extensions if file_name.lower().endswith(extension.lower())]
    return file_name[: len(file_name) - max(map(len, fitting), default=0)]
