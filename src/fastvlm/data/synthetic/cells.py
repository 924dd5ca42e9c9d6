"""What the encoder is asked before it meets the language model: what stands in each cell, and in the whole picture.

The answers are classes, so that the loss reaches the encoder without passing through a language model that
knows nothing yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fastvlm.data.synthetic.sample import MAX_BARS, MAX_THINGS, MIN_BARS
from fastvlm.data.synthetic.world import BAR_BASE, COLOURS, DIGITS, LETTERS, SHAPES, Scene, Writing

UNKNOWN: Final = -100
"""Class of what a scene does not have; the loss leaves it out."""

_CHARACTERS: Final = "".join(c for c in LETTERS + DIGITS if c not in "01")
_CHARACTER_CLASS: Final = {c: i for i, c in enumerate(_CHARACTERS)} | {
    # Fonts draw these pairs alike; which one is meant is the question's business.
    "0": _CHARACTERS.index("O"),
    "1": _CHARACTERS.index("I"),
}
_FIRST_CHARACTER: Final = 1 + len(SHAPES)
_BAR: Final = _FIRST_CHARACTER + len(_CHARACTERS)

CELL_CLASSES: Final[dict[str, int]] = {"object": _BAR + 1, "colour": len(COLOURS)}
"""Questions about one cell, and the number of classes of each."""
PICTURE_CLASSES: Final[dict[str, int]] = {
    "kind": 4,
    "background": len(COLOURS),
    "num_things": MAX_THINGS + 1,
    "first": len(_CHARACTERS),
    "second": len(_CHARACTERS) + 1,
    "num_bars": MAX_BARS - MIN_BARS + 1,
    "tallest": len(COLOURS),
    "shortest": len(COLOURS),
}
"""Questions about the whole picture, and the number of classes of each."""


@dataclass(frozen=True, slots=True)
class CellTargets:
    """Classes of one scene.

    Attributes:
        cells: for each of `CELL_CLASSES` [grid * grid] int64, row by row.
        picture: for each of `PICTURE_CLASSES` one class.
    """

    cells: dict[str, NDArray[np.int64]]
    picture: dict[str, int]


def cell_targets(scene: Scene, grid: int) -> CellTargets:
    """The classes of a scene whose picture has `grid` x `grid` image tokens."""
    scene = scene.laid_out()
    objects = np.zeros(grid * grid, dtype=np.int64)
    colours = np.full(grid * grid, UNKNOWN, dtype=np.int64)
    if scene.kind == "clutter":
        objects[:] = UNKNOWN
    for thing in scene.things:
        half = 0.3 * thing.size
        for cell in covered_cells(grid, thing.x, thing.y, half, half):
            objects[cell] = 1 + SHAPES.index(thing.shape)
            colours[cell] = COLOURS.index(thing.colour)
    for bar in scene.bars:
        middle = BAR_BASE - bar.height / 2
        centre = bar.left + bar.width / 2
        for cell in covered_cells(grid, centre, middle, bar.width / 2, bar.height / 2):
            objects[cell] = _BAR
    if scene.writing is not None:
        _mark_writing(objects, colours, scene.writing, grid)
    return CellTargets({"object": objects, "colour": colours}, _picture_targets(scene))


def covered_cells(
    grid: int, x: float, y: float, half_width: float, half_height: float
) -> list[int]:
    """Cells whose centre lies in the box, or else the cell that holds the box's centre."""
    centres = (np.arange(grid) + 0.5) / grid
    columns = np.flatnonzero(np.abs(centres - x) <= half_width)
    rows = np.flatnonzero(np.abs(centres - y) <= half_height)
    if not len(columns):
        columns = np.array([min(max(int(x * grid), 0), grid - 1)])
    if not len(rows):
        rows = np.array([min(max(int(y * grid), 0), grid - 1)])
    return [int(row * grid + column) for row in rows for column in columns]


def _mark_writing(
    objects: NDArray[np.int64], colours: NDArray[np.int64], writing: Writing, grid: int
) -> None:
    pitch = 0.68 * writing.size
    for i, character in enumerate(writing.text):
        x = writing.x + (i - (len(writing.text) - 1) / 2) * pitch
        for cell in covered_cells(grid, x, writing.y, 0.28 * writing.size, 0.34 * writing.size):
            objects[cell] = _FIRST_CHARACTER + _CHARACTER_CLASS[character]
            colours[cell] = COLOURS.index(writing.colour)


def _picture_targets(scene: Scene) -> dict[str, int]:
    targets = dict.fromkeys(PICTURE_CLASSES, UNKNOWN)
    targets["kind"] = ("things", "text", "bars", "clutter").index(scene.kind)
    if scene.kind != "clutter":
        targets["background"] = COLOURS.index(scene.background)
    if scene.kind == "things":
        targets["num_things"] = len(scene.things)
    if scene.writing is not None:
        text = scene.writing.text
        targets["first"] = _CHARACTER_CLASS[text[0]]
        targets["second"] = 1 + _CHARACTER_CLASS[text[1]] if len(text) > 1 else 0
    if scene.bars:
        by_height = sorted(scene.bars, key=lambda bar: bar.height)
        targets["num_bars"] = len(scene.bars) - MIN_BARS
        targets["shortest"] = COLOURS.index(by_height[0].colour)
        targets["tallest"] = COLOURS.index(by_height[-1].colour)
    return targets
