"""What a conversation is made of: messages with text and image parts.

An image takes part by its position in `content`, never by a marker inside a text, so that nothing a user
types can become an image or a control token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from fastvlm.errors import ConfigError
from fastvlm.inputs import PreparedImage

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


Part: TypeAlias = TextPart | ImagePart


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
    def images(self) -> tuple[ImageSource, ...]:
        """The pictures of this turn, in reading order."""
        return tuple(part.image for part in self.content if isinstance(part, ImagePart))

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


def user_message(text: str, *images: ImageSource) -> Message:
    """A user turn in the order the released models were trained on: pictures first, then the words."""
    return Message("user", (*(ImagePart(image) for image in images), TextPart(text)))
