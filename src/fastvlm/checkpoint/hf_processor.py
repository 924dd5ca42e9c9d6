"""The files beside the weights that transformers needs to prepare a prompt for layout hf.

transformers puts a real token, `<image>`, where we put a sentinel. It takes a vocabulary row that the tokenizer
leaves unused (Qwen2's vocabulary is padded), so the embedding keeps its size and conversion loses nothing.
Its processor, LlavaProcessor with CLIPImageProcessor, resizes the short side and crops the centre: on pictures that
are not square it sees less than the padding which the released models were trained with.

Source: transformers `models/llava/processing_llava.py`, `models/fast_vlm`; the prompt is Apple's `qwen_2`
(apple/ml-fastvlm `llava/conversation.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fastvlm.checkpoint.shards import read_json, write_json
from fastvlm.config import PATCH_STRIDE, FastVLMConfig
from fastvlm.errors import CheckpointError

PROCESSOR_FILES: Final = (
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
)
IMAGE_TOKEN: Final = "<image>"  # noqa: S105 -- a word of the vocabulary, no secret
_PREFERRED_ID: Final = 151646
"""What the converter of transformers takes; free in Qwen2's tokenizer, taken in Qwen2.5's."""
_TOKEN: Final = {
    "content": IMAGE_TOKEN,
    "lstrip": False,
    "normalized": False,
    "rstrip": False,
    "single_word": False,
    "special": True,
}
_BICUBIC: Final = 3

# One turn after the other as Apple's `qwen_2` has them; a picture is a line of its own.
_CHAT_TEMPLATE: Final = """\
{%- if messages[0]['role'] != 'system' -%}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'image' -%}
                {{- '<image>\\n' -}}
            {%- elif part['type'] == 'text' -%}
                {{- part['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def write_processor_files(folder: Path, config: FastVLMConfig) -> None:
    """Write what `AutoProcessor.from_pretrained(folder)` reads beside the tokenizer."""
    size = config.image_size
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": {"height": size, "width": size},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.0, 0.0, 0.0],
            "image_processor_type": "CLIPImageProcessor",
            "image_std": [1.0, 1.0, 1.0],
            "processor_class": "LlavaProcessor",
            "resample": _BICUBIC,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": size},
        },
    )
    write_json(
        folder / "processor_config.json",
        {
            "image_token": IMAGE_TOKEN,
            "num_additional_image_tokens": 0,
            "patch_size": PATCH_STRIDE,
            "processor_class": "LlavaProcessor",
            "vision_feature_select_strategy": "full",
        },
    )
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE, "utf-8", newline="\n")


def reserve_image_token(folder: Path, vocab_size: int) -> int:
    """Give `<image>` a row in the tokenizer files of a folder that is being written.

    Args:
        folder: holds tokenizer.json, or vocab.json and merges.txt; they are changed in place. Without any of
            them nothing is changed.
        vocab_size: rows of the embedding.

    Returns:
        The id, below `vocab_size`; the one it has when the tokenizer knows `<image>` already.

    Raises:
        CheckpointError: all rows are in use, or the files are damaged.
    """
    taken = _token_ids(folder)
    if not taken:
        return min(_PREFERRED_ID, vocab_size - 1)
    if IMAGE_TOKEN in taken:
        token_id = taken[IMAGE_TOKEN]
        if token_id >= vocab_size:
            raise CheckpointError(
                f"{IMAGE_TOKEN} is token {token_id} but the embedding has {vocab_size} rows; remove it from the "
                "tokenizer files"
            )
        return token_id
    free = min(set(range(vocab_size)) - set(taken.values()), default=None)
    if free is None:
        raise CheckpointError(
            f"all {vocab_size} rows of the embedding belong to tokens and none is left for {IMAGE_TOKEN}, which "
            "transformers needs; use layout 'apple'"
        )
    _add_token(folder, free)
    return free


def _token_ids(folder: Path) -> dict[str, int]:
    """The id of every token that any of the tokenizer files names."""
    ids: dict[str, int] = {}
    try:
        if (folder / "tokenizer.json").is_file():
            tokenizer = read_json(folder / "tokenizer.json")
            ids |= tokenizer["model"]["vocab"]
            ids |= {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or ()}
        for name in ("vocab.json", "added_tokens.json"):
            if (folder / name).is_file():
                ids |= read_json(folder / name)
        if (folder / "tokenizer_config.json").is_file():
            decoder = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
            ids |= {token["content"]: int(number) for number, token in decoder.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the tokenizer files of {folder} are damaged: {error!r}") from error
    if any(type(number) is not int for number in ids.values()):
        raise CheckpointError(f"the tokenizer files of {folder} are damaged: ids must be numbers")
    return ids


def _add_token(folder: Path, token_id: int) -> None:
    tokenizer_json = folder / "tokenizer.json"
    if tokenizer_json.is_file():
        tokenizer = read_json(tokenizer_json)
        added = [*(tokenizer.get("added_tokens") or ()), {"id": token_id, **_TOKEN}]
        write_json(tokenizer_json, {**tokenizer, "added_tokens": added})
    if (folder / "added_tokens.json").is_file():
        added_tokens = read_json(folder / "added_tokens.json")
        write_json(folder / "added_tokens.json", {**added_tokens, IMAGE_TOKEN: token_id})
    config_json = folder / "tokenizer_config.json"
    config = read_json(config_json) if config_json.is_file() else _tokenizer_config(folder)
    if config.get("added_tokens_decoder") is not None:
        decoder = {**config["added_tokens_decoder"], str(token_id): _TOKEN}
        config = {**config, "added_tokens_decoder": decoder}
    write_json(config_json, config)


def _tokenizer_config(folder: Path) -> Mapping[str, Any]:
    """A tokenizer_config.json for a folder that came without one."""
    config: dict[str, Any] = {
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    if (folder / "tokenizer.json").is_file():
        return {**config, "tokenizer_class": "PreTrainedTokenizerFast"}
    added = (
        read_json(folder / "added_tokens.json") if (folder / "added_tokens.json").is_file() else {}
    )
    decoder = {str(number): {**_TOKEN, "content": token} for token, number in added.items()}
    return {**config, "added_tokens_decoder": decoder, "tokenizer_class": "Qwen2Tokenizer"}
