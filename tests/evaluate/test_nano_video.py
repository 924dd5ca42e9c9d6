"""Nano on clips: orders of frames, counts and tables, and the embedded model asked for real."""

import json

import numpy as np
import pytest

from fastvlm.data.synthetic.clips import CLIP_KINDS, draw_clip, frame_times, sample_clip
from fastvlm.engine import Engine
from fastvlm.errors import ConfigError
from fastvlm.evaluate.nano_video import (
    NanoVideoReport,
    VideoKindResult,
    evaluate_nano_video,
    video_markdown_table,
)
from fastvlm.scorers.temporal import OrderAnswers, order_sensitivity
from fastvlm.scorers.wilson import Share


@pytest.fixture(scope="module")
def nano() -> Engine:
    return Engine.load("nano", dtype="float32")


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_reversed_frames_are_the_clip_backwards(kind) -> None:
    """What the gold answers of reversed frames rest on."""
    for seed in range(3):
        clip = sample_clip(np.random.default_rng(seed), kind)
        ahead = draw_clip(clip, frame_times(4), 192).astype(int)
        back = draw_clip(clip.reversed(), frame_times(4), 192).astype(int)
        # A thing on its way may be rounded to another pixel; nearly all of the picture is the same.
        differs = np.abs(ahead[::-1] - back).max(axis=-1) > 0
        assert differs.mean() < 0.01


def order(*answers: tuple[str, str, str]):
    return order_sensitivity(
        [
            OrderAnswers(
                forward=forward,
                reversed=backward,
                shuffled=shuffled,
                gold_forward="Left",
                gold_reversed="Right",
            )
            for forward, backward, shuffled in answers
        ]
    )


def test_the_tables_show_guesses_middle_frames_and_orders() -> None:
    sensitivity = order(
        ("Left", "Right", "Left"), ("Left", "Left", "Right"), ("Right", "Right", "Right")
    )
    report = NanoVideoReport(
        model="nano",
        seed=0,
        num_frames=4,
        results=(
            VideoKindResult(
                kind="direction",
                title="which way",
                chance=0.2,
                forward=Share(9, 10),
                middle_frame=Share(2, 10),
                order=sensitivity,
            ),
            VideoKindResult(
                kind="still",
                title="one frame",
                chance=None,
                forward=Share(10, 10),
                middle_frame=Share(10, 10),
                order=None,
            ),
        ),
        order=sensitivity,
    )
    document = json.loads(json.dumps(report.as_json()))
    assert document["all"]["right"] == 19
    assert document["order"]["shuffled_chance"] == 0.5
    lines = video_markdown_table(document).splitlines()
    assert lines[2] == "| which way | 9 | 10 | 0.900 | 0.596 to 0.982 | 0.20 | 0.200 |"
    assert lines[3] == "| one frame | 10 | 10 | 1.000 | 0.722 to 1.000 | - | 1.000 |"
    assert lines[-2] == "| which way | 3 | 0.667 | 0.667 | 0.333 | 0.333 |"
    assert lines[-1].startswith("| all | 3 |")


def test_the_embedded_model_is_asked_forwards_backwards_and_shuffled(nano: Engine) -> None:
    seen: list[str] = []
    report = evaluate_nano_video(
        nano,
        num_questions=3,
        kinds=("still", "order", "flashes"),
        on_progress=lambda title, done, total: seen.append(f"{title} {done}/{total}"),
    )
    order, flashes, still = report.results
    assert (order.kind, flashes.kind, still.kind) == ("order", "flashes", "still")
    assert [line.rsplit(" ", 1)[1] for line in seen] == ["3/3"] * 3
    assert still.forward.num == 3  # nano answers what a single picture shows
    assert still.order is None
    assert flashes.chance == 0.5
    assert order.order is not None
    assert order.order.forward == order.forward
    assert report.order == order.order
    assert report.forward.total == 9


def test_too_little_is_an_error(nano: Engine) -> None:
    with pytest.raises(ConfigError, match="n is 0"):
        evaluate_nano_video(nano, num_questions=0)
    with pytest.raises(ConfigError, match="num_frames is 3; expected at least 4"):
        evaluate_nano_video(nano, num_questions=1, num_frames=3)
    with pytest.raises(ConfigError, match="kind 'speed' is not known; expected direction"):
        evaluate_nano_video(nano, kinds=("speed",))
