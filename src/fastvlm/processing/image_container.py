"""What Pillow gets to see of a picture file: the parts that hold pixels, and nothing else.

Pillow parses EXIF, XMP, comments, text chunks and animation tables while it opens a file. Damaged ones make it
warn (through process-wide state that no thread can silence for itself), and inflating ones cost memory. The
functions here recognise a file by its first bytes, note which way up it is, and cut everything away that says
nothing about pixels. They decode nothing and trust no length they read.

Sources: PNG 3rd edition (W3C); JFIF 1.02 and ITU-T T.81 annex B; TIFF 6.0, its technical note 2, and the
BigTIFF design; GIF89a; RFC 9649 (WebP); Exif 2.32 section 4.6.4 (orientation); ISO/IEC 14496-12 section 8.11.6 (item infos).
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from fastvlm.errors import MediaError

ImageFormat: TypeAlias = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]

MAX_JPEG_SCANS: Final = 100
"""A progressive JPEG has about ten; each costs a pass over the whole picture, and can be ten bytes short."""

_TIFF_MAGICS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BMP_HEADER_SIZES: Final = (12, 40, 52, 56, 64, 108, 124)


@dataclass(frozen=True, slots=True)
class PixelFile:
    """A picture file reduced to its pixels.

    Attributes:
        data: the encoded picture without metadata.
        orientation: EXIF orientation 1..8; 1 is upright.
        grey_bits: bits that a grey sample of more than 8 bits really uses.
        canvas: width and height in pixels, where Pillow would allocate or warn before it tells them.
    """

    data: bytes
    orientation: int = 1
    grey_bits: int = 16
    canvas: tuple[int, int] | None = None


def sniff_format(data: bytes) -> ImageFormat | None:
    """The format by its magic numbers, whatever the file is called; None for anything else."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if data.startswith(_TIFF_MAGICS):
        return "TIFF"
    if data[4:8] == b"ftyp" and {b"avif", b"avis"} & ftyp_brands(data):
        return "AVIF"
    return None


