"""Random scenes: what stands where, in which colour. Everything follows from the generator that is passed in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fastvlm.data.synthetic.world import (
    COLOUR_ANCHORS,
    COLOURS,
    DIGITS,
    GRID,
    LETTERS,
    RGB,
    SHAPE_TILT,
    SHAPES,
    Bar,
    Scene,
    SceneKind,
    Thing,
    Writing,
)

MAX_THINGS = 8
MIN_BARS, MAX_BARS = 2, 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneMix:
    """How often each kind of picture is drawn, as weights."""

    things: float = 0.62
    text: float = 0.16
    bars: float = 0.12
    clutter: float = 0.10
    most_things: int = MAX_THINGS
    """Shapes in a picture; below `MAX_THINGS` every number from 1 to this is as likely."""
    framed: float = 0.0
    """Share of the pictures of things and of characters that are not square."""


def sample_scene(rng: np.random.Generator, mix: SceneMix, *, num_fonts: int) -> Scene:
    """One scene of a random kind."""
    weights = np.array([mix.things, mix.text, mix.bars, mix.clutter])
    pick = int(rng.choice(4, p=weights / weights.sum()))
    kind: SceneKind = ("things", "text", "bars", "clutter")[pick]
    if kind == "things" and mix.most_things < MAX_THINGS:
        scene = sample_things(rng, int(rng.integers(1, mix.most_things + 1)))
    else:
        scene = sample_kind(rng, kind, num_fonts=num_fonts)
    if kind in ("things", "text") and mix.framed and rng.random() < mix.framed:
        return replace(scene, frame=sample_frame(rng))
    return scene


def sample_frame(rng: np.random.Generator) -> tuple[float, float]:
    """Width and height of a picture that is up to twice as long as wide, or the other way round."""
    short = float(rng.uniform(0.5, 0.95))
    return (1.0, short) if rng.random() < 0.7 else (short, 1.0)


def sample_kind(rng: np.random.Generator, kind: SceneKind, *, num_fonts: int) -> Scene:
    """One scene of this kind."""
    if kind == "things":
        return sample_things(rng)
    if kind == "text":
        return sample_text(rng, num_fonts=num_fonts)
    if kind == "bars":
        return sample_bars(rng)
    return Scene("clutter", "", (0, 0, 0), seed=_seed(rng))


def sample_things(rng: np.random.Generator, num_things: int | None = None) -> Scene:
    """Shapes on a plain ground: each in a cell of its own, or sometimes a single large one.

    Args:
        rng: source of all choices.
        num_things: 1 to 8; None draws 1 to 4 twice as often as 5 to 8.
    """
    if num_things is None:
        low = rng.random() < 0.67
        num_things = int(rng.integers(1, 5)) if low else int(rng.integers(5, MAX_THINGS + 1))
    background, background_rgb = _pick_background(rng)
    # Few shapes and few colours in some pictures, so that counting by one of them has something to count.
    shapes = _subset(rng, SHAPES, 4)
    colours = _subset(rng, [name for name in COLOURS if name != background], 4)
    cells = rng.permutation(GRID * GRID)[:num_things]
    is_large = num_things == 1 and rng.random() < 0.5
    things = []
    for cell in sorted(int(cell) for cell in cells):
        shape = shapes[int(rng.integers(len(shapes)))]
        colour = colours[int(rng.integers(len(colours)))]
        rgb = _contrasting(rng, colour, background_rgb)
        x, y, size = _place_large(rng) if is_large else _place_in_cell(rng, cell)
        tilt = SHAPE_TILT[shape] if rng.random() < 0.5 else 0.0
        angle = float(rng.uniform(-tilt, tilt))
        things.append(Thing(shape, colour, rgb, x, y, size, angle))
    return Scene("things", background, background_rgb, tuple(things), seed=_seed(rng))


def sample_text(
    rng: np.random.Generator, *, num_fonts: int, num_characters: int | None = None
) -> Scene:
    """One or two large characters, both letters or both digits."""
    if num_characters is None:
        num_characters = int(rng.integers(1, 3))
    alphabet = LETTERS if rng.random() < 26 / 36 else DIGITS
    text = "".join(alphabet[int(rng.integers(len(alphabet)))] for _ in range(num_characters))
    background, background_rgb = _pick_background(rng)
    colour = str(rng.choice([name for name in COLOURS if name != background]))
    rgb = _contrasting(rng, colour, background_rgb)
    size = float(rng.uniform(0.36, 0.8 if num_characters == 1 else 0.56))
    # A capital is about 0.7 em wide and 0.72 em high; keep all of it inside.
    half_width, half_height = 0.36 * size * num_characters, 0.38 * size
    x = float(rng.uniform(half_width + 0.01, 0.99 - half_width))
    y = float(rng.uniform(half_height + 0.02, 0.98 - half_height))
    writing = Writing(text, colour, rgb, x, y, size, int(rng.integers(num_fonts)))
    return Scene("text", background, background_rgb, writing=writing, seed=_seed(rng))


def sample_bars(rng: np.random.Generator, num_bars: int | None = None) -> Scene:
    """A bar chart without labels: every bar of another colour, heights at least 0.1 apart at both ends."""
    if num_bars is None:
        num_bars = int(rng.integers(MIN_BARS, MAX_BARS + 1))
    background, background_rgb = _light_background(rng)
    names = rng.permutation([name for name in COLOURS if name != background])[:num_bars]
    heights = _bar_heights(rng, num_bars)
    left, right = float(rng.uniform(0.06, 0.14)), float(rng.uniform(0.86, 0.96))
    pitch = (right - left) / num_bars
    width = pitch * float(rng.uniform(0.55, 0.85))
    bars = tuple(
        Bar(
            str(name),
            _contrasting(rng, str(name), background_rgb),
            left + pitch * i + (pitch - width) / 2,
            width,
            height,
        )
        for i, (name, height) in enumerate(zip(names, heights, strict=True))
    )
    return Scene("bars", background, background_rgb, bars=bars, seed=_seed(rng))


def sample_tile(rng: np.random.Generator, *, num_fonts: int, is_coloured: bool) -> Scene:
    """One character or shape that fills a tile of one image token; black on white, or in colours."""
    if is_coloured:
        background, background_rgb = _pick_background(rng)
        colour = str(rng.choice([name for name in COLOURS if name != background]))
        rgb = _contrasting(rng, colour, background_rgb)
    else:
        background, background_rgb, colour, rgb = "white", (255, 255, 255), "black", (0, 0, 0)
    seed = _seed(rng) if is_coloured else 0
    if rng.random() < 0.25:
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        size = float(rng.uniform(0.5, 0.95))
        x, y = (float(0.5 + rng.uniform(-0.5, 0.5) * (1.05 - size)) for _ in range(2))
        angle = float(rng.uniform(-1, 1) * SHAPE_TILT[shape])
        thing = Thing(shape, colour, rgb, x, y, size, angle)
        return Scene("things", background, background_rgb, (thing,), seed=seed)
    alphabet = LETTERS + DIGITS
    size = float(rng.uniform(0.7, 1.25))
    reach = max(0.03, 0.5 - 0.36 * size)
    x, y = (float(0.5 + rng.uniform(-reach, reach)) for _ in range(2))
    text = alphabet[int(rng.integers(len(alphabet)))]
    writing = Writing(text, colour, rgb, x, y, size, int(rng.integers(num_fonts)))
    return Scene("text", background, background_rgb, writing=writing, seed=seed)


def colour_value(rng: np.random.Generator, name: str) -> RGB:
    """A value that goes by this colour's name: between two of its anchors, slightly off."""
    anchors = np.array(COLOUR_ANCHORS[name], dtype=np.float64)
    first, second = anchors[rng.integers(len(anchors))], anchors[rng.integers(len(anchors))]
    value = first + (second - first) * rng.random()
    off = rng.uniform(-8, 8) if name in ("gray", "black", "white") else rng.uniform(-8, 8, size=3)
    red, green, blue = np.clip(value + off, 0, 255).astype(int)
    return int(red), int(green), int(blue)


