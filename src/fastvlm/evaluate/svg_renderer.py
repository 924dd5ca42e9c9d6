"""Scenes drawn a second way: written as SVG and rasterised by resvg. No training picture comes from here.

Circles, rectangles and text are the renderer's own primitives, so that edges, letter outlines and their
smoothing differ from the Pillow pictures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont

from fastvlm.data.synthetic.fonts import font_bytes
from fastvlm.data.synthetic.world import BAR_BASE, RGB, Scene, Thing, shape_outline
from fastvlm.errors import MissingExtraError


class SvgRenderer:
    """Draws scenes through SVG. Use as a context manager: fonts are laid out in a temporary folder.

    Args:
        size: pixels per side.
        fonts: what `Writing.font` counts in.

    Raises:
        MissingExtraError: resvg_py is not installed.
    """

    def __init__(self, size: int, fonts: Sequence[str]) -> None:
        try:
            import resvg_py
        except ImportError as err:
            raise MissingExtraError(
                "the second renderer needs the package resvg_py; run: pip install 'fastvlm[eval]'"
            ) from err
        self._to_png = resvg_py.svg_to_bytes
        self._size = size
        self._folder = tempfile.TemporaryDirectory(prefix="fastvlm-fonts-")
        self._fonts: list[tuple[str, str]] = []
        for index, name in enumerate(fonts):
            path = Path(self._folder.name) / f"{index}.ttf"
            path.write_bytes(font_bytes(name))
            family, _ = ImageFont.truetype(BytesIO(path.read_bytes()), 16).getname()
            self._fonts.append((str(path), family or ""))

    def __enter__(self) -> SvgRenderer:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def draw(self, scene: Scene) -> NDArray[np.uint8]:
        """Draw a scene that is not clutter, [size, size, 3] RGB."""
        path, family = self._fonts[scene.writing.font if scene.writing is not None else 0]
        png = self._to_png(
            svg_string=to_svg(scene, family),
            width=self._size,
            skip_system_fonts=True,
            font_files=[path],
        )
        with Image.open(BytesIO(bytes(png))) as picture:
            return np.asarray(picture.convert("RGB"))


def to_svg(scene: Scene, font_family: str = "sans-serif") -> str:
    """The scene as an SVG document 1000 units wide."""
    scene = scene.laid_out()
    width, height = (1000 * fraction for fraction in scene.frame)
    parts = [
        '<rect width="1000" height="1000" fill="#000000"/>',
        f'<rect x="{(1000 - width) / 2:.1f}" y="{(1000 - height) / 2:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" fill="{_css(scene.background_rgb)}"/>',
    ]
    parts += [_thing(thing) for thing in scene.things]
    for bar in scene.bars:
        top = 1000 * (BAR_BASE - bar.height)
        parts.append(
            f'<rect x="{1000 * bar.left:.1f}" y="{top:.1f}" width="{1000 * bar.width:.1f}" '
            f'height="{1000 * bar.height:.1f}" fill="{_css(bar.rgb)}"/>'
        )
    if scene.bars:
        line = "#ffffff" if scene.background == "black" else "#282828"
        y = 1000 * BAR_BASE
        parts.append(
            f'<line x1="30" y1="{y}" x2="970" y2="{y}" stroke="{line}" stroke-width="10"/>'
        )
    if scene.writing is not None:
        writing = scene.writing
        # The middle of a capital lies 0.36 em above the line that text stands on.
        y = 1000 * (writing.y + 0.36 * writing.size)
        parts.append(
            f'<text x="{1000 * writing.x:.1f}" y="{y:.1f}" text-anchor="middle" '
            f'font-family="{escape(font_family)}" font-size="{1000 * writing.size:.1f}" '
            f'fill="{_css(writing.rgb)}">{escape(writing.text)}</text>'
        )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="1000" height="1000" viewBox="0 0 1000 1000">'
        f"{''.join(parts)}</svg>"
    )


def _thing(thing: Thing) -> str:
    x, y, size = 1000 * thing.x, 1000 * thing.y, 1000 * thing.size
    fill = f'fill="{_css(thing.rgb)}"'
    if thing.shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size / 2:.1f}" {fill}/>'
    turn = f'transform="translate({x:.1f} {y:.1f}) rotate({thing.angle:.1f})"'
    if thing.shape == "square":
        side = 0.9 * size
        return f'<rect x="{-side / 2:.1f}" y="{-side / 2:.1f}" width="{side:.1f}" height="{side:.1f}" {turn} {fill}/>'
    corners = " ".join(f"{a * size:.1f},{b * size:.1f}" for a, b in shape_outline(thing.shape))
    return f'<polygon points="{corners}" {turn} {fill}/>'


def _css(rgb: RGB) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)
