"""What is trained in which order, on how many samples. A recipe is data; `train.loop` runs it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from fastvlm.data.synthetic.questions import DRILLS
from fastvlm.data.synthetic.sample import SceneMix
from fastvlm.errors import ConfigError

Objective: TypeAlias = Literal["tiles", "cells", "answers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of a recipe."""

    name: str
    """Shown in the progress bar and written to the log."""
    objective: Objective
    """tiles: class of one token-sized tile; cells: classes of every cell; answers: next-token loss on answers."""
    num_samples: int
    """Pictures drawn in this stage."""
    batch_size: int
    """Pictures in one optimizer step, all workers together."""
    learning_rate: float
    """Peak rate of AdamW; warmed up over the first steps, falling linearly to zero at the end."""
    vision_rate_scale: float = 1.0
    """Rate of the encoder over `learning_rate`; 0 keeps it frozen, its BatchNorms in eval mode."""
    decay_fraction: float = 0.25
    """Last part of the stage over which the rate falls to zero."""
    cell_loss_weight: float = 0.0
    """Weight of the loss of `cells` beside the loss of `answers`."""
    word_loss_weight: float = 0.0
    """Weight of the loss that brings image tokens near the words for what they show."""
    is_coloured: bool = True
    """Tiles in colours, or black on white."""
    dialogues_per_picture: int = 6
    """Conversations about each picture; the encoder runs once for all of them."""
    overview_rate: float = 0.7
    """How often a caption is among them, and as often the list of all places."""
    drill_rate: float = 0.0
    """How often each list of small questions is among them."""
    drills: tuple[str, ...] = DRILLS
    """The lists of small questions."""
    is_focused: bool = False
    """Ask more often what takes longest to learn."""
    only: tuple[str, ...] = ()
    """Kinds of questions that are asked; none means all."""
    length_exponent: float = 0.0
    """Every token of an answer of n tokens counts n to the power of minus this: 0 all tokens alike, so that
    captions rule; 1 all answers alike."""
    mix: SceneMix = field(default_factory=SceneMix)
    """How often each kind of picture is drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Stages, run one after the other on the same model."""

    name: str
    """Also the preset of the network that is trained."""
    stages: tuple[Stage, ...]
    seed: int = 0
    """With the number of workers it decides every picture and every weight."""
    num_workers: int = 2
    """Processes with one CPU thread each, which share every batch; on a GPU one process is used."""

    def scaled(self, factor: float) -> Recipe:
        """The same recipe on more or fewer samples."""
        if factor <= 0:
            raise ConfigError(f"steps-scale is {factor}; expected a number above 0")
        stages = tuple(
            replace(stage, num_samples=max(stage.batch_size, round(stage.num_samples * factor)))
            for stage in self.stages
        )
        return replace(self, stages=stages)


# The order is what makes it work: end to end from the start, the model only learns how answers are worded.
_NANO: Final = Recipe(
    name="nano",
    stages=(
        Stage(
            name="A tiles",
            objective="tiles",
            num_samples=40_000,
            batch_size=64,
            learning_rate=3e-3,
            is_coloured=False,
            decay_fraction=0.1,
        ),
        Stage(
            name="A' coloured tiles",
            objective="tiles",
            num_samples=96_000,
            batch_size=64,
            learning_rate=3e-3,
            decay_fraction=0.1,
        ),
        Stage(
            name="B cells",
            objective="cells",
            num_samples=64_000,
            batch_size=32,
            learning_rate=2e-3,
        ),
        Stage(
            name="C1 alignment",
            objective="answers",
            num_samples=16_000,
            batch_size=32,
            learning_rate=2e-3,
            vision_rate_scale=0.0,
            word_loss_weight=0.5,
            decay_fraction=0.0,
        ),
        Stage(
            name="C2 whole model",
            objective="answers",
            num_samples=20_736,
            batch_size=32,
            learning_rate=1.5e-3,
            vision_rate_scale=0.6,
            decay_fraction=0.0,
            cell_loss_weight=0.1,
            word_loss_weight=0.5,
        ),
        Stage(
            name="C3 questions",
            objective="answers",
            num_samples=76_384,
            batch_size=32,
            learning_rate=1.5e-3,
            decay_fraction=0.0,
            vision_rate_scale=0.4,
            cell_loss_weight=0.1,
            word_loss_weight=0.5,
            overview_rate=0.25,
            drill_rate=0.25,
            is_focused=True,
            length_exponent=0.6,
            mix=SceneMix(things=0.70, text=0.14, bars=0.07, clutter=0.09, framed=0.12),
        ),
        Stage(
            name="C4 lookups",
            objective="answers",
            num_samples=21_248,
            batch_size=32,
            learning_rate=2e-3,
            decay_fraction=0.0,
            vision_rate_scale=0.3,
            word_loss_weight=0.2,
            overview_rate=0.0,
            only=("colour", "where", "exists", "count_by"),
            is_focused=True,
            length_exponent=1.0,
            mix=SceneMix(things=0.96, text=0.02, bars=0.0, clutter=0.02, most_things=4),
        ),
        Stage(
            name="C5 places",
            objective="answers",
            num_samples=24_000,
            batch_size=32,
            learning_rate=2e-3,
            decay_fraction=0.0,
            vision_rate_scale=0.3,
            word_loss_weight=0.2,
            overview_rate=0.0,
            drill_rate=0.6,
            drills=("lookup",),
            only=("where",),
            is_focused=True,
            length_exponent=1.0,
            mix=SceneMix(things=0.96, text=0.02, bars=0.0, clutter=0.02, most_things=4),
        ),
        Stage(
            name="C6 all questions",
            objective="answers",
            num_samples=44_800,
            batch_size=32,
            learning_rate=1.5e-3,
            decay_fraction=0.45,
            vision_rate_scale=0.4,
            cell_loss_weight=0.1,
            word_loss_weight=0.2,
            overview_rate=0.4,
            drill_rate=0.12,
            drills=("lookup", "tally"),
            is_focused=True,
            length_exponent=0.7,
            mix=SceneMix(things=0.70, text=0.14, bars=0.07, clutter=0.09, framed=0.12),
        ),
    ),
)

RECIPES: Final[dict[str, Recipe]] = {"nano": _NANO}


def recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        ConfigError: no recipe of that name.
    """
    if name not in RECIPES:
        raise ConfigError(f"no recipe named {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
