"""Small encoded pictures for tests, written by Pillow."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
LOSSLESS = ("PNG", "BMP", "TIFF")


def gradient(width: int = 48, height: int = 32) -> Image.Image:
    """Red grows to the right, green downwards: every turn of it looks different."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    levels = np.stack([red, green, np.full_like(red, 60)], axis=2)
    return Image.fromarray(levels.astype(np.uint8))


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, depth: int, colour: int, *chunks: bytes, rows: bytes = b""
) -> bytes:
    """A PNG by hand: `rows` are the unfiltered samples, each row after its filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            *chunks,
            png_chunk(b"IDAT", zlib.compress(rows)),
            png_chunk(b"IEND", b""),
        )
    )


def with_size(data: bytes, image_format: str, width: int, height: int) -> bytes:
    """The same file, whose header lies about its size."""
    file = bytearray(data)
    match image_format:
        case "JPEG":
            place = next(
                i for i in range(len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2)
            )
            struct.pack_into(">HH", file, place + 5, height, width)
        case "PNG":
            struct.pack_into(">II", file, 16, width, height)
            struct.pack_into(">I", file, 29, zlib.crc32(file[12:29]))
        case "WEBP":  # an extended file, whose canvas the animation decoder takes from here
            file[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        case "GIF":
            struct.pack_into("<HH", file, 6, width, height)
        case "BMP":
            struct.pack_into("<ii", file, 18, width, height)
        case "TIFF":
            (place,) = struct.unpack_from("<I", data, 4)
            (num_entries,) = struct.unpack_from("<H", data, place)
            for entry in range(place + 2, place + 2 + 12 * num_entries, 12):
                if (tag := struct.unpack_from("<H", data, entry)[0]) in (256, 257):
                    struct.pack_into("<HII", file, entry + 2, 4, 1, width if tag == 256 else height)
        case "AVIF":
            struct.pack_into(">II", file, data.index(b"ispe") + 8, width, height)
    return bytes(file)
