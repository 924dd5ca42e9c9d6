"""A data set folder as users have them: media files beside JSON files in LLaVA's form.

A record has `id`, `image` or `video` (a path below the folder) and `conversations`; the marker `<image>` or
`<video>` opens the first turn. Drawn sets add `kind`, and `reversed_answer` where a question asks about order.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastvlm.data.synthetic.askers import NOT_SURE
from fastvlm.errors import ConfigError

MediaKind: TypeAlias = Literal["image", "video"]
Turn: TypeAlias = tuple[str, str]
"""Question and answer."""
OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Takes what is written, how many are done and how many there are."""

_JPEG_QUALITY: Final = 95


class Asked(Protocol):
    """A question with its answer, about a picture or a clip."""

    @property
    def question(self) -> str: ...
    @property
    def answer(self) -> str: ...


def no_progress(what: str, done: int, total: int) -> None:
    """Tell nobody."""


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill: it gets its name when the block ends well and is removed when it does not.

    Raises:
        ConfigError: `folder` exists already and is not an empty folder.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} exists already; expected a new or an empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            folder.rmdir()  # empty; on Windows a rename does not replace a folder
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def llava_record(
    identifier: str, media: MediaKind, path: str, turns: Sequence[Turn], **extra: str | None
) -> dict[str, Any]:
    """One record; what is None in `extra` is left out."""
    conversations = []
    for index, (question, answer) in enumerate(turns):
        marker = f"<{media}>\n" if index == 0 else ""
        conversations.append({"from": "human", "value": f"{marker}{question}"})
        conversations.append({"from": "gpt", "value": answer})
    record: dict[str, Any] = {"id": identifier, media: path, "conversations": conversations}
    return record | {key: value for key, value in extra.items() if value is not None}


def join_turns(dialogues: Sequence[Sequence[Asked]], num_joined: int) -> Iterator[list[Turn]]:
    """Turns of each record, without sentences that were said before and could only be copied."""
    for start in range(0, len(dialogues), num_joined):
        turns: list[Turn] = []
        for dialogue in dialogues[start : start + num_joined]:
            said = {answer for _, answer in turns if answer != NOT_SURE and " " in answer}
            if dialogue[0].answer not in said:
                turns += [(turn.question, turn.answer) for turn in dialogue]
        yield turns


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """A JSON list with one record a line."""
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def save_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """A JPEG whose colours stay where they are: no chroma subsampling.

    Shape:
        pixels: [H, W, 3]
    """
    Image.fromarray(pixels).save(path, quality=_JPEG_QUALITY, subsampling=0)
