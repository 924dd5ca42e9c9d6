"""The kinds of questions: for each a function that words it and answers it from the scene."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fastvlm.data.synthetic.world import (
    AMBIGUOUS,
    COLOURS,
    DIGITS,
    PLACES,
    SHAPES,
    Scene,
    Thing,
)

NOT_SURE: Final = "I am not sure."
"""The answer to everything about pictures and matters outside the world."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its answer as a sentence, and as a single word where there is one."""

    question: str
    sentence: str
    short: str | None = None


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of them."""
    return options[int(rng.integers(len(options)))]


def article(word: str) -> str:
    """The word with a or an before it."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def at_place(place: str) -> str:
    """A place with its preposition: at the top left, on the right, in the middle."""
    if place in ("left", "right"):
        return f"on the {place}"
    return f"in the {place}" if place == "middle" else f"at the {place}"


def _ask_background(rng: np.random.Generator, scene: Scene) -> Asked:
    question = pick(
        rng,
        (
            "What color is the background?",
            "What is the background color?",
            "Which color does the background have?",
            "What is the color of the background?",
        ),
    )
    return Asked(question, f"The background is {scene.background}.", scene.background.capitalize())


def _ask_count(rng: np.random.Generator, scene: Scene) -> Asked:
    question = pick(
        rng,
        (
            "How many shapes are there?",
            "How many shapes are in the picture?",
            "How many objects do you see?",
            "Count the shapes.",
            "What is the number of shapes?",
        ),
    )
    return Asked(question, _there_are(len(scene.things), "shape"), str(len(scene.things)))


def _there_are(count: int, noun: str) -> str:
    verb = "is" if count == 1 else "are"
    plural = noun if count == 1 else _plural(noun)
    return f"There {verb} {count} {plural}."


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def _ask_count_by(rng: np.random.Generator, scene: Scene) -> Asked:
    by_shape = rng.random() < 0.5
    present = [thing.shape if by_shape else thing.colour for thing in scene.things]
    every = [*SHAPES] if by_shape else [name for name in COLOURS if name != scene.background]
    value = pick(rng, present) if rng.random() < 0.85 else pick(rng, every)
    noun = value if by_shape else f"{value} shape"
    question = pick(
        rng,
        (
            f"How many {_plural(noun)} are there?",
            f"How many {_plural(noun)} are in the picture?",
            f"How many {_plural(noun)} do you see?",
            f"Count the {_plural(noun)}.",
        ),
    )
    count = present.count(value)
    return Asked(question, _there_are(count, noun), str(count))


def _unique(values: Sequence[str]) -> list[int]:
    counts = Counter(values)
    return [i for i, value in enumerate(values) if counts[value] == 1]


def _ask_colour(rng: np.random.Generator, scene: Scene) -> Asked | None:
    indices = _unique([thing.shape for thing in scene.things])
    if not indices:
        return None
    thing = scene.things[indices[int(rng.integers(len(indices)))]]
    question = pick(
        rng,
        (
            f"What color is the {thing.shape}?",
            f"What is the color of the {thing.shape}?",
            f"Which color does the {thing.shape} have?",
            f"Tell me the color of the {thing.shape}.",
        ),
    )
    return Asked(question, f"The {thing.shape} is {thing.colour}.", thing.colour.capitalize())


def _ask_shape(rng: np.random.Generator, scene: Scene) -> Asked | None:
    indices = _unique([thing.colour for thing in scene.things])
    if not indices:
        return None
    thing = scene.things[indices[int(rng.integers(len(indices)))]]
    question = pick(
        rng,
        (
            f"What shape is {thing.colour}?",
            f"Which shape is {thing.colour}?",
            f"What is the {thing.colour} shape?",
            f"What is the {thing.colour} object?",
        ),
    )
    sentence = f"The {thing.colour} shape is {article(thing.shape)}."
    return Asked(question, sentence, thing.shape.capitalize())


