"""Answers before and after with their pictures, what tuning changed first."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import Final

from fastvlm.errors import FastVLMError
from fastvlm.processing.image_file import open_image
from fastvlm.scorers.text import matches
from fastvlm.train.report.comparison import Outcome, mark_words, outcome_of, references_of
from fastvlm.train.report.run_folder import Json, as_objects

_MAX_EXAMPLES: Final = 36
"""On the page; with thumbnails of about 10 KB each it stays small enough to send."""
_THUMBNAIL: Final = (480, 240)
_CLIPS: Final = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")

_BADGES: Final[dict[Outcome, str]] = {
    "broken": "bad",
    "fixed": "good",
    "still wrong": "",
    "still right": "",
}
"""In the order of the page: what got worse is looked at first."""


def render_examples(comparison: Json, folder: Path) -> str:
    """Cards of examples; empty if there are none."""
    examples = as_objects(comparison.get("examples"))
    if not examples:
        return ""
    outcomes = [outcome_of(example) for example in examples]
    order = list(_BADGES)
    ranked = sorted(range(len(examples)), key=lambda index: order.index(outcomes[index]))
    shown = _spread(ranked, outcomes)
    counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in order)
    left_out = len(examples) - len(shown)
    rest = f" {left_out} more are in comparison.json." if left_out else ""
    cards = "\n".join(_card(examples[index], outcomes[index], folder) for index in shown)
    return (
        f'<h2>Examples</h2>\n<p class="soft">Of {len(examples)} examples: {counts} (by exact match).{rest} '
        "Marked words are not in the reference.</p>\n"
        f'<div class="grid examples">{cards}</div>'
    )


def _spread(ranked: list[int], outcomes: list[Outcome]) -> list[int]:
    """At most `_MAX_EXAMPLES`, a quarter of each outcome at least as far as there are so many."""
    if len(ranked) <= _MAX_EXAMPLES:
        return ranked
    share = _MAX_EXAMPLES // len(_BADGES)
    first = {
        index
        for kind in _BADGES
        for index in [one for one in ranked if outcomes[one] == kind][:share]
    }
    room = _MAX_EXAMPLES - len(first)
    more = set([index for index in ranked if index not in first][:room])
    return [index for index in ranked if index in first | more]


def _card(example: Json, outcome: Outcome, folder: Path) -> str:
    references = references_of(example)
    return (
        f'<div class="card example">{_picture(example, folder)}'
        f'<span class="badge {_BADGES[outcome]}">{outcome}</span> '
        f'<span class="soft">{escape(str(example.get("set", "")))}</span>'
        f"<p>{escape(str(example.get('question', '')))}</p><dl>"
        f"<dt>right</dt><dd>{escape(' / '.join(references))}</dd>"
        + _answer("base", str(example.get("base", "")), references)
        + _answer("tuned", str(example.get("tuned", "")), references)
        + "</dl></div>"
    )


def _answer(label: str, answer: str, references: list[str]) -> str:
    is_right = matches(answer, references)
    text = escape(answer)
    if not is_right and references:
        text = " ".join(
            escape(word) if is_hit else f"<mark>{escape(word)}</mark>"
            for word, is_hit in mark_words(answer, references[0])
        )
    if not answer.strip():
        text = '<span class="soft">(empty)</span>'
    return f'<dt>{label}</dt><dd class="{"yes" if is_right else "no"}">{text}</dd>'


def _picture(example: Json, folder: Path) -> str:
    """The thumbnail, else the picture itself made small, else what is wrong with it."""
    reason = "no picture"
    for key in ("thumbnail", "media"):
        name = example.get(key)
        if not isinstance(name, str) or not name or name.lower().endswith(_CLIPS):
            continue
        try:
            url = _thumbnail_url(folder / name, name)
        except (FastVLMError, OSError, ValueError) as error:
            reason = str(error)
        else:
            return f'<img loading="lazy" alt="what was asked about" src="{url}">'
    return f'<div class="none soft">{escape(reason)}</div>'


def _thumbnail_url(path: Path, name: str) -> str:
    image = open_image(path, name=name)
    image.thumbnail(_THUMBNAIL)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
