"""The drawn world in motion: things that move, come and go, change colour and flash.

A clip is a still scene whose things follow a script, so it can be drawn at any time and with any renderer. Its
time runs from 0 to 1 and is cut into slots of equal length. What changes at once changes between two slots, so
as many frames as there are slots, spread evenly from the first to the last, show everything. What the model is
asked about clips is in `clip_questions.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from fastvlm.data.synthetic.draw import draw_scene
from fastvlm.data.synthetic.sample import sample_things
from fastvlm.data.synthetic.world import GRID, RGB, Scene, Thing
from fastvlm.errors import ConfigError

ClipKind: TypeAlias = Literal["motion", "order", "recolour", "vanish", "flash"]
CLIP_KINDS: Final[tuple[ClipKind, ...]] = get_args(ClipKind)
Direction: TypeAlias = Literal["left", "right", "up", "down"]

NUM_SLOTS: Final = 4
"""Frames that show every kind of clip, up to two flashes."""
MANY_SLOTS: Final = 8
"""Frames that show up to four flashes."""
_STEPS: Final[dict[Direction, tuple[int, int]]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}


@dataclass(frozen=True, slots=True)
class Paint:
    """A colour by its name and its value."""

    name: str
    rgb: RGB


@dataclass(frozen=True, slots=True)
class Actor:
    """A thing and its script.

    Attributes:
        thing: how it stands at the start.
        end: x and y at the end; it moves there evenly.
        slots: its colour in each slot of time, None while it is not there.
    """

    thing: Thing
    end: tuple[float, float]
    slots: tuple[Paint | None, ...]

    def at(self, time: float) -> Thing | None:
        """How it stands at a time from 0 to 1, None if it is not there."""
        paint = self.slots[min(int(time * len(self.slots)), len(self.slots) - 1)]
        if paint is None:
            return None
        x = self.thing.x + time * (self.end[0] - self.thing.x)
        y = self.thing.y + time * (self.end[1] - self.thing.y)
        return replace(self.thing, colour=paint.name, rgb=paint.rgb, x=x, y=y)

    def reversed(self) -> Actor:
        """The same played backwards."""
        x, y = self.end
        start = (self.thing.x, self.thing.y)
        return Actor(replace(self.thing, x=x, y=y), start, self.slots[::-1])

    @property
    def shape(self) -> str:
        return self.thing.shape

    @property
    def direction(self) -> Direction | None:
        """Where it moves, None if it does not."""
        dx, dy = self.end[0] - self.thing.x, self.end[1] - self.thing.y
        if dx == dy == 0:
            return None
        if abs(dx) > abs(dy):
            return "right" if dx > 0 else "left"
        return "down" if dy > 0 else "up"

    @property
    def shown(self) -> tuple[int, ...]:
        """Slots in which it is there."""
        return tuple(i for i, paint in enumerate(self.slots) if paint is not None)

    @property
    def colours(self) -> tuple[str, ...]:
        """Names of its colours in order of time, each change once."""
        names = [paint.name for paint in self.slots if paint is not None]
        return tuple(name for i, name in enumerate(names) if i == 0 or names[i - 1] != name)

    @property
    def num_flashes(self) -> int:
        """How often it is there: runs of slots."""
        return sum(1 for slot in self.shown if slot == 0 or self.slots[slot - 1] is None)

    @property
    def is_still(self) -> bool:
        """Whether nothing happens to it."""
        return (
            len(self.shown) == len(self.slots) and len(self.colours) == 1 and self.direction is None
        )


@dataclass(frozen=True, slots=True)
class Clip:
    """A scene over time, before it is drawn. No two of its actors have the same shape.

    Attributes:
        kind: what it is about.
        background: name of the ground's colour.
        background_rgb: its value.
        actors: those that something happens to come first, two of them in kind order and one in all others.
        seed: decides shading and noise.
    """

    kind: ClipKind
    background: str
    background_rgb: RGB
    actors: tuple[Actor, ...]
    seed: int = 0

    @property
    def num_slots(self) -> int:
        """Frames, evenly spread from first to last, that it takes to see everything."""
        return len(self.actors[0].slots)

    def scene_at(self, time: float) -> Scene:
        """What a frame shows at a time from 0 to 1."""
        things = [thing for actor in self.actors if (thing := actor.at(time)) is not None]
        return Scene("things", self.background, self.background_rgb, tuple(things), seed=self.seed)

    def reversed(self) -> Clip:
        """The same played backwards."""
        return replace(self, actors=tuple(actor.reversed() for actor in self.actors))


def frame_times(num_frames: int) -> tuple[float, ...]:
    """Times from 0 to 1 of frames spread evenly from the first to the last."""
    return tuple(float(time) for time in np.linspace(0, 1, num_frames))


def draw_clip(clip: Clip, times: Sequence[float], size: int) -> NDArray[np.uint8]:
    """Draw a clip at some times.

    Args:
        clip: what to draw.
        times: from 0 to 1.
        size: pixels per side.

    Shape:
        -> [N, size, size, 3], RGB
    """
    drawn: dict[Scene, NDArray[np.uint8]] = {}  # most clips show the same scene more than once
    for time in times:
        scene = clip.scene_at(time)
        if scene not in drawn:
            drawn[scene] = draw_scene(scene, size, ())
    return np.stack([drawn[clip.scene_at(time)] for time in times])


def sample_clip(
    rng: np.random.Generator, kind: ClipKind | None = None, *, num_frames: int = NUM_SLOTS
) -> Clip:
    """One clip. A clip and the same played backwards are as likely.

    Args:
        rng: source of all choices.
        kind: what happens; None draws it.
        num_frames: frames that will be shown of it; from 8 on, up to four flashes can be counted, not two.

    Raises:
        ConfigError: fewer frames than it takes to see what happens.
    """
    if num_frames < NUM_SLOTS:
        raise ConfigError(
            f"num_frames is {num_frames}; expected at least {NUM_SLOTS}, or clips cannot be told apart"
        )
    if kind is None:
        kind = CLIP_KINDS[int(rng.integers(len(CLIP_KINDS)))]
    num_slots = MANY_SLOTS if kind == "flash" and num_frames >= MANY_SLOTS else NUM_SLOTS
    clip = None
    while clip is None:
        clip = _SAMPLERS[kind](rng, num_slots)
    return clip.reversed() if rng.random() < 0.5 else clip


def _sample_motion(rng: np.random.Generator, num_slots: int) -> Clip | None:
    scene = _sample_stage(rng, least=1, most=4)
    if scene is None:
        return None
    first = scene.things[0]
    if rng.random() < 0.1:  # nothing moves
        return _clip("motion", scene, (_still(first, num_slots),), num_slots)
    free = set(range(GRID * GRID)) - {thing.cell for thing in scene.things}
    moves = [
        (direction, distance)
        for direction in _STEPS
        for distance in (1, 2)
        if _path(first.cell, direction, distance) <= free
    ]
    if not moves:
        return None
    direction, distance = moves[int(rng.integers(len(moves)))]
    step = distance / GRID
    end = (first.x + step * _STEPS[direction][0], first.y + step * _STEPS[direction][1])
    return _clip("motion", scene, (replace(_still(first, num_slots), end=end),), num_slots)


def _path(cell: int, direction: Direction, distance: int) -> set[int]:
    """Cells that a move enters; -1 stands for leaving the picture."""
    row, column = divmod(cell, GRID)
    step_x, step_y = _STEPS[direction]
    entered = [(row + i * step_y, column + i * step_x) for i in range(1, distance + 1)]
    return {y * GRID + x if 0 <= y < GRID and 0 <= x < GRID else -1 for y, x in entered}


def _sample_order(rng: np.random.Generator, num_slots: int) -> Clip | None:
    """One thing, then another; the second may come before the first goes."""
    scene = _sample_stage(rng, least=2, most=2)
    if scene is None:
        return None
    starts = np.sort(rng.choice(num_slots, size=2, replace=False))
    ends = np.sort(rng.choice(num_slots, size=2, replace=False)) + 1
    if any(starts >= ends):
        return None
    actors = [
        _shown(thing, [start <= slot < end for slot in range(num_slots)])
        for thing, start, end in zip(scene.things, starts, ends, strict=True)
    ]
    return _clip("order", scene, tuple(actors), num_slots)


def _sample_recolour(rng: np.random.Generator, num_slots: int) -> Clip | None:
    scene = _sample_stage(rng, least=2, most=5)
    if scene is None:
        return None
    # The last thing only lends its colour, which stands out against the ground like all of them.
    first, last = scene.things[0], scene.things[-1]
    if first.colour == last.colour:
        return None
    before, after = Paint(first.colour, first.rgb), Paint(last.colour, last.rgb)
    change = int(rng.integers(1, num_slots))
    slots = (before,) * change + (after,) * (num_slots - change)
    scene = replace(scene, things=scene.things[:-1])
    return _clip("recolour", scene, (replace(_still(first, num_slots), slots=slots),), num_slots)


def _sample_vanish(rng: np.random.Generator, num_slots: int) -> Clip | None:
    """Something disappears, or appears once it is played backwards."""
    scene = _sample_stage(rng, least=1, most=4)
    if scene is None:
        return None
    end = int(rng.integers(1, num_slots))
    actor = _shown(scene.things[0], [slot < end for slot in range(num_slots)])
    return _clip("vanish", scene, (actor,), num_slots)


def _sample_flash(rng: np.random.Generator, num_slots: int) -> Clip | None:
    """Something is there for single slots, never two in a row."""
    scene = _sample_stage(rng, least=1, most=3)
    if scene is None:
        return None
    num_flashes = int(rng.integers(1, num_slots // 2 + 1))
    if (
        num_flashes == 1
    ):  # at either end a single flash would be something that appears or disappears
        lit = {int(rng.integers(1, num_slots - 1))}
    else:
        # Slots without neighbours among n are any slots among n - (k - 1), moved apart by one each.
        chosen = np.sort(rng.choice(num_slots - num_flashes + 1, size=num_flashes, replace=False))
        lit = {int(slot) + i for i, slot in enumerate(chosen)}
    actor = _shown(scene.things[0], [slot in lit for slot in range(num_slots)])
    return _clip("flash", scene, (actor,), num_slots)


_SAMPLERS: Final[dict[ClipKind, Callable[[np.random.Generator, int], Clip | None]]] = {
    "motion": _sample_motion,
    "order": _sample_order,
    "recolour": _sample_recolour,
    "vanish": _sample_vanish,
    "flash": _sample_flash,
}


def _sample_stage(rng: np.random.Generator, *, least: int, most: int) -> Scene | None:
    """A scene of things in random order, each of another shape and within its cell; None if too few are left."""
    scene = sample_things(rng, int(rng.integers(least, most + 1)))
    by_shape = {thing.shape: thing for thing in scene.things if thing.size < 1 / GRID}
    things = [*by_shape.values()]
    if len(things) < least:
        return None
    order = rng.permutation(len(things))
    return replace(scene, things=tuple(things[int(i)] for i in order))


def _clip(kind: ClipKind, scene: Scene, actors: tuple[Actor, ...], num_slots: int) -> Clip:
    others = tuple(_still(thing, num_slots) for thing in scene.things[len(actors) :])
    return Clip(kind, scene.background, scene.background_rgb, actors + others, scene.seed)


def _still(thing: Thing, num_slots: int) -> Actor:
    return _shown(thing, [True] * num_slots)


def _shown(thing: Thing, is_shown: Sequence[bool]) -> Actor:
    paint = Paint(thing.colour, thing.rgb)
    return Actor(thing, (thing.x, thing.y), tuple(paint if shown else None for shown in is_shown))
