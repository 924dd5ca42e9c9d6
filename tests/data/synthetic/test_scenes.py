"""Scenes follow from a seed and keep the promises that questions rely on."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvlm.data.synthetic.clutter import draw_clutter, draw_held_out_clutter
from fastvlm.data.synthetic.draw import draw_scene
from fastvlm.data.synthetic.fonts import BUILT_IN
from fastvlm.data.synthetic.sample import (
    SceneMix,
    colour_value,
    sample_bars,
    sample_frame,
    sample_kind,
    sample_scene,
    sample_text,
    sample_things,
    sample_tile,
)
from fastvlm.data.synthetic.world import COLOURS, PLACES, SHAPES, Thing, shape_outline

FONTS = (BUILT_IN,)
seeds = st.integers(0, 2**31)


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(seeds)
def test_one_seed_is_one_scene_and_one_picture(seed: int) -> None:
    first, again = (
        sample_scene(np.random.default_rng(seed), SceneMix(), num_fonts=1) for _ in range(2)
    )
    assert first == again
    assert np.array_equal(draw_scene(first, 64, FONTS), draw_scene(again, 64, FONTS))


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(seeds, st.integers(1, 8))
def test_things_stand_in_cells_of_their_own_and_differ_from_the_ground(
    seed: int, count: int
) -> None:
    scene = sample_things(np.random.default_rng(seed), count)
    assert len({thing.cell for thing in scene.things}) == len(scene.things) == count
    for thing in scene.things:
        assert thing.colour != scene.background
        difference = sum(abs(a - b) for a, b in zip(thing.rgb, scene.background_rgb, strict=True))
        assert difference >= 60
        assert thing.place in PLACES


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(seeds, st.integers(2, 5))
def test_tallest_and_shortest_bar_are_clear(seed: int, count: int) -> None:
    scene = sample_bars(np.random.default_rng(seed), count)
    heights = sorted(bar.height for bar in scene.bars)
    assert len(heights) == count
    assert heights[1] - heights[0] >= 0.0999
    assert heights[-1] - heights[-2] >= 0.0999
    assert len({bar.colour for bar in scene.bars}) == count


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(seeds, st.integers(1, 2))
def test_characters_lie_inside_the_picture(seed: int, count: int) -> None:
    scene = sample_text(np.random.default_rng(seed), num_fonts=3, num_characters=count)
    writing = scene.writing
    assert writing is not None
    assert len(writing.text) == count
    assert writing.text.isdigit() or writing.text.isalpha()
    assert 0 <= writing.font < 3
    assert 0.36 * writing.size * count <= writing.x <= 1 - 0.36 * writing.size * count


def test_a_thing_is_drawn_where_and_as_it_is_described() -> None:
    scene = sample_things(np.random.default_rng(5), 4)
    pixels = draw_scene(scene, 192, FONTS).astype(int)
    for thing in scene.things:
        at = pixels[int(thing.y * 192), int(thing.x * 192)]
        assert np.abs(at - thing.rgb).max() <= 30  # shading and noise


@pytest.mark.parametrize("kind", ["things", "text", "bars", "clutter"])
@pytest.mark.parametrize("size", [64, 192, 200])
def test_every_kind_draws_at_every_size(kind, size: int) -> None:
    scene = sample_kind(np.random.default_rng(1), kind, num_fonts=1)
    pixels = draw_scene(scene, size, FONTS)
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 1


def test_tiles_in_black_and_white_have_no_colour() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        pixels = draw_scene(sample_tile(rng, num_fonts=1, is_coloured=False), 64, FONTS)
        assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("draw", [draw_clutter, draw_held_out_clutter])
def test_clutter_follows_from_the_generator(draw) -> None:
    first, again, other = (draw(np.random.default_rng(seed), 96) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_colour_names_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    values = {name: {colour_value(rng, name) for _ in range(300)} for name in COLOURS}
    for one, other in itertools.combinations(COLOURS, 2):
        assert not values[one] & values[other]


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_fill_a_box_of_side_one(shape: str) -> None:
    outline = shape_outline(shape)
    assert np.abs(outline).max() <= 0.56
    assert np.ptp(outline, axis=0).max() >= 0.85


def test_places_are_read_row_by_row() -> None:
    def thing(x: float, y: float) -> Thing:
        return Thing("circle", "red", (255, 0, 0), x, y, 0.2, 0.0)

    assert thing(0.1, 0.1).place == "top left"
    assert thing(0.9, 0.5).place == "right"
    assert thing(0.5, 0.5).place == "middle"
    assert thing(0.5, 0.99).place == "bottom"
    assert thing(1.0, 1.0).place == "bottom right"


@settings(deadline=None, max_examples=50)
@given(seeds)
def test_a_framed_picture_is_black_outside_and_keeps_its_places(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_things(rng)
    framed = replace(scene, frame=sample_frame(rng), seed=0)
    width, height = framed.frame
    assert [thing.place for thing in framed.things] == [thing.place for thing in scene.things]
    pixels = draw_scene(framed, 100, FONTS)
    edge_x, edge_y = round((1 - width) * 50), round((1 - height) * 50)
    assert not pixels[:edge_y].any()
    assert not pixels[:, :edge_x].any()
    for thing in framed.laid_out().things:
        assert abs(thing.x - 0.5) <= width / 2
        assert abs(thing.y - 0.5) <= height / 2
