"""Answers about clips are true, forwards and backwards, and cannot be guessed without looking."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastvlm
from fastvlm.data.synthetic.clip_askers import describe_clip
from fastvlm.data.synthetic.clip_questions import (
    ClipQuestion,
    ask_clip,
    kinds_of_clip,
    sample_clip_dialogues,
    track_question,
)
from fastvlm.data.synthetic.clips import (
    CLIP_KINDS,
    Actor,
    Clip,
    ClipKind,
    Paint,
    frame_times,
    sample_clip,
)
from fastvlm.data.synthetic.questions import SHORT_SUFFIXES
from fastvlm.data.synthetic.world import Thing
from fastvlm.processing.tokenizer import Tokenizer

RED, BLUE = Paint("red", (255, 0, 0)), Paint("blue", (0, 0, 255))
WHITE = ("white", (255, 255, 255))


def actor(shape: str, cell: int, *slots: Paint | None, end: int | None = None) -> Actor:
    x, y = (cell % 3 + 0.5) / 3, (cell // 3 + 0.5) / 3
    goal = (x, y) if end is None else ((end % 3 + 0.5) / 3, (end // 3 + 0.5) / 3)
    return Actor(Thing(shape, "red", RED.rgb, x, y, 0.25, 0.0), goal, slots)


STAR = actor("star", 8, BLUE, BLUE, BLUE, BLUE)
MOTION = Clip("motion", *WHITE, (actor("circle", 0, RED, RED, RED, RED, end=2), STAR))
ORDER = Clip(
    "order",
    *WHITE,
    (actor("circle", 0, None, None, RED, RED), actor("heart", 4, BLUE, BLUE, BLUE, None)),
)
RECOLOUR = Clip("recolour", *WHITE, (actor("circle", 0, RED, RED, RED, BLUE), STAR))
VANISH = Clip("vanish", *WHITE, (actor("circle", 0, None, RED, RED, RED), STAR))
FLASH = Clip("flash", *WHITE, (actor("circle", 0, RED, None, RED, None), STAR))


def every(kind: str, clip: Clip, *, is_short: bool) -> set[tuple[str, str, str | None]]:
    asked = [
        ask_clip(np.random.default_rng(seed), kind, clip, is_short=is_short) for seed in range(200)
    ]
    return {
        (one.question.split("?")[0].split(".")[0], one.answer, one.reversed_answer)
        for one in asked
        if one is not None
    }


@pytest.mark.parametrize(
    ("kind", "clip", "expected"),
    [
        ("direction", MOTION, ("Which way does the circle move", "Right", "Left")),
        ("direction", MOTION, ("Which way does the star move", "None", None)),
        ("moves", MOTION, ("Does the circle move", "Yes", None)),
        ("moves", MOTION, ("Is the star moving", "No", None)),
        ("mover", MOTION, ("Which shape moves", "Circle", None)),
        ("where_when", MOTION, ("Where is the circle at the start", "Top left", "Top right")),
        ("where_when", MOTION, ("Where is the star at the end", "Bottom right", None)),
        ("order", ORDER, ("Which shape comes first", "Heart", "Circle")),
        ("order", ORDER, ("Which shape comes last", "Circle", "Heart")),
        ("order", ORDER, ("What color is the shape that comes first", "Blue", "Red")),
        ("before", ORDER, ("Does the circle come before the heart", "No", "Yes")),
        ("before", ORDER, ("Does the circle come after the heart", "Yes", "No")),
        ("colour_when", RECOLOUR, ("What color is the circle at the end", "Blue", "Red")),
        ("colour_when", RECOLOUR, ("What color is the star at the end", "Blue", None)),
        ("vanish", VANISH, ("Does the circle appear or disappear", "Appears", "Disappears")),
        ("vanish", VANISH, ("Does the star appear or disappear", "Stays", None)),
        ("present", VANISH, ("Is there a circle at the start", "No", "Yes")),
        ("flashes", FLASH, ("How many times does the circle flash", "2", None)),
    ],
)
def test_answers_about_known_clips(
    kind: str, clip: Clip, expected: tuple[str, str, str | None]
) -> None:
    assert expected in every(kind, clip, is_short=True)
    asked_the_same = {one for one in every(kind, clip, is_short=True) if one[0] == expected[0]}
    assert asked_the_same == {expected}


@pytest.mark.parametrize(
    ("kind", "clip", "answer", "backwards"),
    [
        ("happens", MOTION, "The circle moves to the right.", "The circle moves to the left."),
        ("happens", VANISH, "The circle appears.", "The circle disappears."),
        ("happens", VANISH, "The star stays.", None),
        (
            "happens",
            RECOLOUR,
            "The circle goes from red to blue.",
            "The circle goes from blue to red.",
        ),
        ("recolour", RECOLOUR, "The star stays blue.", None),
        ("happens", FLASH, "The circle flashes 2 times.", None),
        ("absent", MOTION, "There is no heart.", None),
    ],
)
def test_sentences_about_known_clips(
    kind: str, clip: Clip, answer: str, backwards: str | None
) -> None:
    found = {one[1:] for one in every(kind, clip, is_short=False)}
    assert (answer, backwards) in found


def test_descriptions() -> None:
    assert describe_clip(MOTION) == (
        "A red circle moves from the top left to the top right on a white background. "
        "A blue star at the bottom right stays."
    )
    assert describe_clip(ORDER) == (
        "First a blue heart in the middle, then a red circle at the top left on a white background."
    )
    assert describe_clip(VANISH.reversed()).startswith("A red circle at the top left disappears on")


def test_frame_by_frame() -> None:
    tracked = [
        track_question(np.random.default_rng(seed), clip, frame_times(4))
        for seed in range(20)
        for clip in (MOTION, FLASH)
    ]
    assert {one.answer for one in tracked if one is not None} == {
        "1: red top left; 2: red top; 3: red top; 4: red top right.",
        "1: red top left; 2: nothing; 3: red top left; 4: nothing.",
        "1: blue bottom right; 2: blue bottom right; 3: blue bottom right; 4: blue bottom right.",
    }
    on_the_border = tuple(np.linspace(0, 1, 5))  # at 0.25 the circle stands between left and middle
    asked = [track_question(np.random.default_rng(s), MOTION, on_the_border) for s in range(20)]
    assert "circle" not in " ".join(one.question for one in asked if one is not None)


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(CLIP_KINDS), st.integers(0, 2**31))
def test_the_answer_backwards_is_the_answer_about_the_clip_backwards(
    kind: ClipKind, seed: int
) -> None:
    """Asked with the same words, the reversed clip gets what was promised."""
    clip = sample_clip(np.random.default_rng(seed), kind)
    for name in kinds_of_clip(clip):
        ahead = ask_clip(np.random.default_rng(seed), name, clip)
        back = ask_clip(np.random.default_rng(seed), name, clip.reversed())
        if ahead is None or back is None or ahead.question != back.question:
            continue
        assert (ahead.reversed_answer or ahead.answer) == back.answer
        assert (back.reversed_answer or back.answer) == ahead.answer


def short_answers(kind: str, clip_kind: ClipKind, num_frames: int = 4) -> Counter[str]:
    rng, found = np.random.default_rng(5), Counter[str]()
    while found.total() < 1500:
        asked = ask_clip(
            rng, kind, sample_clip(rng, clip_kind, num_frames=num_frames), is_short=True
        )
        if asked is not None:
            found[asked.answer] += 1
    return found


@pytest.mark.parametrize(
    ("kind", "clip_kind", "most"),
    [
        ("direction", "motion", 0.25),
        ("moves", "motion", 0.55),
        ("mover", "motion", 0.2),
        ("where_when", "motion", 0.16),
        ("order", "order", 0.2),
        ("before", "order", 0.55),
        ("colour_when", "recolour", 0.16),
        ("vanish", "vanish", 0.47),
        ("present", "vanish", 0.55),
        ("flashes", "flash", 0.55),
    ],
)
def test_no_answer_is_much_more_frequent_than_chance(
    kind: str, clip_kind: ClipKind, most: float
) -> None:
    found = short_answers(kind, clip_kind)
    assert found.most_common(1)[0][1] / found.total() < most, found


def test_dialogues_ask_nothing_twice_and_tell_most_at_the_end() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        dialogues = sample_clip_dialogues(rng, sample_clip(rng), 6, times=frame_times(4))
        kinds = [dialogue[0].kind for dialogue in dialogues]
        words = [d[0].question for d in dialogues if d[0].kind not in ("track", "caption")]
        assert len(dialogues) == 6
        assert len(set(words)) == len(words)
        assert not {"track", "caption"} & {*kinds[:4]}


def test_a_single_word_is_given_when_asked_for() -> None:
    rng = np.random.default_rng(1)
    places = ("Top left", "Top right", "Bottom left", "Bottom right")
    for _ in range(300):
        clip = sample_clip(rng)
        for kind in kinds_of_clip(clip):
            asked = ask_clip(rng, kind, clip, is_short=True)
            if asked is not None and kind not in ("happens", "recolour"):
                assert asked.question.endswith(SHORT_SUFFIXES)
                assert " " not in asked.answer or asked.answer in places


def test_the_tokenizer_of_nano_takes_the_words_as_they_are() -> None:
    tokenizer = Tokenizer.from_folder(Path(fastvlm.__file__).parent / "assets" / "nano")
    rng = np.random.default_rng(2)
    texts: list[ClipQuestion] = []
    for _ in range(100):
        for dialogue in sample_clip_dialogues(rng, sample_clip(rng), 6, times=frame_times(4)):
            texts += dialogue
    for turn in texts:
        for text in (turn.question, turn.answer):
            tokens = tokenizer.encode(text)
            assert tokenizer.decode(tokens) == text
            assert len(tokens) < 2.5 * len(text.split()) + 12
