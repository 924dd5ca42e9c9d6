"""A skill that `nano` was not trained in: how two shapes of a still picture stand to each other.

Left of, right of, above and below are asked only where the grid of named places leaves no doubt. The set is for
comparing ways of fine-tuning: the pictures are known, the questions are new.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from fastvlm.data.synthetic.askers import Asked, pick
from fastvlm.data.synthetic.draw import draw_scene
from fastvlm.data.synthetic.llava_folder import (
    OnProgress,
    join_turns,
    llava_record,
    new_folder,
    no_progress,
    save_picture,
    write_records,
)
from fastvlm.data.synthetic.questions import Question, styled
from fastvlm.data.synthetic.sample import sample_things
from fastvlm.data.synthetic.world import GRID, Scene, Thing
from fastvlm.errors import ConfigError

Relation: TypeAlias = Literal["left of", "right of", "above", "below"]
SKILL_KINDS: Final = ("is_relation", "which_relation", "how_relation")

_SEED: Final = 8_500_000_000
"""Recipes, other sets and evaluations have their seeds elsewhere."""
_PICTURE_SIZE: Final = 192
_OPPOSITE: Final[dict[Relation, Relation]] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}


def write_skill_set(
    folder: Path,
    *,
    num_pictures: int,
    seed: int = 0,
    num_validation: int = 200,
    questions_per_picture: int = 4,
    on_progress: OnProgress = no_progress,
) -> None:
    """Write pictures, `train.json` and `validation.json`; the same seed gives the same set.

    Args:
        folder: new or empty.
        num_pictures: pictures to train on.
        seed: of all choices; validation has other pictures with every seed.
        num_validation: pictures to validate with; each question is a record of its own, with its kind.
        questions_per_picture: in training joined in one conversation.
        on_progress: called after every picture.

    Raises:
        ConfigError: `folder` holds something, or a number is out of range.
        OSError: the disk is full, or the folder cannot be written.
    """
    if min(num_pictures, num_validation) < 0 or questions_per_picture < 1:
        raise ConfigError(
            f"num_pictures {num_pictures}, num_validation {num_validation}, questions_per_picture "
            f"{questions_per_picture}; expected 0 or more pictures and at least 1 question"
        )
    with new_folder(folder) as partial:
        (partial / "pictures").mkdir()
        for part, (split, total) in enumerate(
            (("train", num_pictures), ("validation", num_validation))
        ):
            records: list[dict[str, Any]] = []
            for index in range(total):
                rng = np.random.default_rng([_SEED, seed, part, index])
                scene = sample_related(rng)
                name = f"pictures/{split}-{index:06d}.jpg"
                save_picture(partial / name, draw_scene(scene, _PICTURE_SIZE, ()))
                questions = _sample_questions(rng, scene, questions_per_picture)
                joined = questions_per_picture if split == "train" else 1
                records += [
                    llava_record(
                        f"{split}-{index:06d}-{number}",
                        "image",
                        name,
                        turns,
                        kind=questions[number].kind if split == "validation" else None,
                    )
                    for number, turns in enumerate(join_turns([(q,) for q in questions], joined))
                ]
                on_progress(f"pictures, {split}", index + 1, total)
            write_records(partial / f"{split}.json", records)


def sample_related(rng: np.random.Generator) -> Scene:
    """Two to four things in cells of their own, no two of the same shape."""
    while True:
        scene = sample_things(rng, int(rng.integers(2, 5)))
        by_shape = {thing.shape: thing for thing in scene.things}
        if len(by_shape) > 1:
            return replace(scene, things=tuple(by_shape.values()))


def relations(one: Thing, other: Thing) -> tuple[Relation, ...]:
    """How the first stands to the second: by column, by row, or both."""
    (row, column), (other_row, other_column) = divmod(one.cell, GRID), divmod(other.cell, GRID)
    found: list[Relation] = []
    if column != other_column:
        found.append("left of" if column < other_column else "right of")
    if row != other_row:
        found.append("above" if row < other_row else "below")
    return tuple(found)


def ask_relation(
    rng: np.random.Generator, kind: str, scene: Scene, *, is_short: bool | None = None
) -> Question | None:
    """A question of one of `SKILL_KINDS`, or None where the scene leaves its answer in doubt."""
    asked = _ASKERS[kind](rng, scene)
    return None if asked is None else styled(rng, kind, asked, is_short=is_short)


def _sample_questions(rng: np.random.Generator, scene: Scene, count: int) -> list[Question]:
    questions: list[Question] = []
    while len(questions) < count:
        question = ask_relation(rng, pick(rng, SKILL_KINDS), scene)
        if question is not None:
            questions.append(question)
    return questions


def _pair(rng: np.random.Generator, scene: Scene) -> tuple[Thing, Thing]:
    first, second = (int(i) for i in rng.permutation(len(scene.things))[:2])
    return scene.things[first], scene.things[second]


def _ask_is(rng: np.random.Generator, scene: Scene) -> Asked:
    """Yes and no equally often; no is always the opposite."""
    one, other = _pair(rng, scene)
    found = relations(one, other)
    true = found[int(rng.integers(len(found)))]
    is_true = rng.random() < 0.5
    asked = true if is_true else _OPPOSITE[true]
    question = pick(
        rng,
        (
            f"Is the {one.shape} {asked} the {other.shape}?",
            f"Do you see the {one.shape} {asked} the {other.shape}?",
        ),
    )
    answer = "Yes" if is_true else "No"
    return Asked(question, f"{answer}, the {one.shape} is {true} the {other.shape}.", answer)


def _ask_which(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Only where a single thing stands on that side."""
    other = scene.things[int(rng.integers(len(scene.things)))]
    relation = pick(rng, [*_OPPOSITE])
    found = [
        thing
        for thing in scene.things
        if thing is not other and relation in relations(thing, other)
    ]
    if len(found) != 1:
        return None
    question = pick(
        rng,
        (
            f"Which shape is {relation} the {other.shape}?",
            f"What is {relation} the {other.shape}?",
            f"What do you see {relation} the {other.shape}?",
        ),
    )
    shape = found[0].shape
    return Asked(question, f"The {shape} is {relation} the {other.shape}.", shape.capitalize())


def _ask_how(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Only where both stand in the same row or in the same column."""
    one, other = _pair(rng, scene)
    found = relations(one, other)
    if len(found) != 1:
        return None
    question = pick(
        rng,
        (
            f"Is the {one.shape} left of, right of, above or below the {other.shape}?",
            f"On which side of the {other.shape} is the {one.shape}?",
        ),
    )
    short = found[0].removesuffix(" of").capitalize()
    return Asked(question, f"The {one.shape} is {found[0]} the {other.shape}.", short)


_ASKERS: Final[dict[str, Callable[[np.random.Generator, Scene], Asked | None]]] = {
    "is_relation": _ask_is,
    "which_relation": _ask_which,
    "how_relation": _ask_how,
}