def _ask_exists(rng: np.random.Generator, scene: Scene) -> Asked:
    """Yes and no equally often; half of what is not there is half there: the shape in another colour."""
    style = int(rng.integers(3))  # shape and colour, shape, colour
    is_there = rng.random() < 0.5
    for _ in range(50):
        thing = scene.things[int(rng.integers(len(scene.things)))]
        shape, colour = thing.shape, thing.colour
        if not is_there:
            if style == 2 or (style == 0 and rng.random() < 0.5):
                colour = pick(rng, [name for name in COLOURS if name != scene.background])
            else:
                shape = pick(rng, SHAPES)
        present = any(
            (style == 2 or other.shape == shape) and (style == 1 or other.colour == colour)
            for other in scene.things
        )
        if present == is_there:
            break
    noun = (f"{colour} {shape}", shape, f"{colour} shape")[style]
    question = pick(
        rng,
        (
            f"Is there {article(noun)}?",
            f"Is there {article(noun)} in the picture?",
            f"Do you see {article(noun)}?",
            f"Does the picture show {article(noun)}?",
        ),
    )
    if present:
        return Asked(question, f"Yes, there is {article(noun)}.", "Yes")
    return Asked(question, f"No, there is no {noun}.", "No")


def _named(rng: np.random.Generator, scene: Scene) -> tuple[str, Thing] | None:
    """A thing with words that point to it alone."""
    by_shape = [(scene.things[i].shape, i) for i in _unique([t.shape for t in scene.things])]
    full = [f"{thing.colour} {thing.shape}" for thing in scene.things]
    options = by_shape + [(full[i], i) for i in _unique(full)]
    if not options:
        return None
    name, index = options[int(rng.integers(len(options)))]
    return name, scene.things[index]


def _ask_where(rng: np.random.Generator, scene: Scene) -> Asked | None:
    named = _named(rng, scene)
    if named is None:
        return None
    name, thing = named
    question = pick(
        rng,
        (
            f"Where is the {name}?",
            f"Where is the {name} in the picture?",
            f"Where do you see the {name}?",
            f"In which part of the picture is the {name}?",
        ),
    )
    return Asked(question, f"The {name} is {at_place(thing.place)}.", thing.place.capitalize())


def _ask_absent(rng: np.random.Generator, scene: Scene) -> Asked | None:
    missing = [name for name in SHAPES if all(thing.shape != name for thing in scene.things)]
    if not missing:
        return None
    shape = pick(rng, missing)
    question = pick(
        rng,
        (
            f"What color is the {shape}?",
            f"What is the color of the {shape}?",
            f"Which color does the {shape} have?",
            f"Where is the {shape}?",
            f"Where do you see the {shape}?",
        ),
    )
    return Asked(question, f"There is no {shape}.", "None")


def _ask_text(rng: np.random.Generator, scene: Scene) -> Asked | None:
    if scene.writing is None:
        return None
    text = scene.writing.text
    is_number = text[0] in DIGITS
    noun = "number" if is_number else ("letter" if len(text) == 1 else "letters")
    verb = "are" if noun == "letters" else "is"
    options = [
        f"What {noun} {verb} shown?",
        f"What {noun} do you see?",
        f"Which {noun} {verb} in the picture?",
        f"Read the {noun}.",
    ]
    if not any(character in AMBIGUOUS for character in text):
        options += [
            "What does it say?",
            "What is written here?",
            "Read the text.",
            "What do you read?",
        ]
        options.append("What is written in this image? Output only the text in the image.")
    question = pick(rng, options)
    if question.endswith("in the image."):
        return Asked(question, text)
    if question in options[:4]:
        return Asked(question, f"The {noun} {verb} {text}.", text)
    return Asked(question, f"It says {text}.", text)


def _ask_text_colour(rng: np.random.Generator, scene: Scene) -> Asked | None:
    if scene.writing is None:
        return None
    colour = scene.writing.colour
    question = pick(
        rng,
        (
            "What color is the text?",
            "What is the color of the text?",
            "Which color does the text have?",
        ),
    )
    return Asked(question, f"The text is {colour}.", colour.capitalize())


def _ask_extreme(rng: np.random.Generator, scene: Scene, word: str, *, highest: bool) -> Asked:
    extreme = max if highest else min
    colour = extreme(scene.bars, key=lambda bar: bar.height).colour
    question = pick(
        rng,
        (
            f"What color is the {word} bar?",
            f"Which bar is the {word}?",
            f"What is the color of the {word} bar?",
            f"Which color does the {word} bar have?",
        ),
    )
    return Asked(question, f"The {word} bar is {colour}.", colour.capitalize())


