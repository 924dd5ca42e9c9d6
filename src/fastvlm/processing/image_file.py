"""A picture from wherever it comes, as upright 8-bit RGB, with every limit checked before anything is decoded.

What is accepted and what is refused stands in docs/images.md. Addresses are not fetched here: that is a
decision of whoever talks to the user (`processing.image_url` does it for the command line).
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from fastvlm.errors import ConfigError, MediaError, ShapeError
from fastvlm.messages import ImageSource
from fastvlm.processing.image_container import (
    ImageFormat,
    exif_orientation,
    ftyp_brands,
    keep_pixels,
    sniff_format,
)
from fastvlm.processing.image_rgb import to_rgb

_READERS: Final[dict[ImageFormat, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImageFile,  # also of MPO files, whose first picture is an ordinary JPEG
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "AVIF": AvifImageFile,
}
"""Called directly instead of through `Image.open`, whose size check warns through process-wide state."""

ACCEPTED_FORMATS: Final = "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF"

_PILLOW_ERRORS: Final = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    ImportError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's readers are known to raise on damaged files; they promise no common base."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How large a picture may be; larger ones are refused from their header."""

    max_pixels: int = 40_000_000
    """Width times height. Pillow holds 4 bytes a pixel, and up to four copies live at once."""
    max_bytes: int = 20 * 1024 * 1024
    """Length of the encoded file."""
    max_edge: int = 16384
    """Longer side in pixels."""

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_bytes", "max_edge"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name} is {value}, expected at least 1")


DEFAULT_LIMITS: Final = ImageLimits()


