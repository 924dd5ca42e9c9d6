"""A tuning run from its settings to a finished model: phases one after the other, all of it in one folder.

RUN/run.json           settings, parts, data with hashes, machine; written before the first step
RUN/log.jsonl          one line for every log event of all phases
RUN/phases/NAME/       checkpoints, and the phase's model once it is finished
RUN/model/             the finished model; RUN/adapter/ beside it if the last phase had adapters
RUN/comparison.json    the model before and after, on the validation sets
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import PartialState
from transformers import TrainingArguments

from fastvlm.checkpoint.hub import resolve_model
from fastvlm.checkpoint.load import load_model
from fastvlm.config import FastVLMConfig
from fastvlm.data.broken import BrokenRecords
from fastvlm.data.mixture import Mixture, Place
from fastvlm.data.samples import (
    BrokenSample,
    TrainingSamples,
    ValidationSamples,
    first_records,
)
from fastvlm.device import resolve_device
from fastvlm.errors import BackendError, ConfigError, DataError, MissingExtraError
from fastvlm.messages import VideoPart
from fastvlm.processing.processor import Processor
from fastvlm.train.answers import answer_records, engine_of, score
from fastvlm.train.collate import Collator
from fastvlm.train.compare import compare_models
from fastvlm.train.export import write_model
from fastvlm.train.length_grouping import group_by_length
from fastvlm.train.lora import add_adapters, merge_state, save_adapter
from fastvlm.train.model_card import write_model_card
from fastvlm.train.network import TuningNetwork, checkpoint_activations
from fastvlm.train.parts import PartRow, choose_trained, list_parts
from fastvlm.train.record import RunRecord
from fastvlm.train.settings import Phase, TuneSettings
from fastvlm.train.steps import EpochOrder
from fastvlm.train.tuner import Tuner
from fastvlm.train.utilization import Utilization

_CHARACTERS_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        is_finished: False when it was asked to stop; it can be resumed.
        model: the finished model.
        comparison: metrics before and after, by set; empty if nothing was compared.
        broken: one line about records that were left out, if any.
    """

    is_finished: bool
    model: Path
    comparison: dict[str, Any]
    broken: str | None


@dataclass(frozen=True, slots=True)
class Listener:
    """What a run tells while it goes.

    Attributes:
        on_phase: name of the phase, and the table of its parts.
        on_log: lines of the log.
        on_note: other news, for people.
    """

    on_phase: Callable[[str, tuple[PartRow, ...], int], None]
    on_log: Callable[[dict[str, Any]], None]
    on_note: Callable[[str], None]


def tune(
    phases: tuple[Phase, ...],
    folder: Path,
    *,
    listener: Listener,
    should_stop: Callable[[], bool] = lambda: False,
) -> RunResult:
    """Run all phases, or what is left of them in a folder that holds a run.

    Args:
        phases: what to do; in a resumed run those that it was started with.
        folder: for everything that the run writes.
        listener: told what happens.
        should_stop: asked after every step; the state is saved then.

    Raises:
        ConfigError: settings that cannot work, or a folder that holds something else.
        DataError: files that cannot be used, or too many broken records.
        CheckpointError: the model cannot be loaded, or a checkpoint not be written.
        NumericalError: the loss is not a number.
    """
    processes = PartialState(cpu=resolve_device(phases[0].settings.device).type == "cpu")
    with processes.main_process_first():
        record = RunRecord.open(folder, phases)
    start = resolve_model(phases[0].settings.model)
    base = start
    broken: str | None = None
    for index, phase in enumerate(phases):
        own = folder / "phases" / phase.name
        model_folder = folder / "model" if index == len(phases) - 1 else own / "model"
        if not (model_folder / "config.json").is_file():
            run = _PhaseRun(phase, base, own, model_folder, record, listener, should_stop)
            is_finished, broken = run.go()
            if not is_finished:
                return RunResult(False, model_folder, {}, broken)
            processes.wait_for_everyone()
        base = model_folder
    comparison: dict[str, Any] = {}
    last = phases[-1].settings
    if _is_first_process():
        has_sets = bool(last.validation or last.image_validation)
        if last.compare and has_sets and last.num_eval_answers and last.conv_mode != "plain":
            listener.on_note("comparing the model before and after")
            comparison = compare_models(start, base, last, folder, should_stop=should_stop)
        write_model_card(folder, base, record, comparison)
    return RunResult(True, base, comparison, broken)


