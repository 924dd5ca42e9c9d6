"""Draw the example clip again: a circle that changes its colour and a star that comes and goes.

Run with `python examples/draw_clips.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastvlm.data.synthetic.draw import draw_scene
from fastvlm.data.synthetic.world import COLOUR_ANCHORS, Scene, Thing
from fastvlm.data.synthetic.write_clips import PICTURE_SIZE, encode_clip

CLIPS = Path(__file__).parent / "clips"
FRAMES_PER_SECOND = 4
SECONDS_PER_SCENE = 2


def thing(shape: str, colour: str, x: float) -> Thing:
    """A shape at half height."""
    rgb = COLOUR_ANCHORS[colour][0]
    return Thing(shape, colour, rgb, x=x, y=0.5, size=0.26, angle=0.0)


def main() -> None:
    """Write examples/clips/circle.mp4: four scenes of two seconds."""
    star = thing("star", "orange", 0.83)
    scenes = [
        (thing("circle", "red", 0.5),),
        (thing("circle", "blue", 0.5),),
        (thing("circle", "blue", 0.5), star),
        (thing("circle", "green", 0.5),),
    ]
    frames = [
        draw_scene(Scene("things", "white", (255, 255, 255), things), PICTURE_SIZE, ())
        for things in scenes
        for _ in range(SECONDS_PER_SCENE * FRAMES_PER_SECOND)
    ]
    CLIPS.mkdir(exist_ok=True)
    encode_clip(CLIPS / "circle.mp4", np.stack(frames), fps=FRAMES_PER_SECOND)


if __name__ == "__main__":
    main()
