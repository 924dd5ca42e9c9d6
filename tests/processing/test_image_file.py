"""Pictures from every source, and every refusal in one clear line."""

from __future__ import annotations

import base64
import io
import os
import warnings
from pathlib import Path

import numpy as np
import picture_files as files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from fastvlm.errors import ConfigError, MediaError, ShapeError
from fastvlm.processing.image_file import ImageLimits, open_image

TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}

SEEDS = [
    files.encoded(image, image_format)
    for image_format in files.FORMATS
    for image in (files.gradient(16, 12), files.gradient(16, 12).convert("P"))
    if image_format not in ("JPEG", "AVIF") or image.mode == "RGB"
]


def assert_alike(image: Image.Image, expected: Image.Image, tolerance: int) -> None:
    assert image.mode == "RGB"
    assert image.size == expected.size
    difference = np.abs(np.asarray(image, np.int16) - np.asarray(expected, np.int16))
    assert difference.mean() <= tolerance


def outcome(data: bytes) -> str:
    """The one error that a file may cause, or nothing."""
    try:
        assert open_image(data).mode == "RGB"
    except MediaError as err:
        return str(err)
    return ""


@pytest.mark.parametrize("image_format", files.FORMATS)
def test_every_format_from_path_bytes_and_data_url(image_format: str, tmp_path: Path) -> None:
    data = files.encoded(files.gradient(), image_format)
    path = tmp_path / "née à Zürich.txt"
    path.write_bytes(data)
    url = "DATA:application/whatever;charset=x;BASE64," + base64.b64encode(data).decode()
    tolerance = 0 if image_format in files.LOSSLESS else 8
    for source in (data, path, str(path), url):
        assert_alike(open_image(source), files.gradient(), tolerance)


def test_pillow_pictures_and_arrays() -> None:
    image = files.gradient()
    array = np.asarray(image)
    assert open_image(image).tobytes() == image.tobytes()
    assert open_image(array).tobytes() == image.tobytes()
    assert open_image(array[:, ::-1]).size == image.size
    assert open_image(array[..., 0]).getpixel((47, 0)) == (255, 255, 255)
    hidden = np.dstack([array, np.zeros(array.shape[:2], np.uint8)])
    assert np.asarray(open_image(hidden)).min() == 255


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_rotated_pictures_are_turned(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = files.gradient().transpose(TURNS[orientation])
    data = files.encoded(stored, image_format, exif=exif)
    assert_alike(open_image(data), files.gradient(), 8)


def test_a_pillow_picture_is_turned_as_its_file_would_be() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = files.encoded(files.gradient(), "JPEG", exif=exif)
    path_result = open_image(data)
    with Image.open(io.BytesIO(data)) as image:
        assert open_image(image).tobytes() == path_result.tobytes()


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_animations_show_their_first_frame(image_format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    data = files.encoded(frames[0], image_format, save_all=True, append_images=frames[1:])
    assert_alike(open_image(data), frames[0], 6)


def test_mpo_shows_its_first_picture() -> None:
    data = files.encoded(
        files.gradient(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))]
    )
    assert_alike(open_image(data), files.gradient(), 8)


def _extended(image_format: str) -> dict[str, object]:
    """Options that make a WebP file of the kind whose header holds the size of the canvas."""
    exif = Image.Exif()
    exif[0x010E] = "caption"
    return {"exif": exif} if image_format == "WEBP" else {}


@pytest.mark.parametrize("image_format", files.FORMATS)
def test_size_limits_hold_before_decoding(image_format: str) -> None:
    """The header promises more than the file holds: decoding first would call it damaged instead."""
    data = files.encoded(files.gradient(), image_format, **_extended(image_format))
    with pytest.raises(MediaError, match=r"image bytes: 9000 x 6000 = 54\.0 million pixels exceed"):
        open_image(files.with_size(data, image_format, 9000, 6000))
    with pytest.raises(MediaError, match=r"16385 x 50 pixels exceed the longest side of 16384"):
        open_image(files.with_size(data, image_format, 16385, 50))


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "TIFF", "BMP"])
def test_raised_limits_never_make_pillow_warn(image_format: str) -> None:
    """Between Pillow's limit and twice that it warns; this must be an error of ours or a picture."""
    data = files.with_size(
        files.encoded(files.gradient(), image_format), image_format, 10_000, 9_999
    )
    with pytest.raises(MediaError, match=r"exceed the limit|damaged or cut short"):
        open_image(data, limits=ImageLimits(max_pixels=150_000_000))


def test_limits_are_settable() -> None:
    data = files.encoded(files.gradient(), "PNG")
    assert open_image(data, limits=ImageLimits(max_pixels=48 * 32, max_edge=48)).size == (48, 32)
    for limits in (ImageLimits(max_pixels=48 * 32 - 1), ImageLimits(max_edge=47)):
        for source in (data, files.gradient(), np.asarray(files.gradient())):
            with pytest.raises(MediaError, match="exceed"):
                open_image(source, limits=limits)
    with pytest.raises(ConfigError, match="max_pixels is 0, expected at least 1"):
        ImageLimits(max_pixels=0)


