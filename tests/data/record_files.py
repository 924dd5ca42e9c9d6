"""Small files of records, as people have them on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from fastvlm.messages import ImagePart, TextPart, VideoPart


def write_json(path: Path, records: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(record) + "\n" for record in records)
    else:
        text = json.dumps(records, indent=1)
    path.write_text(text, encoding="utf-8")
    return path


def llava(question: str, answer: str = "A cat.", **fields: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {**fields, "conversations": turns}


def picture(
    path: Path, color: str | tuple[int, int, int] = "red", size: tuple[int, int] = (60, 40)
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def shown(content: Sequence[object]) -> list[str]:
    """Parts in a form that is easily compared: `image a.jpg`, `video b.mp4`, or the text."""
    names = []
    for part in content:
        if isinstance(part, TextPart):
            names.append(part.text)
        elif isinstance(part, ImagePart):
            names.append(f"image {_name(part.image)}")
        elif isinstance(part, VideoPart):
            names.append(f"video {_name(part.video)}")
    return names


def _name(source: object) -> str:
    return source.name if isinstance(source, Path) else f"{type(source).__name__}"


def clip(path: Path, num_frames: int = 6, size: int = 64) -> Path:
    """A clip whose frames get brighter, 10 a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for number in range(num_frames):
            grey = np.full((size, size, 3), 40 + 30 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
        container.mux(stream.encode())
    return path
