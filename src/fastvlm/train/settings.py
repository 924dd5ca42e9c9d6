"""What a tuning run does, as plain data: read from TOML recipes, changed by flags, saved with the run.

Each field's text is also its `--help` line. Values of the presets come from the paper's tables 8 and 9 (LR,
batch, schedule, epochs, resolution); where it says nothing, from community scripts (weight decay 0, clip 1.0).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

from fastvlm.config import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE, ImageMode
from fastvlm.errors import ConfigError
from fastvlm.messages import VideoOptions


class Doc(NamedTuple):
    """What a setting does, and the group of options it belongs to."""

    text: str
    group: str


_DATA, _PARTS, _STEPS, _BATCHES, _MEDIA, _MACHINE, _KEEPING = (
    "Data",
    "What is trained",
    "Steps",
    "Batches",
    "Pictures and clips",
    "Machine",
    "Measuring and saving",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneSettings:
    """One phase of a run. The recipe `three_phase` has three of them, all others one.

    Raises:
        ConfigError: a value out of range, or values that exclude each other.
    """

    model: Annotated[str, Doc("Model to start from: a name or a checkpoint folder.", _DATA)] = (
        "nano"
    )
    data: Annotated[
        tuple[str, ...],
        Doc("Training files; FILE:2 counts each record twice, FILE:0.5 half of them.", _DATA),
    ] = ()
    media_folder: Annotated[str | None, Doc("Where relative media paths begin.", _DATA)] = None
    validation: Annotated[tuple[str, ...], Doc("Files to measure on.", _DATA)] = ()
    image_validation: Annotated[
        tuple[str, ...], Doc("Image-only files that must not get worse.", _DATA)
    ] = ()
    max_broken: Annotated[
        float, Doc("Share of unusable records above which the run stops.", _DATA)
    ] = 0.01
    seed: Annotated[int, Doc("Decides order and all random numbers.", _DATA)] = 0

    train_projector: Annotated[bool, Doc("Train the projector.", _PARTS)] = True
    train_language_model: Annotated[bool, Doc("Train the language model.", _PARTS)] = True
    train_vision_tower: Annotated[bool, Doc("Train the vision tower.", _PARTS)] = True
    update_batch_norm: Annotated[
        bool, Doc("Let the tower's BatchNorms learn new statistics.", _PARTS)
    ] = False
    lora_rank: Annotated[
        int, Doc("Rank of LoRA adapters on the language model; 0 trains its weights.", _PARTS)
    ] = 0
    lora_alpha: Annotated[float, Doc("Adapters count alpha / rank.", _PARTS)] = 16.0
    lora_dropout: Annotated[float, Doc("Dropout before the adapters.", _PARTS)] = 0.05
    quantize_base: Annotated[
        Literal["none", "nf4"], Doc("Keep frozen language weights in 4 bits (QLoRA).", _PARTS)
    ] = "none"

    learning_rate: Annotated[float, Doc("Peak rate.", _STEPS)] = 2e-5
    projector_learning_rate: Annotated[
        float | None, Doc("Peak rate of the projector, if another.", _STEPS)
    ] = None
    vision_learning_rate: Annotated[
        float | None, Doc("Peak rate of the vision tower, if another.", _STEPS)
    ] = None
    num_epochs: Annotated[float, Doc("Passes over the data.", _STEPS)] = 1.0
    max_steps: Annotated[int, Doc("Optimizer steps instead of epochs; 0 means epochs.", _STEPS)] = 0
    schedule: Annotated[
        Literal["cosine", "linear", "constant"], Doc("How the rate falls after warm-up.", _STEPS)
    ] = "cosine"
    warmup_fraction: Annotated[float, Doc("Part of the steps in which the rate rises.", _STEPS)] = (
        0.03
    )
    weight_decay: Annotated[
        float, Doc("Of matrices; norms, biases and layer scales never decay.", _STEPS)
    ] = 0.0
    adam_beta2: Annotated[float, Doc("AdamW's second beta.", _STEPS)] = 0.999
    max_grad_norm: Annotated[float, Doc("Gradients longer than this are shortened.", _STEPS)] = 1.0
    ema_decay: Annotated[
        float, Doc("Average weights over steps with this decay and keep those; 0 is off.", _STEPS)
    ] = 0.0

    batch_size: Annotated[int, Doc("Samples of one process in one forward pass.", _BATCHES)] = 4
    gradient_accumulation_steps: Annotated[
        int, Doc("Forward passes in one optimizer step.", _BATCHES)
    ] = 1
    max_length: Annotated[int, Doc("Longest sample in tokens; 0 takes the model's.", _BATCHES)] = 0
    packing: Annotated[
        bool, Doc("Lay several samples into one row, each blind to the others.", _BATCHES)
    ] = False
    group_by_length: Annotated[
        bool, Doc("Put samples of like length into one batch.", _BATCHES)
    ] = False
    num_workers: Annotated[int, Doc("Processes that prepare samples.", _BATCHES)] = 0

    image_size: Annotated[int, Doc("Pixels per side; 0 takes the model's.", _MEDIA)] = 0
    image_mode: Annotated[
        ImageMode | None, Doc("How a picture becomes a square; none takes the model's.", _MEDIA)
    ] = None
    num_frames: Annotated[int, Doc("Most frames of a clip.", _MEDIA)] = 8
    sampling: Annotated[
        Literal["uniform", "segment", "fps"], Doc("Which frames of a clip.", _MEDIA)
    ] = "uniform"
    fps: Annotated[float | None, Doc("Frames a second, for sampling fps.", _MEDIA)] = None
    frame_size: Annotated[
        int, Doc("Pixels per side of a frame; 0 takes that of pictures.", _MEDIA)
    ] = 0
    time_marks: Annotated[bool, Doc('Put "Frame 3, 2.0 s:" before frames.', _MEDIA)] = False
    conv_mode: Annotated[Literal["qwen_2", "plain"], Doc("Layout of the prompt.", _MEDIA)] = (
        "qwen_2"
    )

    device: Annotated[str, Doc("auto, cpu or cuda.", _MACHINE)] = "auto"
    precision: Annotated[
        Literal["auto", "bf16", "fp32"],
        Doc("Arithmetic; weights and optimizer stay in float32.", _MACHINE),
    ] = "auto"
    tf32: Annotated[bool, Doc("Let CUDA round float32 products to TF32.", _MACHINE)] = True
    gradient_checkpointing: Annotated[
        bool, Doc("Compute activations twice to save memory, the tower's too.", _MACHINE)
    ] = False
    fsdp: Annotated[bool, Doc("Shard weights over processes (under torchrun).", _MACHINE)] = False
    deepspeed: Annotated[
        str | None, Doc("A DeepSpeed JSON file (under its launcher).", _MACHINE)
    ] = None

    log_steps: Annotated[int, Doc("Steps between two lines of the log.", _KEEPING)] = 10
    eval_steps: Annotated[
        int, Doc("Steps between two validations; 0 is only at the end.", _KEEPING)
    ] = 0
    num_eval_answers: Annotated[
        int, Doc("Validation answers that are written out and scored.", _KEEPING)
    ] = 64
    save_steps: Annotated[
        int, Doc("Steps between two checkpoints; 0 is only at the end.", _KEEPING)
    ] = 500
    save_total_limit: Annotated[int, Doc("Checkpoints that are kept.", _KEEPING)] = 2
    early_stop: Annotated[
        int, Doc("Stop after this many validations without a better loss; 0 is off.", _KEEPING)
    ] = 0
    compare: Annotated[
        bool, Doc("Measure the model before and after on both validation sets.", _KEEPING)
    ] = True
    layout: Annotated[Literal["apple", "hf"], Doc("Layout of the finished model.", _KEEPING)] = (
        "apple"
    )
    trackers: Annotated[
        tuple[str, ...],
        Doc("tensorboard, wandb or trackio; the JSONL log is always written.", _KEEPING),
    ] = ()

    def __post_init__(self) -> None:
        self._check_choices()
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{name} is {value}; expected {low:g} to {high:g}")
        self._check_parts()
        self._check_companions()
        self.video_options()

    def _check_parts(self) -> None:
        if not (self.train_projector or self.train_language_model or self.train_vision_tower):
            raise ConfigError(
                "nothing is trained; turn train_projector, train_language_model or train_vision_tower on"
            )
        if self.lora_rank and not self.train_language_model:
            raise ConfigError(
                f"lora_rank is {self.lora_rank} but train_language_model is off; adapters are part of it"
            )
        if self.quantize_base != "none" and not self.lora_rank:
            raise ConfigError(
                f"quantize_base is {self.quantize_base!r} without adapters; weights in 4 bits cannot be "
                "trained, so set lora_rank"
            )
        if self.update_batch_norm and not self.train_vision_tower:
            raise ConfigError(
                "update_batch_norm is on but train_vision_tower is off; its norms would drift"
            )
        if self.update_batch_norm and self.gradient_checkpointing:
            raise ConfigError(
                "update_batch_norm and gradient_checkpointing exclude each other: computing twice "
                "moves statistics twice"
            )

    def _check_companions(self) -> None:
        for name in ("image_size", "frame_size"):
            if (size := getattr(self, name)) and not MIN_IMAGE_SIZE <= size <= MAX_IMAGE_SIZE:
                raise ConfigError(
                    f"{name} is {size}; expected {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels, or 0"
                )
        if self.early_stop and not (self.eval_steps and self.validation):
            raise ConfigError(
                f"early_stop is {self.early_stop}, which needs validation files and eval_steps above 0"
            )
        if self.ema_decay and (self.fsdp or self.deepspeed):
            raise ConfigError(
                "ema_decay needs whole weights in each process; leave fsdp and deepspeed out"
            )
        if unknown := set(self.trackers) - {"tensorboard", "wandb", "trackio"}:
            raise ConfigError(
                f"trackers holds {', '.join(sorted(unknown))}; expected tensorboard, wandb or trackio"
            )
        if self.fsdp and self.deepspeed:
            raise ConfigError("fsdp and deepspeed exclude each other; choose one")

    def _check_choices(self) -> None:
        for name, kind in get_type_hints(TuneSettings).items():
            choices = _choices(kind)
            value = getattr(self, name)
            if choices and value not in choices:
                expected = ", ".join(str(one) for one in choices if one is not None)
                raise ConfigError(f"{name} is {value!r}; expected one of {expected}")

    def video_options(self) -> VideoOptions:
        """How frames of clips are taken."""
        return VideoOptions(
            num_frames=self.num_frames,
            sampling=self.sampling,
            fps=self.fps,
            frame_size=self.frame_size or None,
            has_time_marks=self.time_marks,
        )

    def rate_of(self, part: str) -> float:
        """Peak learning rate of `vision_tower`, `projector` or `language_model`."""
        special = {
            "projector": self.projector_learning_rate,
            "vision_tower": self.vision_learning_rate,
        }.get(part)
        return self.learning_rate if special is None else special


_RANGES: Final = (
    ("max_broken", 0, 1),
    ("seed", 0, 2**32 - 1),
    ("lora_rank", 0, 1024),
    ("lora_alpha", 1e-6, 1e6),
    ("lora_dropout", 0, 0.99),
    ("learning_rate", 0, 1),
    ("projector_learning_rate", 0, 1),
    ("vision_learning_rate", 0, 1),
    ("num_epochs", 0.001, 10_000),
    ("max_steps", 0, 10**9),
    ("warmup_fraction", 0, 1),
    ("weight_decay", 0, 10),
    ("adam_beta2", 0, 0.99999),
    ("max_grad_norm", 1e-6, 1e6),
    ("ema_decay", 0, 0.99999),
    ("batch_size", 1, 65536),
    ("gradient_accumulation_steps", 1, 65536),
    ("max_length", 0, 10**6),
    ("num_workers", 0, 256),
    ("log_steps", 1, 10**6),
    ("eval_steps", 0, 10**9),
    ("num_eval_answers", 0, 10**6),
    ("save_steps", 0, 10**9),
    ("save_total_limit", 1, 1000),
    ("early_stop", 0, 1000),
)


class Phase(NamedTuple):
    """A part of a run with settings of its own; it starts from the model of the one before."""

    name: str
    settings: TuneSettings


class Setting(NamedTuple):
    """A field of `TuneSettings`, for command lines and tables."""

    name: str
    kind: Any
    doc: Doc
    default: Any


def list_settings() -> Iterator[Setting]:
    """All fields with their type, text and default."""
    hints = get_type_hints(TuneSettings, include_extras=True)
    for one in fields(TuneSettings):
        kind, doc = get_args(hints[one.name])
        yield Setting(one.name, kind, doc, one.default)


def list_recipes() -> dict[str, str]:
    """Names of the presets with what each is for."""
    folder = files("fastvlm.train").joinpath("recipes")
    names = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir())
    return {name: str(_read_toml(name)["about"]) for name in names}


def read_recipe(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> tuple[Phase, ...]:
    """Settings of a preset or a TOML file.

    Args:
        name_or_path: a preset (see `list_recipes`), or a path that ends in .toml.
        overrides: replace the file's values in every phase.

    Raises:
        ConfigError: no such recipe, an unknown key, or a value of the wrong type or out of range.
    """
    document = _read_toml(name_or_path)
    document.pop("about", None)
    phases = document.pop("phase", [{"name": Path(name_or_path).stem}])
    result: list[Phase] = []
    for phase in phases:
        own = dict(phase)
        name = str(own.pop("name", f"phase {len(result) + 1}"))
        values = document | own | dict(overrides or {})
        result.append(Phase(name, settings_from(values, where=name_or_path)))
    if len({phase.name for phase in result}) < len(result):
        raise ConfigError(f"{name_or_path}: two phases have the same name; give each its own")
    return tuple(result)


def settings_from(values: Mapping[str, Any], *, where: str) -> TuneSettings:
    """Checked settings from plain values, as TOML and JSON have them.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type or out of range.
    """
    known = {one.name: one for one in list_settings()}
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(
                f"{where}: unknown setting {key!r}; expected one of {', '.join(known)}"
            )
        checked[key] = _checked(value, known[key], where)
    return TuneSettings(**checked)


def as_plain(settings: TuneSettings) -> dict[str, Any]:
    """All fields as JSON has them; `settings_from` reads it back."""
    return asdict(settings)


def _read_toml(name_or_path: str) -> dict[str, Any]:
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(f"{name_or_path}: no such recipe file")
        text = path.read_text(encoding="utf-8")
    else:
        entry = files("fastvlm.train").joinpath("recipes", f"{name_or_path}.toml")
        if not entry.is_file():
            raise ConfigError(
                f"no recipe named {name_or_path!r}; there are {', '.join(list_recipes())}, nano (training from "
                "nothing), and files that end in .toml"
            )
        text = entry.read_text(encoding="utf-8")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"{name_or_path} is no TOML: {err}") from err


def _checked(value: Any, setting: Setting, where: str) -> Any:
    kinds = get_args(setting.kind) if get_origin(setting.kind) is not tuple else ()
    if get_origin(setting.kind) is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"{where}: {setting.name} is {value!r}; expected a list of texts")
        return tuple(str(one) for one in value)
    plain = next((kind for kind in (setting.kind, *kinds) if kind in (bool, int, float, str)), str)
    if value is None and type(None) in kinds:
        return None
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        raise ConfigError(f"{where}: {setting.name} is {value!r}; expected {plain.__name__}")
    return value


def _choices(kind: Any) -> tuple[Any, ...]:
    """Values of a Literal, None among them where it may be left out."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    found: list[Any] = []
    for one in get_args(kind):
        found += [None] if one is type(None) else list(_choices(one))
    return tuple(found) if any(value is not None for value in found) else ()
