"""JSON from strangers: what is not JSON, or is more than anybody needs, is refused with one kind of error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsipipe.data.errors import StoreError
from wsipipe.data.json_text import MOST_LEVELS, parse_json, read_bytes, read_json

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(VALUES, st.booleans())
def test_all_json_is_read_as_python_reads_it(value: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


BAD = {
    "nothing": b"",
    "torn": b'{"a": ',
    "no UTF-8": b'"\xff"',
    "NaN": b"[NaN]",
    "infinity": b'{"a": -Infinity}',
    "an infinite float": b'{"a": 1e999}',
    "an infinite float in a list": b"[1.5, -1E+400]",
    "an infinite float at the end": b"1e309",
    "a long mantissa": b"[" + b"9" * 299 + b"e99]",
    "a number of 5000 digits": b"9" * 5000,
    "a number of 310 digits": b'{"a": ' + b"9" * 310 + b".0}",
    "half a character": b'["\\ud83d"]',
    "half a character in a name": b'{"\\udc00": 1}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "a little too deep": b"[" * (MOST_LEVELS + 1) + b"]" * (MOST_LEVELS + 1),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_json_of_anybody_is_a_value_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  any
        parse_json(BAD[name])
    assert not isinstance(caught.value, RecursionError)
    (tmp_path / "a.json").write_bytes(BAD[name])
    with pytest.raises(StoreError, match=r"holds no metrics: \S") as told:
        read_json(tmp_path / "a.json", StoreError, what="metrics", hint="copy it again")
    assert (told.value.path, told.value.hint) == (str(tmp_path / "a.json"), "copy it again")


@pytest.mark.parametrize(
    "text",
    [b"[" * MOST_LEVELS + b"]" * MOST_LEVELS, b'["1e999", "\\ud83d\\ude00"]', b'"sha256:1e99"', b"[1e-999, 1e99]"],
)
def test_what_only_looks_like_it_is_read(text: bytes) -> None:
    assert parse_json(text) == json.loads(text)


def test_folders_pipes_and_giants_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(StoreError, match=r"a folder, not a file|is a pipe, not a file"):
            read_json(tmp_path / name, StoreError, what="metrics", hint="")
    with pytest.raises(StoreError, match="cannot be read: there is no such file"):
        read_json(tmp_path / "nowhere", StoreError, what="metrics", hint="")
    with (tmp_path / "giant").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(StoreError, match="is too large: 1,099,511,627,776 bytes, and at most"):
        read_json(tmp_path / "giant", StoreError, what="metrics", hint="")
    (tmp_path / "small").write_bytes(b"abc")
    assert read_bytes(tmp_path / "small", StoreError, hint="", most=3) == b"abc"
