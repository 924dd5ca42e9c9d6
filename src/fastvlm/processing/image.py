"""RGB to pixel_values: how a picture of any shape becomes what the vision tower takes.

| mode | what happens | tokens at 1024 |
|---|---|---|
| `pad` | centred on a black square, then resized: as the released models were trained | 256 |
| `crop` | shorter side resized, middle cut out: as the transformers port does; the ends are lost | 256 |
| `anyres` | the whole picture squashed, then tiles of an enlarged one | 256 for each of them |
| `native` | only shrunk, with at most 63 black pixels a side | up to 256 |

Pixels are RGB / 255 and nothing else: the released models have mean 0 and standard deviation 1. Resizing is
Pillow's bicubic, whose antialiasing is part of the numbers.
REF: llava/mm_utils.py (expand2square, process_anyres_image) and llava/model/multimodal_encoder/
mobileclip_encoder.py (CLIPImageProcessor, crop size = shortest edge = image size).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastvlm.config import (
    MAX_IMAGE_SIZE,
    MIN_IMAGE_SIZE,
    PATCH_STRIDE,
    ImageMode,
    num_image_tokens,
)
from fastvlm.errors import ConfigError, MediaError, ShapeError

MAX_TILES: Final = 36
"""Most tiles of one anyres grid, which makes 9216 tokens at 1024."""

_MAX_CROP_PIXELS: Final = 100_000_000
"""Size in pixels up to which `crop` enlarges a picture before it keeps the middle of it."""
_BAND_ROWS: Final = 128
"""Rows that are widened at a time; measured fastest of 64 to 512 for 12 million pixels."""

_CAVEATS: Final[dict[ImageMode, str]] = {
    "crop": "what lies outside the middle square is not seen, and the released models were trained with pad",
    "anyres": "no released model was trained with tiles",
    "native": "no released model was trained with pictures that are not square",
}


class OutputSize(NamedTuple):
    """Shape of pixel_values without its channels."""

    tiles: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """Turns RGB pictures into pixel_values in one fixed way.

    Example:
        >>> processor = ImageProcessor("pad", 1024)
        >>> processor.output_size(width=4000, height=3000)
        OutputSize(tiles=1, height=1024, width=1024)
        >>> processor.num_tokens(width=4000, height=3000)
        256
    """

    mode: ImageMode = "pad"
    """How the shape is changed; see the table above."""
    image_size: int = 1024
    """Pixels per side of the square, of one tile (anyres), or of the longer side (native); 64 to 2048."""
    image_grid_pinpoints: tuple[tuple[int, int], ...] = ()
    """Width and height in pixels of the grids anyres may choose from; empty means 2 x 2 tiles, as in the
    paper (section 3.2.2). Other modes ignore it."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(ImageMode):
            raise ConfigError(
                f"image mode {self.mode!r} is not known; expected one of {', '.join(get_args(ImageMode))}"
            )
        if not MIN_IMAGE_SIZE <= self.image_size <= MAX_IMAGE_SIZE:
            raise ConfigError(
                f"image_size is {self.image_size}, expected {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels"
            )
        for width, height in self.image_grid_pinpoints:
            num_tiles = (width // self.image_size) * (height // self.image_size) if width > 0 else 0
            if (
                width % self.image_size
                or height % self.image_size
                or not 1 <= num_tiles <= MAX_TILES
            ):
                raise ConfigError(
                    f"image_grid_pinpoints holds {width} x {height}; expected 1 to {MAX_TILES} tiles of "
                    f"image_size {self.image_size}, e.g. {2 * self.image_size} x {self.image_size}"
                )

    @property
    def caveat(self) -> str | None:
        """Why released weights may answer worse in this mode; None for the one they were trained with."""
        return _CAVEATS.get(self.mode)

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Prepare one picture.

        Args:
            image: upright RGB, as `processing.image_file.open_image` gives it.

        Shape:
            W x H pixels -> [tiles, 3, height, width] of `output_size(W, H)`, RGB in 0..1, C-contiguous

        Raises:
            ShapeError: the picture is not RGB.
            MediaError: `crop` of a picture that is extremely long.
        """
        if image.mode != "RGB":
            raise ShapeError(
                f"picture has mode {image.mode}, expected RGB; open it with processing.image_file.open_image"
            )
        size = self.output_size(*image.size)
        match self.mode:
            case "pad":
                views = [_pad(image, self.image_size)]
            case "crop":
                views = [_crop(image, self.image_size)]
            case "anyres":
                views = _tiles(image, self._best_grid(*image.size), self.image_size)
            case "native":
                views = [_shrink(image, self.image_size)]
        return _pixel_values(views, size)

    def output_size(self, width: int, height: int) -> OutputSize:
        """Tiles, height and width of pixel_values for a picture of this many pixels, without opening it.

        Raises:
            ShapeError: a side is less than one pixel.
            MediaError: `crop` of a picture that is extremely long.
        """
        if width < 1 or height < 1:
            raise ShapeError(f"picture of {width} x {height} pixels; expected at least 1 x 1")
        if self.mode == "native":
            return _native_size(width, height, self.image_size)
        tiles = 1
        if self.mode == "anyres":
            grid_width, grid_height = self._best_grid(width, height)
            tiles += (grid_width // self.image_size) * (grid_height // self.image_size)
        if self.mode == "crop":
            _size_before_crop(width, height, self.image_size)
        return OutputSize(tiles, self.image_size, self.image_size)

    def num_tokens(self, width: int, height: int) -> int:
        """Image tokens of a picture of this many pixels, its tiles together."""
        size = self.output_size(width, height)
        return size.tiles * num_image_tokens(size.height, size.width)

    def _best_grid(self, width: int, height: int) -> tuple[int, int]:
        """The grid that keeps most pixels of the picture, then wastes least of its own."""
        grids = self.image_grid_pinpoints or ((2 * self.image_size, 2 * self.image_size),)

        def kept_and_wasted(grid: tuple[int, int]) -> tuple[int, int]:
            scale = min(grid[0] / width, grid[1] / height)
            kept = min(int(width * scale) * int(height * scale), width * height)
            return kept, kept - grid[0] * grid[1]

        return max(grids, key=kept_and_wasted)


def _pixel_values(views: list[Image.Image], size: OutputSize) -> NDArray[np.float32]:
    """8-bit RGB to float32; x / 255 in float32 equals the reference's x * (1 / 255) in float64, rounded."""
    pixel_values = np.empty((size.tiles, 3, size.height, size.width), np.float32)
    for view, planes in zip(views, pixel_values, strict=True):
        for band, plane in zip(view.split(), planes, strict=True):
            np.divide(np.asarray(band), np.float32(255), out=plane)
    return pixel_values


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _pad(image: Image.Image, side: int) -> Image.Image:
    """Centre on a black square and resize that, without ever holding the square.

    Pillow resizes all rows first and then all columns, with 8 bits in between, so doing the two by hand gives
    the same bytes. What the square adds to a wide picture are rows, which stay black in the first step; what
    it adds to a tall one are ends of rows, so those are widened a band at a time.
    """
    width, height = image.size
    canvas_side = max(width, height)
    left, top = (canvas_side - width) // 2, (canvas_side - height) // 2  # REF: llava expand2square
    canvas = Image.new("RGB", (side, canvas_side))
    if width >= height:
        canvas.paste(_resize(image, side, height), (0, top))
    else:
        for first in range(0, height, _BAND_ROWS):
            rows = min(_BAND_ROWS, height - first)
            band = Image.new("RGB", (canvas_side, rows))
            band.paste(image.crop((0, first, width, first + rows)), (left, 0))
            canvas.paste(_resize(band, side, rows), (0, first))
    return _resize(canvas, side, side)


def _size_before_crop(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height once the shorter side is `side`; the longer one is rounded down as transformers does."""
    long = int(side * max(width, height) / min(width, height))
    if side * long > _MAX_CROP_PIXELS:
        raise MediaError(
            f"picture of {width} x {height} pixels is too long for image mode crop, which would keep "
            f"{min(width, height) / max(width, height):.1%} of it; use mode pad"
        )
    return (side, long) if width <= height else (long, side)


def _crop(image: Image.Image, side: int) -> Image.Image:
    width, height = _size_before_crop(*image.size, side)
    left, top = (width - side) // 2, (height - side) // 2
    return _resize(image, width, height).crop((left, top, left + side, top + side))


def _tiles(image: Image.Image, grid: tuple[int, int], side: int) -> list[Image.Image]:
    """The whole picture squashed, then its tiles row by row from a black canvas of the grid's size."""
    scale_x, scale_y = grid[0] / image.width, grid[1] / image.height
    if scale_x < scale_y:
        width, height = grid[0], min(math.ceil(image.height * scale_x), grid[1])
    else:
        width, height = min(math.ceil(image.width * scale_y), grid[0]), grid[1]
    canvas = Image.new("RGB", grid)
    canvas.paste(_resize(image, width, height), ((grid[0] - width) // 2, (grid[1] - height) // 2))
    tiles = [
        canvas.crop((left, top, left + side, top + side))
        for top in range(0, grid[1], side)
        for left in range(0, grid[0], side)
    ]
    return [_resize(image, side, side), *tiles]


def _native_content(width: int, height: int, longest: int) -> tuple[int, int]:
    """Width and height once both sides are shrunk alike until the longer one fits into whole tokens."""
    scale = min(1.0, longest // PATCH_STRIDE * PATCH_STRIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _native_size(width: int, height: int, longest: int) -> OutputSize:
    across, down = (
        math.ceil(side / PATCH_STRIDE) for side in _native_content(width, height, longest)
    )
    return OutputSize(1, down * PATCH_STRIDE, across * PATCH_STRIDE)


def _shrink(image: Image.Image, longest: int) -> Image.Image:
    """Shrink where needed, and centre on the black rectangle of whole tokens that holds it."""
    width, height = _native_content(*image.size, longest)
    size = _native_size(*image.size, longest)
    canvas = Image.new("RGB", (size.width, size.height))
    place = ((size.width - width) // 2, (size.height - height) // 2)
    canvas.paste(_resize(image, width, height), place)
    return canvas