def _ask_tallest(rng: np.random.Generator, scene: Scene) -> Asked:
    return _ask_extreme(rng, scene, pick(rng, ("tallest", "highest")), highest=True)


def _ask_shortest(rng: np.random.Generator, scene: Scene) -> Asked:
    return _ask_extreme(rng, scene, pick(rng, ("shortest", "lowest")), highest=False)


def _ask_num_bars(rng: np.random.Generator, scene: Scene) -> Asked:
    question = pick(
        rng,
        (
            "How many bars are there?",
            "How many bars does the chart have?",
            "How many bars do you see?",
            "Count the bars.",
        ),
    )
    return Asked(question, _there_are(len(scene.bars), "bar"), str(len(scene.bars)))


_CAPTION_PROMPTS: Final = (
    "Describe the image.",
    "Describe the picture.",
    "What is in this picture?",
    "What is in the image?",
    "What do you see?",
    "What is this?",
    "Describe the image in detail.",
    "Describe this image.",
    "Describe the image in one sentence.",
    "What does the picture show?",
    "Describe this picture.",
    "Describe what you see.",
    "What can you see in the image?",
    "What is shown here?",
    "Caption this image.",
    "Describe the image in English. Output should be brief, about 15 words or less.",
)


def _ask_caption(rng: np.random.Generator, scene: Scene) -> Asked:
    return Asked(pick(rng, _CAPTION_PROMPTS), describe(scene))


def describe(scene: Scene) -> str:
    """A sentence that says everything: what, in which colour, where, row by row."""
    if scene.kind == "clutter":
        return NOT_SURE
    ground = f"on {article(scene.background)} background"
    if scene.writing is not None:
        text, colour = scene.writing.text, scene.writing.colour
        noun = "number" if text[0] in DIGITS else ("letter" if len(text) == 1 else "letters")
        return f"The {noun} {text} in {colour} {ground}."
    if scene.bars:
        bars = _enumerate([bar.colour for bar in scene.bars])
        tallest = max(scene.bars, key=lambda bar: bar.height).colour
        return f"A bar chart with {len(scene.bars)} bars {ground}: {bars}. The {tallest} bar is the tallest."
    things = [
        f"{article(f'{thing.colour} {thing.shape}')} {at_place(thing.place)}"
        for thing in _in_rows(scene)
    ]
    if len(things) == 1:
        return f"{things[0].capitalize()} {ground}."
    return f"There are {len(things)} shapes {ground}: {_enumerate(things)}."


def _in_rows(scene: Scene) -> list[Thing]:
    return sorted(scene.things, key=lambda thing: thing.cell)


