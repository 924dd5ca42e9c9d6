"""RGB to pixel_values: shapes, token counts and what each mode keeps of a picture."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastvlm.config import ImageMode
from fastvlm.errors import ConfigError, MediaError, ShapeError
from fastvlm.processing.image import ImageProcessor, OutputSize

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def thirds(width: int, height: int) -> Image.Image:
    """Red, green and blue along the longer side."""
    image = Image.new("RGB", (width, height), GREEN)
    if width >= height:
        image.paste(RED, (0, 0, width // 3, height))
        image.paste(BLUE, (width - width // 3, 0, width, height))
    else:
        image.paste(RED, (0, 0, width, height // 3))
        image.paste(BLUE, (0, height - height // 3, width, height))
    return image


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 4099 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def at(pixel_values: np.ndarray, tile: int, x: float, y: float) -> tuple[int, ...]:
    """Colour at a place given as a share of width and height."""
    _, _, height, width = pixel_values.shape
    colour = pixel_values[tile, :, int(y * (height - 1)), int(x * (width - 1))]
    return tuple(int(c) for c in np.rint(colour * 255))


@settings(max_examples=150, deadline=None)
@given(
    mode=st.sampled_from(get_args(ImageMode)),
    image_size=st.sampled_from([64, 65, 100, 128, 192, 256]),
    width=st.integers(1, 400),
    height=st.integers(1, 400),
)
def test_any_picture_gives_the_announced_shape(
    mode: ImageMode, image_size: int, width: int, height: int
) -> None:
    processor = ImageProcessor(mode, image_size)
    pixel_values = processor(noise(width, height))

    tiles, rows, columns = processor.output_size(width, height)
    assert pixel_values.shape == (tiles, 3, rows, columns)
    assert pixel_values.dtype == np.float32
    assert pixel_values.flags.c_contiguous
    assert pixel_values.min() >= 0
    assert pixel_values.max() <= 1
    num_tokens = pixel_values.shape[0] * math.ceil(rows / 64) * math.ceil(columns / 64)
    assert processor.num_tokens(width, height) == num_tokens


@settings(max_examples=300, deadline=None)
@given(
    width=st.integers(1, 20_000), height=st.integers(1, 20_000), image_size=st.integers(64, 2048)
)
def test_native_never_needs_more_tokens_than_the_square(
    width: int, height: int, image_size: int
) -> None:
    size = ImageProcessor("native", image_size).output_size(width, height)
    longest = image_size // 64 * 64
    assert size.height % 64 == 0
    assert size.width % 64 == 0
    assert max(size.height, size.width) <= longest
    assert max(size.height, size.width) <= math.ceil(max(width, height) / 64) * 64


def test_pad_keeps_the_whole_picture_between_black_bars() -> None:
    pixel_values = ImageProcessor("pad", 256)(thirds(300, 100))
    assert [at(pixel_values, 0, x, 0.5) for x in (0.1, 0.5, 0.9)] == [RED, GREEN, BLUE]
    assert at(pixel_values, 0, 0.5, 0.1) == at(pixel_values, 0, 0.5, 0.9) == (0, 0, 0)


def test_pad_of_a_tall_picture_has_bars_left_and_right() -> None:
    pixel_values = ImageProcessor("pad", 256)(thirds(100, 300))
    assert [at(pixel_values, 0, 0.5, y) for y in (0.1, 0.5, 0.9)] == [RED, GREEN, BLUE]
    assert at(pixel_values, 0, 0.1, 0.5) == at(pixel_values, 0, 0.9, 0.5) == (0, 0, 0)


@pytest.mark.parametrize(
    "size", [(700, 300), (300, 700), (301, 700), (64, 64), (3000, 3), (3, 3000)]
)
def test_pad_equals_resizing_the_padded_square(size: tuple[int, int]) -> None:
    """The fast way (no square is held) and the slow way give the same bytes."""
    image = noise(*size)
    side = max(size)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    expected = np.asarray(square.resize((256, 256), Image.Resampling.BICUBIC))
    pixel_values = ImageProcessor("pad", 256)(image)
    np.testing.assert_array_equal(np.rint(pixel_values[0] * 255), expected.transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(16384, 2), (2, 16384)])
def test_pad_of_the_longest_picture_is_a_thin_line(size: tuple[int, int]) -> None:
    pixel_values = ImageProcessor("pad", 64)(Image.new("RGB", size, "white"))
    assert 0 < pixel_values.sum() / pixel_values.size < 0.01


def test_crop_loses_the_ends() -> None:
    pixel_values = ImageProcessor("crop", 256)(thirds(300, 100))
    assert [at(pixel_values, 0, x, 0.5) for x in (0.05, 0.5, 0.95)] == [GREEN] * 3


def test_crop_refuses_what_it_would_enlarge_without_end() -> None:
    processor = ImageProcessor("crop", 1024)
    with pytest.raises(
        MediaError, match=r"3 x 6000 pixels is too long .* 0\.1% of it; use mode pad"
    ):
        processor(thirds(3, 6000))
    with pytest.raises(MediaError, match="use mode pad"):
        processor.num_tokens(3, 6000)


def test_anyres_begins_with_the_whole_picture_squashed_and_goes_row_by_row() -> None:
    processor = ImageProcessor("anyres", 128, ((128 * 3, 128), (128, 128 * 3)))
    pixel_values = processor(thirds(900, 300))
    assert pixel_values.shape == (4, 3, 128, 128)
    assert [at(pixel_values, 0, x, 0.5) for x in (0.1, 0.5, 0.9)] == [RED, GREEN, BLUE]
    assert [at(pixel_values, tile, 0.5, 0.5) for tile in (1, 2, 3)] == [RED, GREEN, BLUE]


def test_anyres_takes_the_grid_of_the_papers_dynamic_variant_by_default() -> None:
    processor = ImageProcessor("anyres", 1024)
    assert processor.output_size(3000, 2000) == OutputSize(5, 1024, 1024)
    assert processor.num_tokens(3000, 2000) == 1280


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1920, 1080), (576, 1024)),  # 16:9 saves 112 of 256 tokens
        ((1080, 1920), (1024, 576)),
        ((4000, 3000), (768, 1024)),
        ((3000, 2000), (704, 1024)),  # 1024 x 683, in 704 rows
        ((500, 300), (320, 512)),  # not enlarged
        ((1, 1), (64, 64)),
        ((6000, 3), (64, 1024)),
    ],
)
def test_native_keeps_the_shape(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert ImageProcessor("native", 1024).output_size(*size) == (1, *expected)


def test_native_copies_small_pictures_pixel_by_pixel() -> None:
    image = noise(100, 50)
    pixel_values = ImageProcessor("native", 1024)(image)
    assert pixel_values.shape == (1, 3, 64, 128)
    inner = pixel_values[0, :, 7:57, 14:114]
    np.testing.assert_array_equal(np.rint(inner * 255), np.asarray(image).transpose(2, 0, 1))
    assert pixel_values.sum() == pytest.approx(inner.sum())


def test_only_the_trained_mode_has_no_caveat() -> None:
    caveats = {mode: ImageProcessor(mode).caveat for mode in get_args(ImageMode)}
    assert [mode for mode, caveat in caveats.items() if caveat is None] == ["pad"]
    assert caveats["native"] == "no released model was trained with pictures that are not square"


def test_the_picture_is_not_changed() -> None:
    image = noise(200, 150)
    before = image.tobytes()
    for mode in get_args(ImageMode):
        ImageProcessor(mode, 128)(image)
    assert image.tobytes() == before


@pytest.mark.parametrize("image_size", [0, 63, 2049, -1])
def test_image_size_out_of_range_is_refused(image_size: int) -> None:
    with pytest.raises(ConfigError, match=f"image_size is {image_size}, expected 64 to 2048"):
        ImageProcessor("pad", image_size)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="'stretch' is not known; expected one of pad, crop"):
        ImageProcessor("stretch")  # type: ignore[arg-type]


@pytest.mark.parametrize("grid", [(1000, 1024), (0, 1024), (-1024, -1024), (7168, 7168)])
def test_grids_that_are_no_whole_tiles_are_refused(grid: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=f"holds {grid[0]} x {grid[1]}; expected 1 to 36 tiles"):
        ImageProcessor("anyres", 1024, (grid,))


def test_other_pictures_than_rgb_are_refused() -> None:
    with pytest.raises(ShapeError, match="mode RGBA, expected RGB"):
        ImageProcessor()(Image.new("RGBA", (8, 8)))


def test_sizes_below_one_pixel_are_refused() -> None:
    with pytest.raises(ShapeError, match="0 x 5"):
        ImageProcessor().output_size(0, 5)
