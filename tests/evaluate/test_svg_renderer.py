"""The second renderer shows the same scene by other means."""

import numpy as np
import pytest

from fastvlm.data.synthetic.draw import draw_scene
from fastvlm.data.synthetic.fonts import BUILT_IN
from fastvlm.data.synthetic.sample import sample_kind
from fastvlm.evaluate.svg_renderer import SvgRenderer, to_svg

pytest.importorskip("resvg_py", reason="the second renderer is in the extra `eval`")


@pytest.mark.parametrize("kind", ["things", "text", "bars"])
def test_both_renderers_agree_but_for_edges_and_shading(kind) -> None:
    rng = np.random.default_rng(3)
    with SvgRenderer(96, (BUILT_IN,)) as renderer:
        for _ in range(10):
            scene = sample_kind(rng, kind, num_fonts=1)
            first = draw_scene(scene, 96, (BUILT_IN,)).astype(int)
            second = renderer.draw(scene).astype(int)
            assert second.shape == first.shape
            is_far = np.abs(first - second).max(axis=-1) > 60
            assert is_far.mean() < 0.06


def test_text_is_escaped_and_named_colours_are_not_used() -> None:
    scene = sample_kind(np.random.default_rng(1), "text", num_fonts=1)
    svg = to_svg(scene, 'Font "A" & B')
    assert "&amp;" in svg
    assert "#" in svg
