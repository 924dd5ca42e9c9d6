"""How well a model answers about the drawn world: fresh seeds, other fonts, and a second renderer.

Every question is asked through the engine, greedily, as a user would ask it. An answer counts when it is the
expected one but for case, space around it and a final period.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastvlm.data.synthetic.askers import NOT_SURE
from fastvlm.data.synthetic.clutter import draw_held_out_clutter
from fastvlm.data.synthetic.draw import draw_scene
from fastvlm.data.synthetic.fonts import BUILT_IN, held_out_fonts
from fastvlm.data.synthetic.questions import Question, ask
from fastvlm.data.synthetic.sample import MAX_THINGS, sample_kind, sample_text, sample_things
from fastvlm.data.synthetic.world import Scene, SceneKind
from fastvlm.engine import Engine
from fastvlm.errors import ConfigError
from fastvlm.evaluate.svg_renderer import SvgRenderer
from fastvlm.inputs import PreparedImage
from fastvlm.messages import ImageSource, user_message
from fastvlm.scorers.wilson import wilson_interval

_SEED: Final = 7_000_000_000
"""Seeds of recipes and of the measurements during training lie elsewhere."""
_BATCH: Final = 16
_PICTURE_SIZE: Final = 192
_SECOND_RENDERER: Final = "second renderer, all kinds"
_MAX_NEW_TOKENS: Final = 24
_QUESTIONS_EACH: Final = 5
"""Questions about one photograph."""

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Takes the title of a row, questions done and questions in all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KindResult:
    """Answers to one kind of question."""

    kind: str
    title: str
    num_questions: int
    num_correct: int
    num_declined: int
    """Answers that said `I am not sure.`, right or wrong."""

    @property
    def accuracy(self) -> float:
        return self.num_correct / self.num_questions if self.num_questions else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, Wilson."""
        return wilson_interval(self.num_correct, self.num_questions)


@dataclass(frozen=True, kw_only=True, slots=True)
class NanoReport:
    """All kinds, and what they were asked with."""

    model: str
    seed: int
    fonts: tuple[str, ...]
    results: tuple[KindResult, ...]

    def as_json(self) -> dict[str, Any]:
        """For `benchmarks/`; `table` reads it back."""
        return {
            "task": "nano",
            "model": self.model,
            "seed": self.seed,
            "fonts": [Path(name).name for name in self.fonts],
            "results": [
                {
                    "kind": one.kind,
                    "title": one.title,
                    "n": one.num_questions,
                    "correct": one.num_correct,
                    "declined": one.num_declined,
                    "accuracy": round(one.accuracy, 4),
                    "interval": [round(value, 4) for value in one.interval],
                }
                for one in self.results
            ],
        }


# Rows of the table in order: kind, title, what the picture shows.
_ROWS: Final[tuple[tuple[str, str, SceneKind], ...]] = (
    ("background", "background colour", "things"),
    ("count", "number of shapes, 1 to 4", "things"),
    ("count_many", "number of shapes, 5 to 8", "things"),
    ("count_by", "number of shapes of a colour or kind", "things"),
    ("colour", "colour of a named shape", "things"),
    ("shape", "name of a coloured shape", "things"),
    ("exists", "is there a ... (half yes, half no)", "things"),
    ("where", "where is the ... (nine places)", "things"),
    ("tallest", "tallest bar", "bars"),
    ("shortest", "shortest bar", "bars"),
    ("num_bars", "number of bars", "bars"),
    ("text", "one or two large characters", "text"),
    ("text_colour", "colour of characters", "text"),
    ("absent", "asked about a shape that is not there", "things"),
    ("unknown", "asked what no such picture shows", "things"),
    ("decline", "declines clutter of unseen kinds", "clutter"),
)


def evaluate_nano(
    engine: Engine,
    *,
    num_questions: int = 500,
    seed: int = 0,
    photographs: Sequence[Path] = (),
    on_progress: OnProgress | None = None,
) -> NanoReport:
    """Ask every kind of question.

    Args:
        engine: the model.
        num_questions: of each kind; twice as many with the second renderer.
        seed: of this evaluation; none of them meets a seed of training.
        photographs: real pictures, each asked several questions that should be declined.
        on_progress: called after every batch.

    Raises:
        ConfigError: `num_questions` below 1.
        MediaError: a photograph cannot be read.
        MissingExtraError: the second renderer is not installed.
    """
    if num_questions < 1:
        raise ConfigError(f"n is {num_questions}; expected at least 1")
    fonts = held_out_fonts()

    def first_renderer(scene: Scene) -> NDArray[np.uint8]:
        if scene.kind == "clutter":
            return draw_held_out_clutter(np.random.default_rng(scene.seed), _PICTURE_SIZE)
        return draw_scene(scene, _PICTURE_SIZE, fonts)

    # What can be missing or unreadable is looked at before the first of many questions.
    prepared = [engine.processor.prepare_image(path) for path in photographs]
    results: list[KindResult] = []
    with SvgRenderer(_PICTURE_SIZE, fonts) as svg:
        for index, (kind, title, scene_kind) in enumerate(_ROWS):
            rng = np.random.default_rng([_SEED, seed, index])
            asked = (_fresh(rng, kind, scene_kind, len(fonts)) for _ in range(num_questions))
            pictures = ((first_renderer(scene), question) for scene, question in asked)
            results.append(_score(engine, kind, title, pictures, num_questions, on_progress))
        rng = np.random.default_rng([_SEED, seed, len(_ROWS)])
        rows = [row for row in _ROWS if row[2] != "clutter"]
        mixed = (rows[i % len(rows)] for i in range(2 * num_questions))
        asked = (_fresh(rng, kind, scene_kind, len(fonts)) for kind, _, scene_kind in mixed)
        pictures = ((svg.draw(scene), question) for scene, question in asked)
        total = 2 * num_questions
        results.append(
            _score(engine, "second_renderer", _SECOND_RENDERER, pictures, total, on_progress)
        )
    if prepared:
        results.append(_score_photographs(engine, prepared, seed, on_progress))
    return NanoReport(model=engine.name, seed=seed, fonts=fonts, results=tuple(results))


