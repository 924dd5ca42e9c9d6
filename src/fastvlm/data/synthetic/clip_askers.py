"""The kinds of questions about clips: for each a function that words it and says how any clip answers it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from fastvlm.data.synthetic.askers import article, at_place, pick
from fastvlm.data.synthetic.clips import Actor, Clip
from fastvlm.data.synthetic.world import SHAPES


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as a sentence, and as a single word where there is one."""

    sentence: str
    short: str | None = None


@dataclass(frozen=True, slots=True)
class Wording:
    """A question in words, and the way to answer it for any clip; None where a clip has no answer."""

    question: str
    answer: Callable[[Clip], Answer | None]
    about: int | None = None
    """Index of the actor that a follow-up may call `it`."""


def moment(at_end: bool) -> Literal["end", "start"]:
    """What the end and the start are called."""
    return "end" if at_end else "start"


def place_when(actor: Actor, *, at_end: bool) -> str:
    """Where it stands at the end or at the start."""
    thing = actor.at(1.0 if at_end else 0.0)
    assert thing is not None, "only asked about things that are always there"
    return thing.place


def _name(rng: np.random.Generator, clip: Clip, index: int) -> str:
    """Words that point to this actor alone, whatever happens to it."""
    actor = clip.actors[index]
    if len(actor.colours) == 1 and rng.random() < 0.3:
        return f"{actor.colours[0]} {actor.shape}"
    return actor.shape


def pick_actor(rng: np.random.Generator, clip: Clip, *, is_other: float = 0.15) -> int:
    """Mostly one that something happens to."""
    main = 2 if clip.kind == "order" else 1
    if len(clip.actors) > main and rng.random() < is_other:
        return int(rng.integers(main, len(clip.actors)))
    return int(rng.integers(main))


_MOVES: Final = {
    "left": "moves to the left",
    "right": "moves to the right",
    "up": "moves up",
    "down": "moves down",
}


def _ask_direction(rng: np.random.Generator, clip: Clip) -> Wording:
    index = pick_actor(rng, clip)
    name = _name(rng, clip, index)

    def answer(played: Clip) -> Answer:
        direction = played.actors[index].direction
        if direction is None:
            return Answer(f"The {name} does not move.", "None")
        return Answer(f"The {name} {_MOVES[direction]}.", direction.capitalize())

    question = pick(
        rng,
        (
            f"In which direction does the {name} move?",
            f"Which way does the {name} move?",
            f"Where does the {name} go?",
            f"Where does the {name} move?",
        ),
    )
    return Wording(question, answer, index)


def _ask_moves(rng: np.random.Generator, clip: Clip) -> Wording | None:
    """Yes and no about equally often."""
    wanted = rng.random() < 0.46
    indices = [i for i, one in enumerate(clip.actors) if (one.direction is not None) == wanted]
    if not indices:
        return None
    index = indices[int(rng.integers(len(indices)))]
    name = _name(rng, clip, index)

    def answer(played: Clip) -> Answer:
        if played.actors[index].direction is None:
            return Answer(f"No, the {name} does not move.", "No")
        return Answer(f"Yes, the {name} moves.", "Yes")

    question = pick(rng, (f"Does the {name} move?", f"Is the {name} moving?"))
    return Wording(question, answer, index)


def _ask_mover(rng: np.random.Generator, clip: Clip) -> Wording:
    def answer(played: Clip) -> Answer:
        moving = [one.shape for one in played.actors if one.direction is not None]
        if not moving:
            return Answer("Nothing moves.", "Nothing")
        return Answer(f"The {moving[0]} moves.", moving[0].capitalize())

    question = pick(rng, ("Which shape moves?", "What moves?", "What is moving?"))
    return Wording(question, answer, 0 if clip.actors[0].direction is not None else None)


def _ask_where_when(rng: np.random.Generator, clip: Clip) -> Wording:
    index, at_end = pick_actor(rng, clip), rng.random() < 0.5
    name, word = _name(rng, clip, index), moment(at_end)

    def answer(played: Clip) -> Answer:
        place = place_when(played.actors[index], at_end=at_end)
        sentence = f"The {name} is {at_place(place)} at the {word}."
        return Answer(sentence, place.capitalize())

    question = pick(
        rng,
        (
            f"Where is the {name} at the {word}?",
            f"Where is the {name} {'last' if at_end else 'first'}?",
            f"Where does the {name} {word}?",
        ),
    )
    return Wording(question, answer)


