"""Small files that hold, or claim to hold, far too much: refused, or read within 5 s and 1 GiB."""

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import tifffile
from geojson_files import collection, feature, overview, square
from test_annotations import _drawn
from test_slides import APERIO, XML, read_all
from test_tables import _labels
from trial import Trial
from wsipipe.data.cohort.table import read_clinical, read_cohort
from wsipipe.data.errors import InputError, SlideError
from wsipipe.data.interop.qupath import read_annotations
from wsipipe.data.molecular.expression_reading import read_genomics
from wsipipe.data.molecular.gene_sets import read_gmt
from wsipipe.data.slides.finding import existing
from wsipipe.data.slides.ome_xml import OmeXmlError, main_image
from wsipipe.data.slides.readers import open_slide

Withstands = Callable[..., Trial]


def _refused(result: Trial) -> None:
    assert sum(result.refused.values()) == 1, result


# ------------------------------------------------------------------------------------------ tables


def _zeros(header: str, row: str, size: int) -> bytes:
    return gzip.compress((header + row * (size // len(row))).encode(), 1)


def test_tables_that_unpack_to_gigabytes(withstands: Withstands) -> None:
    columns = ",".join(f"P{i}" for i in range(500))
    genes = _zeros(f"gene,{columns}\n", "G" + ",0" * 500 + "\n", 2**27)
    _refused(withstands(read_genomics, genes, "m.csv.gz"))
    cohort = _zeros("slide_id,patient_id,er\n", "S1,P1,x\n", 2**27)
    _refused(withstands(_labels, cohort, "c.csv.gz"))
    _refused(withstands(read_clinical, cohort, "c.csv.gz"))
    _refused(withstands(read_gmt, _zeros("A\tb\tC\n", "A\tb\tC\n", 2**27), "s.gmt.gz"))
    document = gzip.compress(b"[" + b"[0,0]," * (2**27 // 6) + b"0]", 1)
    _refused(withstands(read_annotations, document, "a.geojson.gz"))


def test_a_zipped_document_of_gigabytes(withstands: Withstands) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.geojson", bytes(2**27))
    _refused(withstands(read_annotations, stream.getvalue(), "a.geojson.zip"))


def test_what_is_refused_says_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "c.csv.gz"
    path.write_bytes(_zeros("slide_id,patient_id\n", "S1,P1\n", 2**27))
    with pytest.raises(InputError, match="unpacks to more than 64 MiB") as refused:
        _labels(path)
    assert refused.value.path == str(path)
    assert "gunzip" in refused.value.hint


def test_tables_of_very_many_columns(withstands: Withstands) -> None:
    names = ",".join(f"c{i}" for i in range(300_000))
    text = f"slide_id,patient_id,er,{names}\n" + "S1,P1,positive\n" * 300_000
    withstands(_labels, text.encode(), "c.csv")
    withstands(read_clinical, text.encode(), "c.csv")
    withstands(read_genomics, text.encode(), "m.csv")
    withstands(read_genomics, ("gene" + ",a" * 2_000_000 + "\nG" + ",1" * 2_000_000 + "\n").encode(), "m.csv")


def test_a_parquet_file_of_one_value(withstands: Withstands) -> None:
    stream = io.BytesIO()
    gene = pa.array(["G"] * 1_000_000)
    schema = pa.schema({"gene": pa.string()} | {f"P{i}": pa.float64() for i in range(4)})
    with parquet.ParquetWriter(stream, schema) as writer:
        for _ in range(10):
            writer.write_table(pa.table([gene, *[pa.array(np.zeros(1_000_000))] * 4], schema=schema))
    _refused(withstands(read_genomics, stream.getvalue(), "m.parquet"))


def test_one_long_line(withstands: Withstands) -> None:
    for text in (b"," * 3_000_000, b'"' * 3_000_000, b"\n" * 3_000_000, b"\t1" * 1_500_000):
        for name, reader in (("c.csv", _labels), ("m.csv", read_genomics), ("s.gmt", read_gmt)):
            _refused(withstands(reader, text, name))


# ------------------------------------------------------------------------------------------ annotations


def test_nested_documents(withstands: Withstands) -> None:
    _refused(withstands(_drawn, b"[" * 4_000_000, "a.geojson"))
    for depth in (100, 400, 900, 5000):
        nested = '{"type":"GeometryCollection","geometries":[' * depth + "]}" * depth
        withstands(_drawn, nested.encode(), "a.geojson")
        nested = '{"type":"Feature","geometry":null,"properties":{"childObjects":[' * depth + "]}}" * depth
        withstands(_drawn, nested.encode(), "a.geojson")
        nested = '{"parentClass":' * depth + "{}" + "}" * depth
        text = json.dumps(feature([square(0, 0, 90)], "x")).replace('"x"', nested)
        withstands(_drawn, text.encode(), "a.geojson")


def test_polygons_that_cross_the_slide_very_often(withstands: Withstands) -> None:
    def drawn(path: Path) -> None:
        from wsipipe.data.tiling.annotations import annotated_tissue

        annotated_tissue(read_annotations(path), overview(2500, 2500, 40.0))

    zigzag = [[x % 1000 * 100, x % 2 * 100_000] for x in range(150_000)]
    withstands(drawn, json.dumps(feature([zigzag], "x"), separators=(",", ":")).encode(), "a.geojson")
    many = collection(*(feature([square(0, 0, 100_000)]) for _ in range(10_000)))
    withstands(drawn, json.dumps(many, separators=(",", ":")).encode(), "b.geojson")


# ------------------------------------------------------------------------------------------ pictures


def _png(width: int, height: int, kind: int, channels: int, rows: int | None = None) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = height if rows is None else rows
    packer = zlib.compressobj(1)
    row = bytes(1 + width * channels) if rows else b""
    packed = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_large_pictures_of_nothing(withstands: Withstands) -> None:
    assert withstands(read_all, _png(9_900, 9_900, 6, 4), "a.png").read
    for side in (10_001, 13_000, 30_000, 2**31 - 1):  # refused by what they say, before there is anything to decode
        _refused(withstands(read_all, _png(side, side, 6, 4, rows=0), "a.png"))


def test_a_jpeg_of_absurd_size(withstands: Withstands) -> None:
    whole = bytearray(imagecodecs.jpeg8_encode(np.zeros((16, 16, 3), np.uint8)))
    at = whole.index(b"\xff\xc0")
    whole[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    _refused(withstands(read_all, bytes(whole), "a.jpg"))


# ------------------------------------------------------------------------------------------ slides


def _tiled(side: int, tile: int, stream: bytes, tmp: Path, **tags: object) -> bytes:
    """A TIFF all of whose tiles are one and the same stream."""
    count = (-(-side // tile)) ** 2
    path = tmp / "whole.tif"
    kind = {"tile": (tile, tile), "photometric": "ycbcr", "compression": "jpeg", "metadata": None} | tags
    with tifffile.TiffWriter(path) as writer:
        writer.write(iter([b""] * count), shape=(side, side, 3), dtype=np.uint8, subsampling=(1, 1), **kind)
    content = bytearray(path.read_bytes())
    at = len(content)
    content += stream
    with tifffile.TiffFile(path) as tiff:
        for tag, value in ((324, at), (325, len(stream))):
            entry = tiff.pages[0].tags[tag]
            content[entry.valueoffset : entry.valueoffset + 4 * count] = struct.pack("<I", value) * count
    return bytes(content)


@pytest.mark.parametrize("side", [4_096, 16_384, 32_768])
def test_jpeg_tiles_of_absurd_size(withstands: Withstands, tmp_path: Path, side: int) -> None:
    row = imagecodecs.jpeg8_encode(np.zeros((8, 8, 3), np.uint8), subsampling="444")
    at = row.index(b"\xff\xc0")
    stream = row[: at + 5] + struct.pack(">HH", side, side) + row[at + 9 :]
    for description in (None, APERIO) if side > 4_096 else (None,):
        data = _tiled(side, side, stream, tmp_path, description=description)
        withstands(read_all, data, "a.svs")


@pytest.mark.parametrize("tile", [16, 256])
def test_very_many_tiles(withstands: Withstands, tmp_path: Path, tile: int) -> None:
    stream = imagecodecs.jpeg8_encode(np.zeros((tile, tile, 3), np.uint8), subsampling="444")
    _refused(withstands(read_all, _tiled(tile * 1_000, tile, stream, tmp_path), "a.tif"))


def test_very_many_directories(withstands: Withstands) -> None:
    chain = b"".join(struct.pack("<HI", 0, 8 + 6 * (number + 1)) for number in range(1_000_000))
    _refused(withstands(read_all, b"II*\0\x08\0\0\0" + chain, "a.tif"))


def test_directories_within_one_another(withstands: Withstands) -> None:
    # Each begins two bytes after the one before it, and has as many entries as there are bytes.
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", 60_000) * 4_000_000
    _refused(withstands(read_all, content, "a.tif"))


@pytest.mark.parametrize("size", [2**31 - 1, 10**6, 10**5])
def test_a_slide_larger_than_any(withstands: Withstands, tmp_path: Path, size: int) -> None:
    path = tmp_path / "whole.tif"
    with tifffile.TiffWriter(path) as writer:
        for level in range(2):
            pixels = np.zeros((256, 256, 3), np.uint8)
            writer.write(pixels, tile=(256, 256), photometric="rgb", compression="deflate", subfiletype=level)
    content = path.read_bytes()
    for tag in (256, 257):
        entry = struct.pack("<HHII", tag, 4, 1, 256)
        assert entry in content
        content = content.replace(entry, struct.pack("<HHII", tag, 4, 1, size), 1)
    withstands(read_all, content, "a.tif")


# ------------------------------------------------------------------------------------------ OME-XML


def _described(path: Path) -> None:
    try:
        main_image(path.read_text())
    except OmeXmlError as error:
        raise SlideError(str(error)) from error


def test_ome_xml_of_entities(withstands: Withstands) -> None:
    levels = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    declared = f'<!DOCTYPE OME [<!ENTITY e0 "{"x" * 1000}">{levels}]>'
    text = XML.replace("?>", f"?>{declared}", 1).replace('Name="one"', 'Name="&e9;"')
    _refused(withstands(_described, text.encode(), "a.xml"))


def test_ome_xml_of_very_many_elements(withstands: Withstands) -> None:
    _refused(withstands(_described, b"<OME>" + b"<a>" * 100_000, "a.xml"))
    withstands(_described, b"<OME>" + b"<Image/>" * 100_000 + b"</OME>", "a.xml")


def test_a_picture_within_its_limits_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png(300, 200, 6, 4))
    with open_slide(tmp_path / "a.png") as slide:
        assert (slide.read(0, 0, 0, 300, 200) == 255).all()
        assert slide.unscanned(0, 0, 0, 300, 200).all()


def test_paths_of_a_table_that_cannot_be(tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text(f"slide_id,patient_id,path\nS1,P1,~nobody-of-this-name/S1.svs\nS2,P2,{'x' * 5000}.svs\n")
    paths = read_cohort(table).paths()
    assert [existing(path) for path in paths.values()] == [None, None]
