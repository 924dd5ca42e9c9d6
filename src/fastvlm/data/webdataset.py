"""Records in a tar shard of the WebDataset kind: neighbouring files with one key are one record.

key.jpg (or several: key.0.jpg, key.1.jpg; or key.mp4) with key.json, a LLaVA or messages record whose media are
those of the shard in their order there, or with key.txt, a caption. A caption becomes an answer to the bare
picture, the form of projector pretraining. The names of media inside the JSON are not looked at.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from fastvlm.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, MediaFolder
from fastvlm.data.record import Record
from fastvlm.data.record_form import parse_json, record_of
from fastvlm.errors import DataError

_COLUMNS: Final = ("image", "images", "video", "videos")


class _Member(NamedTuple):
    suffix: str
    offset: int
    size: int


@dataclass(slots=True)
class _Sample:
    key: str
    media: list[_Member] = field(default_factory=list)
    texts: dict[str, _Member] = field(default_factory=dict)


class TarFile:
    """The records of one .tar shard; only the places of its files are held.

    Args:
        path: the shard, not compressed.
        folder: which frames of clips are taken; media lie in the shard.

    Raises:
        DataError: no tar file, or no record in it.
    """

    def __init__(self, path: Path, folder: MediaFolder) -> None:
        self.path = path
        self._folder = folder
        self._samples = list(_samples(path))
        if not self._samples:
            raise DataError(f"{path} holds no records; expected files such as 0.jpg and 0.json")

    @property
    def name(self) -> str:
        return str(self.path)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} records, not one of number {index}")
        sample = self._samples[index]
        source = f"{self.name}, record {index} ({sample.key})"
        fields = self._fields(sample, source)
        if isinstance(fields, Mapping):
            own = {key: value for key, value in fields.items() if key not in _COLUMNS}
            clips = [
                self._read(medium) for medium in sample.media if medium.suffix in VIDEO_SUFFIXES
            ]
            pictures = [
                self._read(medium) for medium in sample.media if medium.suffix in IMAGE_SUFFIXES
            ]
            fields = {"id": sample.key, **own, "images": pictures, "videos": clips}
        return record_of(fields, source=source, folder=self._folder)

    def _fields(self, sample: _Sample, source: str) -> Any:
        if ".json" in sample.texts:
            fields = parse_json(self._read(sample.texts[".json"]), source=source)
            # Beside a caption, .json often holds where the picture came from and nothing else.
            is_record = isinstance(fields, Mapping) and {"messages", "conversations"} & set(fields)
            if is_record or ".txt" not in sample.texts:
                return fields
        if ".txt" not in sample.texts:
            raise DataError(f"{source}: has neither a .json nor a .txt file; expected one of them")
        caption = self._read(sample.texts[".txt"]).decode("utf-8", "replace").strip()
        turns = [{"from": "human", "value": ""}, {"from": "gpt", "value": caption}]
        return {"conversations": turns}

    def _read(self, member: _Member) -> bytes:
        with self.path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)


def _samples(path: Path) -> Iterator[_Sample]:
    """Files of the shard by key: the path up to the first dot of the name.

    Raises:
        DataError: the shard is damaged or compressed.
    """
    sample = None
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                if not member.isreg():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, _ = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if sample is None or sample.key != key:
                    if sample is not None and (sample.media or sample.texts):
                        yield sample
                    sample = _Sample(key)
                _add(sample, member)
    except (tarfile.TarError, EOFError) as err:
        raise DataError(
            f"{path}: no tar shard that can be read ({err}); expected an uncompressed .tar"
        ) from err
    if sample is not None and (sample.media or sample.texts):
        yield sample


def _add(sample: _Sample, member: tarfile.TarInfo) -> None:
    suffix = PurePosixPath(member.name).suffix.lower()
    place = _Member(suffix, member.offset_data, member.size)
    if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        sample.media.append(place)
    elif suffix in (".json", ".txt"):
        sample.texts[suffix] = place