def _ask_vanish(rng: np.random.Generator, clip: Clip) -> Wording:
    index = pick_actor(rng, clip)
    name = _name(rng, clip, index)

    def answer(played: Clip) -> Answer:
        actor = played.actors[index]
        if actor.is_still:
            return Answer(f"The {name} stays.", "Stays")
        verb = "appears" if actor.slots[0] is None else "disappears"
        return Answer(f"The {name} {verb}.", verb.capitalize())

    question = pick(
        rng,
        (
            f"Does the {name} appear or disappear?",
            f"Does the {name} appear, disappear or stay?",
            f"Does the {name} come or go?",
        ),
    )
    return Wording(question, answer, index)


def _ask_present(rng: np.random.Generator, clip: Clip) -> Wording:
    """Yes and no equally often, because a clip is as likely as the same played backwards."""
    name, at_end = _name(rng, clip, 0), rng.random() < 0.5
    word = moment(at_end)

    def answer(played: Clip) -> Answer:
        if played.actors[0].slots[-1 if at_end else 0] is None:
            return Answer(f"No, there is no {name} at the {word}.", "No")
        return Answer(f"Yes, there is {article(name)} at the {word}.", "Yes")

    question = pick(
        rng,
        (
            f"Is there {article(name)} at the {word}?",
            f"Do you see {article(name)} at the {word}?",
        ),
    )
    return Wording(question, answer, 0)


def _ask_order(rng: np.random.Generator, clip: Clip) -> Wording:
    word = pick(rng, ("first", "last"))
    by_colour = clip.actors[0].colours != clip.actors[1].colours and rng.random() < 0.25

    def answer(played: Clip) -> Answer:
        by_time = sorted(played.actors, key=lambda actor: actor.shown)
        actor = by_time[0 if word == "first" else -1]
        if by_colour:
            colour = actor.colours[0]
            return Answer(f"The {colour} shape comes {word}.", colour.capitalize())
        return Answer(f"The {actor.shape} comes {word}.", actor.shape.capitalize())

    if by_colour:
        return Wording(f"What color is the shape that comes {word}?", answer)
    question = pick(
        rng,
        (
            f"Which shape comes {word}?",
            f"What comes {word}?",
            f"Which shape do you see {word}?",
            f"Which shape appears {word}?",
        ),
    )
    return Wording(question, answer)


def _ask_before(rng: np.random.Generator, clip: Clip) -> Wording:
    """Yes and no equally often: which of the two is named first is drawn."""
    one, other = (int(i) for i in rng.permutation(2))
    word = pick(rng, ("before", "after"))
    name, other_name = _name(rng, clip, one), _name(rng, clip, other)

    def answer(played: Clip) -> Answer:
        is_before = played.actors[one].shown < played.actors[other].shown
        if is_before == (word == "before"):
            return Answer(f"Yes, the {name} comes {word} the {other_name}.", "Yes")
        return Answer(f"No, the {other_name} comes {word} the {name}.", "No")

    question = pick(
        rng,
        (
            f"Does the {name} come {word} the {other_name}?",
            f"Do you see the {name} {word} the {other_name}?",
        ),
    )
    return Wording(question, answer)


def _ask_colour_when(rng: np.random.Generator, clip: Clip) -> Wording:
    index, at_end = pick_actor(rng, clip), rng.random() < 0.5
    shape, word = clip.actors[index].shape, moment(at_end)

    def answer(played: Clip) -> Answer:
        colour = played.actors[index].colours[-1 if at_end else 0]
        return Answer(f"The {shape} is {colour} at the {word}.", colour.capitalize())

    question = pick(
        rng,
        (
            f"What color is the {shape} at the {word}?",
            f"What is the color of the {shape} at the {word}?",
            f"What color is the {shape} {'last' if at_end else 'first'}?",
        ),
    )
    return Wording(question, answer, index)


def _ask_recolour(rng: np.random.Generator, clip: Clip) -> Wording:
    index = pick_actor(rng, clip)
    shape = clip.actors[index].shape

    def answer(played: Clip) -> Answer:
        colours = played.actors[index].colours
        if len(colours) == 1:
            return Answer(f"The {shape} stays {colours[0]}.")
        return Answer(f"The {shape} goes from {colours[0]} to {colours[1]}.")

    question = pick(
        rng,
        (
            f"How does the color of the {shape} change?",
            f"What happens to the color of the {shape}?",
        ),
    )
    return Wording(question, answer, index)


