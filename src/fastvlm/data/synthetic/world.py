"""What exists in the drawn world: colours, shapes, places, and the scenes made of them.

Lengths and coordinates are fractions of the picture's side, x to the right and y downwards, so that a scene
can be drawn at any size and by any renderer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

RGB: TypeAlias = tuple[int, int, int]
SceneKind: TypeAlias = Literal["things", "text", "bars", "clutter"]

# Each colour is a range between anchors, so that its name does not hang on one value; the CSS colour of that
# name is always among them.
COLOUR_ANCHORS: Final[dict[str, tuple[RGB, ...]]] = {
    "red": ((255, 0, 0), (214, 39, 40), (190, 20, 35)),
    "orange": ((255, 165, 0), (255, 127, 14), (240, 140, 30)),
    "yellow": ((255, 255, 0), (255, 221, 50), (245, 225, 70)),
    "green": ((0, 128, 0), (0, 200, 40), (44, 160, 44), (60, 179, 75)),
    "blue": ((0, 0, 255), (31, 119, 180), (40, 90, 220), (30, 60, 170)),
    "purple": ((128, 0, 128), (148, 60, 189), (110, 40, 160)),
    "pink": ((255, 192, 203), (255, 105, 180), (240, 140, 190)),
    "gray": ((128, 128, 128), (105, 105, 105), (160, 160, 160)),
    "black": ((0, 0, 0), (25, 25, 25)),
    "white": ((255, 255, 255), (242, 242, 242)),
}
COLOURS: Final = tuple(COLOUR_ANCHORS)
SHAPES: Final = ("circle", "square", "triangle", "star", "heart", "cross", "diamond")
SHAPE_TILT: Final[dict[str, float]] = {
    # Largest turn in degrees at which the shape still has its name: a square on its corner is a diamond.
    "circle": 0.0,
    "square": 10.0,
    "triangle": 15.0,
    "star": 18.0,
    "heart": 15.0,
    "cross": 12.0,
    "diamond": 8.0,
}
LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS: Final = "0123456789"
AMBIGUOUS: Final = "0O1I"
"""Characters that several fonts draw alike; only a question that says letter or number may ask for them."""
GRID: Final = 3
"""Rows and columns of the places that have a name; with 64 px a cell also the image tokens of a picture."""
PLACES: Final = (
    "top left",
    "top",
    "top right",
    "left",
    "middle",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
"""Names of the grid's cells, row by row."""


@dataclass(frozen=True, slots=True)
class Thing:
    """A filled shape."""

    shape: str
    colour: str
    rgb: RGB
    x: float
    y: float
    size: float
    """Side of the box the unturned shape fills."""
    angle: float
    """Turn in degrees, clockwise."""

    @property
    def cell(self) -> int:
        """Index of the cell, row by row, that holds the centre."""
        return min(int(self.y * GRID), GRID - 1) * GRID + min(int(self.x * GRID), GRID - 1)

    @property
    def place(self) -> str:
        return PLACES[self.cell]


@dataclass(frozen=True, slots=True)
class Writing:
    """One or two large characters."""

    text: str
    colour: str
    rgb: RGB
    x: float
    y: float
    size: float
    """Em of the font."""
    font: int
    """Index into the list of fonts that the picture is drawn with."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart; all bars stand on the same line."""

    colour: str
    rgb: RGB
    left: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture, before it is drawn."""

    kind: SceneKind
    background: str
    background_rgb: RGB
    things: tuple[Thing, ...] = ()
    writing: Writing | None = None
    bars: tuple[Bar, ...] = ()
    seed: int = 0
    """Decides shading and noise, and in clutter everything."""
    frame: tuple[float, float] = (1.0, 1.0)
    """Width and height of the picture in the square; the rest is black, as image mode `pad` leaves it.
    Only pictures of things and of characters have one."""

    def laid_out(self) -> Scene:
        """The scene with coordinates of the square instead of coordinates of the framed picture."""
        if self.frame == (1.0, 1.0):
            return self
        width, height = self.frame
        scale = min(width, height)
        things = tuple(
            replace(
                thing,
                x=0.5 + (thing.x - 0.5) * width,
                y=0.5 + (thing.y - 0.5) * height,
                size=thing.size * scale,
            )
            for thing in self.things
        )
        writing = self.writing
        if writing is not None:
            writing = replace(
                writing,
                x=0.5 + (writing.x - 0.5) * width,
                y=0.5 + (writing.y - 0.5) * height,
                size=writing.size * scale,
            )
        return replace(self, things=things, writing=writing)


BAR_BASE: Final = 0.92
"""Height of the line that bars stand on."""


def shape_outline(shape: str) -> NDArray[np.float64]:
    """Corners of a shape in a box of side 1 around the origin, y downwards.

    Shape:
        -> [K, 2]
    """
    if shape == "circle":
        turn = np.linspace(0, 2 * math.pi, 48, endpoint=False)
        return 0.5 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    if shape == "heart":
        turn = np.linspace(0, 2 * math.pi, 48, endpoint=False)
        x = 16 * np.sin(turn) ** 3
        y = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn))
        return np.stack([x / 32, (y - 2.5) / 30], axis=1)
    if shape == "star":
        turn = np.arange(10) * math.pi / 5 - math.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 0.5, 0.21)
        return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    corners = {
        "square": [(-0.45, -0.45), (0.45, -0.45), (0.45, 0.45), (-0.45, 0.45)],
        "triangle": [(0, -0.48), (0.5, 0.42), (-0.5, 0.42)],
        "diamond": [(0, -0.5), (0.34, 0), (0, 0.5), (-0.34, 0)],
        "cross": [
            *[(-0.16, -0.5), (0.16, -0.5), (0.16, -0.16), (0.5, -0.16), (0.5, 0.16), (0.16, 0.16)],
            *[
                (0.16, 0.5),
                (-0.16, 0.5),
                (-0.16, 0.16),
                (-0.5, 0.16),
                (-0.5, -0.16),
                (-0.16, -0.16),
            ],
        ],
    }
    return np.array(corners[shape], dtype=np.float64)
