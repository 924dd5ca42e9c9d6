"""Clips of one circle that changes colour, which nano can tell; and a file with sound only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from fastvlm.data.synthetic.draw import draw_scene
from fastvlm.data.synthetic.world import COLOUR_ANCHORS, Scene, Thing
from fastvlm.data.synthetic.write_clips import encode_clip

FRAMES_PER_COLOUR = 8
FPS = 4


def circle(colour: str) -> NDArray[np.uint8]:
    """uint8 [192, 192, 3]: a circle in the middle of a white ground."""
    rgb = COLOUR_ANCHORS[colour][0]
    thing = Thing("circle", colour, rgb, x=0.5, y=0.5, size=0.28, angle=0)
    return draw_scene(Scene("things", "white", (255, 255, 255), (thing,)), 192, ())


def write_circles(path: Path, colours: Sequence[str]) -> Path:
    """Two seconds of each colour."""
    frames = [circle(colour) for colour in colours for _ in range(FRAMES_PER_COLOUR)]
    encode_clip(path, np.stack(frames), fps=FPS)
    return path


def write_sound(path: Path) -> Path:
    """An mp4 without a picture."""
    with av.open(str(path), "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 16000, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path
