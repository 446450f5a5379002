"""Errors name the file they are about: the innermost that knows it."""

from __future__ import annotations

import pickle

import pytest
from wsipipe.data.errors import SlideError, about


def test_an_error_is_given_the_file_that_it_lacks() -> None:
    with pytest.raises(SlideError, match=r"a\.svs: damaged") as caught, about("a.svs"):
        raise SlideError("damaged", hint="copy it again")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.path, again.hint) == ("a.svs: damaged", "a.svs", "copy it again")


def test_a_file_that_is_named_stays_and_other_errors_pass() -> None:
    with pytest.raises(SlideError, match="inner: damaged"), about("outer"), about("inner"):
        raise SlideError("damaged")
    with pytest.raises(SlideError, match="own: damaged"), about("outer"):
        raise SlideError("damaged", path="own")
    with pytest.raises(ValueError, match=r"^x$"), about("outer"):
        raise ValueError("x")
