"""Split a file of records by where they come from, never by rows: questions about one picture stay together.

Which part a source belongs to follows from a hash of its name and the seed. Records that come later join the part
of their source, and no source moves. (Only a record with media of several sources ties these together, and
can move one of them.)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from fastvlm.data.json_file import JsonFile
from fastvlm.data.media_probe import hash_64
from fastvlm.data.records import open_records
from fastvlm.errors import ConfigError, DataError
from fastvlm.messages import ImagePart

_DEFAULT_NAMES: Final = {1: ("train",), 2: ("train", "test"), 3: ("train", "val", "test")}


@dataclass(frozen=True, slots=True)
class SplitPart:
    """One file that was written."""

    path: Path
    num_sources: int
    num_records: int


def split_records(
    path: Path,
    output: Path,
    *,
    by: str = "media",
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    names: Sequence[str] | None = None,
    seed: int = 0,
    media_folder: Path | None = None,
    overwrite: bool = False,
) -> tuple[SplitPart, ...]:
    """Write `NAME-train.json`, `NAME-val.json` and `NAME-test.json`, records unchanged and in their order.

    Args:
        path: a JSON list or JSON Lines.
        output: the folder to write to.
        by: media (each picture or clip), folder (that it lies in), or a field of the records. Without media,
            the id of a record stands for its source.
        fractions: of the sources, one for each part; together 1.
        names: of the parts; train, val and test by default.
        seed: another seed gives another split.
        media_folder: as for training; names in the split do not depend on where it is.
        overwrite: replace files of an earlier split.

    Raises:
        ConfigError: fractions or names that make no split.
        DataError: another format, a broken record, one without that field, or a part that gets nothing.
    """
    names = _checked_names(fractions, names)
    file = open_records(path, media_folder=media_folder)
    if not isinstance(file, JsonFile):
        raise DataError(f"{path} is no JSON; split takes a JSON list or JSON Lines")
    targets = [output / f"{path.stem}-{name}{path.suffix}" for name in names]
    if not overwrite and (there := [target for target in targets if target.exists()]):
        raise DataError(f"{there[0]} exists already; choose another folder, or overwrite it")
    output.mkdir(parents=True, exist_ok=True)
    sources = [_sources(file, index, by) for index in range(len(file))]
    ties = _Ties()
    for tied in sources:
        ties.tie(tied)
    part_of = [_part_of(ties.root(tied[0]), fractions, seed) for tied in sources]
    members: list[set[int]] = [set() for _ in targets]
    for part, tied in zip(part_of, sources, strict=True):
        members[part].update(tied)
    return _write(file, targets, part_of, [len(one) for one in members])


def _checked_names(fractions: Sequence[float], names: Sequence[str] | None) -> tuple[str, ...]:
    if any(not fraction > 0 for fraction in fractions) or not math.isclose(
        sum(fractions), 1.0, abs_tol=1e-6
    ):
        raise ConfigError(
            f"fractions are {', '.join(map(str, fractions))}; expected numbers above 0 that sum to 1"
        )
    names = tuple(names or _DEFAULT_NAMES.get(len(fractions), ()))
    if len(names) != len(fractions) or len(set(names)) != len(names):
        raise ConfigError(
            f"{len(fractions)} fractions but the names {', '.join(names) or 'none'}; expected another name for each"
        )
    return names


def _sources(file: JsonFile, index: int, by: str) -> tuple[int, ...]:
    """Hashes of where a record comes from; at least one."""
    return tuple(
        hash_64(name.encode("utf-8", "replace")) for name in _source_names(file, index, by)
    )


def _source_names(file: JsonFile, index: int, by: str) -> list[str]:
    record = file[index]
    if by not in ("media", "folder"):
        fields = file.fields(index)
        value = fields.get(by) if isinstance(fields, dict) else None
        if value is None or isinstance(value, list | dict):
            raise DataError(
                f"{record.source}: its field {by!r} is {value!r:.40}; expected text or a number to split by "
                "(or split by media or folder)"
            )
        return [str(value)]
    names = []
    for part in record.media:
        source = part.image if isinstance(part, ImagePart) else part.video
        if isinstance(source, Path):
            name = file.folder.name_of(source)
            names.append(str(PurePosixPath(name).parent) if by == "folder" else name)
        else:
            names.append(str(source))
    if names:
        return names
    # Without an id of its own a text is its own source: the same text never stands in two parts.
    return [record.id if record.id != record.source else file.raw(index).decode("utf-8", "replace")]


class _Ties:
    """Sources that some record has in common. A tied group is called by its smallest hash."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}  # only of sources that are tied to another

    def root(self, source: int) -> int:
        while (parent := self._parents.get(source, source)) != source:
            grandparent = self._parents.get(parent, parent)
            self._parents[source] = grandparent
            source = grandparent
        return source

    def tie(self, sources: Sequence[int]) -> None:
        roots = {self.root(source) for source in sources}
        smallest = min(roots)
        for root in roots - {smallest}:
            self._parents[root] = smallest


def _part_of(source: int, fractions: Sequence[float], seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}:{source}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    for part, fraction in enumerate(fractions[:-1]):
        place -= fraction
        if place < 0:
            return part
    return len(fractions) - 1


def _write(
    file: JsonFile, targets: Sequence[Path], part_of: Sequence[int], num_sources: Sequence[int]
) -> tuple[SplitPart, ...]:
    counts = [part_of.count(part) for part in range(len(targets))]
    if not all(counts):
        empty = targets[counts.index(0)].name
        raise DataError(
            f"{empty} would get none of the {sum(num_sources)} sources; expected more sources, another fraction or "
            "another seed"
        )
    partials = [target.with_name(f".{target.name}.partial") for target in targets]
    try:
        _write_parts(file, partials, part_of)
        for partial, target in zip(partials, targets, strict=True):
            partial.replace(target)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
    return tuple(map(SplitPart, targets, num_sources, counts))


def _write_parts(file: JsonFile, paths: Sequence[Path], part_of: Sequence[int]) -> None:
    """Records as they are, in their order, each to its part."""
    is_list = file.layout == "list"
    before, between, after = (b"[\n", b",\n", b"\n]\n") if is_list else (b"", b"\n", b"\n")
    with ExitStack() as stack:
        outputs = [stack.enter_context(path.open("wb")) for path in paths]
        is_first = [True] * len(outputs)
        for index, part in enumerate(part_of):
            outputs[part].write((before if is_first[part] else between) + file.raw(index))
            is_first[part] = False
        for out in outputs:
            out.write(after)