def _ask_flashes(rng: np.random.Generator, clip: Clip) -> Wording:
    name = _name(rng, clip, 0)

    def answer(played: Clip) -> Answer:
        count = played.actors[0].num_flashes
        return Answer(f"The {name} flashes {_times(count)}.", str(count))

    question = pick(
        rng,
        (
            f"How many times does the {name} flash?",
            f"How often does the {name} flash?",
            f"How many times do you see the {name}?",
            f"Count the flashes of the {name}.",
        ),
    )
    return Wording(question, answer, 0)


def _times(count: int) -> str:
    return "1 time" if count == 1 else f"{count} times"


def _ask_happens(rng: np.random.Generator, clip: Clip) -> Wording:
    index = pick_actor(rng, clip, is_other=0.25)
    name = _name(rng, clip, index)

    def answer(played: Clip) -> Answer:
        return Answer(_event(played, played.actors[index], name) + ".")

    question = pick(
        rng,
        (
            f"What happens to the {name}?",
            f"What does the {name} do?",
            f"Tell me what the {name} does.",
        ),
    )
    return Wording(question, answer, index)


def _event(clip: Clip, actor: Actor, name: str) -> str:
    if actor.is_still:
        return f"The {name} {'does not move' if clip.kind == 'motion' else 'stays'}"
    if actor.direction is not None:
        return f"The {name} {_MOVES[actor.direction]}"
    if len(actor.colours) == 2:
        return f"The {name} goes from {actor.colours[0]} to {actor.colours[1]}"
    if clip.kind == "flash":
        return f"The {name} flashes {_times(actor.num_flashes)}"
    return f"The {name} {'appears' if actor.slots[0] is None else 'disappears'}"


def _ask_absent(rng: np.random.Generator, clip: Clip) -> Wording:
    present = {actor.shape for actor in clip.actors}
    shape = pick(rng, [name for name in SHAPES if name not in present])
    question = pick(
        rng,
        (
            f"Which way does the {shape} move?",
            f"What happens to the {shape}?",
            f"Does the {shape} appear or disappear?",
            f"What color is the {shape} at the end?",
            f"Where is the {shape} at the start?",
            f"How many times does the {shape} flash?",
        ),
    )
    return Wording(question, lambda _: Answer(f"There is no {shape}.", "None"))


_CAPTION_PROMPTS: Final = (
    "Describe the video.",
    "Describe the clip.",
    "Describe this video.",
    "What happens?",
    "What happens in the video?",
    "What happens in this clip?",
    "What do you see in the video?",
    "Describe the video in one sentence.",
    "Describe what happens.",
)


def _ask_caption(rng: np.random.Generator, clip: Clip) -> Wording:
    del clip  # the answer looks at the one that is played
    return Wording(pick(rng, _CAPTION_PROMPTS), lambda played: Answer(describe_clip(played)))


def describe_clip(clip: Clip) -> str:
    """What happens, then what else is there."""
    ground = f"on {article(clip.background)} background"
    first, others = clip.actors[0], clip.actors[1:]
    if clip.kind == "order":
        one, two = sorted(clip.actors, key=lambda actor: actor.shown)
        return f"First {_seen(one)}, then {_seen(two)} {ground}."
    if first.direction is not None:
        end = first.reversed().thing.place
        start = f"from the {first.thing.place} to the {end}"
        event = f"{article(f'{first.colours[0]} {first.shape}').capitalize()} moves {start}"
    else:
        name = first.shape if len(first.colours) > 1 else f"{first.colours[0]} {first.shape}"
        seen = f"{article(name)} {at_place(first.thing.place)}".capitalize()
        event = _event(clip, first, name).replace(f"The {name}", seen, 1)
    rest = "".join(f" {_seen(other).capitalize()} stays." for other in others)
    return f"{event} {ground}.{rest}"


def _seen(actor: Actor) -> str:
    return f"{article(f'{actor.colours[0]} {actor.shape}')} {at_place(actor.thing.place)}"


CLIP_ASKERS: Final[dict[str, Callable[[np.random.Generator, Clip], Wording | None]]] = {
    "direction": _ask_direction,
    "moves": _ask_moves,
    "mover": _ask_mover,
    "where_when": _ask_where_when,
    "vanish": _ask_vanish,
    "present": _ask_present,
    "order": _ask_order,
    "before": _ask_before,
    "colour_when": _ask_colour_when,
    "recolour": _ask_recolour,
    "flashes": _ask_flashes,
    "happens": _ask_happens,
    "absent": _ask_absent,
    "caption": _ask_caption,
}
"""By kind; None where the clip has nothing of that kind to ask about."""
