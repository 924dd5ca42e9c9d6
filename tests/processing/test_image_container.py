"""What is cut out of a picture file before Pillow sees it."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import picture_files as files
import pytest
from PIL import Image

from fastvlm.errors import MediaError
from fastvlm.processing.image_container import (
    MAX_JPEG_SCANS,
    exif_orientation,
    keep_pixels,
    sniff_format,
)


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010E] = "a caption that nobody needs"
    return block


@pytest.mark.parametrize("image_format", files.FORMATS)
def test_formats_are_recognised_by_content(image_format: str) -> None:
    assert sniff_format(files.encoded(files.gradient(), image_format)) == image_format


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"BM",
        b"BMW is a car",
        b"RIFF1234AVI ",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"%PDF-1.7",
    ],
)
def test_other_content_is_not_recognised(data: bytes) -> None:
    assert sniff_format(data) is None


@pytest.mark.parametrize("image_format", files.FORMATS)
def test_pixels_stay_the_same(image_format: str) -> None:
    data = files.encoded(files.gradient(), image_format)
    stripped = keep_pixels(data, sniff_format(data)).data  # type: ignore[arg-type]
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(stripped)) as after:
        np.testing.assert_array_equal(np.asarray(after), np.asarray(before))


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("JPEG", {"comment": b"secret place", "xmp": b"secret place"}),
        ("JPEG", {"icc_profile": b"secret place" * 9000}),
        ("PNG", {"icc_profile": b"secret place"}),
    ],
)
def test_metadata_is_gone(image_format: str, options: dict[str, object]) -> None:
    data = files.encoded(files.gradient(), image_format, exif=exif(6), **options)
    file = keep_pixels(data, image_format)  # type: ignore[arg-type]
    assert b"nobody needs" in data
    assert b"nobody needs" not in file.data
    assert b"secret place" not in file.data
    assert file.orientation == 6


def test_tags_of_a_tiff_that_say_nothing_about_pixels_are_gone() -> None:
    data = files.encoded(files.gradient(), "TIFF", exif=exif(8), compression="tiff_lzw")
    file = keep_pixels(data, "TIFF")
    assert file.orientation == 8
    with Image.open(io.BytesIO(file.data)) as image:
        assert set(image.tag_v2) <= {256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317}


def test_jpeg_keeps_what_tells_its_colours() -> None:
    cmyk = files.encoded(files.gradient().convert("CMYK"), "JPEG")
    assert b"Adobe" in keep_pixels(cmyk, "JPEG").data


def test_jpeg_with_hundreds_of_scans_is_refused() -> None:
    data = files.encoded(files.gradient(), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    slow = data[:-2] + scan * MAX_JPEG_SCANS + b"\xff\xd9"
    with pytest.raises(MediaError, match=r"JPEG file has 1\d\d scans, more than 100"):
        keep_pixels(slow, "JPEG")


def test_a_text_chunk_that_inflates_is_not_inflated() -> None:
    bomb = files.png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
    data = files.png(1, 1, 8, 0, bomb, rows=b"\0\x07")
    assert len(keep_pixels(data, "PNG").data) < 100


@pytest.mark.parametrize(
    ("depth", "colour", "trns", "row"),
    [
        (2, 0, b"\0\x01", b"\0\x50"),  # levels 1, 1, 0, 0
        (4, 0, b"\0\x05", b"\0\x55\x00"),
        (16, 2, b"\x12\x34" * 3, b"\0" + b"\x12\x34" * 3 * 2 + bytes(12)),
    ],
)
def test_the_transparent_colour_is_found_at_every_depth(
    depth: int, colour: int, trns: bytes, row: bytes
) -> None:
    data = files.png(4, 1, depth, colour, files.png_chunk(b"tRNS", trns), rows=row)
    with Image.open(io.BytesIO(keep_pixels(data, "PNG").data)) as image:
        alpha = np.asarray(image.convert("RGBA"))[0, :, 3]
    assert alpha.tolist() == [0, 0, 255, 255]


def test_gif_canvas_covers_a_frame_beyond_the_screen() -> None:
    data = bytearray(files.encoded(files.gradient(20, 10), "GIF", comment=b"hello"))
    frame = data.index(b"\x2c\0\0\0\0\x14\0\x0a\0")
    struct.pack_into("<HH", data, frame + 1, 60_000, 3)
    assert keep_pixels(bytes(data), "GIF").canvas == (60_020, 13)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["H", "I"])
def test_orientation_is_read_in_both_byte_orders(order: str, kind: str) -> None:
    number = 3 if kind == "H" else 4
    block = struct.pack(
        order + "2sHIHHHI" + kind + ("2x" if kind == "H" else "") + "I",
        *(b"II" if order == "<" else b"MM", 42, 8, 1, 0x0112, number, 1, 5, 0),
    )
    assert exif_orientation(block) == 5
    assert exif_orientation(b"Exif\0\0" + block) == 5


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_invalid_orientation_is_upright(value: int) -> None:
    block = struct.pack("<2sHIHHHIH2xI", b"II", 42, 8, 1, 0x0112, 3, 1, value, 0)
    assert exif_orientation(block) == 1


@pytest.mark.parametrize("length", range(0, 22, 3))
def test_broken_exif_is_upright(length: int) -> None:
    block = struct.pack("<2sHIHHHIH2xI", b"II", 42, 8, 1, 0x0112, 3, 1, 6, 0)
    assert exif_orientation(block[:length]) == 1


@pytest.mark.parametrize("is_big", [False, True])
def test_tiff_of_both_sizes(is_big: bool) -> None:
    data = files.encoded(files.gradient(), "TIFF", big_tiff=is_big)
    assert (data[2] == 43) == is_big
    with Image.open(io.BytesIO(keep_pixels(data, "TIFF").data)) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(files.gradient()))


def test_tiff_with_a_giant_tile_is_refused() -> None:
    tags = ((256, 9), (257, 9), (322, 65536), (323, 65536))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    with pytest.raises(MediaError, match="tiles of 65536 x 65536 pixels"):
        keep_pixels(data, "TIFF")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((256, 4, 2, 8), "tag 256 is no single whole number"),
        ((273, 4, 9, 4_000_000_000), "tag 273 points outside the file"),
        ((277, 3, 1, 7), "7 samples per pixel, expected at most 6"),
    ],
)
def test_damaged_tiff_tags_are_named(entry: tuple[int, int, int, int], message: str) -> None:
    data = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHII", *entry) + bytes(4)
    with pytest.raises(MediaError, match=message):
        keep_pixels(data, "TIFF")


@pytest.mark.parametrize(
    ("image_format", "data"),
    [
        ("JPEG", b"\xff\xd8\xff\xe0\x00\x10JFIF"),
        ("TIFF", b"II*\0\xff\xff\xff\x7f"),
        ("TIFF", b"II*\0\x08"),
        ("GIF", b"GIF89a"),
    ],
)
def test_files_cut_in_the_header_say_so(image_format: str, data: bytes) -> None:
    with pytest.raises(MediaError, match=f"^{image_format} file is cut short"):
        keep_pixels(data, image_format)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"xmp": b"<x/>"}])
def test_webp_canvas_is_read_from_every_kind_of_header(options: dict[str, object]) -> None:
    data = files.encoded(files.gradient(123, 45), "WEBP", **options)
    assert keep_pixels(data, "WEBP").canvas == (123, 45)