@dataclass(frozen=True, slots=True, eq=False)
class _PhaseRun:
    """One phase: model, data and Trainer put together, and the result written."""

    phase: Phase
    base: Path
    folder: Path
    model_folder: Path
    record: RunRecord
    listener: Listener
    should_stop: Callable[[], bool]

    @property
    def settings(self) -> TuneSettings:
        return self.phase.settings

    def go(self) -> tuple[bool, str | None]:
        """Train, and write the model. Returns whether it was finished, and a line about broken records."""
        settings = self.settings
        device = resolve_device(settings.device)
        torch.manual_seed(settings.seed)
        network, config = self._network(device)
        processor = self._processor(config)
        mixture = self._mixture(settings.data)
        broken = BrokenRecords(mixture.num_records, max_fraction=settings.max_broken)
        parts = list_parts(network, settings)
        tuner = Tuner(
            network,
            settings,
            training_arguments(settings, self.folder, device),
            train_set=TrainingSamples(mixture, processor),
            order=self._order(mixture, processor),
            collator=Collator(processor.config.max_length, packing=settings.packing),
            validation=self._validation(processor),
            on_broken=lambda sample: self._count_broken(broken, sample),
            on_log=self._log,
            score_answers=self._scorer(processor),
            utilization=Utilization.of(
                network,
                config.image_size,
                PartialState().device,
                is_bf16=uses_bf16(settings, device),
            ),
            should_stop=self.should_stop,
        )
        if _is_first_process():
            self.record.begin_phase(self.phase, parts, config)
        self.listener.on_phase(self.phase.name, parts, mixture.num_records)
        checkpoint = last_checkpoint(self.folder)
        if checkpoint is not None:
            self.listener.on_note(f"going on from {checkpoint}")
        step = 0 if checkpoint is None else int(checkpoint.name.rsplit("-", 1)[1])
        self.record.forget_after(self.phase.name, step)
        if checkpoint is None or not tuner.restore_finished(checkpoint):
            tuner.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if tuner.was_stopped:
            return False, broken.summary()
        if tuner.eval_dataset is not None and not tuner.was_just_evaluated:
            tuner.evaluate()
        tuner.restore_best()
        self._write(tuner, config)
        return True, broken.summary()

    def _network(self, device: torch.device) -> tuple[TuningNetwork, FastVLMConfig]:
        settings = self.settings
        has_adapters = settings.lora_rank > 0
        # Frozen weights in bf16 halve the memory of adapters; what is trained stays in float32.
        dtype = torch.bfloat16 if has_adapters and uses_bf16(settings, device) else torch.float32
        model, _ = load_model(self.base, dtype=dtype)
        if has_adapters:
            add_adapters(model, settings)
        model.vision_tower.float()
        model.projector.float()
        network = TuningNetwork(model, update_batch_norm=settings.update_batch_norm)
        choose_trained(network, settings)
        for parameter in network.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.float()
        if settings.gradient_checkpointing:
            checkpoint_activations(model)
        changes: dict[str, Any] = {}
        if settings.image_size:
            changes["image_size"] = settings.image_size
        if settings.image_mode is not None:
            changes["image_mode"] = settings.image_mode
        return network, replace(model.config, **changes)

    def _processor(self, config: FastVLMConfig) -> Processor:
        """For training: its own longest sample does not become the model's."""
        if self.settings.max_length:
            limit = config.text.max_position_embeddings
            if self.settings.max_length > limit:
                raise ConfigError(
                    f"max_length is {self.settings.max_length}, the model has {limit} positions; lower it"
                )
            config = replace(config, max_length=self.settings.max_length)
        processor = Processor.from_folder(self.base, config, conv_mode=self.settings.conv_mode)
        processor.trusts_videos = True
        return processor

    def _mixture(self, names: tuple[str, ...]) -> Mixture:
        folder = self.settings.media_folder
        return Mixture.open(
            names,
            seed=self.settings.seed,
            media_folder=None if folder is None else Path(folder),
            video=self.settings.video_options(),
        )

    def _order(self, mixture: Mixture, processor: Processor) -> EpochOrder:
        if not self.settings.group_by_length:
            return EpochOrder(mixture.order)
        each = processor.config.num_image_tokens

        def length_of(place: Place) -> int:
            try:
                record = mixture[place]
            except DataError:
                return 0
            num_pictures = sum(
                part.options.num_frames if isinstance(part, VideoPart) else 1
                for part in record.media
            )
            num_characters = sum(len(message.text) for message in record.messages)
            return num_pictures * each + num_characters // _CHARACTERS_PER_TOKEN

        batch_size = self.settings.batch_size
        return EpochOrder(
            mixture.order, lambda order: group_by_length(order, length_of, batch_size)
        )

    def _validation(self, processor: Processor) -> ValidationSamples | None:
        if not self.settings.validation:
            return None
        return ValidationSamples(self._mixture(self.settings.validation), processor)

    def _scorer(self, processor: Processor) -> Callable[[TuningNetwork], dict[str, float]] | None:
        settings = self.settings
        # Answers are written by the first process alone, which has no whole network where it is sharded.
        is_sharded = settings.fsdp or settings.deepspeed is not None
        if not settings.validation or not settings.num_eval_answers or is_sharded:
            return None
        if settings.conv_mode == "plain":  # it has no questions
            return None
        records = list(first_records(self._mixture(settings.validation), settings.num_eval_answers))

        def score_answers(network: TuningNetwork) -> dict[str, float]:
            with engine_of(network, processor) as engine:
                return score(answer_records(engine, records))

        return score_answers

    def _count_broken(self, broken: BrokenRecords, sample: BrokenSample) -> None:
        broken.add(sample.source, sample.reason)

    def _log(self, line: dict[str, Any]) -> None:
        line = {"phase": self.phase.name, **line}
        self.record.log(line)
        self.listener.on_log(line)

    def _write(self, tuner: Tuner, config: FastVLMConfig) -> None:
        """The phase's model: the base once more, with what was trained put into it."""
        trained = tuner.trained_tensors()
        if not _is_first_process():
            return
        settings = self.settings
        model, _ = load_model(self.base, dtype=torch.float32)
        if settings.lora_rank:
            adapter = self.model_folder.parent / "adapter"
            save_adapter(trained, model, settings, adapter)
        merge_state(model, trained, settings.lora_alpha / max(settings.lora_rank, 1))
        write_model(model, config, self.model_folder, base=self.base, layout=settings.layout)


