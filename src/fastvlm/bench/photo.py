"""A picture like one from a phone, drawn by the program: 12 million pixels, JPEG, some megabytes.

What matters for timing is the work that decoding and scaling make: size, chroma subsampling, and detail in every
block of the JPEG, as sensors give it.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

WIDTH, HEIGHT = 4000, 3000
_BACKGROUND_SIDE = 24


def draw_photo(*, width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> bytes:
    """A JPEG of soft colours, hard edges and sensor noise; the same seed gives the same picture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (_BACKGROUND_SIDE, _BACKGROUND_SIDE, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    for _ in range(40):
        left, top = int(rng.integers(width)), int(rng.integers(height))
        side = int(rng.integers(8, max(9, height // 6)))
        color = tuple(int(value) for value in rng.integers(0, 256, 3))
        picture.paste(color, (left, top, min(left + side, width), min(top + side, height)))
    picture = picture.filter(ImageFilter.GaussianBlur(1))
    pixels = np.asarray(picture).astype(np.int16)
    pixels += rng.integers(-6, 7, pixels.shape, dtype=np.int16)
    file = io.BytesIO()
    noisy = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    noisy.save(file, "JPEG", quality=92, subsampling="4:2:0")
    return file.getvalue()
