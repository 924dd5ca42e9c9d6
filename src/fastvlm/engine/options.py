"""How an answer is generated, under the field's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        self._require_whole("max_new_tokens", 1, 2**31)
        self._require_whole("top_k", 0, 2**31)
        self._require_whole("num_beams", 1, 64)
        if self.seed is not None:
            self._require_whole("seed", 0, 2**63 - 1)
        self._require_number("temperature", lambda value: 0 <= value <= 10, "0 to 10")
        self._require_number("top_p", lambda value: 0 < value <= 1, "above 0 and at most 1")
        self._require_number(
            "repetition_penalty", lambda value: 0 < value <= 10, "above 0 and at most 10"
        )
        if not all(text and type(text) is str for text in self.stop):
            raise ConfigError(f"stop is {self.stop!r}; expected texts, none of them empty")

    def _require_whole(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if type(value) is not int or not low <= value <= high:
            raise ConfigError(f"{name} is {value!r}; expected a whole number, {low} to {high}")

    def _require_number(self, name: str, is_fine: Callable[[float], bool], expected: str) -> None:
        value = getattr(self, name)
        if type(value) not in (int, float) or not is_fine(value):
            raise ConfigError(f"{name} is {value!r}; expected a number, {expected}")


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
        if not isinstance(stop, str | tuple | list):
            raise ConfigError(f"stop is {stop!r}; expected a text or several")
        changes["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return replace(base, **changes)
