"""What becomes of each argument of Apple's `train_qwen.py`: one row each, which docs/training.md shows as a table.

Sources: llava/train/train_qwen.py of apple/ml-fastvlm, TrainingArguments of transformers 4.48, and the arguments
that the fork for clips adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

Kind: TypeAlias = Literal["bool", "int", "float", "text", "texts"]


@dataclass(frozen=True, slots=True)
class Argument:
    """A row of the table.

    Attributes:
        name: without dashes.
        kind: what its value is; a bool may stand without one and means True.
        default: its value where it is not given, as in the reference.
        becomes: for docs/training.md: what it turns into, or why it turns into nothing.
        setting: takes the value as it is.
        allowed: any other value is an error.
        is_ignored: has no effect, whatever its value.
    """

    name: str
    kind: Kind
    default: Any
    becomes: str
    setting: str | None = None
    allowed: tuple[Any, ...] | None = None
    is_ignored: bool = False


def _same(name: str, kind: Kind, default: Any, setting: str) -> Argument:
    return Argument(name, kind, default, f"`{setting}`", setting=setting)


def _turned(name: str, kind: Kind, default: Any, becomes: str) -> Argument:
    return Argument(name, kind, default, becomes)


def _only(name: str, kind: Kind, default: Any, allowed: Sequence[Any], reason: str) -> Argument:
    return Argument(name, kind, default, reason, allowed=(default, *allowed))


def _ignored(name: str, kind: Kind, reason: str) -> Argument:
    return Argument(name, kind, None, f"ignored: {reason}", is_ignored=True)


ARGUMENTS: Final = (
    # The model.
    _same("model_name_or_path", "text", None, "model"),
    _turned(
        "version",
        "text",
        "v0",
        "`conv_mode`: `plain`, or `qwen_2` for v0 and names with qwen; others are Vicuna's prompts and refused",
    ),
    _turned("freeze_backbone", "bool", False, "`train_language_model` off (the output layer too)"),
    _turned("tune_mm_mlp_adapter", "bool", False, "only `train_projector` stays on"),
    _ignored("tune_mm_mlp_and_vision_tower", "bool", "the reference never reads it"),
    _turned(
        "vision_tower",
        "text",
        None,
        "`image_size`: the number in mobileclip_l_1024; others refused",
    ),
    _ignored("mm_vision_select_layer", "int", "the tower has one output"),
    _only(
        "pretrain_mm_mlp_adapter",
        "text",
        None,
        (),
        "refused: a run of the projector gives a whole model here; start from its folder",
    ),
    _ignored("mm_projector_type", "text", "config.json of the model says it"),
    _only(
        "mm_use_im_start_end", "bool", False, (), "refused if True: the models have no such tokens"
    ),
    _ignored("mm_use_im_patch_token", "bool", "pictures need no token of the vocabulary"),
    _only("mm_patch_merge_type", "text", "flat", (), "refused unless flat"),
    _ignored("mm_vision_select_feature", "text", "the tower has no class token"),
    _turned("unfreeze_mm_vision_tower", "bool", False, "`train_vision_tower`"),
    _only("s2", "bool", False, (), "refused if True: pictures have one scale here"),
    _only("hd", "bool", False, (), "refused if True: pictures have one scale here"),
    # The data.
    _turned("data_path", "texts", None, "`data`"),
    _turned(
        "image_folder",
        "texts",
        None,
        "`media_folder`; several that differ: name them in a list of files",
    ),
    _ignored("lazy_preprocess", "bool", "samples are always prepared when they are needed"),
    _ignored("is_multimodal", "bool", "records say whether they have pictures"),
    _turned(
        "image_aspect_ratio",
        "text",
        "square",
        "`image_mode`: pad, anyres; square becomes `crop` if given, else the model's",
    ),
    _only("image_grid_pinpoints", "text", None, (), "refused: config.json of the model has them"),
    _ignored("image_crop_resolution", "int", "the reference never reads it"),
    _ignored("image_split_resolution", "int", "the reference never reads it"),
    _same("num_video_frames", "int", 8, "num_frames"),
    _turned("validation_data_path", "text", None, "`validation`"),
    # What LLaVA adds to the Trainer.
    _ignored("cache_dir", "text", "FASTVLM_HOME says where models are kept"),
    _only(
        "optim",
        "text",
        "adamw_torch",
        ("adamw_torch_fused", "adamw_hf"),
        "refused unless adamw_torch, adamw_torch_fused or adamw_hf: the optimizer is AdamW",
    ),
    _turned("freeze_mm_mlp_adapter", "bool", False, "`train_projector` off"),
    _turned(
        "model_max_length",
        "int",
        512,
        "`max_length` if given, else the model's; longer samples are left out and counted, never cut",
    ),
    _only("double_quant", "bool", True, (), "refused if False: 4 bits are always doubly quantised"),
    _only("quant_type", "text", "nf4", (), "refused unless nf4"),
    _turned("bits", "int", 16, "`quantize_base`: nf4 for 4; 8 is refused"),
    _turned("lora_enable", "bool", False, "`lora_rank`, or 0 without it"),
    _turned("lora_r", "int", 64, "`lora_rank`, with lora_enable"),
    _same("lora_alpha", "int", 16, "lora_alpha"),
    _same("lora_dropout", "float", 0.05, "lora_dropout"),
    _ignored("lora_weight_path", "text", "the reference never reads it"),
    _only("lora_bias", "text", "none", (), "refused unless none"),
    _same("mm_projector_lr", "float", None, "projector_learning_rate"),
    _same("mm_vision_tower_lr", "float", None, "vision_learning_rate"),
    _turned("group_by_modality_length", "bool", False, "`group_by_length`"),
    # The Trainer's.
    _turned("output_dir", "text", None, "`--output`"),
    _ignored("overwrite_output_dir", "bool", "a folder with a run is never overwritten"),
    _ignored("do_train", "bool", "the command trains"),
    _ignored("do_eval", "bool", "validation files are measured if there are any"),
    _same("per_device_train_batch_size", "int", 8, "batch_size"),
    _ignored("per_device_eval_batch_size", "int", "`batch_size` holds for both"),
    _same("gradient_accumulation_steps", "int", 1, "gradient_accumulation_steps"),
    _same("num_train_epochs", "float", 3.0, "num_epochs"),
    _turned("max_steps", "int", -1, "`max_steps`; -1 is 0"),
    _same("learning_rate", "float", 5e-5, "learning_rate"),
    _same("weight_decay", "float", 0.0, "weight_decay"),
    _only("adam_beta1", "float", 0.9, (), "refused unless 0.9"),
    _same("adam_beta2", "float", 0.999, "adam_beta2"),
    _only("adam_epsilon", "float", 1e-8, (), "refused unless 1e-8"),
    _same("max_grad_norm", "float", 1.0, "max_grad_norm"),
    _turned(
        "lr_scheduler_type",
        "text",
        "linear",
        "`schedule`: cosine, linear, constant_with_warmup; constant has no warm-up; others refused",
    ),
    _turned("warmup_ratio", "float", 0.0, "`warmup_fraction`"),
    _turned("warmup_steps", "int", 0, "`warmup_fraction` of max_steps; refused without max_steps"),
    _turned("logging_steps", "float", 500, "`log_steps`; a share of the steps is refused"),
    _only("logging_strategy", "text", "steps", (), "refused unless steps"),
    _ignored("logging_dir", "text", "everything of a run is in its folder"),
    _ignored("logging_first_step", "bool", "use `log_steps`"),
    _turned("save_strategy", "text", "steps", "`save_steps` 0 for no; epoch is refused"),
    _turned("save_steps", "float", 500, "`save_steps`; a share of the steps is refused"),
    _turned("save_total_limit", "int", None, "`save_total_limit` if given, else 2"),
    _ignored("save_safetensors", "bool", "nothing else is written"),
    _turned("eval_strategy", "text", "no", "`eval_steps` 0 for no; epoch is refused"),
    _turned("evaluation_strategy", "text", "no", "the same under its older name"),
    _turned("eval_steps", "float", None, "`eval_steps`, else logging_steps"),
    _only(
        "load_best_model_at_end", "bool", False, (), "refused if True: `early_stop` keeps the best"
    ),
    _ignored("metric_for_best_model", "text", "the best is that of the lowest loss"),
    _ignored("greater_is_better", "bool", "the best is that of the lowest loss"),
    _same("seed", "int", 42, "seed"),
    _ignored("data_seed", "int", "`seed` decides the order too"),
    _turned("bf16", "bool", False, "`precision`: bf16 or fp32"),
    _only("fp16", "bool", False, (), "refused if True: float16 overflows in the tower; use bf16"),
    _turned("tf32", "bool", None, "`tf32`; off if not given"),
    _turned("gradient_checkpointing", "bool", False, "`gradient_checkpointing`, the tower's too"),
    _ignored(
        "gradient_checkpointing_kwargs", "text", "the way that works with frozen parts is used"
    ),
    _same("dataloader_num_workers", "int", 0, "num_workers"),
    _ignored("dataloader_pin_memory", "bool", "on with a GPU"),
    _ignored("dataloader_persistent_workers", "bool", "always on"),
    _ignored("dataloader_prefetch_factor", "int", "torch's own is used"),
    _ignored("dataloader_drop_last", "bool", "no sample is dropped"),
    _ignored("remove_unused_columns", "bool", "records have no columns"),
    _turned("group_by_length", "bool", False, "`group_by_length`"),
    _turned("report_to", "text", "none", "`trackers`; all is refused"),
    _ignored("run_name", "text", "a run is named after its folder"),
    _same("deepspeed", "text", None, "deepspeed"),
    _turned("fsdp", "text", "", "`fsdp` for full_shard auto_wrap; others refused"),
    _ignored("ddp_find_unused_parameters", "bool", "every process uses every parameter"),
    _ignored("ddp_timeout", "int", "torch's own is used"),
    _ignored("local_rank", "int", "the launcher says it in the environment"),
    _ignored("disable_tqdm", "bool", "use --quiet"),
    _ignored("resume_from_checkpoint", "text", "use --resume"),
    _only("label_smoothing_factor", "float", 0.0, (), "refused unless 0"),
    _only("neftune_noise_alpha", "float", None, (), "refused"),
    _only("torch_compile", "bool", False, (), "refused if True"),
    _only("push_to_hub", "bool", False, (), "refused if True: nothing is uploaded"),
)
"""Every argument that is known, in the order of docs/training.md."""
