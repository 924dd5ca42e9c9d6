"""How well a model answers about clips of the drawn world, and whether it looks at the order of their frames.

Every question is asked through the engine, greedily, about fresh clips. Questions about order are asked again
with the frames reversed, when the right answer is another one, and with the frames shuffled: a clip and the same
played backwards are as likely, so whoever cannot see the order is right half of the time at most. Every question
is asked once more with the middle frame in place of all, which shows what a single picture gives away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fastvlm.data.synthetic.clip_questions import ClipQuestion, ask_clip, kinds_of_clip
from fastvlm.data.synthetic.clips import (
    MANY_SLOTS,
    NUM_SLOTS,
    Clip,
    ClipKind,
    draw_clip,
    frame_times,
    sample_clip,
)
from fastvlm.engine import Engine
from fastvlm.errors import ConfigError
from fastvlm.evaluate.nano import OnProgress, is_right
from fastvlm.inputs import PreparedImage, PreparedVideo
from fastvlm.messages import VideoPart, user_message
from fastvlm.scorers.temporal import OrderAnswers, OrderSensitivity, order_sensitivity
from fastvlm.scorers.wilson import Share

SHUFFLED_CHANCE: Final = 0.5
"""Most that an answer about order can be worth when the order cannot be seen."""

_SEED: Final = 9_000_000_000
"""Seeds of data sets, of recipes and of the evaluation of pictures lie elsewhere."""
_BATCH: Final = 16
_PICTURE_SIZE: Final = 192
_MAX_NEW_TOKENS: Final = 32
_CLIP_S: Final = 2.0
"""Length that the clips are said to have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoKindResult:
    """Answers to one kind of question.

    Attributes:
        kind: as in `ClipQuestion`.
        title: what is asked, in words.
        chance: accuracy of a guess among the possible answers; None where they are of several sorts.
        forward: right answers to the frames as they are.
        middle_frame: right answers when all frames are the middle one.
        order: of the questions about order; None if there are none of this kind.
    """

    kind: str
    title: str
    chance: float | None
    forward: Share
    middle_frame: Share
    order: OrderSensitivity | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NanoVideoReport:
    """All kinds, and what they were asked with.

    Attributes:
        order: of the questions about order of all kinds together.
    """

    model: str
    seed: int
    num_frames: int
    results: tuple[VideoKindResult, ...]
    order: OrderSensitivity

    @property
    def forward(self) -> Share:
        """All questions together."""
        return sum((one.forward for one in self.results), Share(0, 0))

    def as_json(self) -> dict[str, Any]:
        """For `benchmarks/`; `video_markdown_table` reads it back."""
        return {
            "task": "nano-video",
            "model": self.model,
            "seed": self.seed,
            "num_frames": self.num_frames,
            "all": _share_json(self.forward),
            "order": _order_json(self.order),
            "results": [
                {
                    "kind": one.kind,
                    "title": one.title,
                    "chance": None if one.chance is None else round(one.chance, 4),
                    **_share_json(one.forward),
                    "middle_frame": _share_json(one.middle_frame),
                    "order": None if one.order is None else _order_json(one.order),
                }
                for one in self.results
            ],
        }


# Rows of the table in order: kind of question, title, kind of clip (None: any that can be asked), number of
# possible answers (0: several sorts). Flashes follow from the number of frames.
_ROWS: Final[tuple[tuple[str, str, ClipKind | None, int], ...]] = (
    ("direction", "which way does it move (or not)", "motion", 5),
    ("moves", "does it move", "motion", 2),
    ("mover", "what moves", "motion", 8),
    ("where_when", "where is it at the start or end", "motion", 9),
    ("order", "which comes first or last", "order", 2),
    ("before", "does it come before or after the other", "order", 2),
    ("colour_when", "colour at the start or end", "recolour", 10),
    ("recolour", "from which colour to which", "recolour", 90),
    ("vanish", "does it appear, disappear or stay", "vanish", 3),
    ("present", "is it there at the start or end", "vanish", 2),
    ("flashes", "how many times does it flash", "flash", 0),
    ("happens", "what happens to it", None, 0),
    ("still", "what one frame answers: colours, shapes, number", None, 0),
)


@dataclass(frozen=True, slots=True)
class _Item:
    question: ClipQuestion
    frames: tuple[PreparedImage, ...]
    shuffle: tuple[int, ...]


