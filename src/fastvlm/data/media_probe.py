"""What a check wants to know of a picture or clip: that it opens, how large it is, and whether it is known already."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from fastvlm.errors import DataError, MediaError
from fastvlm.messages import ImagePart, VideoPart
from fastvlm.processing.image_file import DEFAULT_LIMITS, ImageLimits, open_image

_MAX_KNOWN: Final = 65_536
_HASHED_BYTES: Final = 8 * 1024 * 1024
"""Of a file that is longer than twice that, the first and the last so many bytes tell it from others."""


@dataclass(frozen=True, slots=True)
class MediaFacts:
    """One picture or clip."""

    identity: int
    """64 bits of a hash of the encoded file; of its path, if it was not opened."""
    width: int | None = None
    """Of the picture as it is shown, in pixels; None if it was not opened."""
    height: int | None = None
    num_frames: int | None = None
    """Of a clip."""
    duration_s: float | None = None


class MediaProbe:
    """Opens media, each once as long as it is remembered: neighbouring records often share a picture.

    Args:
        opens: decode pictures and read clips; otherwise only look whether files exist.
        limits: how large a picture may be.
        trusts_videos: read clips in this process.
    """

    def __init__(
        self,
        *,
        opens: bool = True,
        limits: ImageLimits = DEFAULT_LIMITS,
        trusts_videos: bool = False,
    ) -> None:
        self._opens = opens
        self._limits = limits
        self._trusts_videos = trusts_videos
        self._known: OrderedDict[tuple[str, bool], MediaFacts | DataError] = OrderedDict()
        self.num_opened = 0

    def __call__(self, part: ImagePart | VideoPart) -> MediaFacts:
        """Facts about a picture or clip.

        Raises:
            DataError: of kind "missing media" or "broken media".
        """
        source = part.image if isinstance(part, ImagePart) else part.video
        if not isinstance(source, Path):
            return self._look(part, source)
        key = (str(source), isinstance(part, VideoPart))
        if key not in self._known:
            try:
                self._known[key] = self._look(part, source)
            except DataError as err:
                self._known[key] = err
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        facts = self._known[key]
        if isinstance(facts, DataError):
            raise DataError(str(facts), kind=facts.kind)
        return facts

    def _look(self, part: ImagePart | VideoPart, source: object) -> MediaFacts:
        if isinstance(source, Path) and not source.is_file():
            what = "is a folder" if source.is_dir() else "there is no such file"
            raise DataError(f"{source}: {what}", kind="missing media")
        if not self._opens:
            return MediaFacts(
                _identity(str(source).encode() if isinstance(source, Path) else source)
            )
        self.num_opened += 1
        try:
            if isinstance(part, VideoPart):
                return self._look_at_clip(part)
            width, height = open_image(part.image, limits=self._limits).size
            return MediaFacts(_identity(source), width, height)
        except (MediaError, OSError) as err:
            raise DataError(" ".join(str(err).split()), kind="broken media") from err

    def _look_at_clip(self, part: VideoPart) -> MediaFacts:
        from fastvlm.processing.video import probe_video

        assert isinstance(part.video, str | Path | bytes)
        info = probe_video(part.video, is_trusted=self._trusts_videos)
        return MediaFacts(
            _identity(part.video), info.width, info.height, info.num_frames, info.duration_s
        )


def hash_64(*parts: bytes) -> int:
    """64 bits of a hash of several byte strings, each told from the next."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return int.from_bytes(digest.digest(), "little")


def _identity(source: object) -> int:
    if isinstance(source, Path):
        with source.open("rb") as file:
            return hash_64(*_ends(file))
    return hash_64(source if isinstance(source, bytes) else str(source).encode())


def _ends(file: BinaryIO) -> list[bytes]:
    """All of a file; of a long one its length, its beginning and its end."""
    size = os.fstat(file.fileno()).st_size
    if size <= 2 * _HASHED_BYTES:
        return [file.read()]
    beginning = file.read(_HASHED_BYTES)
    file.seek(-_HASHED_BYTES, os.SEEK_END)
    return [str(size).encode(), beginning, file.read()]