def training_arguments(
    settings: TuneSettings, folder: Path, device: torch.device
) -> TrainingArguments:
    """The Trainer's arguments; what is not named here is done by `Tuner` itself."""
    _check_launch(settings, device)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        num_train_epochs=settings.num_epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule
        if settings.schedule != "constant"
        else "constant_with_warmup",
        warmup_steps=min(settings.warmup_fraction, 0.999),
        weight_decay=settings.weight_decay,
        adam_beta2=settings.adam_beta2,
        max_grad_norm=settings.max_grad_norm,
        bf16=uses_bf16(settings, device),
        tf32=settings.tf32 if device.type == "cuda" else None,
        use_cpu=device.type == "cpu",
        logging_steps=settings.log_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if settings.eval_steps and settings.validation else "no",
        eval_steps=settings.eval_steps or None,
        save_strategy="steps" if settings.save_steps else "no",
        save_steps=settings.save_steps or 500,
        save_total_limit=None,  # Tuner deletes old ones, after the new one is in its place
        dataloader_num_workers=settings.num_workers,
        dataloader_pin_memory=device.type == "cuda",
        dataloader_persistent_workers=settings.num_workers > 0,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=list(settings.trackers) or "none",
        disable_tqdm=True,
        log_level="error",
        seed=settings.seed,
        data_seed=settings.seed,
        ddp_find_unused_parameters=False,
        fsdp="full_shard auto_wrap" if settings.fsdp else None,
        fsdp_config={"transformer_layer_cls_to_wrap": ["DecoderLayer", "Stage"]}
        if settings.fsdp
        else None,
        deepspeed=settings.deepspeed,
    )
    # Without a launcher the Trainer would split batches over all GPUs it sees, by the wrong dimension.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def uses_bf16(settings: TuneSettings, device: torch.device) -> bool:
    """Whether products are computed in bf16: where asked for, and by default on GPUs that have it.

    Raises:
        BackendError: asked for on a GPU without it.
    """
    if settings.precision == "fp32":
        return False
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if settings.precision == "bf16" and device.type == "cuda" and not has_bf16:
        raise BackendError("precision bf16 was asked for, but this GPU has none; use fp32")
    return has_bf16 or settings.precision == "bf16"


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a phase."""
    shutil.rmtree(folder / ".saving", ignore_errors=True)
    found = [path for path in folder.glob("checkpoint-*") if path.name.rsplit("-", 1)[1].isdigit()]
    return max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)


def _check_launch(settings: TuneSettings, device: torch.device) -> None:
    for name in settings.trackers:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"tracker {name} is not installed; pip install {name}")
    if device.type == "cuda" and device.index:
        raise ConfigError(
            f"device {device} is not the first GPU; use --device cuda with CUDA_VISIBLE_DEVICES={device.index}"
        )
    if not settings.fsdp:
        return
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise ConfigError(
            "fsdp shards over several processes; start with `torchrun --nproc-per-node N -m fastvlm train ...`"
        )
    if device.type == "cpu":  # accelerate would run plain data parallelism without a word
        raise ConfigError(
            "fsdp needs GPUs; on a CPU leave it out, and the processes share the batch"
        )


def _is_first_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0
