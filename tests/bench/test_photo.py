"""The drawn picture."""

from __future__ import annotations

import io

from PIL import Image

from fastvlm.bench.photo import draw_photo


def test_photo_has_the_asked_size_and_is_a_jpeg() -> None:
    with Image.open(io.BytesIO(draw_photo(width=320, height=240))) as picture:
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (320, 240), "RGB")


def test_same_seed_gives_the_same_bytes() -> None:
    assert draw_photo(width=64, height=48, seed=1) == draw_photo(width=64, height=48, seed=1)
    assert draw_photo(width=64, height=48, seed=1) != draw_photo(width=64, height=48, seed=2)


def test_photo_weighs_what_a_phone_photo_weighs() -> None:
    """A flat picture would be decoded much faster: 12 million pixels make 2 to 6 MB at this density."""
    bytes_a_pixel = len(draw_photo(width=1000, height=750)) / 750_000
    assert 2e6 / 12e6 < bytes_a_pixel < 6e6 / 12e6
