"""The loop learns, stops when asked, and resumes exactly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastvlm.errors import ConfigError, NumericalError
from fastvlm.train.scratch.loop import Progress, Trainee, learning_rate_at, train
from fastvlm.train.scratch.parallel import Team
from fastvlm.train.scratch.recipe import Recipe, Stage, recipe
from fastvlm.train.scratch.state import RunSettings, load_place, read_settings, write_settings

STAGE = Stage(name="first", objective="answers", num_samples=64, batch_size=8, learning_rate=0.05)
RECIPE = Recipe(name="nano", stages=(STAGE, replace(STAGE, name="second")), seed=3)


class TowerAndHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vision_tower = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 1)


class Regression:
    """A small problem with an answer: the sum of four numbers."""

    def __init__(self, model: TowerAndHead) -> None:
        self.model = model

    def loss(self, rng: np.random.Generator, stage: Stage, batch_size: int) -> Tensor:
        x = torch.from_numpy(rng.standard_normal((batch_size, 4), dtype=np.float32))
        return (self.model.head(self.model.vision_tower(x)) - x.sum(1, True)).square().mean()

    def measure(self, stage: Stage) -> dict[str, float]:
        x = torch.eye(4)
        return {"error": float((self.model.head(self.model.vision_tower(x)) - 1).abs().mean())}


def trainee() -> Trainee:
    torch.manual_seed(0)
    model = TowerAndHead()
    modules = nn.ModuleDict({"model": model, "heads": nn.Linear(2, 2)})
    return Trainee(modules, {"answers": Regression(model)})


def run(
    folder: Path, plan: Recipe = RECIPE, stop_at: int | None = None
) -> tuple[bool, Trainee, list[Progress]]:
    news: list[Progress] = []
    pupil = trainee()
    steps = iter(range(1, 10_000))
    is_finished = train(
        pupil,
        plan,
        folder,
        team=Team(),
        report=news.append,
        should_stop=lambda: next(steps) == stop_at,
    )
    return is_finished, pupil, news


def weights(pupil: Trainee) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in pupil.modules.state_dict().items()}


@pytest.mark.parametrize("stop_at", [3, 8, 11])
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, stop_at: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    is_finished, straight, _ = run(whole)
    assert is_finished
    is_finished, _, _ = run(parts, stop_at=stop_at)
    assert not is_finished
    is_finished, resumed, _ = run(parts)
    assert is_finished
    for name, value in weights(straight).items():
        assert torch.equal(value, weights(resumed)[name]), name


def test_the_loss_falls_and_is_reported(tmp_path: Path) -> None:
    long = replace(RECIPE, stages=(replace(STAGE, num_samples=1600),))
    _, _, news = run(tmp_path, long)
    assert [one.step for one in news] == [50, 100, 150, 200]
    assert news[-1].loss < news[0].loss / 2
    assert news[-1].accuracies["error"] < 0.4
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 4


def test_a_frozen_encoder_does_not_change_nor_do_its_statistics(tmp_path: Path) -> None:
    before = weights(trainee())
    plan = replace(RECIPE, stages=(replace(STAGE, vision_rate_scale=0.0),))
    _, pupil, _ = run(tmp_path, plan)
    after = weights(pupil)
    for name in before:
        is_frozen = name.startswith(("model.vision_tower.", "heads."))
        assert torch.equal(before[name], after[name]) == is_frozen, name


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    plan = replace(RECIPE, stages=(replace(STAGE, learning_rate=1e30),))
    with pytest.raises(NumericalError, match="smaller learning rate"):
        run(tmp_path, plan)


def test_the_rate_warms_up_holds_and_falls_to_zero() -> None:
    rates = [learning_rate_at(step, 1000, STAGE) / STAGE.learning_rate for step in range(1000)]
    assert rates[0] < 0.05
    assert rates[100] == rates[700] == 1
    assert 0 < rates[999] < 0.01
    assert rates[875] == pytest.approx(0.5)


def test_the_place_is_kept_with_the_weights(tmp_path: Path) -> None:
    run(tmp_path, stop_at=11)
    place = load_place(tmp_path)
    assert (place.stage, place.step) == (1, 3)


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    settings = RunSettings(recipe="nano", steps_scale=0.5, num_workers=2)
    write_settings(tmp_path, settings)
    assert read_settings(tmp_path) == settings
    with pytest.raises(ConfigError, match="--resume"):
        write_settings(tmp_path, settings)
    with pytest.raises(ConfigError, match="holds no training run"):
        read_settings(tmp_path / "nowhere")


def test_recipes_are_known_by_name_and_scale() -> None:
    nano = recipe("nano")
    small = nano.scaled(0.001)
    assert [stage.name for stage in small.stages] == [stage.name for stage in nano.stages]
    for stage, whole in zip(small.stages, nano.stages, strict=True):
        assert stage.batch_size <= stage.num_samples <= whole.num_samples
    with pytest.raises(ConfigError, match="no recipe named 'mini'"):
        recipe("mini")
    with pytest.raises(ConfigError, match="above 0"):
        nano.scaled(0)
