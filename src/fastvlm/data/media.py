"""From what a record says about a picture or clip to a part of a message that can be opened.

Names are looked for in one folder and never leave it: a data set from elsewhere can not point at other files of
the machine, neither by `..` nor, once the user has named a media folder, by an absolute path. Nothing is
fetched from the network, and nothing is opened here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from fastvlm.errors import DataError
from fastvlm.messages import ImagePart, VideoOptions, VideoPart

MediaKind: TypeAlias = Literal["image", "video"]

VIDEO_SUFFIXES: Final = frozenset(
    {
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".flv",
        ".wmv",
        ".mpg",
        ".mpeg",
        ".ts",
        ".3gp",
    }
)
IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".gif"}
)

DEFAULT_VIDEO: Final = VideoOptions()

_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class MediaFolder:
    """Where the media of a file of records are."""

    folder: Path
    """Absolute."""
    is_users: bool = False
    """Named by the user, so that absolute paths must lie in it too."""
    video: VideoOptions = DEFAULT_VIDEO
    """Which frames of clips are taken."""

    @classmethod
    def of_file(
        cls, file: Path, media_folder: Path | None, video: VideoOptions = DEFAULT_VIDEO
    ) -> MediaFolder:
        """The folder that the user named, else the one that the file lies in.

        Raises:
            DataError: the named folder does not exist.
        """
        if media_folder is not None and not media_folder.is_dir():
            raise DataError(f"the media folder {media_folder} does not exist", kind="media")
        folder = file.parent if media_folder is None else media_folder
        return cls(Path(os.path.abspath(folder)), media_folder is not None, video)  # noqa: PTH100

    def part(self, value: object, kind: MediaKind) -> ImagePart | VideoPart:
        """A picture or clip as it stands in a record.

        Args:
            value: a path, a `data:` URL, encoded bytes, or a mapping with `bytes` and `path`.
            kind: under which key it stood. A path that ends like a clip is one under either.

        Raises:
            DataError: an address, a path outside of the folder, or no such value at all.
        """
        if isinstance(value, Mapping):
            return self._from_struct(value, kind)
        if isinstance(value, bytes):
            return self._video(value) if kind == "video" else ImagePart(value)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"its {kind} is {value!r:.60}; expected a path", kind="media")
        if value[:5].lower() == "data:" and kind == "image":
            return ImagePart(value)
        path = self.resolve(value)
        suffix = path.suffix.lower()
        if kind == "video" and suffix in IMAGE_SUFFIXES - {".gif"}:
            raise DataError(
                f"its video {value!r:.120} is a picture; expected a clip, or the key 'image'",
                kind="media",
            )
        return self._video(path) if kind == "video" or suffix in VIDEO_SUFFIXES else ImagePart(path)

    def resolve(self, name: str) -> Path:
        """The file that a record means; whether it exists is not looked at.

        Raises:
            DataError: an address, or a path that leaves the folder.
        """
        if _ADDRESS.match(name):
            raise DataError(
                f"its media {name!r:.120} is an address; nothing is fetched while training: download it and "
                "name the file",
                kind="media",
            )
        if "\0" in name:
            raise DataError(f"its media {name!r:.120} is no possible path", kind="media")
        # By name and not by `resolve()`: data sets are often folders of symbolic links.
        path = Path(os.path.normpath(self.folder / name))
        is_own_path = Path(name).is_absolute() and not self.is_users
        if not is_own_path and not path.is_relative_to(self.folder):
            raise DataError(
                f"its media {name!r:.120} is outside of {self.folder}; expected a path in that folder, or "
                "another media folder",
                kind="media",
            )
        return path

    def name_of(self, path: Path) -> str:
        """A path as records write it, the same on every machine if it lies in the folder."""
        return (
            path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
        ).as_posix()

    def _from_struct(self, value: Mapping[str, Any], kind: MediaKind) -> ImagePart | VideoPart:
        """A column of kind `Image` or `Video` of the Hugging Face library."""
        data, path = value.get("bytes"), value.get("path")
        if isinstance(data, bytes) and data:
            is_clip = isinstance(path, str) and Path(path).suffix.lower() in VIDEO_SUFFIXES
            return self.part(data, "video" if is_clip else kind)
        if isinstance(path, str) and path:
            return self.part(path, kind)
        raise DataError(
            f"its {kind} has neither bytes nor a path, only {', '.join(map(str, value)) or 'nothing'}",
            kind="media",
        )

    def _video(self, source: Path | bytes) -> VideoPart:
        return VideoPart(source, self.video)


def media_of_columns(fields: Mapping[str, Any], folder: MediaFolder) -> list[ImagePart | VideoPart]:
    """What stands under `image`, `images`, `video` and `videos` of a record, in this order.

    Raises:
        DataError: one of them cannot be used.
    """
    columns: tuple[tuple[str, MediaKind], ...] = (
        ("image", "image"),
        ("images", "image"),
        ("video", "video"),
        ("videos", "video"),
    )
    return [folder.part(value, kind) for key, kind in columns for value in _listed(fields.get(key))]


def _listed(value: object) -> Iterable[object]:
    """One value or several; nothing at all for None, an empty text and an empty list."""
    if value is None or value == "":
        return ()
    return value if isinstance(value, list | tuple) else (value,)
