"""OME-XML: the description of an OME-TIFF's images (OME data model, https://docs.openmicroscopy.org/ome-model)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from ..units import Mpp

_ROOT: Final = re.compile(r"<(\w+:)?OME[\s>]")
_PREAMBLE: Final = 4096  # characters: an XML declaration and a comment of Bio-Formats come before the root

_DECLARATION: Final = re.compile(r"<!(DOCTYPE|ENTITY)")

_MICRONS: Final = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25_400.0}
"""Other units (``pixel``, ``reference frame``) are not lengths, or not lengths of a microscope image."""

_BESIDE: Final = re.compile(r"label|macro|thumbnail|overview", re.IGNORECASE)


class OmeXmlError(Exception):
    """OME-XML that is damaged or describes no image; the message says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class OmeImage:
    """An ``Image`` element and its pixels."""

    name: str
    width: int
    height: int
    focal_planes: int
    time_points: int
    channels: int
    """Red, green and blue are three, in one plane or in three."""
    pixel_type: str
    """``uint8``, say."""
    directory: int
    """Index of the TIFF directory that holds its first plane."""
    elsewhere: str
    """Name of another file that holds its pixels; empty if this file does."""
    mpp: tuple[Mpp, Mpp] | None


def is_ome_xml(description: str) -> bool:
    """Whether a TIFF's description is OME-XML, by its root element."""
    return _ROOT.search(description, 0, _PREAMBLE) is not None


def main_image(xml: str) -> OmeImage:
    """Choose the largest image that is not named label, macro, thumbnail or overview; the first of equals.

    :raises OmeXmlError: there is none.
    """
    if (declaration := _DECLARATION.search(xml)) is not None:  # entities of entities of entities become gigabytes
        raise OmeXmlError(f"its OME-XML declares {declaration[1]}, which OME-XML never does")
    try:
        root = ElementTree.fromstring(xml)
        images = [_image(image, root.get("UUID", "")) for image in root.iterfind("{*}Image")]
    except (ElementTree.ParseError, ValueError) as error:
        raise OmeXmlError(f"its OME-XML cannot be read: {error}") from error
    if not images:
        beside = root.find("{*}BinaryOnly")
        where = "" if beside is None else f": it lies in {beside.get('MetadataFile', 'another file')!r}"
        raise OmeXmlError(f"its OME-XML describes no image{where}")
    candidates = [image for image in images if not _BESIDE.search(image.name)]
    if not candidates:
        names = ", ".join(repr(image.name) for image in images)
        raise OmeXmlError(f"its OME-XML has no image beside those called {names}")
    return max(candidates, key=lambda image: image.width * image.height)


def _image(image: ElementTree.Element, own_uuid: str) -> OmeImage:
    pixels = image.find("{*}Pixels")
    if pixels is None:
        raise ValueError("an Image without Pixels")
    of_first = [
        data for data in pixels.iterfind("{*}TiffData") if all(data.get(f"First{axis}", "0") == "0" for axis in "ZCT")
    ]
    directory = int(of_first[0].get("IFD", "0")) if of_first else 0
    if directory < 0:
        raise ValueError(f"its first plane lies in directory {directory}")
    uuid = of_first[0].find("{*}UUID") if of_first else None
    elsewhere = ""
    if uuid is not None and own_uuid and (uuid.text or "").strip() != own_uuid:
        elsewhere = uuid.get("FileName", "another file")
    return OmeImage(
        name=image.get("Name", ""),
        width=int(pixels.get("SizeX", "")),
        height=int(pixels.get("SizeY", "")),
        focal_planes=int(pixels.get("SizeZ", "1")),
        time_points=int(pixels.get("SizeT", "1")),
        channels=int(pixels.get("SizeC", "1")),
        pixel_type=pixels.get("Type", ""),
        directory=directory,
        elsewhere=elsewhere,
        mpp=_mpp(pixels),
    )


def _mpp(pixels: ElementTree.Element) -> tuple[Mpp, Mpp] | None:
    sides = []
    for axis in "XY":
        size = pixels.get(f"PhysicalSize{axis}")
        microns = _MICRONS.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").strip())
        if size is None or microns is None:
            return None
        sides.append(Mpp(float(size) * microns))
    return sides[0], sides[1]