def ftyp_brands(data: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO base media file (AVIF, HEIC, MP4, MOV)."""
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[8:12], *(data[i : i + 4] for i in range(16, end, 4))}


def keep_pixels(data: bytes, image_format: ImageFormat) -> PixelFile:
    """Drop metadata from an encoded picture.

    Raises:
        MediaError: the container is damaged beyond reading; the message starts with the format.
    """
    try:
        match image_format:
            case "JPEG":
                return _jpeg(data)
            case "PNG":
                return _png(data)
            case "TIFF":
                return _tiff(data)
            case "GIF":
                return PixelFile(data, canvas=_gif_canvas(data))
            case "WEBP":
                return PixelFile(data, canvas=_webp_canvas(data))
            case "AVIF":
                # An unknown item type is skipped; orientation comes from the irot and imir properties,
                # which outrank EXIF by the standard.
                return PixelFile(
                    re.sub(rb"(infe[\x02\x03].{7,9})Exif", rb"\1skip", data, flags=re.S)
                )
            case _:
                return PixelFile(data)
    except (struct.error, IndexError) as err:
        raise MediaError(f"{image_format} file is cut short in its header") from err


def exif_orientation(exif: bytes) -> int:
    """Orientation 1..8 of an EXIF block; 1 (upright) if it is absent, invalid or unreadable."""
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        layout = _TiffLayout.of(exif)
        for tag, kind, count, value in layout.entries(exif):
            if tag == _ORIENTATION and kind in (_SHORT, _LONG) and count == 1:
                orientation = layout.scalar(kind, value)
                return orientation if 1 <= orientation <= 8 else 1
    except (MediaError, struct.error):
        pass  # Broken EXIF is common and says nothing about the pixels, which viewers show as stored.
    return 1


def _jpeg(data: bytes) -> PixelFile:
    """Keep tables, frame and scans; of the application segments only JFIF and Adobe, which tell colours."""
    kept = [data[:2]]
    orientation = 1
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            raise MediaError("JPEG file is cut short before its first scan")
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:
            at += 1 if marker == 0xFF else 2  # fill bytes and markers without a length
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            break
        if marker == 0xE1 and orientation == 1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = exif_orientation(data[at + 4 : end])
        is_metadata = 0xE1 <= marker <= 0xEF and marker != 0xEE
        if not is_metadata and marker != 0xFE:
            kept.append(data[at:end])
        at = end
    scans = data[at:]
    # Within the samples of a scan 0xFF is always followed by 0x00 or a restart marker.
    if (num_scans := scans.count(b"\xff\xda")) > MAX_JPEG_SCANS:
        raise MediaError(f"JPEG file has {num_scans} scans, more than {MAX_JPEG_SCANS}")
    return PixelFile(b"".join((*kept, scans)), orientation)


def _png(data: bytes) -> PixelFile:
    """Keep the four critical chunks and tRNS; of an animation that leaves the default picture."""
    kept = [data[:8]]
    orientation = 1
    at = 8
    depth_and_colour = b""
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        end = at + 12 + length
        chunk = data[at:end]
        if kind == b"IHDR":
            depth_and_colour = chunk[16:18]
        if kind == b"eXIf":
            orientation = exif_orientation(chunk[8:-4])
        elif kind == b"tRNS":
            kept.append(_scaled_trns(chunk, depth_and_colour))
        elif kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            kept.append(chunk)
        at = end
    return PixelFile(b"".join(kept), orientation)


def _scaled_trns(chunk: bytes, depth_and_colour: bytes) -> bytes:
    """Bring the transparent colour to the 8 bits that Pillow turns 2-, 4- and 16-bit samples into.

    Pillow compares it unscaled, so that the colour would never be found and stay visible.
    """
    samples = chunk[8:-4]
    match tuple(depth_and_colour):
        case (2, 0):
            scaled = bytes((0, (samples[1] & 0x03) * 85))
        case (4, 0):
            scaled = bytes((0, (samples[1] & 0x0F) * 17))
        case (16, 2):
            scaled = bytes((0, samples[0], 0, samples[2], 0, samples[4]))
        case _:
            return chunk
    body = b"tRNS" + scaled
    return struct.pack(">I", len(scaled)) + body + struct.pack(">I", zlib.crc32(body))


def _gif_canvas(data: bytes) -> tuple[int, int]:
    """Screen size, enlarged to the first frame where that one reaches beyond it."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + ((3 << ((flags & 7) + 1)) if flags & 0x80 else 0)  # behind the palette
    while (
        data[at] == 0x21
    ):  # an extension: label, then blocks that each say their length, then a zero
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    if data[at] != 0x2C:
        raise MediaError("GIF file holds no frame")
    left, top, frame_width, frame_height = struct.unpack_from("<4H", data, at + 1)
    return max(width, left + frame_width), max(height, top + frame_height)


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """Size of the canvas, which the animation decoder allocates twice when it is opened."""
    match data[12:16]:
        case b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        case _:
            raise MediaError("WEBP file is damaged: it begins with no picture")
    return width, height


_SHORT: Final = 3
_LONG: Final = 4
_BITS_PER_SAMPLE: Final = 258
_ORIENTATION: Final = 274
_SAMPLES_PER_PIXEL: Final = 277
_TILE_WIDTH: Final = 322
_TILE_LENGTH: Final = 323

_SCALAR_TAGS: Final = frozenset(
    (
        256,
        257,
        259,
        262,
        266,
        _SAMPLES_PER_PIXEL,
        278,
        284,
        292,
        293,
        317,
        _TILE_WIDTH,
        _TILE_LENGTH,
        332,
    )
)
"""Size, compression, colour meaning, bit order, samples, strips, planes, fax options, predictor, tiles, inks."""

_PIXEL_TAGS: Final = _SCALAR_TAGS | frozenset(
    # Bit depths, strip and tile tables, palette, kinds of samples, JPEG tables, YCbCr and its ranges.
    (_BITS_PER_SAMPLE, 273, 279, 320, 324, 325, 338, 339, 347, *range(512, 522), *range(529, 533))
)

_TYPE_SIZES: Final = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
"""Bytes of one value by TIFF type number; 0 for numbers that no type has."""

_MAX_SAMPLES_PER_PIXEL: Final = 6
"""Pillow reads no more, and logs an error beside the one it raises."""

_MAX_TILE_PIXELS: Final = 1 << 26
"""libtiff allocates one whole tile, however small the picture is."""


@dataclass(frozen=True, slots=True)
class _TiffLayout:
    """How a classic TIFF or BigTIFF writes numbers; `value` fields hold data or, if too long, its place."""

    order: str
    is_big: bool
    first_ifd: int

    @classmethod
    def of(cls, data: bytes) -> _TiffLayout:
        if data[:4] not in _TIFF_MAGICS:
            raise MediaError("TIFF file has an unknown header")
        order = "<" if data[:2] == b"II" else ">"
        is_big = 43 in data[2:4]
        (first_ifd,) = struct.unpack_from(order + ("8xQ" if is_big else "4xI"), data)
        return cls(order, is_big, first_ifd)

    @property
    def entry(self) -> struct.Struct:
        return struct.Struct(self.order + ("HHQ8s" if self.is_big else "HHI4s"))

    @property
    def count(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.is_big else "H"))

    def entries(self, data: bytes) -> list[tuple[int, int, int, bytes]]:
        """Tag, type, number of values and value field of each entry of the first directory."""
        if self.first_ifd > len(data):
            raise MediaError("TIFF file is cut short: its directory lies behind its end")
        (num_entries,) = self.count.unpack_from(data, self.first_ifd)
        start = self.first_ifd + self.count.size
        if start + num_entries * self.entry.size > len(data):
            raise MediaError("TIFF file is cut short: its directory reaches behind its end")
        return [
            self.entry.unpack_from(data, start + i * self.entry.size) for i in range(num_entries)
        ]

    def scalar(self, kind: int, value: bytes) -> int:
        return struct.unpack_from(self.order + {1: "B", _SHORT: "H", _LONG: "I"}[kind], value)[0]

    def is_inside(self, data: bytes, num_bytes: int, value: bytes) -> bool:
        """Whether the values of an entry, so many bytes long, lie within the file."""
        if num_bytes <= len(value):
            return True
        (place,) = struct.unpack(self.order + ("Q" if self.is_big else "I"), value)
        return place + num_bytes <= len(data)


