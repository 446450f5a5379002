"""Text on a terminal that comes from ids, columns, messages and paths: nothing in it acts on the terminal.

A terminal obeys sequences of control characters: they erase lines, set the window's title, or write to the clipboard. A
slide's name may hold them, and a line break, after which a stranger's words stand as a line of ours. All are shown as
Python writes them: ``\\x1b[31m``, ``\\n``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

_ACTING: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that turn the direction of writing round, line breaks, and bytes that are not text."""
_ACTING_IN_LINES: Final = re.compile(_ACTING.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))


class LogLevel(Enum):
    """How much is printed while a command runs. Its result is printed at any level."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"

    @property
    def rank(self) -> int:
        """Its place, from the least important."""
        return list(LogLevel).index(self)


def visible(text: str) -> str:
    r"""Text on one line, in which characters that act on a terminal are written as escapes.

    >>> visible("a\x1b[2Jb\nc")
    'a\\x1b[2Jb\\nc'
    """
    return _ACTING.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1]


class SafeConsole(RichConsole):
    """A rich console that lets through no character of a text, also in tables and bars, that acts on the terminal.

    Colours and movements of the cursor that rich itself makes are no text to it, and stay.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with such characters as escapes; line breaks of the layout stay."""
        for segment in super().render(renderable, options):
            if segment.control or not _ACTING_IN_LINES.search(segment.text):
                yield segment
            else:
                yield Segment(_ACTING_IN_LINES.sub(_escape, segment.text), segment.style)