def open_image(
    source: ImageSource, *, limits: ImageLimits = DEFAULT_LIMITS, name: str | None = None
) -> Image.Image:
    """Open a picture as upright RGB; of an animation or of several pages the first one.

    Args:
        source: a path, a base64 `data:` URL, the bytes of a file, a Pillow picture, or an array of uint8
            [H, W] (grey), [H, W, 3] (RGB) or [H, W, 4] (RGBA).
        limits: checked before decoding.
        name: what error messages call the picture; by default its path, or what kind of source it is.

    Raises:
        MediaError: missing, damaged, too large, or no picture; the message begins with the name.
        ShapeError: an array of another shape or dtype.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, limits, name or "array")
    if isinstance(source, Image.Image):
        return _from_pillow(source, limits, name or "Pillow picture")
    if isinstance(source, bytes):
        return _decode(source, limits, name or "image bytes")
    if isinstance(source, str):
        if source[:5].lower() == "data:":
            return _decode(_data_url_bytes(source, limits, name), limits, name or "data URL")
        if re.match(r"[a-z][a-z0-9+.-]*://", source, re.IGNORECASE):
            shown = name or source.partition("?")[0]
            raise MediaError(
                f"{shown}: addresses are not fetched here; download the picture and pass its path or bytes"
            )
    if not isinstance(source, str | Path):
        raise ShapeError(
            f"{name or 'picture'}: {type(source).__name__} is no picture; expected a path, bytes, a Pillow "
            "picture or a uint8 array"
        )
    return _decode(_file_bytes(Path(source), limits, name), limits, name or str(source))


def _from_array(array: NDArray[np.generic], limits: ImageLimits, name: str) -> Image.Image:
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or array.shape[2:] not in ((), (3,), (4,))
    ):
        way_out = (
            "; floats in 0..1 become uint8 by (array * 255).round().astype('uint8')"
            if array.dtype.kind == "f"
            else ""
        )
        raise ShapeError(
            f"{name}: {array.dtype} of shape {list(array.shape)} is no picture; expected uint8 "
            f"[H, W], [H, W, 3] (RGB) or [H, W, 4] (RGBA){way_out}"
        )
    _check_size(array.shape[1], array.shape[0], limits, name)
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def _from_pillow(image: Image.Image, limits: ImageLimits, name: str) -> Image.Image:
    _check_size(*image.size, limits, name)
    try:
        image.load()
        exif = image.info.get("exif")
        return to_rgb(image, orientation=exif_orientation(exif) if isinstance(exif, bytes) else 1)
    except _PILLOW_ERRORS as err:
        raise MediaError(f"{name}: cannot be decoded ({_reason(err)})") from err


def _file_bytes(path: Path, limits: ImageLimits, name: str | None) -> bytes:
    """Read a file, or a pipe, but never more than the limit and one byte."""
    shown = name or str(path)
    try:
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except FileNotFoundError as err:
        raise MediaError(f"{shown}: there is no such file") from err
    except (OSError, ValueError) as err:  # ValueError: a zero byte in the path
        what = (
            "is a folder, expected a file" if path.is_dir() else f"cannot be read ({_reason(err)})"
        )
        raise MediaError(f"{shown}: {what}") from err
    return data


def _data_url_bytes(url: str, limits: ImageLimits, name: str | None) -> bytes:
    """Decode `data:[type][;name=value];base64,...`; the media type is ignored, since the bytes tell it."""
    shown = name or "data URL"
    header, comma, payload = url.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise MediaError(f"{shown}: expected data:image/...;base64,... with the file in base64")
    if len(payload) > (limits.max_bytes + 2) // 3 * 4:
        raise MediaError(f"{shown}: {_too_many_bytes(limits)}")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as err:
        raise MediaError(f"{shown}: its base64 is invalid ({_reason(err)})") from err


def _decode(data: bytes, limits: ImageLimits, name: str) -> Image.Image:
    if len(data) > limits.max_bytes:
        raise MediaError(f"{name}: {_too_many_bytes(limits)}")
    image_format = sniff_format(data)
    if image_format is None:
        raise MediaError(f"{name}: {_refusal(data)}")
    if image_format in ("TIFF", "GIF") and Image.MAX_IMAGE_PIXELS is not None:
        # These two readers hold on to Pillow's own limit (89 million) and would warn beyond it.
        limits = replace(limits, max_pixels=min(limits.max_pixels, Image.MAX_IMAGE_PIXELS))
    try:
        file = keep_pixels(data, image_format)
    except MediaError as err:
        raise MediaError(f"{name}: {err}") from err
    if file.canvas is not None:
        _check_size(*file.canvas, limits, name)
    try:
        with _READERS[image_format](io.BytesIO(file.data)) as image:
            _check_size(*image.size, limits, name)
            image.load()
            exif = image.info.get("exif") if image_format in ("WEBP", "AVIF") else None
            orientation = exif_orientation(exif) if isinstance(exif, bytes) else file.orientation
            return to_rgb(image, orientation=orientation, grey_bits=file.grey_bits)
    except MediaError:
        raise
    except _PILLOW_ERRORS as err:
        raise MediaError(
            f"{name}: the {image_format} file is damaged or cut short ({_reason(err)})"
        ) from err


def _check_size(width: int, height: int, limits: ImageLimits, name: str) -> None:
    if width < 1 or height < 1:
        raise MediaError(f"{name}: {width} x {height} pixels is no picture")
    if max(width, height) > limits.max_edge:
        raise MediaError(
            f"{name}: {width} x {height} pixels exceed the longest side of {limits.max_edge}; "
            "scale the picture down or raise max_edge"
        )
    if width * height > limits.max_pixels:
        raise MediaError(
            f"{name}: {width} x {height} = {width * height / 1e6:.1f} million pixels exceed the limit of "
            f"{limits.max_pixels / 1e6:.1f} million; scale the picture down or raise max_pixels"
        )


def _too_many_bytes(limits: ImageLimits) -> str:
    return (
        f"exceeds the limit of {limits.max_bytes} bytes; scale the picture down, save it as JPEG, "
        "or raise max_bytes"
    )


def _reason(err: BaseException) -> str:
    """A foreign exception in a few words, without line breaks, object addresses or paths."""
    if isinstance(err, OSError) and err.strerror:
        return err.strerror.lower()
    words = re.sub(r"<[^>]*>|0x[0-9a-fA-F]+", "...", " ".join(str(err).split()))[:100]
    return words or type(err).__name__


_OTHERS: Final[tuple[tuple[int, tuple[bytes, ...], str], ...]] = (
    (
        0,
        (b"%PDF-",),
        "is a PDF document; render its pages to pictures first, e.g. pdftoppm -png -r 150",
    ),
    (0, (b"%!PS", b"\xc5\xd0\xd3\xc6"), "is a PostScript document; render it to PNG first"),
    (0, (b"8BPS",), "is a Photoshop document; export it as PNG or JPEG"),
    (0, (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"), "is a JPEG 2000 picture; save it as PNG or JPEG"),
    (0, (b"\0\0\0\x0cJXL ", b"\xff\x0a"), "is a JPEG XL picture; save it as PNG or JPEG"),
    (0, (b"\0\0\1\0",), "is an icon file; save it as PNG"),
    (0, (b"\x1aE\xdf\xa3", b"\0\0\1\xba"), "is a video; take a frame as picture first"),
    (8, (b"AVI ",), "is a video; take a frame as picture first"),
    (0, (b"PK\3\4",), "is a ZIP archive or office document; unpack it or export pictures"),
    (0, (b"\x1f\x8b",), "is compressed with gzip; unpack it first"),
    (0, (b"version https://git-lfs",), "is a Git LFS pointer, not the picture; run git lfs pull"),
)
"""Place and first bytes of files that people pass by mistake, and the way out."""


def _refusal(data: bytes) -> str:
    """What this file is instead of an accepted picture, and what to do about it."""
    if not data:
        return "is empty (0 bytes)"
    for place, magics, what in _OTHERS:
        if data[place:].startswith(magics):
            return what
    if data[4:8] == b"ftyp":
        if ftyp_brands(data) & {b"heic", b"heix", b"heif", b"mif1", b"msf1", b"hevc"}:
            return "is a HEIC picture; save it as JPEG (on an iPhone: Settings, Camera, Most Compatible)"
        return "is a video; take a frame as picture first"
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return "is an SVG drawing; render it to PNG first, e.g. rsvg-convert in.svg -o out.png"
    if head.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not a picture; use the address of the picture itself"
    return f"is no picture that can be read; accepted are {ACCEPTED_FORMATS}"
