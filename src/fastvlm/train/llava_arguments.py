"""Arguments of Apple's `train_qwen.py`, and of the fork that tunes it on clips, as settings of this package.

Read as transformers' HfArgumentParser reads them, with the defaults they have there, so that the same arguments
describe the same run. What cannot be had here is an error and never silently something else. Names are never
abbreviated. `llava_table.py` has the arguments; here is what needs more than a name of a setting.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from fastvlm.errors import ConfigError
from fastvlm.train.llava_table import ARGUMENTS

_TRACKERS: Final = ("tensorboard", "wandb", "trackio")
_TRUE, _FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


@dataclass(frozen=True, slots=True)
class Translated:
    """What the arguments stand for.

    Attributes:
        settings: values of `TuneSettings`; all that have a counterpart, given or not.
        output: folder of the run, if one was given.
        notes: one line each about what differs from the reference.
    """

    settings: dict[str, Any]
    output: str | None
    notes: tuple[str, ...]


def translate(arguments: Sequence[str]) -> Translated:
    """Settings that the arguments of `train_qwen.py` stand for.

    Args:
        arguments: what follows the name of the script, split as a shell does.

    Raises:
        ConfigError: an unknown argument, a value that is none, or one that this package does not have.

    Example:
        >>> translate(["--data_path", "a.json", "--lora_enable"]).settings["lora_rank"]
        64
    """
    given = parse(arguments)
    _refuse_unavailable(given)
    values = {one.name: one.default for one in ARGUMENTS} | given
    settings: dict[str, Any] = {
        one.setting: values[one.name] for one in ARGUMENTS if one.setting is not None
    }
    if values["model_name_or_path"] is None:
        del settings["model"]
    settings |= _trained_parts(values) | _steps(values) | _machine(values)
    settings |= _media(values, given)
    return Translated(settings, values["output_dir"], tuple(_notes(values, given)))


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Values of the arguments that are given, by name.

    Raises:
        ConfigError: an unknown argument, or a value that is none.
    """
    parser = _Parser(prog="--llava-args", add_help=False, allow_abbrev=False)
    for one in ARGUMENTS:
        names = {f"--{one.name}": None, f"--{one.name.replace('_', '-')}": None}
        options: dict[str, Any] = {"dest": one.name, "default": argparse.SUPPRESS}
        if one.kind == "bool":
            options |= {"type": _bool, "nargs": "?", "const": True}
        else:
            options["type"] = {"int": int, "float": float}.get(one.kind, str)
        if one.kind == "texts":
            options["nargs"] = "+"
        parser.add_argument(*names, **options)
        if one.kind == "bool" and one.default is True:
            off = {name.replace("--", "--no-" if "-" in name[2:] else "--no_", 1) for name in names}
            parser.add_argument(
                *off, dest=one.name, action="store_false", default=argparse.SUPPRESS
            )
    # A pasted command has its lines joined by backslashes, of which a shell makes nothing.
    words = [word.removeprefix("\n") for word in arguments if word != "\n"]
    found, unknown = parser.parse_known_args(words)
    if unknown:
        raise ConfigError(
            f"--llava-args: {unknown[0]!r} is no argument of train_qwen.py that is known here; docs/training.md "
            "lists them all: leave it out, or use this command's own flags"
        )
    return vars(found)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"--llava-args: {message}")


