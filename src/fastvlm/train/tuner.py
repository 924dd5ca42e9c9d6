"""The Trainer of tuning runs: transformers' loop with our loss, groups, order of samples and checkpoints.

What is changed, and why:
- a checkpoint holds what is trained and nothing else, and is renamed into its place once it is complete;
- the order of samples depends on seed and epoch alone, so that a resumed run goes on with the same samples;
- broken samples are counted and stop the run above a limit;
- evaluation measures loss and token accuracy over tokens, without keeping logits.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from fastvlm.data.mixture import Place
from fastvlm.data.samples import BrokenSample, TrainingSamples, ValidationSamples
from fastvlm.errors import CheckpointError, NumericalError
from fastvlm.train.average import WeightAverage
from fastvlm.train.collate import Collator
from fastvlm.train.meter import Meter
from fastvlm.train.network import OUTPUT_LAYER, TuningNetwork
from fastvlm.train.parts import optimizer_groups
from fastvlm.train.settings import TuneSettings
from fastvlm.train.steps import EpochOrder, Steps
from fastvlm.train.utilization import Utilization

TRAINED: Final = "trained.safetensors"
AVERAGED: Final = "averaged.safetensors"
_STAGING: Final = ".saving"


class Tuner(Trainer):
    """One phase of a run.

    Args:
        network: with `requires_grad` set and adapters put in.
        settings: of the phase.
        arguments: made by `training_arguments`.
        train_set: all samples, by their place.
        order: places of every epoch.
        collator: lays samples out.
        validation: samples to measure on; None for none.
        on_broken: told of every sample that cannot be used; may raise.
        on_log: told of every line of the log.
        score_answers: further metrics of the network as it stands; called at every validation.
        utilization: what a batch costs; None leaves MFU out of the log.
        should_stop: asked after every step; a checkpoint is written before the run ends.
    """

    def __init__(
        self,
        network: TuningNetwork,
        settings: TuneSettings,
        arguments: TrainingArguments,
        *,
        train_set: TrainingSamples,
        order: EpochOrder,
        collator: Collator,
        validation: ValidationSamples | None = None,
        on_broken: Callable[[BrokenSample], None],
        on_log: Callable[[dict[str, Any]], None],
        score_answers: Callable[[TuningNetwork], dict[str, float]] | None = None,
        utilization: Utilization | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._order = order
        self._on_broken, self._on_log = on_broken, on_log
        self._score_answers = score_answers
        self._average = WeightAverage(network, settings.ema_decay) if settings.ema_decay else None
        self._meter = Meter(utilization)
        self._steps = steps = Steps(order, self._average, should_stop)
        self._last_evaluated = -1
        super().__init__(
            model=network,
            args=arguments,
            data_collator=collator,
            train_dataset=train_set,
            eval_dataset=validation,
            callbacks=[steps],
        )
        self.remove_callback(PrinterCallback)

    @property
    def network(self) -> TuningNetwork:
        """The network without what the Trainer wraps around it."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def is_sharded(self) -> bool:
        """Whether no process has all weights."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    @property
    def was_stopped(self) -> bool:
        """Whether the run ended because it was asked to."""
        return self._steps.was_stopped

    @property
    def was_just_evaluated(self) -> bool:
        """Whether the weights have been measured since the last step."""
        return self._last_evaluated == self.state.global_step

    def trained_tensors(self) -> dict[str, Tensor]:
        """What the phase has trained, by name in `FastVLM`: averaged weights where an average is kept."""
        state = _trained_state(self.network, self._full_state())
        if self._average is not None:
            state |= {
                name: value.to(state[name].dtype) for name, value in self._average.tensors.items()
            }
        return {name.removeprefix("model."): tensor.cpu() for name, tensor in state.items()}

    # What the loop asks for.

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Place]:
        return self._order

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups = optimizer_groups(model or self.network, self._settings)
            self.optimizer = torch.optim.AdamW(
                groups, betas=(0.9, self._settings.adam_beta2), eps=1e-8, fused=not self.args.fsdp
            )
        return self.optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            self._take_broken(batch)
            self._meter.count(batch)
        return batches, num_items

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise NumericalError(
                f"loss is {loss.item()} after step {self.state.global_step}; the last checkpoint is still good: "
                "go on from it with a smaller learning_rate"
            )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if not self.is_world_process_zero() or "train_runtime" in logs:
            return
        line: dict[str, Any] = {
            "step": self.state.global_step,
            "num_steps": self.state.max_steps,
            "epoch": round(self.state.epoch or 0.0, 4),
            "time": round(time.time(), 4),
        }
        if "loss" in logs and self.optimizer is not None:
            line |= {"loss": logs["loss"], "grad_norm": logs.get("grad_norm")}
            line["learning_rates"] = self._rates_at(logs["learning_rate"])
            line["samples_seen"] = self.state.global_step * (
                self.args.train_batch_size
                * self.args.gradient_accumulation_steps
                * self.args.world_size
            )
            line |= self._meter.rates(self.args.world_size, self.args.device)
        evaluated = {
            key.removeprefix("eval_"): value
            for key, value in logs.items()
            if key.startswith("eval_")
        }
        if evaluated:
            line["eval"] = evaluated
        self._on_log(line)

    def _rates_at(self, first_rate: float) -> dict[str, float]:
        """Rate of every part at the step that is logged; the optimizer holds those of the next one already."""
        assert self.optimizer is not None
        groups = [group for group in self.optimizer.param_groups if "part" in group]
        if not groups or not (peak := groups[0].get("initial_lr", 0.0)):
            return {}
        return {group["part"]: group["initial_lr"] * first_rate / peak for group in groups}

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Every sample once over all processes, in as many batches on each; empty ones fill up."""
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        size, world = self.args.per_device_eval_batch_size, self.args.world_size
        mine = range(self.args.process_index, len(dataset), world)
        num_batches = -(-len(dataset) // (size * world))
        batches = [list(mine[i * size : (i + 1) * size]) for i in range(num_batches)]
        return DataLoader(dataset, batch_sampler=batches, collate_fn=self.data_collator)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Loss and accuracy over all target tokens, and what `score_answers` adds."""
        self._meter.pause()
        network = self.network
        network.eval()
        with self._average.applied() if self._average is not None else nullcontext():
            metrics = self._measure(self.get_eval_dataloader(eval_dataset))
            if self._score_answers is not None and self.is_world_process_zero():
                metrics |= self._score_answers(network)
        self._meter.go_on()
        self._last_evaluated = self.state.global_step
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(dict(named))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        self._watch(metrics["loss"])
        return named

    @torch.no_grad()
    def _measure(self, batches: Any) -> dict[str, float]:
        model: Any = self.model_wrapped if self.is_fsdp_enabled else self.network
        totals = [0.0, 0.0, 0.0]
        for batch in batches:
            self._take_broken(batch)
            with self.accelerator.autocast():
                out = model(**self._prepare_inputs(batch))
            count = int(out["num_targets"])
            for i, value in enumerate((float(out["loss"]) * count, int(out["num_correct"]), count)):
                totals[i] += value
        summed = torch.tensor(totals, dtype=torch.float32, device=self.args.device)
        loss, correct, count = self.accelerator.reduce(summed).tolist()
        return {"loss": loss / max(count, 1), "token_accuracy": correct / max(count, 1)}

    def _watch(self, loss: float) -> None:
        """Stop when validation has not become better for long; the best step has a checkpoint."""
        if not self._settings.early_stop:
            return
        if self.state.best_metric is None or loss < self.state.best_metric:
            self.state.best_metric = loss
            self.state.best_global_step = self.state.global_step
            self.control.should_save = True
            return
        assert self.state.best_global_step is not None
        waited = (self.state.global_step - self.state.best_global_step) // self._settings.eval_steps
        if waited >= self._settings.early_stop:
            self.control.should_training_stop = True

    def restore_finished(self, checkpoint: Path) -> bool:
        """Take the weights of a checkpoint at the last step; False if there are steps left."""
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.global_step < state.max_steps or self.is_sharded:
            return False
        self._load_from_checkpoint(str(checkpoint))
        self.state = state
        return True

    def restore_best(self) -> None:
        """With early stopping, take back the weights that validated best."""
        best = (
            Path(str(self.args.output_dir))
            / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        )
        if self._settings.early_stop and best.is_dir() and not self.is_sharded:
            self._load_from_checkpoint(str(best))

    def _take_broken(self, batch: dict[str, Any]) -> None:
        for sample in batch.pop("broken", ()):
            self._on_broken(sample)

    # Checkpoints.

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write beside the place and rename: a checkpoint is whole or not there."""
        run = Path(str(self.args.output_dir))
        staging = run / _STAGING
        if self.is_world_process_zero():
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.args.output_dir = str(staging)
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as err:  # each says "full disk" in its way
            shutil.rmtree(staging, ignore_errors=True)
            raise CheckpointError(
                f"the checkpoint at step {self.state.global_step} could not be written below {run}: {err}; "
                "earlier ones are intact: free space and resume"
            ) from err
        finally:
            self.args.output_dir = str(run)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            shutil.rmtree(run / name, ignore_errors=True)
            (staging / name).rename(run / name)
            shutil.rmtree(staging, ignore_errors=True)
            best = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=self._settings.save_total_limit,
                best_model_checkpoint=str(best) if best.is_dir() else None,
            )
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Trained tensors and BatchNorm statistics only; the rest comes from the model the run began with."""
        if not self.args.should_save:
            return
        assert output_dir is not None
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        whole = self.network.state_dict() if state_dict is None else state_dict
        state = _trained_state(self.network, whole)
        save_file(state, folder / TRAINED)
        if self._average is not None:
            averaged = {n: tensor.contiguous() for n, tensor in self._average.tensors.items()}
            save_file(averaged, folder / AVERAGED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        folder = Path(resume_from_checkpoint)
        network = self.network
        saved = load_file(folder / TRAINED)
        expected = _trained_state(network, network.state_dict())
        if saved.keys() != expected.keys():
            differing = sorted(saved.keys() ^ expected.keys())[:3]
            raise CheckpointError(
                f"{folder} holds other tensors than this run trains, e.g. {', '.join(differing)}; "
                "resume with the settings that the run was started with"
            )
        network.load_state_dict(saved, strict=False)
        if self._average is not None:
            self._average.load(load_file(folder / AVERAGED))

    def _full_state(self) -> dict[str, Tensor]:
        if self.is_sharded:
            return dict(self.accelerator.get_state_dict(self.model_wrapped) or {})
        return dict(self.network.state_dict())


def _trained_state(network: TuningNetwork, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Trained parameters, and the BatchNorm statistics that moved with them."""
    names = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    names |= {
        name
        for name, _ in network.named_buffers()
        if network.updates_batch_norm and name.rsplit(".", 1)[-1].startswith(("running_", "num_"))
    }
    if network.model.lm_head.weight is network.model.language_model.embed_tokens.weight:
        names.discard(OUTPUT_LAYER)
    return {name: tensor.contiguous() for name, tensor in state.items() if name in names}
