"""The model before and after a run, asked the same questions: what got better, and whether pictures got worse."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, Final

from PIL import Image

from fastvlm.data.mixture import Mixture
from fastvlm.data.record import Record
from fastvlm.data.samples import first_records
from fastvlm.engine import Engine
from fastvlm.errors import FastVLMError
from fastvlm.inputs import PreparedVideo
from fastvlm.messages import ImagePart
from fastvlm.processing.image_file import open_image
from fastvlm.processing.video import read_frames
from fastvlm.scorers.text import matches
from fastvlm.scorers.wilson import count_pairs
from fastvlm.train.answers import Scored, answer_records, order_metrics, score
from fastvlm.train.settings import TuneSettings

COMPARISON_FILE: Final = "comparison.json"
_NUM_EXAMPLES: Final = 12
_THUMBNAIL_PIXELS: Final = 256


def compare_models(
    before: Path,
    after: Path,
    settings: TuneSettings,
    folder: Path,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Ask both models the questions of both validation sets, and write `comparison.json`.

    Args:
        before: the model that the run began with.
        after: the finished one.
        settings: which files, how many records, and how clips are shown.
        folder: of the run; thumbnails of examples go there too.
        should_stop: asked between batches.

    Returns:
        What was written: for every set the metrics of both, and examples whose answer changed first.
    """
    sets = {"validation": settings.validation, "images": settings.image_validation}
    records = {
        name: list(first_records(_open(files, settings), settings.num_eval_answers))
        for name, files in sets.items()
        if files
    }
    answers: dict[str, dict[str, list[Scored]]] = {name: {} for name in records}
    orders: dict[str, dict[str, dict[str, float]]] = {name: {} for name in records}
    for label, model in (("base", before), ("tuned", after)):
        for name, (scored, by_order) in _ask(model, records, settings, should_stop).items():
            answers[name][label], orders[name][label] = scored, by_order
    if should_stop():
        return {}
    document = {
        "sets": {name: _summary(both, orders[name]) for name, both in answers.items()},
        "examples": _examples(answers, folder),
    }
    staging = folder / f".{COMPARISON_FILE}"
    staging.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    staging.replace(folder / COMPARISON_FILE)
    return document


def _ask(
    model: Path,
    records: dict[str, list[Record]],
    settings: TuneSettings,
    should_stop: Callable[[], bool],
) -> dict[str, tuple[list[Scored], dict[str, float]]]:
    """Answers to all sets, and what the order of frames does to them; the model is gone afterwards, so that two are never in memory at once."""
    engine = Engine.load(
        model,
        device=settings.device,
        image_mode=settings.image_mode,
        image_size=settings.image_size or None,
    )
    engine.processor.trusts_videos = True
    asked = {}
    for name, questions in records.items():
        scored = answer_records(engine, questions, should_stop=should_stop)
        asked[name] = scored, order_metrics(engine, scored, should_stop=should_stop)
    return asked


def _open(files: Sequence[str], settings: TuneSettings) -> Mixture:
    folder = settings.media_folder
    return Mixture.open(
        files,
        media_folder=None if folder is None else Path(folder),
        video=settings.video_options(),
    )


def _summary(both: dict[str, list[Scored]], orders: dict[str, dict[str, float]]) -> dict[str, Any]:
    n = min(len(scored) for scored in both.values())
    right = {
        label: [matches(one.prediction, [one.reference]) for one in scored[:n]]
        for label, scored in both.items()
    }
    pairs = count_pairs(right["base"], right["tuned"])
    metrics = {label: score(scored[:n]) | orders[label] for label, scored in both.items()}
    return {"n": n, "pairs": list(astuple(pairs)), **metrics}


def _examples(answers: dict[str, dict[str, list[Scored]]], folder: Path) -> list[dict[str, Any]]:
    """Records whose answer changed, then others, a few of each set."""
    examples: list[dict[str, Any]] = []
    for name, both in answers.items():
        pairs = list(zip(both["base"], both["tuned"], strict=False))
        pairs.sort(key=lambda pair: pair[0].prediction == pair[1].prediction)
        for base, tuned in pairs[:_NUM_EXAMPLES]:
            example: dict[str, Any] = {
                "set": name,
                "question": base.question,
                "reference": base.reference,
                "base": base.prediction,
                "tuned": tuned.prediction,
            }
            place = Path("examples") / f"{len(examples)}.jpg"
            if _draw_thumbnail(base.record, folder / place):
                example["thumbnail"] = place.as_posix()
            examples.append(example)
    return examples


def _draw_thumbnail(record: Record, path: Path) -> bool:
    """The first picture of a record, or the frames of its clip side by side; False where there is none."""
    try:
        pictures: list[Image.Image] = []
        for part in record.media[:1]:
            if isinstance(part, ImagePart):
                pictures = [open_image(part.image)]
            else:
                options = replace(part.options, num_frames=min(4, part.options.num_frames))
                assert not isinstance(part.video, PreparedVideo)  # records name files
                pictures = [
                    frame.image for frame in read_frames(part.video, options, is_trusted=True)
                ]
    except FastVLMError:
        return False
    if not pictures:
        return False
    for picture in pictures:
        picture.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    strip = Image.new(
        "RGB", (sum(one.width for one in pictures), max(one.height for one in pictures))
    )
    left = 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width
    path.parent.mkdir(parents=True, exist_ok=True)
    strip.save(path, quality=85)
    return True
