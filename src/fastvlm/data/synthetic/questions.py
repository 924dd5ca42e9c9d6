"""Questions about a scene, in several wordings and three styles: sentence, single word, short dialogue.

A question without a further word is answered by a sentence; one that asks for a single word gets it. What the
picture does not show is answered by saying so, and what cannot be known by `NOT_SURE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from fastvlm.data.synthetic.askers import ASKERS, Asked, at_place
from fastvlm.data.synthetic.world import Scene

SHORT_SUFFIXES: Final = (
    "Answer with one word.",
    "Answer in one word.",
    "Answer the question using a single word or phrase.",
)
"""Requests for a single word; the last is the one that benchmarks use."""


DRILLS: Final = ("lookup", "check", "tally")
"""Kinds that ask several small questions at once: one answer teaches as much as five, and it carries over.
Asked one by one, looking things up stayed at chance for long."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its only right answer; `kind` is what evaluation counts by."""

    kind: str
    question: str
    answer: str


Dialogue: TypeAlias = tuple[Question, ...]
"""Questions asked one after the other in the same conversation; mostly one."""


def ask(
    rng: np.random.Generator, kind: str, scene: Scene, *, is_short: bool | None = None
) -> Question | None:
    """A question of this kind, or None where the scene does not have what it is about.

    Args:
        rng: chooses what is asked about, the wording and the style.
        kind: one of `kinds_of(scene)`.
        scene: what the picture shows.
        is_short: whether a single word is asked for; None draws it.
    """
    asked = ASKERS[kind](rng, scene)
    return None if asked is None else styled(rng, kind, asked, is_short=is_short)


def styled(
    rng: np.random.Generator, kind: str, asked: Asked, *, is_short: bool | None = None
) -> Question:
    """Ask for a sentence or for a single word, where there is one; None draws it."""
    if asked.short is None:
        return Question(kind, asked.question, asked.sentence)
    if is_short is None:
        is_short = rng.random() < 0.4
    if not is_short:
        return Question(kind, asked.question, asked.sentence)
    suffix = SHORT_SUFFIXES[int(rng.integers(len(SHORT_SUFFIXES)))]
    joint = "\n" if rng.random() < 0.3 else " "
    return Question(kind, f"{asked.question}{joint}{suffix}", asked.short)


def kinds_of(scene: Scene) -> tuple[str, ...]:
    """Kinds of questions that make sense for the scene, those that evaluation counts."""
    if scene.kind == "clutter":
        return ("decline",)
    if scene.kind == "text":
        return ("background", "text", "text_colour")
    if scene.kind == "bars":
        return ("background", "tallest", "shortest", "num_bars")
    few = len(scene.things) <= 4
    return (
        "background",
        "count" if few else "count_many",
        "count_by",
        "colour",
        "shape",
        "exists",
        "where",
    )


def sample_dialogues(
    rng: np.random.Generator,
    scene: Scene,
    count: int,
    *,
    overview_rate: float = 0.7,
    drill_rate: float = 0.0,
    is_focused: bool = False,
    drills: Sequence[str] = DRILLS,
    only: Sequence[str] = (),
) -> list[Dialogue]:
    """What training asks about one picture.

    Args:
        rng: chooses.
        scene: what the picture shows.
        count: conversations in all.
        overview_rate: how often a caption, and as often the list of all places, is among them.
        drill_rate: how often each of `drills` is among them.
        drills: lists of small questions.
        is_focused: ask more often what takes longest to learn; otherwise all kinds alike.
        only: kinds that are asked, as far as the scene has them; none means all.
    """
    overviews = ("caption", "grid") if scene.kind == "things" else ("caption",)
    asked = [ask(rng, kind, scene) for kind in overviews if rng.random() < overview_rate]
    if drill_rate and scene.kind == "things":
        asked += [ask(rng, kind, scene) for kind in drills if rng.random() < drill_rate]
    dialogues: list[Dialogue] = [(question,) for question in asked if question is not None]
    kinds = [*kinds_of(scene)]
    if only:
        kinds = [kind for kind in kinds if kind in only] or kinds
    if is_focused:
        kinds = [kind for kind in kinds for _ in range(_FOCUS.get(kind, 2))]
    while len(dialogues) < count:
        draw = rng.random()
        if draw < 0.05:
            kind = "unknown"
        elif draw < 0.11 and scene.kind == "things":
            kind = "absent"
        else:
            kind = kinds[int(rng.integers(len(kinds)))]
        question = ask(rng, kind, scene)
        if question is None:
            continue
        follow_up = _follow_up(rng, scene, question) if rng.random() < 0.15 else None
        dialogues.append((question,) if follow_up is None else (question, follow_up))
    return dialogues


# Looking one thing up among several takes far longer to learn than what holds for the whole picture.
_FOCUS: Final = {
    "background": 1,
    "count": 1,
    "count_many": 1,
    "count_by": 5,
    "colour": 4,
    "shape": 3,
    "exists": 4,
    "where": 5,
    "num_bars": 1,
    "text": 4,
    "text_colour": 1,
}


def _follow_up(rng: np.random.Generator, scene: Scene, first: Question) -> Question | None:
    """A second question that points back to the first, or just another one."""
    things = scene.things
    if first.kind == "exists" and first.answer.startswith("Yes, there is a"):
        noun = first.answer.removesuffix(".").split(" ")[4:]
        matches = [
            thing
            for thing in things
            if (noun[-1] in (thing.shape, "shape")) and (len(noun) == 1 or noun[0] == thing.colour)
        ]
        if len(matches) == 1:
            if len(noun) == 1 and rng.random() < 0.5:
                return Question("colour", "What color is it?", f"It is {matches[0].colour}.")
            return Question("where", "Where is it?", f"It is {at_place(matches[0].place)}.")
    kinds = kinds_of(scene)
    return ask(rng, kinds[int(rng.integers(len(kinds)))], scene)