def _contrasting(rng: np.random.Generator, name: str, background_rgb: RGB) -> RGB:
    for _ in range(8):
        rgb = colour_value(rng, name)
        if sum(abs(a - b) for a, b in zip(rgb, background_rgb, strict=True)) >= 90:
            return rgb
    return COLOUR_ANCHORS[name][-1]


def _pick_background(rng: np.random.Generator) -> tuple[str, RGB]:
    if rng.random() < 0.3:
        return _light_background(rng)
    name = COLOURS[int(rng.integers(len(COLOURS)))]
    return name, colour_value(rng, name)


def _light_background(rng: np.random.Generator) -> tuple[str, RGB]:
    name = "white" if rng.random() < 0.8 else "black"
    return name, colour_value(rng, name)


def _subset(rng: np.random.Generator, names: tuple[str, ...] | list[str], few: int) -> list[str]:
    count = len(names) if rng.random() < 0.6 else int(rng.integers(2, few + 1))
    return [str(name) for name in rng.permutation(names)[:count]]


def _place_in_cell(rng: np.random.Generator, cell: int) -> tuple[float, float, float]:
    size = float(rng.uniform(0.52, 0.95)) / GRID
    reach = (1 / GRID - size) / 2 + 0.01
    x = (cell % GRID + 0.5) / GRID + float(rng.uniform(-reach, reach))
    y = (cell // GRID + 0.5) / GRID + float(rng.uniform(-reach, reach))
    return x, y, size


def _place_large(rng: np.random.Generator) -> tuple[float, float, float]:
    """Anywhere inside, but not where the name of the place would be in doubt."""
    size = float(rng.uniform(0.35, 0.85))
    low, high = size / 2, 1 - size / 2
    centre = []
    for _ in range(2):
        value = float(rng.uniform(low, high))
        for border in (1 / 3, 2 / 3):
            if abs(value - border) < 0.05:
                value = 0.5 if low > border - 0.05 or high < border + 0.05 else border + 0.05
        centre.append(min(max(value, low), high))
    if any(abs(value - border) < 0.03 for value in centre for border in (1 / 3, 2 / 3)):
        return 0.5, 0.5, size
    return centre[0], centre[1], size


def _bar_heights(rng: np.random.Generator, num_bars: int) -> list[float]:
    top = float(rng.uniform(0.6, 0.82))
    bottom = float(rng.uniform(0.1, 0.3))
    between = rng.uniform(bottom + 0.1, top - 0.1, size=num_bars - 2)
    heights = np.concatenate([[top, bottom], between])
    return [float(height) for height in rng.permutation(heights)]


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1, 2**31))
