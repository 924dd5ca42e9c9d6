"""Training of the whole model: next-token loss on the answers of several conversations about each picture.

The conversations about a picture share its prefix (system turn and image tokens), so they are packed behind it
in one or two rows: a block mask lets each see the prefix and itself, and positions count on from the prefix in
each. The numbers are those of separate sequences, and the encoder and most prefixes are paid for once. Rows
are no longer than the longest conversation needs, because attention pays for their square.

    prefix   [x . . .]
    first    [x x . .]
    second   [x . x .]
    third    [x . . x]     x: causal inside, all of the prefix
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastvlm.config import PATCH_STRIDE
from fastvlm.data.synthetic.draw import draw_scene
from fastvlm.data.synthetic.fonts import held_out_fonts, training_fonts
from fastvlm.data.synthetic.questions import Dialogue, ask, kinds_of, sample_dialogues
from fastvlm.data.synthetic.sample import sample_scene
from fastvlm.data.synthetic.world import Scene
from fastvlm.inputs import IGNORE_INDEX, IMAGE_TOKEN_ID
from fastvlm.messages import ImagePart, Message, TextPart
from fastvlm.model.fastvlm import FastVLM
from fastvlm.processing.chat_template import ImageSegment, render
from fastvlm.processing.tokenizer import Tokenizer
from fastvlm.train.collate import first_fit
from fastvlm.train.scratch.encoder_objective import (
    EncoderHeads,
    batch_targets,
    cell_loss,
    to_pixel_values,
)
from fastvlm.train.scratch.recipe import Stage
from fastvlm.train.scratch.word_alignment import WordTargets, word_loss

_HELD_OUT_SEED: Final = 2**40 + 1
_STEP: Final = 32
"""Rows are padded to a multiple of this, so that few shapes of tensors occur."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One conversation as ids: everything up to the picture, and what follows it with its labels."""

    prefix: tuple[int, ...]
    ids: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PackedBatch:
    """Conversations about several pictures; each of the R rows holds some of those about one picture.

    Attributes:
        input_ids: [R, T] with `IMAGE_TOKEN_ID` at image tokens.
        labels: [R, T], the id that the position itself holds where the model learns it.
        position_ids: [R, T].
        attention_mask: [R, 1, T, T], True where a position may look.
        block_ids: [R, T]; 0 prefix, 1 and up the conversations of the row, -1 padding.
        picture_ids: [R], the picture of each row.
        slots: for each picture, row and block of its conversations in the order they were given.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    block_ids: Tensor
    picture_ids: Tensor
    slots: tuple[tuple[tuple[int, int], ...], ...]

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on another device."""
        tensors = {
            one.name: getattr(self, one.name).to(device)
            for one in fields(self)
            if one.name != "slots"
        }
        return replace(self, **tensors)


