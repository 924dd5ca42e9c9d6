"""Answers are true of the scene, and styles are what they say."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvlm.data.synthetic.askers import NOT_SURE, describe
from fastvlm.data.synthetic.questions import (
    SHORT_SUFFIXES,
    ask,
    kinds_of,
    sample_dialogues,
)
from fastvlm.data.synthetic.sample import SceneMix, sample_kind, sample_scene, sample_things
from fastvlm.data.synthetic.world import COLOURS, PLACES, SHAPES, Scene, Thing

seeds = st.integers(0, 2**31)


def thing(shape: str, colour: str, cell: int) -> Thing:
    return Thing(shape, colour, (0, 0, 0), (cell % 3 + 0.5) / 3, (cell // 3 + 0.5) / 3, 0.25, 0.0)


SCENE = Scene(
    "things",
    "white",
    (255, 255, 255),
    (thing("circle", "red", 0), thing("star", "orange", 4), thing("star", "blue", 5)),
)


def every_answer(kind: str, scene: Scene, *, is_short: bool) -> set[tuple[str, str]]:
    asked = [
        ask(np.random.default_rng(seed), kind, scene, is_short=is_short) for seed in range(200)
    ]
    return {(one.question.split("?")[0], one.answer) for one in asked if one is not None}


def answers(kind: str, *, is_short: bool) -> set[str]:
    return {answer for _, answer in every_answer(kind, SCENE, is_short=is_short)}


def test_answers_about_a_known_scene() -> None:
    assert answers("background", is_short=False) == {"The background is white."}
    assert answers("count", is_short=False) == {"There are 3 shapes."}
    assert answers("count", is_short=True) == {"3"}
    assert answers("colour", is_short=False) == {"The circle is red."}  # two stars: not asked
    assert answers("where", is_short=True) == {"Top left", "Middle", "Right"}
    assert "The orange shape is a star." in answers("shape", is_short=False)
    assert "Yes, there is an orange star." in answers("exists", is_short=False)
    assert "There is no heart." in answers("absent", is_short=False)
    assert answers("unknown", is_short=True) == {NOT_SURE}


def test_counting_by_attribute() -> None:
    found = dict(every_answer("count_by", SCENE, is_short=True))
    assert found["How many stars are there"] == "2"
    assert found["How many red shapes are there"] == "1"


def test_the_description_says_everything_row_by_row() -> None:
    assert describe(SCENE) == (
        "There are 3 shapes on a white background: a red circle at the top left, "
        "an orange star in the middle and a blue star on the right."
    )


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(seeds)
def test_existence_is_answered_truthfully(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_things(rng)
    asked = ask(rng, "exists", scene, is_short=True)
    assert asked is not None
    words = asked.question.split("\n")[0].split("Answer")[0].strip().strip("?").split(" ")
    shape = next((name for name in SHAPES if name in words), None)
    colour = next((name for name in COLOURS if name in words), None)
    is_there = any(
        shape in (None, one.shape) and colour in (None, one.colour) for one in scene.things
    )
    assert asked.answer == ("Yes" if is_there else "No")


def test_yes_and_no_are_balanced() -> None:
    rng = np.random.default_rng(0)
    found = Counter(
        asked.answer
        for _ in range(2000)
        if (asked := ask(rng, "exists", sample_things(rng), is_short=True)) is not None
    )
    assert 0.45 < found["Yes"] / found.total() < 0.55


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(seeds)
def test_places_and_numbers_are_those_of_the_scene(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_things(rng)
    where = ask(rng, "where", scene, is_short=True)
    if where is not None:
        assert where.answer.lower() in {one.place for one in scene.things} <= {*PLACES}
    count = ask(rng, "count", scene, is_short=True)
    assert count is not None
    assert count.answer == str(len(scene.things))


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(seeds)
def test_every_scene_can_be_asked_and_clutter_is_declined(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, SceneMix(), num_fonts=1)
    dialogues = sample_dialogues(rng, scene, 6)
    assert len(dialogues) == 6
    for turn in (turn for dialogue in dialogues for turn in dialogue):
        assert turn.question
        assert turn.answer
        if scene.kind == "clutter":
            assert turn.answer == NOT_SURE


@pytest.mark.parametrize("kind", ["things", "text", "bars"])
def test_a_single_word_is_given_when_asked_for(kind) -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        scene = sample_kind(rng, kind, num_fonts=1)
        for name in kinds_of(scene):
            short = ask(rng, name, scene, is_short=True)
            if short is not None:
                assert short.question.endswith((*SHORT_SUFFIXES, "in the image."))
                assert short.answer.lower() in PLACES or " " not in short.answer


def test_ambiguous_characters_are_only_asked_for_by_name() -> None:
    rng = np.random.default_rng(2)
    for _ in range(500):
        scene = sample_kind(rng, "text", num_fonts=1)
        asked = ask(rng, "text", scene)
        assert scene.writing is not None
        assert asked is not None
        if any(character in "0O1I" for character in scene.writing.text):
            assert "letter" in asked.question or "number" in asked.question


def test_lists_of_small_questions_are_true() -> None:
    looked_up = {asked for seed in range(50) if (asked := drill("lookup", seed))}
    assert "Tell me color and place of: circle. -> circle: red top left." in looked_up
    assert any("orange: star middle" in one for one in looked_up)
    assert not any(" star: " in one for one in looked_up)  # two stars: no single answer
    checked = " ".join(drill("check", seed) for seed in range(50))
    assert "red circle: yes" in checked
    assert "heart: no" in checked
    assert "red circle: no" not in checked
    tallied = " ".join(drill("tally", seed) for seed in range(50))
    assert "stars: 2" in tallied
    assert "stars: 1" not in tallied


def drill(kind: str, seed: int) -> str:
    asked = ask(np.random.default_rng(seed), kind, SCENE)
    return "" if asked is None else f"{asked.question} -> {asked.answer}"
