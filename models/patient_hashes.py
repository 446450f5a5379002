"""Hashes of the patients and slides that trained a model, kept in its bundles instead of their names.

They are pseudonymous, not anonymous: who has a list of ids can try each of them. Ids of patients and slides are few, so
a fast hash of them would be undone by trying all; they are hashed with scrypt (RFC 7914), which takes milliseconds and
two megabytes for each try, and with a salt of the model, so that one table does not serve for all models. The salt is
the digest of the model's splits: all folds share it, so an id is hashed once for all of them, and training again gives
the same bytes. A digest of a slide's bytes cannot be guessed without the slide, and is hashed quickly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Final

from ..data.cohort.ids import id_key

_COST: Final = {"n": 2**11, "r": 8, "p": 1, "maxmem": 2**24}  # about 7 ms and 2 MB an id
_BYTES: Final = 12
_REMEMBERED: Final = 100_000


def patient_hash(patient: str, salt: str) -> str:
    """Hash a patient's id; all spellings of one id give the same."""
    return _slow(f"patient\0{id_key(patient)}", salt)


def slide_hash(slide: str, salt: str) -> str:
    """Hash a slide's id; a patient with the same id has another hash."""
    return _slow(f"slide\0{id_key(slide)}", salt)


def bytes_hash(digest: str, salt: str) -> str:
    """Hash the digest of a slide's bytes."""
    return hashlib.sha256(f"wsipipe\0bytes\0{salt}\0{digest}".encode()).hexdigest()[: 2 * _BYTES]


def hashes_of(patients: Iterable[str], digests: Iterable[str], slides: Iterable[str], salt: str) -> list[str]:
    """Hash patients' ids, digests of slides' bytes and slides' ids, several at a time; sorted.

    :param salt: the model's, the digest of its splits.
    """
    with ThreadPoolExecutor() as threads:  # scrypt lets other threads work
        of_patients = list(threads.map(lambda patient: patient_hash(patient, salt), patients))
        of_slides = list(threads.map(lambda slide: slide_hash(slide, salt), slides))
    return sorted({*of_patients, *of_slides, *(bytes_hash(digest, salt) for digest in digests)})


def unsalted_hash(name: str) -> str:
    """Hash a name as bundles of the first version do; they also hold the spelling that was given."""
    return hashlib.sha256(b"wsipipe\0" + name.encode()).hexdigest()[: 2 * _BYTES]


@lru_cache(_REMEMBERED)
def _slow(name: str, salt: str) -> str:
    return hashlib.scrypt(name.encode(), salt=f"wsipipe\0{salt}".encode(), dklen=_BYTES, **_COST).hex()
