"""Any Pillow mode to 8-bit RGB, by rules that lose no content silently.

| what the picture has | what becomes of it |
|---|---|
| transparency (alpha channel, transparent colour or palette entry) | laid on white |
| 16-bit grey (also 12 bits in a TIFF) | the upper 8 bits, as Pillow does with 16-bit colour |
| 32-bit integers, floats outside 0..1 | stretched from the darkest to the brightest value |
| floats within 0..1 | times 255 |
| CMYK, YCbCr, HSV, Lab, palettes, 1 bit, grey | Pillow's conversion |

ICC profiles are ignored, as the reference pipeline does; Lab is read with the D50 white of its definition.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_WHITE: Final = (255, 255, 255)
"""Pages, charts and logos are drawn for white paper; dropping alpha instead would uncover hidden colours."""

_BLOCK_ROWS: Final = 256

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation (Exif 2.32 section 4.6.4)."""


def to_rgb(image: Image.Image, *, orientation: int = 1, grey_bits: int = 16) -> Image.Image:
    """Convert a picture of any mode to RGB and set it upright.

    Args:
        image: the picture; it is not changed, and returned itself if there is nothing to do.
        orientation: EXIF orientation 1..8.
        grey_bits: bits that the samples of mode `I;16` use, 9..16.
    """
    transparent_grey = None
    if image.mode.startswith("I;16"):
        transparent_grey = image.info.get("transparency")
        samples = np.asarray(image)
        image = Image.fromarray((samples >> max(grey_bits - 8, 0)).astype(np.uint8))
        if isinstance(transparent_grey, int):
            image.putalpha(Image.fromarray(samples != transparent_grey).convert("L"))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_stretched(np.asarray(image)))
    elif image.mode == "La":  # premultiplied, which Pillow converts to nothing else
        image = image.convert("LA")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, _WHITE)
        image.paste(layer, mask=layer)
    elif image.mode != "RGB":
        image = image.convert("RGB")
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _stretched(samples: NDArray[np.int32] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """Numbers without a fixed range to 0..255; what is not finite becomes black."""
    finite = np.isfinite(samples)
    valid = samples if finite.all() else samples[finite]
    if not valid.size:
        return np.zeros(samples.shape, np.uint8)
    low, high = float(valid.min()), float(valid.max())
    if samples.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    per_level = (high - low) / 255 or 1.0
    scaled = np.empty(samples.shape, np.uint8)
    for first in range(0, len(samples), _BLOCK_ROWS):  # in parts, to keep the float64 copy small
        rows = slice(first, first + _BLOCK_ROWS)
        block = np.where(finite[rows], samples[rows], low).astype(np.float64)
        scaled[rows] = np.rint((block - low) / per_level)
    return scaled
