"""How well a model answers about clips of the drawn world, and whether it looks at the order of their frames.

Every question is asked through the engine, greedily, about fresh clips. Questions about order are asked again
with the frames reversed, when the right answer is another one, and with the frames shuffled: a clip and the same
played backwards are as likely, so whoever cannot see the order is right half of the time at most. Every question
is asked once more with the middle frame in place of all, which shows what a single picture gives away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
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
_BATCH: Final = 64
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
        order: of the questions about order of all kinds together; None if none was asked.
    """

    model: str
    seed: int
    num_frames: int
    results: tuple[VideoKindResult, ...]
    order: OrderSensitivity | None

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
            "order": None if self.order is None else _order_json(self.order),
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


@dataclass(frozen=True, slots=True)
class _Row:
    """One kind of question."""

    kind: str
    title: str
    clip_kind: ClipKind | None
    """None where any clip may do."""
    num_choices: int
    """0 where the possible answers are of several sorts or follow from the number of frames."""

    def chance(self, num_frames: int) -> float | None:
        if self.kind == "flashes":
            return 2 / (MANY_SLOTS if num_frames >= MANY_SLOTS else NUM_SLOTS)
        return 1 / self.num_choices if self.num_choices else None


# In the order of the table.
_ROWS: Final = (
    _Row("direction", "which way does it move (or not)", "motion", 5),
    _Row("moves", "does it move", "motion", 2),
    _Row("mover", "what moves", "motion", 8),
    _Row("where_when", "where is it at the start or end", "motion", 9),
    _Row("order", "which comes first or last", "order", 2),
    _Row("before", "does it come before or after the other", "order", 2),
    _Row("colour_when", "colour at the start or end", "recolour", 10),
    _Row("recolour", "from which colour to which", "recolour", 90),
    _Row("vanish", "does it appear, disappear or stay", "vanish", 3),
    _Row("present", "is it there at the start or end", "vanish", 2),
    _Row("flashes", "how many times does it flash", "flash", 0),
    _Row("happens", "what happens to it", None, 0),
    _Row("still", "what one frame answers: colours, shapes, number", None, 0),
)
VIDEO_KINDS: Final = tuple(row.kind for row in _ROWS)


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
    kinds: Sequence[str] = (),
    on_progress: OnProgress | None = None,
) -> NanoVideoReport:
    """Ask every kind of question.

    Args:
        engine: the model.
        num_questions: of each kind.
        seed: of this evaluation; none of them meets a seed of training.
        num_frames: of each clip, evenly spread from the first to the last; at least 4.
        kinds: those of `VIDEO_KINDS` that are asked; none means all.
        on_progress: called after every batch.

    Raises:
        ConfigError: `num_questions` below 1, `num_frames` below 4, or an unknown kind.
    """
    if num_questions < 1:
        raise ConfigError(f"n is {num_questions}; expected at least 1")
    if unknown := [kind for kind in kinds if kind not in VIDEO_KINDS]:
        raise ConfigError(f"kind {unknown[0]!r} is not known; expected {', '.join(VIDEO_KINDS)}")
    results: list[VideoKindResult] = []
    about_order: list[OrderAnswers] = []
    for index, row in enumerate(_ROWS):
        if kinds and row.kind not in kinds:
            continue
        rng = np.random.default_rng([_SEED, seed, index])
        fresh = (_fresh(rng, engine, row, num_frames) for _ in range(num_questions))
        result, in_order = _score(engine, row, fresh, num_questions, num_frames, on_progress)
        results.append(result)
        about_order += in_order
    return NanoVideoReport(
        model=engine.name,
        seed=seed,
        num_frames=num_frames,
        results=tuple(results),
        order=order_sensitivity(about_order) if about_order else None,
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
    if not document["order"]:
        return "\n".join(lines) + "\n"
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


def _score(
    engine: Engine,
    row: _Row,
    items: Iterator[_Item],
    num_questions: int,
    num_frames: int,
    on_progress: OnProgress | None,
) -> tuple[VideoKindResult, list[OrderAnswers]]:
    """The result of one row, and its answers about order."""
    num_asked = forward = middle = 0
    in_order: list[OrderAnswers] = []
    while batch := [*islice(items, _BATCH)]:
        answers = _ask(engine, batch, [item.frames for item in batch])
        centres = [(item.frames[num_frames // 2],) * num_frames for item in batch]
        num_asked += len(batch)
        forward += _num_right(batch, answers)
        middle += _num_right(batch, _ask(engine, batch, centres))
        in_order += _ask_about_order(engine, batch, answers)
        if on_progress is not None:
            on_progress(row.title, num_asked, num_questions)
    result = VideoKindResult(
        kind=row.kind,
        title=row.title,
        chance=row.chance(num_frames),
        forward=Share(forward, num_asked),
        middle_frame=Share(middle, num_asked),
        order=order_sensitivity(in_order) if in_order else None,
    )
    return result, in_order


def _fresh(rng: np.random.Generator, engine: Engine, row: _Row, num_frames: int) -> _Item:
    """A new clip and a question of this kind that it can be asked, both with the frames as pictures."""
    while True:
        clip = sample_clip(rng, row.clip_kind, num_frames=num_frames)
        question = ask_clip(rng, row.kind, clip) if row.kind in kinds_of_clip(clip) else None
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
        "accuracy": round(share.value, 6),
        "interval": [round(value, 6) for value in share.interval],
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
