"""Image tokens near the words for what they show.

Beside the answers, every image token must say through the tied output layer which words belong to its cell:
colour, shape, place. A language model that has learned to find a word again then finds it in the picture too;
without this, finding a shape by its name stayed at chance for half an hour, though every feature knew its shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvlm.data.synthetic.cells import covered_cells
from fastvlm.data.synthetic.world import PLACES, Scene
from fastvlm.processing.tokenizer import Tokenizer


class WordTargets:
    """For every cell of a scene, which token ids belong to it.

    Args:
        tokenizer: every word of the world is one token in it.
        vocab_size: rows of the output layer.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._ids: dict[str, int] = {}

    def of_scenes(self, scenes: Sequence[Scene], grid: int) -> Tensor:
        """Shares of words that add up to 1, or to 0 where nothing is asked of a cell.

        Shape:
            -> [B, grid * grid, vocab_size]
        """
        shares = torch.zeros(len(scenes), grid * grid, self._vocab_size)
        for index, scene in enumerate(scenes):
            for cell, words in words_of_cells(scene, grid).items():
                for word in words:
                    shares[index, cell, self._id(word)] += 1 / len(words)
        return shares

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = self._tokenizer.encode(f" {word}")[0]
        return self._ids[word]


def words_of_cells(scene: Scene, grid: int) -> dict[int, list[str]]:
    """The words of each cell; cells about which there is nothing to say are left out."""
    if scene.kind == "text" and scene.writing is not None:
        laid_out = scene.laid_out().writing
        assert laid_out is not None
        reach = 0.3 * laid_out.size
        cells = covered_cells(grid, laid_out.x, laid_out.y, reach * len(laid_out.text), reach)
        return {cell: [scene.writing.colour] for cell in cells}
    if scene.kind != "things":
        return {}
    words: dict[int, list[str]] = {}
    if scene.frame == (1.0, 1.0):
        words = {cell: ["nothing", *place.split(" ")] for cell, place in enumerate(PLACES)}
    for thing, laid_out_thing in zip(scene.things, scene.laid_out().things, strict=True):
        half = 0.3 * laid_out_thing.size
        for cell in covered_cells(grid, laid_out_thing.x, laid_out_thing.y, half, half):
            words[cell] = [thing.colour, thing.shape, *thing.place.split(" ")]
    return words


def word_loss(image_features: Tensor, embeddings: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of the words that each image token says.

    Args:
        image_features: after the projector.
        embeddings: the tied output layer.
        shares: from `WordTargets`.

    Shape:
        [B, n, D], [V, D], [B, n, V] -> []
    """
    normed = F.rms_norm(image_features.float(), image_features.shape[-1:])
    log_likelihood = F.log_softmax(normed @ embeddings.float().T, -1)
    is_asked = shares.sum(-1) > 0
    return -(shares * log_likelihood).sum() / is_asked.sum().clamp_min(1)
