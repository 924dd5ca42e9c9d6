"""Questions about clips: what moves where, what comes first, what changes, how often something flashes.

An answer is computed from the clip, so the same question can be answered for the clip played backwards. Where
that answer is another one, the question asks about order, and both answers are kept: whoever cannot see the
order of the frames is right half of the time at most. What a single frame answers is asked with the wordings
of still pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from fastvlm.data.synthetic.askers import at_place, pick
from fastvlm.data.synthetic.clip_askers import (
    CLIP_ASKERS,
    Answer,
    Wording,
    moment,
    pick_actor,
    place_when,
)
from fastvlm.data.synthetic.clips import Actor, Clip, ClipKind
from fastvlm.data.synthetic.questions import SHORT_SUFFIXES, ask
from fastvlm.data.synthetic.world import GRID, Scene

_KINDS: Final[dict[ClipKind, tuple[str, ...]]] = {
    "motion": ("direction", "direction", "moves", "mover", "where_when", "happens"),
    "order": ("order", "order", "before"),
    "recolour": ("colour_when", "colour_when", "recolour", "happens"),
    "vanish": ("vanish", "vanish", "present", "happens"),
    "flash": ("flashes", "flashes", "happens"),
}
"""Kinds of questions about each kind of clip; those named twice are asked twice as often."""


@dataclass(frozen=True, slots=True)
class ClipQuestion:
    """A question and its only right answer.

    Attributes:
        kind: what evaluation counts by.
        question: words of the user.
        answer: what is right.
        reversed_answer: what is right when the clip is played backwards, where that is something else; None
            for questions that do not ask about order, and where there is no answer backwards.
    """

    kind: str
    question: str
    answer: str
    reversed_answer: str | None = None


ClipDialogue: TypeAlias = tuple[ClipQuestion, ...]
"""Questions asked one after the other in the same conversation; mostly one."""


def ask_clip(
    rng: np.random.Generator, kind: str, clip: Clip, *, is_short: bool | None = None
) -> ClipQuestion | None:
    """A question of this kind, or None where this clip cannot be asked it.

    Args:
        rng: chooses what is asked about, the wording and the style.
        kind: one of `kinds_of_clip(clip)`, or "absent".
        clip: what is shown.
        is_short: whether a single word is asked for; None draws it.
    """
    if kind == "still":
        return _ask_still(rng, clip, is_short)
    wording = CLIP_ASKERS[kind](rng, clip)
    return None if wording is None else _styled(rng, kind, wording, clip, is_short)


def kinds_of_clip(clip: Clip) -> tuple[str, ...]:
    """Kinds of questions that make sense for the clip, those that evaluation counts."""
    return (*_KINDS[clip.kind], "still")


def sample_clip_dialogues(
    rng: np.random.Generator, clip: Clip, count: int, *, times: Sequence[float]
) -> list[ClipDialogue]:
    """What training asks about one clip.

    Args:
        rng: chooses.
        clip: what is shown.
        count: conversations in all; what gives much away (frame by frame, description) comes last.
        times: of the frames that are shown, 0 to 1.
    """
    overviews = [track_question(rng, clip, times), ask_clip(rng, "caption", clip)]
    asked = [one for one in overviews if one is not None and rng.random() < 0.7]
    last: list[ClipDialogue] = [(one,) for one in asked[: max(0, count - 1)]]
    kinds, dialogues, words = [*_KINDS[clip.kind]], list[ClipDialogue](), set[str]()
    while len(dialogues) + len(last) < count:
        draw = rng.random()
        kind = "absent" if draw < 0.06 else "still" if draw < 0.25 else pick(rng, kinds)
        dialogue = _sample_dialogue(rng, kind, clip)
        if dialogue is not None and dialogue[0].question not in words:
            words.add(dialogue[0].question)
            dialogues.append(dialogue)
    return dialogues + last


def track_question(
    rng: np.random.Generator, clip: Clip, times: Sequence[float]
) -> ClipQuestion | None:
    """Colour and place of one thing in every frame: as many facts as frames, which is what alignment needs.

    None where the thing stands so near a border between two places at one of these times that the name of
    the place is in doubt.
    """
    index = pick_actor(rng, clip)
    actor = clip.actors[index]
    parts = []
    for number, time in enumerate(times, start=1):
        thing = actor.at(time)
        if thing is None:
            parts.append(f"{number}: nothing")
            continue
        if any(abs(value * GRID - line) < 0.06 for value in (thing.x, thing.y) for line in (1, 2)):
            return None
        parts.append(f"{number}: {thing.colour} {thing.place}")
    question = pick(
        rng,
        (
            f"Where is the {actor.shape}, frame by frame?",
            f"Go through the frames: where is the {actor.shape}?",
        ),
    )
    return ClipQuestion("track", question, "; ".join(parts) + ".")


def _sample_dialogue(rng: np.random.Generator, kind: str, clip: Clip) -> ClipDialogue | None:
    if kind == "still" or rng.random() < 0.85:
        question = ask_clip(rng, kind, clip)
        return None if question is None else (question,)
    wording = CLIP_ASKERS[kind](rng, clip)
    if wording is None:
        return None
    first = _styled(rng, kind, wording, clip, None)
    second = _follow_up(rng, clip, wording.about)
    return (first,) if second is None else (first, second)


def _follow_up(rng: np.random.Generator, clip: Clip, about: int | None) -> ClipQuestion | None:
    """A second question that points back to the first, or just another one."""
    actor = None if about is None else clip.actors[about]
    if actor is None or rng.random() < 0.3:
        return ask_clip(rng, pick(rng, _KINDS[clip.kind]), clip)
    if actor.direction is not None:
        return _where_is_it(rng, clip, actor)
    if len(actor.colours) == 1 and rng.random() < 0.6:
        return ClipQuestion("still", "What color is it?", f"It is {actor.colours[0]}.")
    return ClipQuestion("still", "Where is it?", f"It is {at_place(actor.thing.place)}.")


def _where_is_it(rng: np.random.Generator, clip: Clip, actor: Actor) -> ClipQuestion:
    at_end, index = rng.random() < 0.5, clip.actors.index(actor)

    def answer(played: Clip) -> Answer:
        return Answer(f"It is {at_place(place_when(played.actors[index], at_end=at_end))}.")

    question = f"Where is it at the {moment(at_end)}?"
    return _styled(rng, "where_when", Wording(question, answer), clip, False)


def _styled(
    rng: np.random.Generator, kind: str, wording: Wording, clip: Clip, is_short: bool | None
) -> ClipQuestion:
    answer, backwards = wording.answer(clip), wording.answer(clip.reversed())
    assert answer is not None, "askers only ask what the clip answers"
    if backwards == answer:
        backwards = None
    if is_short is None:
        is_short = rng.random() < 0.4
    if answer.short is None or not is_short:
        reversed_answer = None if backwards is None else backwards.sentence
        return ClipQuestion(kind, wording.question, answer.sentence, reversed_answer)
    joint = "\n" if rng.random() < 0.3 else " "
    question = f"{wording.question}{joint}{pick(rng, SHORT_SUFFIXES)}"
    return ClipQuestion(
        kind, question, answer.short, None if backwards is None else backwards.short
    )


def _ask_still(rng: np.random.Generator, clip: Clip, is_short: bool | None) -> ClipQuestion | None:
    """What any frame answers, or all together: as about a picture of everything that the clip shows."""
    things = [thing for actor in clip.actors if (thing := actor.at(_any_time(actor))) is not None]
    scene = Scene("things", clip.background, clip.background_rgb, tuple(things))
    kinds = ["background"]
    if all(len(actor.colours) == 1 for actor in clip.actors):
        kinds += ["colour", "shape", "exists"]
    if all(len(actor.shown) == clip.num_slots for actor in clip.actors):
        kinds.append("count")
    asked = ask(rng, pick(rng, kinds), scene, is_short=is_short)
    return None if asked is None else ClipQuestion("still", asked.question, asked.answer)


def _any_time(actor: Actor) -> float:
    return (actor.shown[0] + 0.5) / len(actor.slots)
