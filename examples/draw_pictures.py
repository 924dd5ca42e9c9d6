"""Draw the example pictures again, from seeds that no training picture has and with a font that none shows.

Run with `python examples/draw_pictures.py`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from fastvlm.data.synthetic.clutter import draw_held_out_clutter
from fastvlm.data.synthetic.draw import draw_scene
from fastvlm.data.synthetic.fonts import BUILT_IN
from fastvlm.data.synthetic.sample import sample_bars, sample_text, sample_things
from fastvlm.data.synthetic.world import Scene

FOLDER = Path(__file__).parent / "pictures"
SIZE = 384
"""Larger than what the model takes, as pictures mostly are."""

QUESTIONS = {
    "scene.png": ["What color is the circle?", "Where is the star?", "Describe the image."],
    "many.png": [
        "How many shapes are there? Answer with one word.",
        "Is there a yellow cross?",
        "What is in this picture?",
    ],
    "wide.png": ["What shape is red?", "Describe the picture."],
    "chart.png": ["Which bar is the tallest?", "How many bars are there?"],
    "letters.png": ["What letters are shown?", "What color is the background?"],
    "clutter.png": ["Describe the image.", "How many shapes are there?"],
}


def main() -> None:
    """Write the pictures and what to ask about them."""
    scenes = {
        "scene.png": _first_with(("circle", "star"), count=4),
        "many.png": replace(sample_things(np.random.default_rng(90_001), 7), seed=0),
        "chart.png": replace(sample_bars(np.random.default_rng(90_002), 4), seed=0),
        "letters.png": _first_letters(),
    }
    for name, scene in scenes.items():
        Image.fromarray(draw_scene(scene, SIZE, (BUILT_IN,))).save(FOLDER / name, optimize=True)
    wide = replace(_first_red(), frame=(1.0, 0.625), seed=0)
    edge = round(SIZE * 0.1875)
    pixels = draw_scene(wide, SIZE, (BUILT_IN,))[edge : SIZE - edge]
    Image.fromarray(pixels).save(FOLDER / "wide.png", optimize=True)
    clutter = draw_held_out_clutter(np.random.default_rng(90_006), 192)
    Image.fromarray(clutter).save(FOLDER / "clutter.png", optimize=True)
    text = json.dumps(QUESTIONS, indent=1) + "\n"
    (FOLDER / "questions.json").write_text(text, encoding="utf-8")


def _first_with(shapes: tuple[str, ...], *, count: int) -> Scene:
    """The first scene in which each of these shapes stands once."""
    for seed in range(91_000, 92_000):
        scene = replace(sample_things(np.random.default_rng(seed), count), seed=0)
        drawn = [thing.shape for thing in scene.things]
        if all(drawn.count(shape) == 1 for shape in shapes) and scene.background == "white":
            return scene
    raise RuntimeError("no such scene among the seeds")


def _first_red() -> Scene:
    """The first scene with exactly one red thing."""
    for seed in range(93_000, 94_000):
        scene = sample_things(np.random.default_rng(seed), 3)
        if [thing.colour for thing in scene.things].count(
            "red"
        ) == 1 and scene.background != "black":
            return scene
    raise RuntimeError("no such scene among the seeds")


def _first_letters() -> Scene:
    """The first two letters."""
    for seed in range(94_000, 95_000):
        scene = sample_text(np.random.default_rng(seed), num_fonts=1, num_characters=2)
        if scene.writing is not None and scene.writing.text.isalpha():
            return replace(scene, seed=0)
    raise RuntimeError("no such scene among the seeds")


if __name__ == "__main__":
    main()
