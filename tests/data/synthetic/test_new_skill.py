"""Relations are true of the picture, in no doubt, and cannot be guessed."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvlm.data.synthetic.new_skill import (
    SKILL_KINDS,
    ask_relation,
    relations,
    sample_related,
    write_skill_set,
)
from fastvlm.errors import ConfigError

HOLDS = {
    "left of": lambda one, other: one.x < other.x - 0.1,
    "right of": lambda one, other: one.x > other.x + 0.1,
    "above": lambda one, other: one.y < other.y - 0.1,
    "below": lambda one, other: one.y > other.y + 0.1,
}


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**31))
def test_sentences_are_true_by_coordinates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_related(rng)
    by_shape = {thing.shape: thing for thing in scene.things}
    assert len(by_shape) == len(scene.things) > 1
    for kind in SKILL_KINDS:
        asked = ask_relation(rng, kind, scene, is_short=False)
        if asked is None:
            continue
        said = asked.answer.removeprefix("Yes, the ").removeprefix("No, the ").removeprefix("The ")
        (relation,) = [name for name in HOLDS if f" is {name} the " in said]
        one, other = said.removesuffix(".").split(f" is {relation} the ")
        assert HOLDS[relation](by_shape[one], by_shape[other])
        if kind == "which_relation":
            others = [thing for thing in scene.things if thing.shape not in (one, other)]
            assert all(relation not in relations(thing, by_shape[other]) for thing in others)
        if kind == "how_relation":
            assert len(relations(by_shape[one], by_shape[other])) == 1


@pytest.mark.parametrize(
    ("kind", "most"), [("is_relation", 0.55), ("how_relation", 0.3), ("which_relation", 0.2)]
)
def test_answers_are_balanced(kind: str, most: float) -> None:
    rng, found = np.random.default_rng(3), Counter[str]()
    while found.total() < 1500:
        asked = ask_relation(rng, kind, sample_related(rng), is_short=True)
        if asked is not None:
            found[asked.answer] += 1
    assert found.most_common(1)[0][1] / found.total() < most, found


def test_the_set_is_written_with_both_splits(tmp_path: Path) -> None:
    write_skill_set(tmp_path / "skill", num_pictures=5, num_validation=3)
    train, validation = (
        json.loads((tmp_path / "skill" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("train", "validation")
    )
    assert len(train) == 5
    assert len(validation) == 12
    assert {record["kind"] for record in validation} <= {*SKILL_KINDS}
    for record in train + validation:
        assert (tmp_path / "skill" / record["image"]).is_file()
        assert record["conversations"][0]["value"].startswith("<image>\n")
    assert not {r["image"] for r in train} & {r["image"] for r in validation}


def test_numbers_out_of_range_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_pictures -1"):
        write_skill_set(tmp_path / "skill", num_pictures=-1)
    assert list(tmp_path.iterdir()) == []
