"""A patient as the tables of a paper describe them."""

from __future__ import annotations

from typing import Protocol

from ...data.cohort.outcomes import Label


class DescribedPatient(Protocol):
    """A row of the split's patients."""

    @property
    def patient_id(self) -> str: ...
    @property
    def used(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def label(self) -> Label | None: ...
    @property
    def slides(self) -> tuple[str, ...]: ...
    @property
    def rna(self) -> bool: ...
