"""The training loop: stages in order, one optimizer step after the other, state on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fastvlm.errors import NumericalError
from fastvlm.train.scratch.parallel import Team
from fastvlm.train.scratch.recipe import Recipe, Stage
from fastvlm.train.scratch.state import (
    Place,
    has_state,
    load_modules,
    load_optimizer,
    load_place,
    save_state,
)

SAVE_EVERY = 250
"""Optimizer steps between two states on disk."""
MEASURE_EVERY = 500
"""Optimizer steps between two measurements on held-out pictures."""
_WARM_UP = 60
_WEIGHT_DECAY = 0.03
_MAX_NORM = 1.0


class Objective(Protocol):
    """What is learned in a stage."""

    def loss(self, rng: np.random.Generator, stage: Stage, batch_size: int) -> Tensor:
        """Draw a batch and return its mean loss."""

    def measure(self, stage: Stage) -> dict[str, float]:
        """Accuracies on fixed held-out pictures, by what was asked."""


@dataclass(frozen=True, slots=True)
class Progress:
    """News from the loop."""

    stage: Stage
    step: int
    num_steps: int
    loss: float
    samples_per_second: float
    accuracies: dict[str, float]
    """Empty but for the steps at which it is measured."""


@dataclass(frozen=True, slots=True, eq=False)
class Trainee:
    """The network with what is trained beside it.

    Attributes:
        modules: `model`, whose `vision_tower` may learn at another rate, and `heads`.
        objectives: by the name that stages use.
    """

    modules: nn.ModuleDict
    objectives: dict[str, Objective]


def train(
    trainee: Trainee,
    recipe: Recipe,
    folder: Path,
    *,
    team: Team,
    report: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> bool:
    """Run a recipe from where its folder stands, to the end or until asked to stop.

    Args:
        trainee: the network, on its device.
        recipe: the stages.
        folder: state and log go there.
        team: the processes that share the work.
        report: called on the first process, a few times a minute.
        should_stop: asked on every step; the state is saved before the loop ends.

    Returns:
        Whether the recipe was finished.

    Raises:
        NumericalError: the loss is not a number; the last saved state is still good.
    """
    place = Place(0, 0)
    is_resumed = has_state(folder)
    if is_resumed:
        place = load_place(folder)
        load_modules(folder, trainee.modules)
    for index in range(place.stage, len(recipe.stages)):
        stage = recipe.stages[index]
        optimizer = _optimizer(trainee.modules, stage)
        first_step = place.step if index == place.stage else 0
        if is_resumed and first_step:
            load_optimizer(folder, optimizer)
        run = _StageRun(trainee, recipe, index, optimizer, folder, team, report, should_stop)
        if not run.go(first_step):
            return False
    return True


@dataclass(frozen=True, slots=True, eq=False)
class _StageRun:
    trainee: Trainee
    recipe: Recipe
    index: int
    optimizer: torch.optim.Optimizer
    folder: Path
    team: Team
    report: Callable[[Progress], None]
    should_stop: Callable[[], bool]

    @property
    def stage(self) -> Stage:
        return self.recipe.stages[self.index]

    def go(self, first_step: int) -> bool:
        """Do the steps of the stage; False when stopped before its end."""
        stage, team = self.stage, self.team
        num_steps = max(1, stage.num_samples // stage.batch_size)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        _set_modes(self.trainee.modules, stage)
        losses: list[Tensor] = []
        began, since = time.monotonic(), first_step
        for step in range(first_step, num_steps):
            rate = learning_rate_at(step, num_steps, stage)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            loss, wants_stop = self._step(step, parameters)
            losses.append(loss.detach())
            done = step + 1
            if done % 50 == 0 or done == num_steps:
                mean = team.mean(torch.stack(losses).mean())
                speed = (done - since) * stage.batch_size / (time.monotonic() - began)
                self._tell(done, num_steps, mean, speed)
                losses = []
                began, since = time.monotonic(), done
            if wants_stop or done % SAVE_EVERY == 0 or done == num_steps:
                self._save(done, num_steps)
            if wants_stop:
                return False
        return True

    def _step(self, step: int, parameters: list[nn.Parameter]) -> tuple[Tensor, bool]:
        # The pictures depend on the place in the recipe alone, so resuming needs no generator's state.
        rng = np.random.default_rng([self.recipe.seed, self.index, step, self.team.rank])
        objective = self.trainee.objectives[self.stage.objective]
        loss = objective.loss(rng, self.stage, self.stage.batch_size // self.team.size)
        if not torch.isfinite(loss):
            raise NumericalError(
                f"loss is {loss.item()} at step {step} of stage {self.stage.name!r}; "
                "resume from the last saved state with a smaller learning rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        wants_stop = self.team.average_gradients(parameters, flag=self.should_stop())
        nn.utils.clip_grad_norm_(parameters, _MAX_NORM)
        self.optimizer.step()
        return loss, wants_stop

    def _tell(self, done: int, num_steps: int, loss: float, speed: float) -> None:
        if not self.team.is_first:
            return
        accuracies: dict[str, float] = {}
        if done % MEASURE_EVERY == 0 or done == num_steps:
            self.trainee.modules.eval()
            with torch.inference_mode():
                accuracies = self.trainee.objectives[self.stage.objective].measure(self.stage)
            _set_modes(self.trainee.modules, self.stage)
        line = {
            "stage": self.stage.name,
            "step": done,
            "loss": round(loss, 4),
            "samples_per_second": round(speed, 1),
            "time": round(time.time()),
            "accuracies": {name: round(value, 3) for name, value in accuracies.items()},
        }
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        self.report(Progress(self.stage, done, num_steps, loss, speed, accuracies))

    def _save(self, done: int, num_steps: int) -> None:
        self.team.average_buffers(self.trainee.modules)
        if self.team.is_first:
            place = Place(self.index, done) if done < num_steps else Place(self.index + 1, 0)
            save_state(self.folder, place, self.trainee.modules, self.optimizer)


def learning_rate_at(step: int, num_steps: int, stage: Stage) -> float:
    """Warm-up, constant, then a straight line to zero."""
    warm_up = min(1.0, (step + 1) / _WARM_UP)
    decay_steps = max(1.0, stage.decay_fraction * num_steps)
    return stage.learning_rate * min(warm_up, (num_steps - step) / decay_steps)


def _optimizer(modules: nn.ModuleDict, stage: Stage) -> torch.optim.Optimizer:
    """AdamW over what the stage trains; weights decay, scales and biases do not."""
    is_encoder_stage = stage.objective != "answers"
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in modules.named_parameters():
        is_vision = name.startswith(("model.vision_tower.", "heads."))
        if is_encoder_stage and not is_vision:
            continue
        scale = stage.vision_rate_scale if is_vision else 1.0
        if scale == 0:
            continue
        decay = _WEIGHT_DECAY if parameter.ndim > 1 else 0.0
        groups.setdefault((scale, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": params, "scale": scale, "weight_decay": decay}
            for (scale, decay), params in groups.items()
        ],
        lr=stage.learning_rate,
        betas=(0.9, 0.95),
        eps=1e-8,
        fused=True,
    )


def _set_modes(modules: nn.ModuleDict, stage: Stage) -> None:
    """Train mode for what learns; a frozen encoder stays in eval, or its BatchNorms would drift."""
    modules.train()
    is_frozen = stage.vision_rate_scale == 0
    for name, parameter in modules.named_parameters():
        if name.startswith("model.vision_tower."):
            parameter.requires_grad_(not is_frozen)
    if is_frozen:
        vision_tower = modules["model"].get_submodule("vision_tower")
        vision_tower.eval()