class Packer:
    """Renders conversations with the chat template that inference uses, and packs them."""

    def __init__(self, tokenizer: Tokenizer, num_image_tokens: int) -> None:
        self._tokenizer, self._num_image_tokens = tokenizer, num_image_tokens
        self.render = lru_cache(maxsize=20_000)(self._render)

    def _render(self, dialogue: Dialogue) -> Rendered:
        """Ids of a conversation whose first question comes with the picture."""
        messages: list[Message] = []
        picture = ImagePart("")  # only its place matters here
        for turn in dialogue:
            parts = (TextPart(turn.question),) if messages else (picture, TextPart(turn.question))
            messages += [Message("user", parts), Message.from_text("assistant", turn.answer)]
        prefix: list[int] = []
        ids: list[int] = []
        labels: list[int] = []
        for segment in render(messages, self._tokenizer, add_generation_prompt=False):
            if isinstance(segment, ImageSegment):
                prefix, ids, labels = ids, [], []
                continue
            ids += segment.ids
            labels += segment.ids if segment.is_trainable else [IGNORE_INDEX] * len(segment.ids)
        return Rendered(tuple(prefix), tuple(ids), tuple(labels))

    def pack(self, dialogues: Sequence[Sequence[Dialogue]]) -> PackedBatch:
        """Lay out the conversations about each picture."""
        rendered = [[self.render(dialogue) for dialogue in of_one] for of_one in dialogues]
        prefix = [*rendered[0][0].prefix, *[IMAGE_TOKEN_ID] * self._num_image_tokens]
        longest = max(len(one.ids) for of_one in rendered for one in of_one)
        length = -(-(len(prefix) + longest) // _STEP) * _STEP
        rows: list[list[Rendered]] = []
        picture_ids: list[int] = []
        slots: list[tuple[tuple[int, int], ...]] = []
        for picture, of_one in enumerate(rendered):
            bins = first_fit([len(one.ids) for one in of_one], length - len(prefix))
            places = {
                index: (len(rows) + row, block)
                for row, indices in enumerate(bins)
                for block, index in enumerate(indices, start=1)
            }
            slots.append(tuple(places[index] for index in range(len(of_one))))
            rows += [[of_one[index] for index in indices] for indices in bins]
            picture_ids += [picture] * len(bins)
        return self._lay_out(prefix, rows, length, torch.tensor(picture_ids), tuple(slots))

    def _lay_out(
        self,
        prefix: list[int],
        rows: list[list[Rendered]],
        length: int,
        picture_ids: Tensor,
        slots: tuple[tuple[tuple[int, int], ...], ...],
    ) -> PackedBatch:
        shape = (len(rows), length)
        input_ids = np.full(shape, self._tokenizer.endoftext_id, dtype=np.int64)
        labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        positions = np.zeros(shape, dtype=np.int64)
        blocks = np.full(shape, -1, dtype=np.int64)
        start = len(prefix)
        input_ids[:, :start], positions[:, :start], blocks[:, :start] = prefix, np.arange(start), 0
        for i, row in enumerate(rows):
            at = start
            for number, one in enumerate(row, start=1):
                end = at + len(one.ids)
                input_ids[i, at:end], labels[i, at:end] = one.ids, one.labels
                positions[i, at:end] = start + np.arange(end - at)
                blocks[i, at:end] = number
                at = end
        block_ids = torch.from_numpy(blocks)
        return PackedBatch(
            torch.from_numpy(input_ids),
            torch.from_numpy(labels),
            torch.from_numpy(positions),
            block_mask(block_ids),
            block_ids,
            picture_ids,
            slots,
        )


def block_mask(block_ids: Tensor) -> Tensor:
    """True where a position may look: back, at the prefix and its own conversation.

    Shape:
        [B, T] -> [B, 1, T, T]
    """
    length = block_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    key = block_ids[:, None, :]
    return (causal & ((key == block_ids[:, :, None]) | (key == 0)))[:, None]


class AnswerObjective:
    """The objective `answers`, with the loss of `cells` beside it where the stage asks for that."""

    def __init__(
        self, model: FastVLM, heads: EncoderHeads, tokenizer: Tokenizer, device: torch.device
    ) -> None:
        self._model, self._heads, self._device = model, heads, device
        self._packer = Packer(tokenizer, model.config.num_image_tokens)
        self._image_size = model.config.image_size
        self._im_end_id = tokenizer.im_end_id
        self._words = WordTargets(tokenizer, model.config.text.vocab_size)

    def loss(self, rng: np.random.Generator, stage: Stage, batch_size: int) -> Tensor:
        fonts = training_fonts()
        scenes = [sample_scene(rng, stage.mix, num_fonts=len(fonts)) for _ in range(batch_size)]
        dialogues = [
            sample_dialogues(
                rng,
                scene,
                stage.dialogues_per_picture,
                overview_rate=stage.overview_rate,
                drill_rate=stage.drill_rate,
                drills=stage.drills,
                is_focused=stage.is_focused,
                only=stage.only,
            )
            for scene in scenes
        ]
        pixel_values = self._draw(scenes, fonts)
        batch = self._packer.pack(dialogues).to(self._device)
        is_frozen = stage.vision_rate_scale == 0
        with torch.set_grad_enabled(not is_frozen):
            features = self._model.vision_tower(pixel_values).flatten(2).mT  # [B, n, C]
        loss = self._answer_loss(features, batch, stage.length_exponent)
        grid = self._image_size // PATCH_STRIDE
        if stage.word_loss_weight:
            shares = self._words.of_scenes(scenes, grid).to(self._device)
            embeddings = self._model.lm_head.weight
            words = word_loss(self._model.projector(features), embeddings, shares)
            loss = loss + stage.word_loss_weight * words
        if stage.cell_loss_weight and not is_frozen:
            targets = batch_targets(scenes, grid)
            targets = {name: value.to(self._device) for name, value in targets.items()}
            loss = loss + stage.cell_loss_weight * cell_loss(self._heads, features, targets)
        return loss

    def measure(self, stage: Stage) -> dict[str, float]:
        rng = np.random.default_rng(_HELD_OUT_SEED)
        fonts = held_out_fonts()
        right: dict[str, list[bool]] = defaultdict(list)
        for _ in range(8):
            scenes = [sample_scene(rng, stage.mix, num_fonts=len(fonts)) for _ in range(32)]
            dialogues = [_one_of_each(rng, scene) for scene in scenes]
            batch = self._packer.pack(dialogues).to(self._device)
            features = self._model.vision_tower(self._draw(scenes, fonts)).flatten(2).mT
            is_right = self._answers_are_right(features, batch)
            for of_one, row in zip(dialogues, is_right, strict=True):
                for dialogue, one in zip(of_one, row, strict=True):
                    right[dialogue[0].kind].append(one)
        return {kind: float(np.mean(values)) for kind, values in sorted(right.items())}

    def _draw(self, scenes: Sequence[Scene], fonts: tuple[str, ...]) -> Tensor:
        pixels = np.stack([draw_scene(scene, self._image_size, fonts) for scene in scenes])
        return to_pixel_values(pixels).to(self._device)

    def _hidden(self, features: Tensor, batch: PackedBatch) -> Tensor:
        """Hidden states from which the next id is read, [R, T, D]; features are [B, n, C]."""
        device_type = self._device.type
        with torch.autocast(device_type, torch.bfloat16, enabled=device_type != "mps"):
            return self._model(
                batch.input_ids,
                self._model.projector(features)[batch.picture_ids],
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
            )

    def _answer_loss(self, features: Tensor, batch: PackedBatch, length_exponent: float) -> Tensor:
        hidden = self._hidden(features, batch)
        targets = batch.labels[:, 1:]
        is_learned = targets != IGNORE_INDEX
        # lm_head only where something is learned: a quarter of the positions.
        logits = self._model.lm_head(hidden[:, :-1][is_learned].float())
        if length_exponent == 0:
            return F.cross_entropy(logits, targets[is_learned])
        losses = F.cross_entropy(logits, targets[is_learned], reduction="none")
        weights = answer_weights(batch, length_exponent)[:, 1:][is_learned]
        return (losses * weights).sum() / weights.sum()

    def _answers_are_right(self, features: Tensor, batch: PackedBatch) -> list[list[bool]]:
        """For every conversation whether each answer token is the most likely one: greedy exact match."""
        hidden = self._hidden(features, batch)
        guesses = self._model.lm_head(hidden.float()).argmax(-1)[:, :-1]
        targets, blocks = batch.labels[:, 1:], batch.block_ids[:, 1:]
        # The line end after <|im_end|> is never generated.
        is_asked = (targets != IGNORE_INDEX) & (batch.input_ids[:, :-1] != self._im_end_id)
        is_wrong = is_asked & (guesses != targets)
        return [
            [not bool(is_wrong[row][blocks[row] == block].any()) for row, block in of_one]
            for of_one in batch.slots
        ]


def answer_weights(batch: PackedBatch, length_exponent: float) -> Tensor:
    """Weight of every position: n ** -length_exponent where a conversation has n learned tokens, [R, T]."""
    is_learned = batch.labels != IGNORE_INDEX
    block = batch.block_ids.clamp_min(0)
    counts = torch.zeros(
        len(block), int(block.max()) + 1, dtype=torch.long, device=block.device
    ).scatter_add_(1, block, is_learned.long())
    return counts.gather(1, block).clamp_min(1).float() ** -length_exponent


def _one_of_each(rng: np.random.Generator, scene: Scene) -> list[Dialogue]:
    kinds = [*kinds_of(scene), "caption"]
    if scene.kind == "things":
        kinds += ["lookup", "check", "tally", "absent"]
    asked = [ask(rng, kind, scene) for kind in kinds]
    return [(question,) for question in asked if question is not None]
