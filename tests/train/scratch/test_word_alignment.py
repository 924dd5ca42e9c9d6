"""Every image token is asked for the words of its cell."""

from dataclasses import replace

import pytest
import torch

from fastvlm.data.synthetic.world import Scene, Thing, Writing
from fastvlm.train.scratch.word_alignment import WordTargets, word_loss, words_of_cells


def thing(shape: str, colour: str, cell: int) -> Thing:
    return Thing(shape, colour, (0, 0, 0), (cell % 3 + 0.5) / 3, (cell // 3 + 0.5) / 3, 0.25, 0.0)


SCENE = Scene(
    "things", "white", (255, 255, 255), (thing("circle", "red", 2), thing("star", "blue", 4))
)


def test_words_of_a_scene() -> None:
    words = words_of_cells(SCENE, 3)
    assert len(words) == 9
    assert words[2] == ["red", "circle", "top", "right"]
    assert words[4] == ["blue", "star", "middle"]
    assert words[0] == ["nothing", "top", "left"]


def test_a_framed_thing_keeps_the_name_of_its_place() -> None:
    framed = replace(SCENE, frame=(1.0, 0.4))
    words = words_of_cells(framed, 3)
    assert sorted(words) == [4, 5]  # the top row has moved into the middle of the square
    assert words[5] == ["red", "circle", "top", "right"]


def test_characters_have_a_colour_and_clutter_has_no_words() -> None:
    writing = Writing("A", "green", (0, 128, 0), 0.5, 0.5, 0.5, 0)
    scene = Scene("text", "white", (255, 255, 255), writing=writing)
    assert words_of_cells(scene, 3) == {4: ["green"]}
    assert words_of_cells(Scene("clutter", "", (0, 0, 0)), 3) == {}


def test_the_loss_is_lowest_where_tokens_say_their_words(tokenizer) -> None:
    shares = WordTargets(tokenizer, 640).of_scenes([SCENE], 3)
    assert shares.shape == (1, 9, 640)
    assert torch.allclose(shares.sum(-1), torch.ones(1, 9))
    embeddings = torch.nn.functional.normalize(torch.randn(640, 192, generator=_seeded()), dim=-1)
    right = shares @ embeddings
    wrong = right.flip(1)
    assert word_loss(right, embeddings, shares) < word_loss(wrong, embeddings, shares) - 1


def test_nothing_asked_is_no_loss() -> None:
    loss = word_loss(torch.randn(1, 9, 8), torch.randn(16, 8), torch.zeros(1, 9, 16))
    assert loss == 0


@pytest.mark.parametrize("word", ["red", "circle", "diamond", "triangle", "nothing", "middle"])
def test_words_of_cells_are_single_tokens(tokenizer, word: str) -> None:
    assert len(tokenizer.encode(f" {word}")) == 1


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
