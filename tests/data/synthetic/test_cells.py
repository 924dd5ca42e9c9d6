"""Classes for the encoder stand in the cells where things stand."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvlm.data.synthetic.cells import CELL_CLASSES, PICTURE_CLASSES, UNKNOWN, cell_targets
from fastvlm.data.synthetic.fonts import NUM_TRAINING_FONTS, held_out_fonts, training_fonts
from fastvlm.data.synthetic.sample import SceneMix, sample_scene, sample_things
from fastvlm.data.synthetic.world import COLOURS, SHAPES
from fastvlm.errors import ConfigError


def test_each_small_thing_is_in_its_cell() -> None:
    scene = sample_things(np.random.default_rng(4), 6)
    targets = cell_targets(scene, 3)
    for thing in scene.things:
        assert targets.cells["object"][thing.cell] == 1 + SHAPES.index(thing.shape)
        assert targets.cells["colour"][thing.cell] == COLOURS.index(thing.colour)
    assert np.count_nonzero(targets.cells["object"]) == 6
    assert targets.picture["num_things"] == 6
    assert targets.picture["num_bars"] == UNKNOWN


@settings(deadline=None, max_examples=50)  # the machine may be busy
@given(st.integers(0, 2**31), st.sampled_from([1, 3]))
def test_classes_are_in_range_or_unknown(seed: int, grid: int) -> None:
    scene = sample_scene(np.random.default_rng(seed), SceneMix(), num_fonts=1)
    targets = cell_targets(scene, grid)
    for name, values in targets.cells.items():
        assert values.shape == (grid * grid,)
        assert ((values == UNKNOWN) | ((values >= 0) & (values < CELL_CLASSES[name]))).all()
    for name, value in targets.picture.items():
        assert value == UNKNOWN or 0 <= value < PICTURE_CLASSES[name]


def test_no_font_is_both_trained_on_and_held_out() -> None:
    try:
        fonts = training_fonts()
    except ConfigError as error:
        # Where the packages are missing, the error says what to install.
        assert "apt-get install fonts-" in str(error)  # noqa: PT017
        return
    assert len(set(fonts)) == NUM_TRAINING_FONTS
    assert not set(fonts) & set(held_out_fonts())
