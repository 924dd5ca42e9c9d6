"""From what was typed to pictures and clips: files, patterns, folders, addresses, `-` for standard input.

A folder stands for its pictures; a clip is named, or matched by a pattern. The content says which of the two a file is.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm.errors import MediaError

if TYPE_CHECKING:
    from fastvlm.messages import ImageSource, VideoOptions, VideoPart
    from fastvlm.processing.image_file import ImageLimits

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".mpo"}
)
"""What is taken from a folder. A file that is named directly is opened whatever it is called."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One input: what it was called, opened only when its turn comes."""

    name: str

    def read(self, limits: ImageLimits) -> Path | bytes | str:
        """What the engine takes: a path, or bytes from standard input or an address.

        Raises:
            MediaError: standard input is empty, or the address cannot be fetched.
        """
        if self.name == "-":
            return _from_standard_input(limits)
        if self.name.startswith("data:") and not _is_file(self.name):
            return self.name
        if is_address(self.name):
            from fastvlm.processing.image_url import fetch_image

            return fetch_image(self.name, limits=limits)
        return self.name if "://" in self.name else Path(self.name)

    def open(self, limits: ImageLimits, video: VideoOptions) -> ImageSource | VideoPart:
        """What a message takes: a picture, or a clip with the way its frames are taken.

        Raises:
            MediaError: as `read`.
        """
        from fastvlm.messages import VideoPart
        from fastvlm.processing.video import is_video_file

        source = self.read(limits)
        if isinstance(source, Path | bytes) and is_video_file(source):
            return VideoPart(source, video)
        return source


def is_address(name: str) -> bool:
    """Whether this is an http or https URL."""
    return name.lower().startswith(("http://", "https://"))


def expand(names: Sequence[str]) -> list[Picture]:
    """The pictures that these names stand for, in order; a folder stands for the pictures right in it.

    Raises:
        MediaError: a pattern without match, or a folder without pictures.
    """
    found: list[Picture] = []
    for typed in names:
        if not typed:
            raise MediaError("an empty name stands among the pictures; is a shell variable unset?")
        name = str(Path(typed).expanduser()) if typed.startswith("~") else typed
        if name == "-" or is_address(name) or name.startswith("data:") or _is_file(name):
            found.append(Picture(name))
        elif _is_folder(name):
            found += _in_folder(Path(name))
        elif glob.has_magic(name):
            matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - takes absolute patterns too
            if not matches:
                raise MediaError(f"{name}: no file matches this pattern")
            found += [Picture(match) for match in matches if Path(match).is_file()]
        else:
            found.append(Picture(name))  # opening it says that it is missing, and by what name
    return found


def _from_standard_input(limits: ImageLimits) -> bytes:
    """Bytes of a picture or clip, one more than the limit of its kind at most."""
    from fastvlm.processing.video import DEFAULT_VIDEO_LIMITS, is_video_file

    data = sys.stdin.buffer.read(limits.max_bytes + 1)
    if not data:
        raise MediaError("standard input is empty; expected the bytes of a picture or clip")
    if len(data) > limits.max_bytes and is_video_file(data):
        data += sys.stdin.buffer.read(DEFAULT_VIDEO_LIMITS.max_bytes + 1 - len(data))
    return data


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # e.g. too long for a name: a prompt typed without --prompt
        return False


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:
        return False


def _in_folder(folder: Path) -> list[Picture]:
    files = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not files:
        raise MediaError(
            f"{folder}: no pictures in this folder; expected {', '.join(sorted(SUFFIXES))}"
        )
    return [Picture(str(path)) for path in files]