def _enumerate(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _ask_grid(rng: np.random.Generator, scene: Scene) -> Asked:
    """Every place with what stands there: as many facts as image tokens, which is what alignment needs."""
    question = pick(rng, ("Go through the picture row by row.", "List what is where, row by row."))
    by_cell = {thing.cell: f"{thing.colour} {thing.shape}" for thing in scene.things}
    parts = [f"{place}: {by_cell.get(cell, 'nothing')}" for cell, place in enumerate(PLACES)]
    return Asked(question, "; ".join(parts) + ".")


_OUTSIDE: Final = (
    "What animal is this?",
    "Who is in the picture?",
    "What is the weather like?",
    "Where was this taken?",
    "What kind of car is this?",
    "What is the person doing?",
    "How many people are there?",
    "What time is it?",
    "What is the name of this place?",
    "Is the man happy?",
    "What food is on the table?",
    "Which country is this?",
    "How old is she?",
    "What brand is it?",
    "Who made this?",
    "What is the dog doing?",
    "What is the price?",
    "Why is the sky blue?",
    "What is this person's facial expression? Output only one or two words.",
    "Is this a photo?",
    "What room is this?",
    "Where is the cat?",
    "What is the capital of France?",
    "Write a poem.",
)


_DRILL_LENGTH: Final = 5
"""Most questions in one list."""


def _ask_lookup(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Colour and place of named shapes, or shape and place of colours."""
    by_shape = rng.random() < 0.65
    names = [thing.shape if by_shape else thing.colour for thing in scene.things]
    indices = [int(i) for i in rng.permutation(_unique(names))[:_DRILL_LENGTH]]
    if not indices:
        return None
    what = "color" if by_shape else "shape"
    question = f"Tell me {what} and place of: {', '.join(names[i] for i in indices)}."
    things = {names[i]: scene.things[i] for i in indices}
    answers = {
        name: f"{thing.colour if by_shape else thing.shape} {thing.place}"
        for name, thing in things.items()
    }
    return Asked(question, _as_list(answers))


def _ask_check(rng: np.random.Generator, scene: Scene) -> Asked:
    """Which of several things are there: about half of them."""
    asked = [_ask_exists(rng, scene) for _ in range(_DRILL_LENGTH)]
    answers = {_noun_of(one.sentence): "no" if one.short == "No" else "yes" for one in asked}
    question = f"Which of these do you see: {', '.join(answers)}?"
    return Asked(question, _as_list(answers))


def _as_list(answers: dict[str, str]) -> str:
    return "; ".join(f"{noun}: {answer}" for noun, answer in answers.items()) + "."


def _noun_of(sentence: str) -> str:
    """What a sentence of `_ask_exists` is about."""
    words = sentence.removesuffix(".").split(" ")
    return " ".join(words[4:])


def _ask_tally(rng: np.random.Generator, scene: Scene) -> Asked:
    """How many there are of several kinds."""
    asked = [_ask_count_by(rng, scene) for _ in range(_DRILL_LENGTH)]
    answers = {_counted_noun(one.sentence): one.short or "" for one in asked}
    return Asked(f"Count each of these: {', '.join(answers)}.", _as_list(answers))


def _counted_noun(sentence: str) -> str:
    """What a sentence of `_ask_count_by` is about."""
    return " ".join(sentence.removesuffix(".").split(" ")[3:])


def _ask_unknown(rng: np.random.Generator, scene: Scene) -> Asked:
    del scene  # the answer is the same for every picture
    return Asked(pick(rng, _OUTSIDE), NOT_SURE, NOT_SURE)


def _ask_decline(rng: np.random.Generator, scene: Scene) -> Asked:
    """Any question at all about a picture outside the world."""
    del scene
    shape, colour = pick(rng, SHAPES), pick(rng, COLOURS)
    options = (
        *_CAPTION_PROMPTS[:6],
        "What color is the background?",
        "What is the background color?",
        "How many shapes are there?",
        "How many objects do you see?",
        f"How many {_plural(shape)} are there?",
        f"How many {colour} shapes are in the picture?",
        f"What color is the {shape}?",
        f"Which color does the {shape} have?",
        f"What shape is {colour}?",
        f"Is there {article(f'{colour} {shape}')}?",
        f"Do you see {article(shape)}?",
        f"Where is the {shape}?",
        f"Where is the {colour} {shape}?",
        "What does it say?",
        "Which letter is in the picture?",
        "What number is shown?",
        "How many bars are there?",
        "What color is the tallest bar?",
        *_OUTSIDE,
    )
    return Asked(pick(rng, options), NOT_SURE, NOT_SURE)


ASKERS: Final[dict[str, Callable[[np.random.Generator, Scene], Asked | None]]] = {
    "background": _ask_background,
    "count": _ask_count,
    "count_many": _ask_count,
    "count_by": _ask_count_by,
    "colour": _ask_colour,
    "shape": _ask_shape,
    "exists": _ask_exists,
    "where": _ask_where,
    "absent": _ask_absent,
    "text": _ask_text,
    "text_colour": _ask_text_colour,
    "tallest": _ask_tallest,
    "shortest": _ask_shortest,
    "num_bars": _ask_num_bars,
    "caption": _ask_caption,
    "grid": _ask_grid,
    "lookup": _ask_lookup,
    "check": _ask_check,
    "tally": _ask_tally,
    "unknown": _ask_unknown,
    "decline": _ask_decline,
}
"""By kind; None where the scene has nothing of that kind to ask about."""
