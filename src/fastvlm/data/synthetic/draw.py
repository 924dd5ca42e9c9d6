"""Scenes to pixels, with Pillow. A second renderer, for evaluation only, is in `evaluate/svg_renderer.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fastvlm.data.synthetic.clutter import draw_clutter
from fastvlm.data.synthetic.fonts import open_font
from fastvlm.data.synthetic.world import BAR_BASE, Bar, Scene, Thing, Writing, shape_outline

_MASTER = 224
"""Pixels of the masks that shapes are scaled from; above the largest shape drawn in training."""
_TURN_STEP = 3.0
"""Degrees between the masks kept for a shape."""


def draw_scene(scene: Scene, size: int, fonts: Sequence[str]) -> NDArray[np.uint8]:
    """Draw a scene.

    Args:
        scene: what to draw.
        size: pixels per side.
        fonts: what `Writing.font` counts in.

    Shape:
        -> [size, size, 3], RGB
    """
    if scene.kind == "clutter":
        return draw_clutter(np.random.default_rng(scene.seed), size)
    scene = scene.laid_out()
    canvas = Image.new("RGB", (size, size), scene.background_rgb)
    for thing in scene.things:
        _paste_thing(canvas, thing)
    if scene.bars:
        _draw_bars(canvas, scene.bars, ground=_line_colour(scene))
    if scene.writing is not None:
        _draw_writing(canvas, scene.writing, fonts)
    pixels = np.asarray(canvas)
    if scene.seed:
        pixels = _shade(pixels, np.random.default_rng(scene.seed))
    return _framed(pixels, scene.frame) if scene.frame != (1.0, 1.0) else pixels


def _framed(pixels: NDArray[np.uint8], frame: tuple[float, float]) -> NDArray[np.uint8]:
    """Black outside of the frame."""
    framed = np.zeros_like(pixels)
    edge_x, edge_y = (round((1 - fraction) / 2 * len(pixels)) for fraction in frame)
    inside = np.s_[edge_y : len(pixels) - edge_y, edge_x : len(pixels) - edge_x]
    framed[inside] = pixels[inside]
    return framed


def _line_colour(scene: Scene) -> tuple[int, int, int]:
    return (255, 255, 255) if scene.background == "black" else (40, 40, 40)


def _paste_thing(canvas: Image.Image, thing: Thing) -> None:
    mask = _shape_mask(thing.shape, round(thing.angle / _TURN_STEP))
    # The mask's box is 1.2 times the shape's, so that a turned shape stays inside.
    side = max(4, round(1.2 * thing.size * canvas.width))
    mask = mask.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    corner = (round(thing.x * canvas.width - side / 2), round(thing.y * canvas.height - side / 2))
    canvas.paste(thing.rgb, corner, mask)


@cache
def _shape_mask(shape: str, turn: int) -> Image.Image:
    angle = math.radians(turn * _TURN_STEP)
    turned = shape_outline(shape) @ np.array(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    )
    large = _MASTER * 4
    corners = (turned / 1.2 + 0.5) * large
    mask = Image.new("L", (large, large))
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in corners], fill=255)
    return mask.resize((_MASTER, _MASTER), Image.Resampling.BOX)


def _draw_bars(canvas: Image.Image, bars: Sequence[Bar], *, ground: tuple[int, int, int]) -> None:
    pen, side = ImageDraw.Draw(canvas), canvas.width
    for bar in bars:
        box = (bar.left, BAR_BASE - bar.height, bar.left + bar.width, BAR_BASE)
        pen.rectangle([round(value * side) for value in box], fill=bar.rgb)
    pen.line(
        [round(value * side) for value in (0.03, BAR_BASE, 0.97, BAR_BASE)], fill=ground, width=2
    )


def _draw_writing(canvas: Image.Image, writing: Writing, fonts: Sequence[str]) -> None:
    # Sizes in steps of 4 px, so that few fonts need to be kept open.
    font = open_font(fonts[writing.font], max(8, round(writing.size * canvas.width / 4) * 4))
    pen = ImageDraw.Draw(canvas)
    left, top, right, bottom = pen.textbbox((0, 0), writing.text, font=font)
    x = writing.x * canvas.width - (left + right) / 2
    y = writing.y * canvas.height - (top + bottom) / 2
    pen.text((x, y), writing.text, font=font, fill=writing.rgb)


def _shade(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A slight slope of light on half of the pictures, a little noise on a third, as other renderers and files have."""
    kind = rng.random(2)
    if kind[0] > 0.5 and kind[1] > 0.34:
        return pixels
    size = pixels.shape[0]
    shaded = pixels.astype(np.int16)
    if kind[0] <= 0.5:
        ramp = np.linspace(-1, 1, size)
        slope = rng.uniform(-7, 7, size=2)
        shaded += (slope[0] * ramp[:, None] + slope[1] * ramp[None, :]).astype(np.int16)[..., None]
    if kind[1] <= 0.34:
        noise = _noise_tiles()[int(rng.integers(len(_noise_tiles())))]
        shift = int(rng.integers(size))
        shaded += np.roll(noise[:size, :size], shift, axis=int(rng.integers(2)))
    return np.clip(shaded, 0, 255).astype(np.uint8)


@cache
def _noise_tiles() -> NDArray[np.int16]:
    """[8, 512, 512, 3], standard deviations from 1 to 5; drawn once because fresh noise costs more than the scene."""
    rng = np.random.default_rng(0)
    sigma = np.linspace(1, 5, 8)[:, None, None, None]
    return (rng.standard_normal((8, 512, 512, 3), dtype=np.float32) * sigma).astype(np.int16)
