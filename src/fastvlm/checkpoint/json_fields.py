"""Typed reading of a JSON object that somebody else wrote: every complaint names the file, the key and the value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar, overload

from fastvlm.errors import ConfigError

Choice = TypeVar("Choice", bound=str)
_REQUIRED: Final[Any] = object()


class JsonFields:
    """One object of a JSON file. `null` counts as absent, as in the files of transformers.

    Args:
        data: the object.
        where: file and place in it, for messages.
    """

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self._data, self._where = data, where

    def raw(self, key: str) -> Any:
        """The value as it stands; None when absent."""
        return self._data.get(key)

    def integer(self, key: str, default: int = _REQUIRED) -> int:
        """A positive whole number."""
        value = self._get(key, default)
        if type(value) is not int or value < 1:
            raise self.wrong(key, value, "a positive whole number")
        return value

    def first_integer(self, key: str, default: int) -> int:
        """A whole number from 0 up, or the first of a list of them."""
        value = self._get(key, default)
        if isinstance(value, list) and value:
            value = value[0]
        if type(value) is not int or value < 0:
            raise self.wrong(key, value, "a whole number or a list of them")
        return value

    def number(self, key: str, default: float = _REQUIRED) -> float:
        """A finite number from 0 up."""
        value = self._get(key, default)
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
            raise self.wrong(key, value, "a number")
        return float(value)

    def boolean(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._get(key, default)
        if type(value) is not bool:
            raise self.wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str = _REQUIRED) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, value, "a string")
        return value

    def integers(self, key: str, default: tuple[int, ...] = _REQUIRED) -> tuple[int, ...]:
        """A list of positive whole numbers."""
        value = self._get(key, default)
        if not isinstance(value, list | tuple) or any(type(n) is not int or n < 1 for n in value):
            raise self.wrong(key, value, "a list of positive whole numbers")
        return tuple(value)

    def choices(
        self, key: str, default: tuple[Choice, ...], *, allowed: tuple[Choice, ...]
    ) -> tuple[Choice, ...]:
        """A list of words out of a set."""
        value = self._get(key, default)
        if not isinstance(value, list | tuple) or any(word not in allowed for word in value):
            raise self.wrong(key, value, f"a list out of {', '.join(allowed)}")
        return tuple(value)

    @overload
    def object(self, key: str, *, required: Literal[True]) -> JsonFields: ...
    @overload
    def object(self, key: str, *, required: bool = False) -> JsonFields | None: ...
    def object(self, key: str, *, required: bool = False) -> JsonFields | None:
        """An object inside this one; None when absent and not required."""
        value = self._get(key, _REQUIRED if required else None)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, value, "an object")
        return JsonFields(value, f"{self._where}: {key}")

    def expect(self, key: str, value: str | bool) -> None:
        """Refuse any other value than this one; absent is fine.

        Raises:
            ConfigError: another value.
        """
        found = self._get(key, value)
        if found != value or type(found) is not type(value):
            raise self.wrong(key, found, f"{value!r}, the only one FastVLM was released with")

    def expect_only(self, known: set[str]) -> None:
        """Refuse keys that nobody here reads.

        Raises:
            ConfigError: a key outside the set.
        """
        for key in self._data:
            if key not in known:
                raise ConfigError(
                    f"{self._where}: {key!r} is not known; expected {', '.join(sorted(known))}"
                )

    def wrong(self, key: str, value: Any, expected: str) -> ConfigError:
        """The error for a value that cannot be used, for the caller to raise."""
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        return ConfigError(f"{self._where}: {key} is {shown}; expected {expected}")

    def _get(self, key: str, default: Any) -> Any:
        value = self._data.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise ConfigError(f"{self._where} has no {key!r}; the file is incomplete")
        return default
