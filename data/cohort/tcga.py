"""Reading TCGA barcodes.

``TCGA-A7-A0DA-01Z-00-DX1.<UUID>``: project, tissue source site, participant, sample type with vial, portion, slide.
See the GDC's encyclopedia, "TCGA Barcode", and its code tables. R turns the dashes into dots when it reads a matrix,
and file names are sometimes in lower case; both are understood.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

SlideKind = Literal["DX", "TS", "BS", "MS"]
"""A diagnostic slide (DX, formalin-fixed), or a frozen one: top (TS), bottom (BS) or middle (MS) section."""

_BARCODE = re.compile(
    r"TCGA[-._]([A-Z0-9]{2})[-._]([A-Z0-9]{4})(?:[-._]([0-9]{2})([A-Z])?)?(?![A-Z0-9])", re.IGNORECASE | re.ASCII
)
_SLIDE = re.compile(r"[-._](DX|TS|BS|MS)[A-Z0-9]{0,2}(?![A-Z0-9])", re.IGNORECASE | re.ASCII)

SAMPLE_TYPES = {
    "01": "primary tumour",
    "02": "recurrent tumour",
    "03": "primary blood-derived cancer",
    "04": "recurrent blood-derived cancer",
    "05": "additional primary tumour",
    "06": "metastasis",
    "07": "additional metastasis",
    "08": "tumour cells",
    "09": "primary blood-derived cancer, bone marrow",
    "10": "normal blood",
    "11": "normal tissue",
    "12": "normal buccal cells",
    "13": "EBV-immortalised normal",
    "14": "normal bone marrow",
    "20": "control",
    "40": "recurrent blood-derived cancer",
    "50": "cell line",
    "60": "xenograft",
    "61": "xenograft of a cell line",
}
"""The GDC's sample type codes that occur with slides and RNA: 01 to 09 are tumours, 10 to 19 normal."""

PRIMARY_TYPES = ("01", "03", "09")
"""Codes of primary tumours, including those of the blood."""


@dataclass(frozen=True)
class TcgaBarcode:
    """The parts of a barcode, in upper case with dashes.

    :param patient: its first 12 characters, ``TCGA-A7-A0DA``.
    :param site: tissue source site, ``A7``.
    :param sample_type: two digits, ``01`` for a primary tumour; empty in a patient's barcode.
    :param vial: one letter; empty if the barcode has none.
    """

    patient: str
    site: str
    sample_type: str
    vial: str


def tcga_barcode(identifier: str) -> TcgaBarcode | None:
    """The TCGA barcode at the beginning of an identifier, or None."""
    found = _BARCODE.match(identifier)
    if found is None:
        return None
    site, participant, sample_type, vial = ((part or "").upper() for part in found.groups())
    return TcgaBarcode(f"TCGA-{site}-{participant}", site, sample_type, vial)


def tcga_slide_kind(slide_id: str) -> SlideKind | None:
    """The kind of slide in a TCGA slide barcode, or None for any other id.

    >>> tcga_slide_kind("TCGA-A7-A0DA-01Z-00-DX1"), tcga_slide_kind("tcga-cr-7395-01a-01-ts1"), tcga_slide_kind("S1")
    ('DX', 'TS', None)
    """
    patient = _BARCODE.match(slide_id)
    found = None if patient is None else _SLIDE.search(slide_id, patient.end())
    return None if found is None else found.group(1).upper()  # type: ignore[return-value]  # the pattern's own four


def is_frozen(slide_id: str) -> bool:
    """Whether the id is that of a frozen section of TCGA, which was made for sequencing and not for diagnosis."""
    return tcga_slide_kind(slide_id) in ("TS", "BS", "MS")
