"""Before and after: which differences between base and tuned model are shown by the numbers, and which are not.

Reads `comparison.json`: `{"sets": {name: {"base": {metric: number}, "tuned": {...}, "n": int}}, "examples": [...]}`.
A set may have `"pairs": [both, only_base, only_tuned, neither]`, how many questions each model got right;
then the interval of the difference is paired and much narrower.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final, Literal, TypeAlias

from fastvlm.scorers.overlap import split_words
from fastvlm.scorers.text import matches
from fastvlm.scorers.wilson import PairedCounts, Share, difference_interval
from fastvlm.train.report.charts import SHARES, plain_name
from fastvlm.train.report.run_folder import Json, as_number, as_object

_ORDER: Final = ("exact_match", "accuracy", "loss", "token_accuracy", "bleu", "rouge_l", "cider")
_COUNTED: Final = ("exact_match", "accuracy")
"""Shares of questions, so that `n` gives them an interval."""
_LOWER_IS_BETTER: Final = ("loss", "perplexity", "flips", "num_empty")

Verdict: TypeAlias = Literal["better", "worse", "open", "same"]
"""`open`: the interval of the difference holds 0, or there is none."""
Outcome: TypeAlias = Literal["fixed", "broken", "still wrong", "still right"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One metric of one set, before and after."""

    metric: str
    base: float | None
    tuned: float | None
    base_interval: tuple[float, float] | None
    tuned_interval: tuple[float, float] | None
    difference: float | None
    difference_interval: tuple[float, float] | None
    verdict: Verdict


def compare_set(one: Json) -> list[Change]:
    """All metrics of a set of `comparison.json`, the most telling first."""
    base, tuned = as_object(one.get("base")), as_object(one.get("tuned"))
    found = [key for key in {**base, **tuned} if key != "n" and not isinstance(base.get(key), str)]
    found.sort(key=lambda key: _ORDER.index(key) if key in _ORDER else len(_ORDER))
    return [
        _compare(key, as_number(base.get(key)), as_number(tuned.get(key)), one) for key in found
    ]


def regression_line(comparison: Json) -> str | None:
    """Did pictures get worse? One sentence about the image-only set; None if there is no such set.

    Example:
        Images: exact match 81.2 % before, 80.9 % after, -0.3 points (95 % interval -2.1 to +1.5, n = 1000):
        no difference shown, a loss of more than 2.1 points is unlikely.
    """
    sets = as_object(comparison.get("sets"))
    for name in sets:
        if "image" in name.lower():
            one = as_object(sets[name])
            for change in compare_set(one):
                if change.difference is not None:
                    return f"Images: {describe(change, one.get('n'))}"
    return None


def describe(change: Change, n: object = None) -> str:
    """One change in words."""
    before, after = (
        format_value(change.metric, change.base),
        format_value(change.metric, change.tuned),
    )
    text = f"{plain_name(change.metric)} {before} before, {after} after"
    if change.difference is None:
        return f"{text}: not comparable."
    text += f", {format_difference(change.metric, change.difference)}"
    if change.difference_interval is None:
        return f"{text} (no interval known)."
    low, high = (100 * bound for bound in change.difference_interval)
    count = f", n = {n}" if isinstance(n, int) else ""
    text += f" (95 % interval {low:+.1f} to {high:+.1f}{count}): "
    if change.verdict == "open":
        return f"{text}no difference shown, a loss of more than {-low:.1f} points is unlikely."
    return f"{text}{'got better' if change.verdict == 'better' else 'GOT WORSE'}."


def format_value(metric: str, value: float | None) -> str:
    """A value as the page and the terminal write it."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "not finite"
    if metric in SHARES:
        return f"{100 * value:.1f} %"
    return f"{value:.0f}" if metric.startswith("num_") else f"{value:.3f}"


def format_difference(metric: str, value: float) -> str:
    """A difference with its sign; of shares in points."""
    if metric in SHARES:
        return f"{100 * value:+.1f} points"
    return f"{value:+.0f}" if metric.startswith("num_") else f"{value:+.3f}"


def outcome_of(example: Json) -> Outcome:
    """What tuning did to one answer, by exact match with the reference."""
    references = references_of(example)
    before = matches(str(example.get("base", "")), references)
    after = matches(str(example.get("tuned", "")), references)
    if after:
        return "still right" if before else "fixed"
    return "broken" if before else "still wrong"


def references_of(example: Json) -> list[str]:
    """The right answers; one text or a list of them."""
    found = example.get("reference", "")
    return [str(one) for one in found] if isinstance(found, list) else [str(found)]


def mark_words(answer: str, reference: str) -> Iterator[tuple[str, bool]]:
    """The words of an answer as written, and whether each is one of the reference, in its order."""
    written = answer.split()
    plain = [" ".join(split_words(word)) for word in written]
    target = [" ".join(split_words(word)) for word in reference.split()]
    is_hit = [False] * len(written)
    for block in SequenceMatcher(None, plain, target, autojunk=False).get_matching_blocks():
        is_hit[block.a : block.a + block.size] = [True] * block.size
    yield from zip(written, is_hit, strict=True)


def _compare(metric: str, base: float | None, tuned: float | None, one: Json) -> Change:
    n = one.get("n")
    base_share, tuned_share = _share(metric, base, n), _share(metric, tuned, n)
    difference: float | None = None
    if base is not None and tuned is not None and math.isfinite(tuned - base):
        difference = tuned - base
    interval: tuple[float, float] | None = None
    if base_share is not None and tuned_share is not None:
        pairs = _pairs(one, tuned_share.num, base_share.num)
        interval = (
            pairs.difference_interval if pairs else difference_interval(tuned_share, base_share)
        )
    return Change(
        metric=metric,
        base=base,
        tuned=tuned,
        base_interval=base_share.interval if base_share else None,
        tuned_interval=tuned_share.interval if tuned_share else None,
        difference=difference,
        difference_interval=interval,
        verdict=_verdict(metric, difference, interval),
    )


def _share(metric: str, value: float | None, n: object) -> Share | None:
    if metric not in _COUNTED or value is None or not isinstance(n, int) or n < 1:
        return None
    return Share(round(value * n), n) if 0 <= value <= 1 else None


def _pairs(one: Json, num_tuned: int, num_base: int) -> PairedCounts | None:
    """Counts with the tuned model first; None unless they agree with the shares."""
    cells = one.get("pairs")
    if not (isinstance(cells, list) and len(cells) == 4):
        return None
    if not all(isinstance(cell, int) and cell >= 0 for cell in cells):
        return None
    both, only_base, only_tuned, neither = cells
    counts = PairedCounts(both, only_tuned, only_base, neither)
    agrees = (counts.first.num, counts.second.num, counts.total) == (num_tuned, num_base, one["n"])
    return counts if agrees else None


def _verdict(
    metric: str, difference: float | None, interval: tuple[float, float] | None
) -> Verdict:
    if difference is None:
        return "open"
    if difference == 0:
        return "open" if interval else "same"
    if interval is not None and interval[0] <= 0 <= interval[1]:
        return "open"
    return "better" if (difference < 0) == (metric in _LOWER_IS_BETTER) else "worse"