def test_files_above_max_bytes_are_refused(tmp_path: Path) -> None:
    data = files.encoded(files.gradient(), "BMP")
    path = tmp_path / "big.bmp"
    path.write_bytes(data)
    url = "data:image/bmp;base64," + base64.b64encode(data).decode()
    limits = ImageLimits(max_bytes=len(data) - 4)
    for source, name in ((data, "image bytes"), (path, str(path)), (url, "data URL")):
        with pytest.raises(MediaError) as caught:
            open_image(source, limits=limits)
        assert str(caught.value).startswith(f"{name}: exceeds the limit of {len(data) - 4} bytes")
    assert open_image(url, limits=ImageLimits(max_bytes=len(data))).size == (48, 32)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_an_endless_pipe_is_read_up_to_the_limit() -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("needs /dev/zero")
    with pytest.raises(MediaError, match="/dev/zero: exceeds the limit of 1000 bytes"):
        open_image("/dev/zero", limits=ImageLimits(max_bytes=1000))


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"missing\.png: there is no such file"):
        open_image(tmp_path / "missing.png")
    with pytest.raises(MediaError, match="is a folder, expected a file"):
        open_image(tmp_path)
    with pytest.raises(MediaError, match=r"a\x00b: cannot be read"):
        open_image("a\0b")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png,abc", r"expected data:image/\.\.\.;base64"),
        ("data:image/png;base64", r"expected data:image/\.\.\.;base64"),
        ("data:image/png;base64,!!!!", "its base64 is invalid"),
        ("data:image/png;base64,QUJ D", "its base64 is invalid"),
        ("data:image/png;base64,", r"data URL: is empty \(0 bytes\)"),
    ],
)
def test_bad_data_urls(url: str, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        open_image(url)


@pytest.mark.parametrize(
    "url", ["https://example.org/a.png?token=x", "ftp://a/b", "file:///etc/passwd"]
)
def test_addresses_are_not_fetched(url: str) -> None:
    with pytest.raises(MediaError, match="addresses are not fetched here") as caught:
        open_image(url)
    assert "token" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"%PDF-1.7", "is a PDF document; render its pages"),
        (b"%!PS-Adobe", "is a PostScript document"),
        (b'<?xml version="1.0"?><SVG xmlns="x"/>', "is an SVG drawing; render it"),
        (b"\xef\xbb\xbf <!DOCTYPE html><p>", "is a web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC picture; save it as JPEG"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "is a video; take a frame"),
        (b"\x1aE\xdf\xa3", "is a video"),
        (b"RIFF\0\0\0\0AVI LIST", "is a video"),
        (b"8BPS", "is a Photoshop document"),
        (b"\0\0\0\x0cJXL \r\n", "is a JPEG XL picture"),
        (b"\0\0\0\x0cjP  \r\n", "is a JPEG 2000 picture"),
        (b"PK\3\4", "is a ZIP archive"),
        (b"\x1f\x8b\x08", "is compressed with gzip"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
        (b"just words", "is no picture that can be read; accepted are JPEG, PNG, WebP"),
    ],
)
def test_other_files_are_refused_with_the_way_out(data: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=f"^scan.png: {message}"):
        open_image(data, name="scan.png")


@pytest.mark.parametrize("image_format", files.FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_files_cut_short_are_refused(
    image_format: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    data = files.encoded(files.gradient(), image_format)
    with pytest.raises(MediaError, match=r"^image bytes: .*(cut short|no picture)"):
        open_image(data[: int(len(data) * share)])
    assert capfd.readouterr() == ("", "")


def test_messages_hold_no_addresses_of_objects() -> None:
    refusals = [outcome(data[:cut]) for cut in range(12, 600, 7) for data in SEEDS]
    assert any(refusals)
    assert not [text for text in refusals if "0x" in text or "\n" in text]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), np.float32), r"float32 of shape \[4, 4\] .*round\(\)\.astype\('uint8'\)"),
        (
            np.zeros((3, 5, 6), np.uint8),
            r"uint8 of shape \[3, 5, 6\] is no picture; expected uint8",
        ),
        (np.zeros((4, 4, 1), np.uint8), r"shape \[4, 4, 1\]"),
        (np.zeros((4,), np.uint8), r"shape \[4\]"),
        (np.zeros((4, 4, 3), np.uint16), "uint16"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        open_image(array)


def test_empty_arrays_are_refused() -> None:
    with pytest.raises(MediaError, match="4 x 0 pixels is no picture"):
        open_image(np.zeros((0, 4, 3), np.uint8))


@settings(max_examples=400, deadline=None)
@given(
    data=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    length=st.integers(0, 4000),
)
def test_damaged_files_give_a_picture_or_one_media_error(
    data: bytes, edits: list[tuple[int, int]], length: int
) -> None:
    damaged = bytearray(data)
    for place, value in edits:
        damaged[place % len(damaged)] = value
    refusal = outcome(bytes(damaged[:length]))
    assert not refusal or refusal.startswith("image bytes: ")


def test_nothing_of_pillow_or_python_is_changed() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    open_image(files.encoded(files.gradient(), "PNG"))
    with pytest.raises(MediaError):
        open_image(b"\x89PNG\r\n\x1a\n")
    assert (
        Image.MAX_IMAGE_PIXELS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        list(warnings.filters),
    ) == before
