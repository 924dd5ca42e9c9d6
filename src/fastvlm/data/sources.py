"""Which files a training run reads, and how often: names, patterns, and lists of files in TOML or JSON.

    files = ["photos.json", "clips.jsonl:0.5"]

or, with a folder of media for each:

    [[files]]
    path = "photos.json"
    weight = 2
    media_folder = "coco/train2017"
"""

from __future__ import annotations

import glob
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from fastvlm.errors import DataError

_MAX_LIST_BYTES: Final = 1024 * 1024
_WITH_WEIGHT: Final = re.compile(r"(.+):([0-9]*\.?[0-9]+)")


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a mixture."""

    path: Path
    weight: Fraction = Fraction(1)
    """How many times an epoch sees each record: 0.5 half of them, 2 each of them twice."""
    media_folder: Path | None = None

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise DataError(
                f"the weight of {self.path} is {float(self.weight)}; expected more than 0"
            )


def read_sources(names: Sequence[str | Path]) -> tuple[Source, ...]:
    """The files that names, patterns and lists stand for.

    A list is a TOML or JSON file with `files`, each a name as on the command line or a table with `path`, `weight`
    and `media_folder`; paths in it are relative to the list.

    Raises:
        DataError: a pattern that matches nothing, or a list that cannot be read.
    """
    return tuple(source for name in names for source in _expand(str(name), Path(), ()))


def _expand(name: str, folder: Path, lists: tuple[Path, ...]) -> Iterator[Source]:
    """Files that a name stands for; `lists` are the lists that are being read, each named by the one before."""
    path = folder / name
    weight = Fraction(1)
    if not path.exists() and (match := _WITH_WEIGHT.fullmatch(name)):
        path, weight = folder / match[1], Fraction(match[2])
    if not path.exists() and glob.has_magic(str(path)):
        found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
        if not found:
            raise DataError(f"no file matches {path}")
        yield from (Source(Path(one), weight) for one in found)
        return
    entries = _list_of(path)
    if entries is None:
        yield Source(path, weight)
        return
    if path.resolve() in lists:
        raise DataError(f"{path} names itself as one of its files; expected files of records")
    for entry in entries:
        yield from _of_list(entry, weight, path, (*lists, path.resolve()))


def _of_list(
    entry: object, factor: Fraction, file: Path, lists: tuple[Path, ...]
) -> Iterator[Source]:
    if isinstance(entry, str):
        entry = {"path": entry}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), str):
        raise DataError(f"{file}: an entry of its files is {entry!r:.80}; expected a path")
    if unknown := set(entry) - {"path", "weight", "media_folder"}:
        raise DataError(
            f"{file}: {entry['path']} has {', '.join(sorted(map(str, unknown)))}; expected path, weight and "
            "media_folder"
        )
    weight, media_folder = entry.get("weight", 1), entry.get("media_folder")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise DataError(f"{file}: the weight of {entry['path']} is {weight!r}; expected a number")
    for source in _expand(entry["path"], file.parent, lists):
        yield Source(
            source.path,
            source.weight * Fraction(str(weight)) * factor,
            file.parent / media_folder if isinstance(media_folder, str) else source.media_folder,
        )


def _list_of(path: Path) -> list[Any] | None:
    """The entries of a list of files; None for a file of records."""
    try:
        if path.suffix == ".toml":
            document: Any = tomllib.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".json" and path.stat().st_size <= _MAX_LIST_BYTES:
            data = path.read_bytes()
            if not data.lstrip().startswith(b"{"):
                return None
            document = json.loads(data)
        else:
            return None
    except FileNotFoundError:
        return None  # for whoever opens it to say
    except OSError as err:
        raise DataError(f"{path}: {(err.strerror or str(err)).lower()}") from err
    except tomllib.TOMLDecodeError as err:
        raise DataError(f"{path}: invalid TOML, {err}") from err
    except ValueError:  # JSON Lines under another name
        return None
    if isinstance(entries := document.get("files"), list) and entries:
        return entries
    if path.suffix == ".toml":
        raise DataError(f"{path} has no list of files; expected files = [...] or [[files]] tables")
    return None
