"""Damaged copies of a file, the same ones for the same seed: what a reader of files from elsewhere must survive."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import Final

_EXTREME: Final = (0, 1, -1, 127, 128, 255, 32767, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63))
_EXTREME_TEXTS: Final = (
    *(b"-1", b"0", b"1e999", b"-1e999", b"NaN", b"Infinity", b"1e-320", b"0x10", b"4294967296"),
    *(b"9" * 30, b"9" * 400, b"9" * 5000, b"[" * 2000, b'{"a":' * 2000),
    *(b"", b"null", b"true", b'"', b"\xff\xfe", b"\x00", b"\n", b",", b"\t", b"<", b"&#0;"),
)
_DIGITS: Final = re.compile(rb"[0-9]+")


def mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Damaged copies of ``data``: bits flipped, bytes replaced, parts lost, copied or zeroed, absurd numbers.

    :param count: how many; each differs from ``data`` unless chance undoes itself.
    :param seed: the same mutants come for the same seed, the n-th whatever ``count`` is.
    """
    for number in range(count):
        chance = Random(f"{seed}/{number}")
        mutant = bytearray(data)
        changes = _CHANGES_OF_TEXT if chance.random() < 0.5 and b"\0" not in data[:1024] else _CHANGES
        for _ in range(chance.choice((1, 1, 2, 4))):
            chance.choice(changes)(mutant, chance)
        yield bytes(mutant)


def _part(data: bytearray, chance: Random) -> slice:
    """Where a short or, now and then, a long part of the file lies."""
    start = chance.randrange(len(data) + 1)
    longest = chance.choice((4, 64, 4096, len(data)))
    return slice(start, start + chance.randint(0, longest))


def _flip_a_bit(data: bytearray, chance: Random) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _replace_bytes(data: bytearray, chance: Random) -> None:
    for _ in range(chance.randint(1, 8)):
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)


def _truncate(data: bytearray, chance: Random) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _lose(data: bytearray, chance: Random) -> None:
    del data[_part(data, chance)]


def _zero(data: bytearray, chance: Random) -> None:
    part = _part(data, chance)
    data[part] = bytes(len(data[part]))


def _duplicate(data: bytearray, chance: Random) -> None:
    part = _part(data, chance)
    data[part.stop : part.stop] = data[part] * (50 if len(data[part]) < 4096 and chance.random() < 0.3 else 1)


def _splice(data: bytearray, chance: Random) -> None:
    """Put a part of the file over another."""
    part, other = _part(data, chance), _part(data, chance)
    data[other] = data[part]


def _extreme_integer(data: bytearray, chance: Random) -> None:
    """An absurd number at an aligned place, in either order of bytes; among the first ones every second time."""
    width = chance.choice((1, 2, 4, 8))
    if len(data) < width:
        return
    places = len(data) // width
    place = width * chance.randrange(min(places, 64) if chance.random() < 0.5 else places)
    number = chance.choice(_EXTREME) % 256**width
    order = chance.choice("<>")
    data[place : place + width] = struct.pack(f"{order}{'BHxIxxxQ'[width - 1]}", number)


def _extreme_text(data: bytearray, chance: Random) -> None:
    """Something absurd in place of a number that is written out; without one from there on, at that place."""
    start = chance.randrange(len(data) + 1)
    found = _DIGITS.search(data, start)
    place = slice(*found.span()) if found and found.start() < start + 4096 else slice(start, start)
    data[place] = chance.choice(_EXTREME_TEXTS)


_CHANGES: Final[tuple[Callable[[bytearray, Random], None], ...]] = (
    _flip_a_bit,
    _replace_bytes,
    _truncate,
    _lose,
    _zero,
    _duplicate,
    _splice,
    _extreme_integer,
    _extreme_integer,
    _extreme_text,
)
_CHANGES_OF_TEXT: Final = (_extreme_text, _extreme_text, _extreme_text, _flip_a_bit, _lose, _duplicate)