def _bool(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text.lower() in _TRUE


def _refuse_unavailable(given: Mapping[str, Any]) -> None:
    for one in ARGUMENTS:
        if one.allowed is not None and one.name in given and given[one.name] not in one.allowed:
            raise ConfigError(f"--{one.name} {given[one.name]}: {one.becomes}")


def _trained_parts(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is trained. With adapters a frozen backbone still has them, as in the reference."""
    bits = values["bits"]
    if bits not in (4, 16):
        raise ConfigError(f"--bits {bits}: expected 16, or 4 for QLoRA")
    has_adapters, only_projector = values["lora_enable"], values["tune_mm_mlp_adapter"]
    if has_adapters and only_projector:
        raise ConfigError(
            "--lora_enable and --tune_mm_mlp_adapter exclude each other; leave one of them out"
        )
    return {
        "train_language_model": not only_projector
        and (has_adapters or not values["freeze_backbone"]),
        "train_vision_tower": not only_projector and values["unfreeze_mm_vision_tower"],
        "train_projector": not values["freeze_mm_mlp_adapter"],
        "lora_rank": values["lora_r"] if has_adapters else 0,
        "quantize_base": "nf4" if bits == 4 else "none",
    }


def _steps(values: Mapping[str, Any]) -> dict[str, Any]:
    """Schedule, and after how many steps things happen."""
    max_steps = max(values["max_steps"], 0)
    warmup = values["warmup_ratio"]
    if values["warmup_steps"]:
        if not max_steps:
            raise ConfigError(
                f"--warmup_steps {values['warmup_steps']}: the number of steps is not known here; use --warmup_ratio"
            )
        warmup = values["warmup_steps"] / max_steps
    kind = values["lr_scheduler_type"]
    schedules = {one: one for one in ("cosine", "linear", "constant")}
    schedules["constant_with_warmup"] = "constant"
    if kind not in schedules:
        raise ConfigError(f"--lr_scheduler_type {kind}: expected one of {', '.join(schedules)}")
    eval_every = values["logging_steps"] if values["eval_steps"] is None else values["eval_steps"]
    eval_strategy = values["eval_strategy"]
    if eval_strategy == "no":
        eval_strategy = values["evaluation_strategy"]
    steps = {
        "max_steps": max_steps,
        "schedule": schedules[kind],
        "warmup_fraction": 0.0 if kind == "constant" else warmup,
        "log_steps": _whole("logging_steps", values["logging_steps"]),
        "save_steps": _interval("save", values["save_strategy"], values["save_steps"]),
        "eval_steps": _interval("eval", eval_strategy, eval_every),
        "group_by_length": values["group_by_length"] or values["group_by_modality_length"],
    }
    if values["save_total_limit"] is not None:
        steps["save_total_limit"] = values["save_total_limit"]
    return steps


def _interval(what: str, strategy: str, steps: float) -> int:
    if strategy not in ("no", "steps"):
        raise ConfigError(
            f"--{what}_strategy {strategy}: expected no or steps; give --{what}_strategy steps --{what}_steps N"
        )
    return 0 if strategy == "no" else _whole(f"{what}_steps", steps)


def _whole(name: str, value: float) -> int:
    if value < 1 or value != int(value):
        raise ConfigError(f"--{name} {value:g}: expected a whole number of steps, 1 or more")
    return int(value)


def _machine(values: Mapping[str, Any]) -> dict[str, Any]:
    report_to, fsdp = values["report_to"], values["fsdp"]
    if report_to not in ("none", *_TRACKERS):
        raise ConfigError(
            f"--report_to {report_to}: expected none or one of {', '.join(_TRACKERS)}"
        )
    if fsdp not in ("", "full_shard", "full_shard auto_wrap"):
        raise ConfigError(f"--fsdp {fsdp!r}: expected 'full_shard auto_wrap'")
    return {
        "precision": "bf16" if values["bf16"] else "fp32",
        "tf32": bool(values["tf32"]),
        "gradient_checkpointing": values["gradient_checkpointing"],
        "trackers": () if report_to == "none" else (report_to,),
        "fsdp": bool(fsdp),
    }


def _media(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Files, and how pictures and prompts are made of them."""
    folders = tuple(dict.fromkeys(values["image_folder"] or ()))
    if len(folders) > 1:
        raise ConfigError(
            f"--image_folder names {len(folders)} folders; write a list of files with a media_folder for each "
            "(docs/training.md shows one), and give that list as --data_path"
        )
    version = values["version"]
    if version not in ("v0", "plain") and "qwen" not in version:
        raise ConfigError(f"--version {version}: these models know qwen_2 and plain; use qwen_2")
    media: dict[str, Any] = {
        "media_folder": folders[0] if folders else None,
        "conv_mode": "plain" if version == "plain" else "qwen_2",
        "max_length": given.get("model_max_length", 0),
    }
    if values["data_path"]:
        media["data"] = tuple(values["data_path"])
    if values["validation_data_path"]:
        media["validation"] = (values["validation_data_path"],)
    if values["vision_tower"] is not None:
        found = re.fullmatch(r"mobileclip_l_(\d+)", values["vision_tower"])
        if found is None:
            raise ConfigError(
                f"--vision_tower {values['vision_tower']}: expected mobileclip_l_SIZE, e.g. mobileclip_l_1024"
            )
        media["image_size"] = int(found[1])
    if "image_aspect_ratio" in given:
        ratio = given["image_aspect_ratio"]
        modes = {"pad": "pad", "anyres": "anyres", "square": "crop"}
        if ratio not in modes:
            raise ConfigError(
                f"--image_aspect_ratio {ratio}: expected pad, anyres or square; the released models have pad"
            )
        media["image_mode"] = modes[ratio]
    return media


def _notes(values: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    notes: list[str] = []
    if "model_max_length" not in given:
        notes.append("--model_max_length is not given: the model's own is used, not 512")
    if "image_aspect_ratio" not in given:
        notes.append("--image_aspect_ratio is not given: the model's own is used, not square")
    elif given["image_aspect_ratio"] == "square":
        notes.append("--image_aspect_ratio square cuts the sides of pictures off; models know pad")
    if not values["unfreeze_mm_vision_tower"] and not values["tune_mm_mlp_adapter"]:
        notes.append(
            "the vision tower stays frozen; --unfreeze_mm_vision_tower True would train it"
        )
    if values["version"] not in ("v0", "plain", "qwen_2"):
        notes.append(f"--version {values['version']}: taken as qwen_2, the prompt of the model")
    if ignored := [f"--{one.name}" for one in ARGUMENTS if one.is_ignored and one.name in given]:
        notes.append(f"without effect here: {', '.join(ignored)}")
    return notes
