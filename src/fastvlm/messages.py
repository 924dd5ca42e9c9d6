"""What a conversation is made of: messages with text, image and video parts.

An image takes part by its position in `content`, never by a marker inside a text, so that nothing a user
types can become an image or a control token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast, get_args

from fastvlm.errors import ConfigError
from fastvlm.inputs import PreparedImage, PreparedVideo

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Role: TypeAlias = Literal["system", "user", "assistant"]

ImageSource: TypeAlias = "str | Path | bytes | Image.Image | np.ndarray | PreparedImage"
"""A path, a `data:` URL, encoded bytes, a Pillow picture, an array [H, W], [H, W, 3] or [H, W, 4] uint8, or
what `Processor.prepare_image` made of one."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """Words, taken literally: special-token text in them stays text."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A picture, not yet opened."""

    image: ImageSource


VideoSource: TypeAlias = str | Path | bytes | PreparedVideo
"""A path, encoded bytes, or what `Processor.prepare_video` made of one."""

FrameSampling: TypeAlias = Literal["uniform", "segment", "fps", "timestamps"]

MAX_FRAMES: Final = 64
"""Frames of one clip in one question: 16,384 tokens at 1024 px, half the context of the released models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoOptions:
    """Which frames of a clip are shown to the model, and how.

    Raises:
        ConfigError: a value out of range, or `fps` or `timestamps_s` that do not go with `sampling`.
    """

    num_frames: int = 8
    """Most frames that are taken, 1 to 64; a clip that has fewer gives those."""
    sampling: FrameSampling = "uniform"
    """uniform: evenly from the first to the last frame; segment: the middle of as many equal parts; fps: a fixed
    number a second, at most `num_frames`; timestamps: those of `timestamps_s`."""
    fps: float | None = None
    """Frames a second, for sampling fps."""
    timestamps_s: tuple[float, ...] = ()
    """Seconds from the start of the clip, for sampling timestamps."""
    start_s: float = 0.0
    """Where the part that is looked at begins, in seconds."""
    end_s: float | None = None
    """Where it ends; None is the end of the clip."""
    frame_size: int | None = None
    """Pixels per side of every frame, 64 to 2048; None takes the size of the model's pictures."""
    has_time_marks: bool = False
    """Put "Frame 3, 2.0 s:" before every frame."""
    skip_duplicates: bool = False
    """Leave out frames that look like the one before."""

    def __post_init__(self) -> None:
        if self.sampling not in get_args(FrameSampling):
            raise ConfigError(
                f"sampling {self.sampling!r} is not known; expected one of "
                f"{', '.join(get_args(FrameSampling))}"
            )
        if not 1 <= self.num_frames <= MAX_FRAMES:
            raise ConfigError(f"num_frames is {self.num_frames}; expected 1 to {MAX_FRAMES}")
        self._check_times()

    def _check_times(self) -> None:
        if self.sampling == "fps" and self.fps is None:
            raise ConfigError(
                "sampling is 'fps' but fps is not given; say how many frames a second"
            )
        if self.sampling != "fps" and self.fps is not None:
            raise ConfigError(
                f"fps is {self.fps} with sampling {self.sampling!r}; the two exclude each other"
            )
        if self.fps is not None and not 0 < self.fps <= 240:
            raise ConfigError(f"fps is {self.fps}; expected more than 0 and at most 240")
        if (self.sampling == "timestamps") != bool(self.timestamps_s):
            raise ConfigError(
                f"{len(self.timestamps_s)} timestamps with sampling {self.sampling!r}; "
                "give both timestamps_s and sampling timestamps, or neither"
            )
        if len(self.timestamps_s) > MAX_FRAMES or any(not t >= 0 for t in self.timestamps_s):
            raise ConfigError(
                f"timestamps_s is {self.timestamps_s}; expected at most {MAX_FRAMES}, each 0 or more seconds"
            )
        if not self.start_s >= 0 or (self.end_s is not None and not self.end_s > self.start_s):
            raise ConfigError(
                f"the part from {self.start_s} s to {self.end_s} s is empty; expected 0 <= start < end"
            )


@dataclass(frozen=True, slots=True)
class VideoPart:
    """A clip, not yet opened; its frames become pictures of the prompt."""

    video: VideoSource
    options: VideoOptions = VideoOptions()


Part: TypeAlias = TextPart | ImagePart | VideoPart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: tuple[Part, ...]

    @classmethod
    def from_text(cls, role: Role, text: str) -> Message:
        """A turn without pictures."""
        return cls(role, (TextPart(text),))

    @property
    def has_media(self) -> bool:
        """Whether a picture or clip is part of this turn."""
        return any(not isinstance(part, TextPart) for part in self.content)

    @property
    def pictures(self) -> tuple[PreparedImage, ...]:
        """Pictures and frames of this turn in reading order, once `Processor.prepare` has opened them."""
        pictures: list[PreparedImage] = []
        for part in self.content:
            if isinstance(part, ImagePart) and isinstance(part.image, PreparedImage):
                pictures.append(part.image)
            elif isinstance(part, VideoPart) and isinstance(part.video, PreparedVideo):
                pictures += part.video.frames
        return tuple(pictures)

    @property
    def text(self) -> str:
        """The words of this turn, parts joined without a separator."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


def as_image_sources(images: ImageSource | Iterable[ImageSource]) -> tuple[ImageSource, ...]:
    """One picture or several as a tuple: a path or an array is one picture, not the sequence it also is.

    Raises:
        ConfigError: neither a picture nor pictures.
    """
    # Arrays and Pillow pictures have an array interface; neither package is loaded to find out.
    if isinstance(images, str | bytes | Path | PreparedImage) or hasattr(
        images, "__array_interface__"
    ):
        return (cast("ImageSource", images),)
    if isinstance(images, Iterable):
        return tuple(images)
    raise ConfigError(
        f"images is {type(images).__name__}; expected paths, bytes, Pillow pictures or uint8 arrays"
    )


def as_video_sources(videos: VideoSource | Iterable[VideoSource]) -> tuple[VideoSource, ...]:
    """One clip or several as a tuple.

    Raises:
        ConfigError: neither a clip nor clips.
    """
    if isinstance(videos, str | bytes | Path | PreparedVideo):
        return (videos,)
    if isinstance(videos, Iterable):
        return tuple(videos)
    raise ConfigError(f"videos is {type(videos).__name__}; expected paths or bytes")


def user_message(text: str, *media: ImageSource | VideoPart) -> Message:
    """A user turn in the order the released models were trained on: pictures first, then the words."""
    parts = (one if isinstance(one, VideoPart) else ImagePart(one) for one in media)
    return Message("user", (*parts, TextPart(text)))