def _tiff(data: bytes) -> PixelFile:
    """Append a directory of the first page with nothing but pixel tags, and let the header point to it."""
    layout = _TiffLayout.of(data)
    kept: dict[int, bytes] = {}
    scalars: dict[int, int] = {}
    for tag, kind, count, value in layout.entries(data):
        num_bytes = count * (_TYPE_SIZES[kind] if kind < len(_TYPE_SIZES) else 0)
        if num_bytes == 0 or (tag not in _PIXEL_TAGS and tag != _ORIENTATION):
            continue
        if not layout.is_inside(data, num_bytes, value):
            raise MediaError(f"TIFF file is damaged: tag {tag} points outside the file")
        if count == 1 and kind in (1, _SHORT, _LONG):
            scalars[tag] = layout.scalar(kind, value)
        elif tag in _SCALAR_TAGS:
            raise MediaError(f"TIFF file is damaged: tag {tag} is no single whole number")
        if tag != _ORIENTATION:
            kept.setdefault(tag, layout.entry.pack(tag, kind, count, value))
    if scalars.get(_TILE_WIDTH, 0) * scalars.get(_TILE_LENGTH, 0) > _MAX_TILE_PIXELS:
        raise MediaError(
            f"TIFF file has tiles of {scalars[_TILE_WIDTH]} x {scalars[_TILE_LENGTH]} pixels"
        )
    if (num_samples := scalars.get(_SAMPLES_PER_PIXEL, 1)) > _MAX_SAMPLES_PER_PIXEL:
        raise MediaError(
            f"TIFF file has {num_samples} samples per pixel, expected at most {_MAX_SAMPLES_PER_PIXEL}"
        )
    place = len(data) + len(data) % 2
    header = (
        data[:8] + struct.pack(layout.order + "Q", place)
        if layout.is_big
        else data[:4] + struct.pack(layout.order + "I", place)
    )
    directory = layout.count.pack(len(kept)) + b"".join(kept[tag] for tag in sorted(kept))
    clean = header + data[len(header) :] + bytes(len(data) % 2) + directory + bytes(8)
    orientation = scalars.get(_ORIENTATION, 1)
    return PixelFile(
        clean,
        orientation if 1 <= orientation <= 8 else 1,
        grey_bits=min(scalars.get(_BITS_PER_SAMPLE, 16), 16),
    )