def evaluate_nano_video(
    engine: Engine,
    *,
    num_questions: int = 300,
    seed: int = 0,
    num_frames: int = NUM_SLOTS,
    on_progress: OnProgress | None = None,
) -> NanoVideoReport:
    """Ask every kind of question.

    Args:
        engine: the model.
        num_questions: of each kind.
        seed: of this evaluation; none of them meets a seed of training.
        num_frames: of each clip, evenly spread from the first to the last; at least 4.
        on_progress: called after every batch.

    Raises:
        ConfigError: `num_questions` below 1, or `num_frames` below 4.
    """
    if num_questions < 1:
        raise ConfigError(f"n is {num_questions}; expected at least 1")
    results: list[VideoKindResult] = []
    about_order: list[OrderAnswers] = []
    for index, (kind, title, clip_kind, num_choices) in enumerate(_ROWS):
        rng = np.random.default_rng([_SEED, seed, index])
        forward = middle = 0
        in_order: list[OrderAnswers] = []
        for start in range(0, num_questions, _BATCH):
            count = min(_BATCH, num_questions - start)
            items = [_fresh(rng, engine, kind, clip_kind, num_frames) for _ in range(count)]
            answers = _ask(engine, items, [item.frames for item in items])
            forward += _num_right(items, answers)
            centres = [(item.frames[num_frames // 2],) * num_frames for item in items]
            middle += _num_right(items, _ask(engine, items, centres))
            in_order += _ask_about_order(engine, items, answers)
            if on_progress is not None:
                on_progress(title, start + count, num_questions)
        about_order += in_order
        if kind == "flashes":
            num_choices = (MANY_SLOTS if num_frames >= MANY_SLOTS else NUM_SLOTS) // 2
        results.append(
            VideoKindResult(
                kind=kind,
                title=title,
                chance=1 / num_choices if num_choices else None,
                forward=Share(forward, num_questions),
                middle_frame=Share(middle, num_questions),
                order=order_sensitivity(in_order) if in_order else None,
            )
        )
    return NanoVideoReport(
        model=engine.name,
        seed=seed,
        num_frames=num_frames,
        results=tuple(results),
        order=order_sensitivity(about_order),
    )


def video_markdown_table(document: dict[str, Any]) -> str:
    """The tables of a JSON report, for the model card and the README."""
    lines = [
        "| question | right | of | accuracy | 95 % interval | guess | middle frame only |",
        "|---|---:|---:|---:|---|---:|---:|",
    ]
    for one in document["results"]:
        low, high = one["interval"]
        chance = "-" if one["chance"] is None else f"{one['chance']:.2f}"
        lines.append(
            f"| {one['title']} | {one['right']} | {one['of']} | {one['accuracy']:.3f} | "
            f"{low:.3f} to {high:.3f} | {chance} | {one['middle_frame']['accuracy']:.3f} |"
        )
    lines += [
        "",
        f"| questions about order | of | forward | reversed | shuffled (at most {SHUFFLED_CHANCE} by chance) "
        "| both directions right |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    rows = [(one["title"], one["order"]) for one in document["results"] if one["order"]]
    for title, order in [*rows, ("all", document["order"])]:
        shares = (order[name]["accuracy"] for name in ("forward", "reversed", "shuffled", "pairs"))
        cells = " | ".join(f"{share:.3f}" for share in shares)
        lines.append(f"| {title} | {order['forward']['of']} | {cells} |")
    return "\n".join(lines) + "\n"


def _fresh(
    rng: np.random.Generator, engine: Engine, kind: str, clip_kind: ClipKind | None, num_frames: int
) -> _Item:
    """A new clip and a question of this kind that it can be asked, both with the frames as pictures."""
    while True:
        clip = sample_clip(rng, clip_kind, num_frames=num_frames)
        question = ask_clip(rng, kind, clip) if kind in kinds_of_clip(clip) else None
        if question is not None:
            break
    shuffle = tuple(int(i) for i in rng.permutation(num_frames))
    return _Item(question, _frames(engine, clip, num_frames), shuffle)


def _frames(engine: Engine, clip: Clip, num_frames: int) -> tuple[PreparedImage, ...]:
    pixels = draw_clip(clip, frame_times(num_frames), _PICTURE_SIZE)
    return tuple(engine.processor.prepare_image(frame) for frame in pixels)


def _ask(
    engine: Engine, items: Sequence[_Item], frames: Sequence[tuple[PreparedImage, ...]]
) -> list[str]:
    """Answers to the questions about these frames."""
    conversations = []
    for item, shown in zip(items, frames, strict=True):
        times_s = tuple(_CLIP_S * time for time in frame_times(len(shown)))
        clip = VideoPart(PreparedVideo(shown, times_s))
        conversations.append([user_message(item.question.question, clip)])
    return [one.text for one in engine.generate(conversations, max_new_tokens=_MAX_NEW_TOKENS)]


def _num_right(items: Sequence[_Item], answers: Sequence[str]) -> int:
    pairs = zip(items, answers, strict=True)
    return sum(is_right(answer, item.question.answer) for item, answer in pairs)


def _ask_about_order(
    engine: Engine, items: Sequence[_Item], answers: Sequence[str]
) -> list[OrderAnswers]:
    """The questions about order again, with the frames in other orders."""
    chosen = [
        (item, answer, gold)
        for item, answer in zip(items, answers, strict=True)
        if (gold := item.question.reversed_answer) is not None
    ]
    if not chosen:
        return []
    again = [item for item, _, _ in chosen]
    backward = _ask(engine, again, [item.frames[::-1] for item in again])
    mixed = [tuple(item.frames[i] for i in item.shuffle) for item in again]
    shuffled = _ask(engine, again, mixed)
    return [
        OrderAnswers(
            forward=answer,
            reversed=backward[i],
            shuffled=shuffled[i],
            gold_forward=item.question.answer,
            gold_reversed=gold,
        )
        for i, (item, answer, gold) in enumerate(chosen)
    ]


def _share_json(share: Share) -> dict[str, Any]:
    return {
        "right": share.num,
        "of": share.total,
        "accuracy": round(share.value, 4),
        "interval": [round(value, 4) for value in share.interval],
    }


def _order_json(order: OrderSensitivity) -> dict[str, Any]:
    """Sensitivity of questions that were all asked shuffled too."""
    assert order.shuffled is not None
    assert order.shuffle_loss is not None
    assert order.shuffle_loss_interval is not None
    return {
        "forward": _share_json(order.forward),
        "reversed": _share_json(order.backward),
        "shuffled": _share_json(order.shuffled),
        "shuffled_chance": SHUFFLED_CHANCE,
        "flips": _share_json(order.flips),
        "pairs": _share_json(order.pairs),
        "shuffle_loss": round(order.shuffle_loss, 4),
        "shuffle_loss_interval": [round(value, 4) for value in order.shuffle_loss_interval],
    }
