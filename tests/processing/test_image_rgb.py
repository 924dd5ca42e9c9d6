"""Every Pillow mode becomes RGB without losing or uncovering content."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fastvlm.processing.image_rgb import to_rgb

WHITE = (255, 255, 255)
SLOPE = np.arange(256, dtype=np.uint8).reshape(16, 16)


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


def test_rgb_is_returned_itself() -> None:
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    assert to_rgb(image) is image


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_opaque_modes_are_converted_by_pillow(mode: str) -> None:
    image = Image.merge("RGB", [Image.fromarray(SLOPE)] * 3).convert(mode)
    np.testing.assert_array_equal(pixels(to_rgb(image)), np.asarray(image.convert("RGB")))


def test_lab_becomes_the_colours_it_means() -> None:
    image = Image.merge("LAB", [Image.new("L", (2, 2), level) for level in (255, 128, 128)])
    assert pixels(to_rgb(image)).min() >= 254


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_what_is_transparent_becomes_white_not_its_hidden_colour(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (90, 90, 90, 255))
    converted = image.convert("LA").convert(mode) if mode == "La" else image.convert(mode)
    assert pixels(to_rgb(converted)).tolist() == [[list(WHITE), [90, 90, 90]]]


def test_half_transparent_is_mixed_with_white() -> None:
    assert pixels(to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 128))))[0, 0].tolist() == [127] * 3


@pytest.mark.parametrize(
    ("mode", "hidden", "visible"), [("P", 0, 1), ("L", 0, 200), ("RGB", (255, 0, 0), (0, 9, 0))]
)
def test_a_transparent_colour_becomes_white(mode: str, hidden: object, visible: object) -> None:
    image = Image.new(mode, (2, 1), hidden)  # type: ignore[arg-type]
    if mode == "P":
        image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), visible)  # type: ignore[arg-type]
    image.info["transparency"] = hidden
    result = to_rgb(image)
    assert result.getpixel((0, 0)) == WHITE
    assert result.getpixel((1, 0)) != WHITE


def test_palette_with_levels_of_transparency() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0] * 3)
    image.putdata([0, 1, 2])
    image.info["transparency"] = bytes([0, 128, 255])
    assert pixels(to_rgb(image))[0, :, 0].tolist() == [255, 127, 0]


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    samples = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    result = pixels(to_rgb(Image.fromarray(samples)))
    np.testing.assert_array_equal(result[..., 0], SLOPE)


def test_12_bit_grey_is_scaled_by_its_own_range() -> None:
    image = Image.fromarray(np.array([[0, 2048, 4095]], np.uint16))
    assert pixels(to_rgb(image, grey_bits=12))[0, :, 0].tolist() == [0, 128, 255]


def test_transparent_16_bit_grey_becomes_white() -> None:
    image = Image.fromarray(np.array([[1000, 1001]], np.uint16))
    image.info["transparency"] = 1000
    assert pixels(to_rgb(image))[0, :, 0].tolist() == [255, 3]


def test_floats_within_0_and_1_are_levels() -> None:
    image = Image.fromarray(np.array([[0.25, 0.5]], np.float32))
    assert pixels(to_rgb(image))[0, :, 0].tolist() == [64, 128]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_other_numbers_are_stretched(dtype: type) -> None:
    image = Image.fromarray(np.array([[-1000, 0, 1000]], dtype))
    assert pixels(to_rgb(image))[0, :, 0].tolist() == [0, 128, 255]


def test_one_value_everywhere_is_black_and_no_division_by_zero() -> None:
    assert pixels(to_rgb(Image.fromarray(np.full((2, 2), 7, np.int32)))).max() == 0


def test_what_is_not_finite_becomes_black() -> None:
    nan, inf = float("nan"), float("inf")
    image = Image.fromarray(np.array([[nan, inf, -inf, 0.0, 4.0]], np.float32))
    assert pixels(to_rgb(image))[0, :, 0].tolist() == [0, 0, 0, 0, 255]
    assert pixels(to_rgb(Image.fromarray(np.full((2, 2), nan, np.float32)))).max() == 0


def test_every_exif_orientation_is_undone() -> None:
    upright = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    # Where EXIF says the stored row 0 and column 0 lie, turned into how such a file is stored.
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }
    for orientation, image in stored.items():
        result = to_rgb(image, orientation=orientation)
        np.testing.assert_array_equal(pixels(result), np.asarray(upright), f"{orientation=}")