def is_right(answer: str, expected: str) -> bool:
    """Equal but for case, space around it and a final period."""
    return _normalise(answer) == _normalise(expected)


def false_declines(report: NanoReport) -> tuple[int, int]:
    """How often `I am not sure.` came where the picture showed the answer, and of how many questions."""
    about_world = [
        one
        for one in report.results
        if one.kind not in ("decline", "unknown", "photographs", "second_renderer")
    ]
    return sum(one.num_declined for one in about_world), sum(
        one.num_questions for one in about_world
    )


def markdown_table(document: dict[str, Any]) -> str:
    """The table of a JSON report, for the model card and the README."""
    lines = [
        "| question | right | of | accuracy | 95 % interval |",
        "|---|---:|---:|---:|---|",
    ]
    for one in document["results"]:
        low, high = one["interval"]
        lines.append(
            f"| {one['title']} | {one['correct']} | {one['n']} | {one['accuracy']:.3f} | {low:.3f} to {high:.3f} |"
        )
    declined, total = (
        sum(
            one[key]
            for one in document["results"]
            if one["kind"] not in ("decline", "unknown", "photographs", "second_renderer")
        )
        for key in ("declined", "n")
    )
    low, high = wilson_interval(declined, total)
    lines.append(
        f"| declines although the picture shows it (lower is better) | {declined} | {total} "
        f"| {declined / max(total, 1):.3f} | {low:.3f} to {high:.3f} |"
    )
    return "\n".join(lines) + "\n"


def uses_only_built_in_font(report: NanoReport) -> bool:
    """Whether none of the other held-out fonts was installed."""
    return report.fonts == (BUILT_IN,)


def _fresh(
    rng: np.random.Generator, kind: str, scene_kind: SceneKind, num_fonts: int
) -> tuple[Scene, Question]:
    """A new scene and a question of this kind that it can be asked."""
    while True:
        if kind == "count":
            scene = sample_things(rng, int(rng.integers(1, 5)))
        elif kind == "count_many":
            scene = sample_things(rng, int(rng.integers(5, MAX_THINGS + 1)))
        elif kind == "text":
            scene = sample_text(rng, num_fonts=num_fonts)
        else:
            scene = sample_kind(rng, scene_kind, num_fonts=num_fonts)
        question = ask(rng, kind, scene)
        if question is not None:
            return scene, question


def _score(
    engine: Engine,
    kind: str,
    title: str,
    pictures: Iterator[tuple[ImageSource, Question]],
    total: int,
    on_progress: OnProgress | None,
) -> KindResult:
    num_asked = num_correct = num_declined = 0
    for batch in _batches(pictures):
        conversations = [[user_message(question.question, image)] for image, question in batch]
        answers = engine.generate(conversations, max_new_tokens=_MAX_NEW_TOKENS)
        for (_, question), answer in zip(batch, answers, strict=True):
            num_asked += 1
            num_correct += is_right(answer.text, question.answer)
            num_declined += is_right(answer.text, NOT_SURE)
        if on_progress is not None:
            on_progress(title, num_asked, total)
    return KindResult(
        kind=kind,
        title=title,
        num_questions=num_asked,
        num_correct=num_correct,
        num_declined=num_declined,
    )


def _score_photographs(
    engine: Engine,
    photographs: Sequence[PreparedImage],
    seed: int,
    on_progress: OnProgress | None,
) -> KindResult:
    rng = np.random.default_rng([_SEED, seed, len(_ROWS) + 1])
    clutter = Scene("clutter", "", (0, 0, 0))
    asked = [
        (photograph, ask(rng, "decline", clutter))
        for photograph in photographs
        for _ in range(_QUESTIONS_EACH)
    ]
    pictures: Iterator[tuple[ImageSource, Question]] = (
        (photograph, question) for photograph, question in asked if question is not None
    )
    return _score(engine, "photographs", "declines photographs", pictures, len(asked), on_progress)


def _batches(
    pictures: Iterator[tuple[ImageSource, Question]],
) -> Iterator[list[tuple[ImageSource, Question]]]:
    batch: list[tuple[ImageSource, Question]] = []
    for one in pictures:
        batch.append(one)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _normalise(text: str) -> str:
    return text.strip().removesuffix(".").strip().lower()
