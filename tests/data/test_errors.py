"""Errors name the file they are about: the innermost that knows it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from wsipipe.data.errors import SlideError, about, is_out_of_memory


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


def test_libraries_that_get_no_memory() -> None:
    """For four petabytes."""
    for ask in (lambda: torch.empty(10**15), lambda: np.empty(10**15, np.float32)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            ask()
        assert is_out_of_memory(caught.value), caught.value


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be …"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (ImportError("No module named 'torch'"), False),
        (ValueError("out of memory"), False),
        (RuntimeError("index out of range\nout of memory"), False),
    ],
    ids=str,
)
def test_words_for_no_memory(error: Exception, memory: bool) -> None:
    assert is_out_of_memory(error) == memory
