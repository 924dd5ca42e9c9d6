"""Command lines of train_qwen.py: read as transformers reads them, and turned into settings or refused."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvlm.errors import ConfigError
from fastvlm.train.llava_arguments import parse, translate
from fastvlm.train.llava_table import ARGUMENTS, Argument
from fastvlm.train.settings import settings_from

# As the reference declares them, in its order.
MODEL_ARGUMENTS = """model_name_or_path version freeze_backbone tune_mm_mlp_adapter tune_mm_mlp_and_vision_tower
vision_tower mm_vision_select_layer pretrain_mm_mlp_adapter mm_projector_type mm_use_im_start_end
mm_use_im_patch_token mm_patch_merge_type mm_vision_select_feature unfreeze_mm_vision_tower s2 hd"""
DATA_ARGUMENTS = """data_path image_folder lazy_preprocess is_multimodal image_aspect_ratio image_grid_pinpoints
image_crop_resolution image_split_resolution"""
TRAINING_ARGUMENTS = """cache_dir optim freeze_mm_mlp_adapter model_max_length double_quant quant_type bits
lora_enable lora_r lora_alpha lora_dropout lora_weight_path lora_bias mm_projector_lr mm_vision_tower_lr
group_by_modality_length"""
FORK_ARGUMENTS = "num_video_frames validation_data_path"
COMMON_TRAINER_ARGUMENTS = """output_dir per_device_train_batch_size per_device_eval_batch_size
gradient_accumulation_steps num_train_epochs max_steps learning_rate weight_decay warmup_ratio warmup_steps
lr_scheduler_type logging_steps save_strategy save_steps save_total_limit evaluation_strategy eval_strategy
eval_steps bf16 fp16 tf32 gradient_checkpointing dataloader_num_workers report_to run_name deepspeed seed"""

VIDEO_SCRIPT = """
    --model_name_or_path checkpoints/llava-fastvithd_0.5b_stage3 \\
    --version qwen_v2 --data_path train.json --validation_data_path val.json --image_folder dataset \\
    --vision_tower mobileclip_l_1024 --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2 \\
    --mm_use_im_start_end False --mm_use_im_patch_token False --image_aspect_ratio pad --num_video_frames 4 \\
    --bf16 True --output_dir models/tuned --num_train_epochs 3 --per_device_train_batch_size 1 \\
    --per_device_eval_batch_size 1 --gradient_accumulation_steps 8 --evaluation_strategy "steps" --eval_steps 50 \\
    --save_strategy "steps" --save_steps 100 --save_total_limit 2 --learning_rate 2e-5 --weight_decay 0.0 \\
    --warmup_ratio 0.03 --lr_scheduler_type "cosine" --logging_steps 1 --tf32 True --model_max_length 2048 \\
    --gradient_checkpointing True --dataloader_num_workers 2 --lazy_preprocess True --report_to wandb"""


def settings_of(line: str) -> dict[str, Any]:
    return translate(shlex.split(line)).settings


def test_the_table_has_every_argument_once() -> None:
    names = [one.name for one in ARGUMENTS]
    assert len(set(names)) == len(names)
    expected = (MODEL_ARGUMENTS, DATA_ARGUMENTS, TRAINING_ARGUMENTS, FORK_ARGUMENTS)
    assert {name for text in expected for name in text.split()} <= set(names)
    assert set(COMMON_TRAINER_ARGUMENTS.split()) <= set(names)


def test_a_whole_script_becomes_valid_settings() -> None:
    translated = translate(shlex.split(VIDEO_SCRIPT))
    settings = settings_from(translated.settings, where="--llava-args")
    assert translated.output == "models/tuned"
    assert settings.model == "checkpoints/llava-fastvithd_0.5b_stage3"
    assert (settings.data, settings.validation) == (("train.json",), ("val.json",))
    assert settings.media_folder == "dataset"
    assert (settings.image_size, settings.image_mode, settings.num_frames) == (1024, "pad", 4)
    assert (settings.batch_size, settings.gradient_accumulation_steps) == (1, 8)
    assert (settings.eval_steps, settings.save_steps, settings.log_steps) == (50, 100, 1)
    assert (settings.learning_rate, settings.warmup_fraction) == (2e-5, 0.03)
    assert (settings.precision, settings.tf32, settings.trackers) == ("bf16", True, ("wandb",))
    assert settings.train_language_model
    assert settings.train_projector
    assert not settings.train_vision_tower
    assert translated.notes == (
        "the vision tower stays frozen; --unfreeze_mm_vision_tower True would train it",
        "--version qwen_v2: taken as qwen_2, the prompt of the model",
        "without effect here: --mm_vision_select_layer, --mm_projector_type, --mm_use_im_patch_token, "
        "--lazy_preprocess, --per_device_eval_batch_size",
    )


def test_what_is_not_given_has_the_defaults_of_the_trainer() -> None:
    translated = translate(["--data_path", "a.json"])
    settings = settings_from(translated.settings, where="--llava-args")
    assert (settings.batch_size, settings.gradient_accumulation_steps) == (8, 1)
    assert (settings.learning_rate, settings.schedule, settings.warmup_fraction) == (
        5e-5,
        "linear",
        0.0,
    )
    assert (settings.num_epochs, settings.max_steps, settings.seed) == (3.0, 0, 42)
    assert (settings.precision, settings.gradient_checkpointing) == ("fp32", False)
    assert (settings.lora_rank, settings.eval_steps, settings.save_steps) == (0, 0, 500)
    assert settings.max_length == 0, "512, the reference's default, would cut answers off"
    assert settings.image_mode is None, "square, the reference's default, is not what models know"
    assert [note.split()[0] for note in translated.notes[:2]] == [
        "--model_max_length",
        "--image_aspect_ratio",
    ]
    assert "model" not in translated.settings
    assert translated.output is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--lora_enable True --lora_r 8 --lora_alpha 32", {"lora_rank": 8, "lora_alpha": 32}),
        ("--lora_r 8", {"lora_rank": 0}),
        ("--lora_enable --bits 4", {"lora_rank": 64, "quantize_base": "nf4"}),
        ("--lora_enable --freeze_backbone", {"lora_rank": 64, "train_language_model": True}),
        ("--freeze_backbone True", {"train_language_model": False, "train_projector": True}),
        ("--freeze_mm_mlp_adapter True", {"train_projector": False}),
        (
            "--tune_mm_mlp_adapter True --unfreeze_mm_vision_tower True",
            {"train_language_model": False, "train_vision_tower": False, "train_projector": True},
        ),
        ("--unfreeze_mm_vision_tower True", {"train_vision_tower": True}),
        (
            "--mm_projector_lr 1e-3 --mm_vision_tower_lr 2e-6",
            {"projector_learning_rate": 1e-3, "vision_learning_rate": 2e-6},
        ),
        ("--version plain", {"conv_mode": "plain"}),
        ("--image_aspect_ratio square", {"image_mode": "crop"}),
        ("--group_by_modality_length", {"group_by_length": True}),
        ("--group_by_length", {"group_by_length": True}),
        ("--warmup_steps 25 --max_steps 100", {"warmup_fraction": 0.25, "max_steps": 100}),
        (
            "--lr_scheduler_type constant --warmup_ratio 0.1",
            {"schedule": "constant", "warmup_fraction": 0.0},
        ),
        (
            "--lr_scheduler_type constant_with_warmup --warmup_ratio 0.1",
            {"schedule": "constant", "warmup_fraction": 0.1},
        ),
        ("--save_strategy no", {"save_steps": 0}),
        ("--eval_strategy steps --logging_steps 7", {"eval_steps": 7}),
        ("--eval_steps 7", {"eval_steps": 0}),
        ("--model_max_length 2048", {"max_length": 2048}),
        ("--data_path a.json b.json:2", {"data": ("a.json", "b.json:2")}),
        ("--data_path a.json b.json --image_folder x x", {"media_folder": "x"}),
        ("--save_total_limit 1", {"save_total_limit": 1}),
        ("--deepspeed zero3.json", {"deepspeed": "zero3.json", "fsdp": False}),
        ("--fsdp 'full_shard auto_wrap'", {"fsdp": True}),
    ],
)
def test_conversions(line: str, expected: dict[str, Any]) -> None:
    settings = settings_of(line)
    assert {name: settings[name] for name in expected} == expected
    settings_from(settings, where="--llava-args")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--lora_rank 8", "'--lora_rank' is no argument of train_qwen.py.*docs/training.md"),
        ("--learning 1e-4", "'--learning' is no argument"),
        ("llava/train/train_mem.py --bf16", "'llava/train/train_mem.py' is no argument"),
        ("--learning_rate fast", "learning_rate.*invalid float value: 'fast'"),
        ("--bf16 perhaps", "bf16.*'perhaps' is neither True nor False"),
        ("--data_path", "data_path.*expected at least one argument"),
        ("--version v1", "--version v1: .*use qwen_2"),
        ("--mm_use_im_start_end True", "--mm_use_im_start_end True: refused"),
        ("--pretrain_mm_mlp_adapter p.bin", "start from its folder"),
        ("--vision_tower openai/clip-vit-large-patch14", "expected mobileclip_l_SIZE"),
        ("--image_aspect_ratio stretch", "expected pad, anyres or square"),
        ("--s2", "--s2 True: refused"),
        ("--fp16 True", "float16 overflows"),
        ("--bits 8 --lora_enable", "--bits 8: expected 16, or 4"),
        ("--no_double_quant", "--double_quant False: refused"),
        ("--quant_type fp4", "--quant_type fp4: refused"),
        ("--optim sgd", "--optim sgd: refused unless adamw_torch"),
        ("--lr_scheduler_type polynomial", "expected one of cosine"),
        ("--warmup_steps 10", "use --warmup_ratio"),
        ("--save_strategy epoch", "--save_strategy steps --save_steps N"),
        ("--evaluation_strategy epoch", "--eval_strategy steps --eval_steps N"),
        ("--logging_steps 0.1", "--logging_steps 0.1: expected a whole number"),
        ("--report_to all", "expected none or one of tensorboard"),
        ("--fsdp shard_grad_op", "expected 'full_shard auto_wrap'"),
        ("--lora_enable --tune_mm_mlp_adapter", "exclude each other"),
        ("--data_path a b --image_folder x y", "names 2 folders; write a list of files"),
        ("--push_to_hub", "nothing is uploaded"),
    ],
)
def test_what_cannot_be_had_is_refused(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        translate(shlex.split(line))


def test_every_ignored_argument_is_named() -> None:
    words: list[str] = []
    for one in ARGUMENTS:
        if one.is_ignored:
            words += [f"--{one.name}", {"int": "1", "text": "x", "bool": "True"}[one.kind]]
    note = translate(words).notes[-1]
    assert all(f"--{one.name}" in note for one in ARGUMENTS if one.is_ignored)


def test_lines_joined_by_backslashes_are_one_command() -> None:
    pasted = "--bf16 True \\\n--learning_rate 1e-3 \\\n    --seed 3"
    assert parse(shlex.split(pasted)) == {"bf16": True, "learning_rate": 1e-3, "seed": 3}


TYPES: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "float": float,
    "text": str,
    "texts": list[str],
}


def words_of(one: Argument, value: Any, spelling: int) -> list[str]:
    """One of the ways to write an argument; those with a bare flag only where it is True."""
    flag = f"--{one.name if spelling % 2 else one.name.replace('_', '-')}"
    if one.kind == "texts":
        return [flag, *value]
    if one.kind == "bool" and value and spelling > 3:
        return [flag]
    return [f"{flag}={value}"] if spelling % 4 > 1 else [flag, str(value)]


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int": st.integers(0, 10**6),
    "float": st.floats(0, 1e6, allow_nan=False),
    "text": st.from_regex(r"[a-z/_.0-9]{1,12}", fullmatch=True),
    "texts": st.lists(st.from_regex(r"[a-z/_.0-9]{1,12}", fullmatch=True), min_size=1, max_size=3),
}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    words: list[str] = []
    for one in draw(st.lists(st.sampled_from(ARGUMENTS), unique=True, max_size=12)):
        words += words_of(one, draw(VALUES[one.kind]), draw(st.integers(0, 7)))
    return words


@pytest.fixture(scope="module")
def reference_parser() -> Any:
    transformers = pytest.importorskip("transformers")
    # A bool whose default is None must have a value in transformers; tf32 alone is one, and may lack it here.
    fields = [
        (
            one.name,
            TYPES[one.kind],
            dataclasses.field(default=one.default if one.kind != "bool" else bool(one.default)),
        )
        for one in ARGUMENTS
    ]
    arguments = dataclasses.make_dataclass("Arguments", fields)
    return transformers.HfArgumentParser(arguments)


@given(words=command_lines())
def test_reads_a_command_line_as_transformers_does(words: list[str], reference_parser: Any) -> None:
    expected = reference_parser.parse_args_into_dataclasses(words)[0]
    found = parse(words)
    named = {name: getattr(expected, name) for name in found}
    assert found == named
