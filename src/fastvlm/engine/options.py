"""How an answer is generated, under the field's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from fastvlm.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationOptions:
    """Checked settings of one answer. The text under each field is also its `--help`."""

    max_new_tokens: int = 256
    """Longest answer in tokens; cut to what the context leaves."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; higher samples more freely."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that together have this probability."""
    top_k: int = 0
    """Sample from this many likeliest tokens; 0 means all."""
    repetition_penalty: float = 1.0
    """Above 1, makes tokens that the answer already holds less likely."""
    num_beams: int = 1
    """Above 1, follows this many candidate answers and keeps the likeliest."""
    seed: int | None = None
    """Makes sampling repeatable."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    ignore_eos: bool = False
    """Go on after the model has ended its answer, up to max_new_tokens; for measuring speed."""

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        _require(0 <= self.temperature <= 10, "temperature", self.temperature, "0 to 10")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (all) or more")
        penalty = self.repetition_penalty
        _require(0 < penalty <= 10, "repetition_penalty", penalty, "above 0 and at most 10")
        _require(1 <= self.num_beams <= 64, "num_beams", self.num_beams, "1 to 64")
        _require(all(self.stop), "stop", self.stop, "no empty text")


class OptionKeywords(TypedDict, total=False):
    """The same as keywords of `Engine.ask`, `stream`, `generate` and `chat`."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    num_beams: int
    seed: int | None
    stop: tuple[str, ...] | list[str] | str
    ignore_eos: bool


def options_from(keywords: Mapping[str, Any], base: GenerationOptions) -> GenerationOptions:
    """`base` with these keywords changed.

    Raises:
        ConfigError: an unknown keyword or a value out of range.
    """
    known = [field.name for field in fields(GenerationOptions)]
    unknown = sorted(set(keywords) - set(known))
    if unknown:
        raise ConfigError(
            f"unknown option {', '.join(map(repr, unknown))}; there are {', '.join(known)}"
        )
    changes = dict(keywords)
    if "stop" in changes:
        stop = changes["stop"]
        changes["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return replace(base, **changes)


def _require(is_fine: bool, name: str, value: object, expected: str) -> None:
    if not is_fine:
        raise ConfigError(f"{name} is {value!r}; expected {expected}")
