"""Model -> checkpoint folder, in either published layout: written beside its place, then renamed into it."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from fastvlm.checkpoint.config_json import write_config
from fastvlm.checkpoint.hf_processor import (
    PROCESSOR_FILES,
    reserve_image_token,
    write_processor_files,
)
from fastvlm.checkpoint.keymap import CLIP_HEAD, Layout, key_map
from fastvlm.checkpoint.load import EMBEDDINGS, OUTPUT_LAYER, cast
from fastvlm.checkpoint.shards import (
    PlannedTensor,
    StoredTensor,
    TensorReader,
    has_weights,
    list_file,
    list_tensors,
    write_json,
    write_shards,
)
from fastvlm.config import FastVLMConfig, VisionConfig
from fastvlm.errors import CheckpointError
from fastvlm.model.fastvlm import FastVLM

MAX_SHARD_BYTES: Final = 4 * 1024**3
SIDE_FILE: Final = "unused_tensors.safetensors"
"""Tensors of the other layout that this one has no place for; no index names it, so no loader reads it."""

_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
_LEGAL_PREFIXES: Final = ("license", "licence", "notice", "acknowledg", "copying")
_CLIP_EMBED_DIM: Final = 768
_CROP_NOTE: Final = "transformers' processor crops the centre of pictures that are not square; fastvlm pads them, as trained"


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveReport:
    """What was written.

    Attributes:
        files: names in the folder.
        notes: what the user should know.
    """

    files: tuple[str, ...]
    notes: tuple[str, ...]


def save_model(
    model: FastVLM,
    folder: Path,
    *,
    layout: Layout,
    dtype: torch.dtype | None = None,
    tokenizer_from: Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
) -> SaveReport:
    """Write a model as a checkpoint folder.

    Args:
        model: fused or branched; it is not changed.
        folder: must not exist or be empty, unless `overwrite`.
        layout: the published layout to write.
        dtype: of all weights but counters; None keeps theirs.
        tokenizer_from: the folder the model came from: tokenizer, licence and generation settings are copied,
            and the CLIP head that the network itself does not keep.
        max_shard_bytes: largest weight file.
        overwrite: replace a folder that holds something.

    Raises:
        CheckpointError: the folder is not empty, or the disk cannot be written.
        ConfigError: the layout cannot describe this network, e.g. when it is deep-fused.
    """
    state = dict(model.state_dict())
    is_tied = model.lm_head.weight is model.language_model.embed_tokens.weight
    config = replace(model.config, text=replace(model.config.text, tie_word_embeddings=is_tied))
    if is_tied:
        del state[OUTPUT_LAYER]
    keys = key_map(layout, config)
    names = {keys.to_layout(name): name for name in state}
    target = dtype or state[EMBEDDINGS].dtype
    planned = [
        PlannedTensor(
            key,
            dtype if dtype and state[name].is_floating_point() else state[name].dtype,
            tuple(state[name].shape),
        )
        for key, name in names.items()
    ]
    with new_folder(Path(folder), overwrite=overwrite) as staging:
        # Before the weights: what cannot be described is refused before gigabytes are written.
        notes = write_companions(staging, config, layout, dtype=target, source=tokenizer_from)
        head, head_notes = clip_head(config, layout, target, source=tokenizer_from)

        def read(key: str) -> Tensor:
            if key == CLIP_HEAD and head is not None:
                return head
            tensor = state[names[key]]
            return cast(tensor, dtype, key) if dtype else tensor

        if head is not None:
            planned.append(PlannedTensor(CLIP_HEAD, head.dtype, tuple(head.shape)))
        write_shards(staging, planned, read, max_shard_bytes=max_shard_bytes)
    files = tuple(sorted(path.name for path in Path(folder).iterdir()))
    return SaveReport(files=files, notes=(*notes, *head_notes))


def write_companions(
    folder: Path,
    config: FastVLMConfig,
    layout: Layout,
    *,
    dtype: torch.dtype,
    source: Path | None,
) -> tuple[str, ...]:
    """Write config.json and everything else that is not weights.

    Args:
        folder: where to.
        config: the network.
        layout: the layout.
        dtype: of the weights, for config.json.
        source: where tokenizer, generation settings and licences are copied from.

    Returns:
        What the user should know.
    """
    if source is not None:
        copy_files(source, folder, (*_TOKENIZER_FILES, "generation_config.json"))
    dtype_name = str(dtype).removeprefix("torch.")
    if layout == "hf":
        image_token_id = reserve_image_token(folder, config.text.vocab_size)
        data = write_config(config, layout, dtype=dtype_name, image_token_id=image_token_id)
        if source is not None and (source / PROCESSOR_FILES[0]).is_file():
            copy_files(source, folder, PROCESSOR_FILES)
        else:
            write_processor_files(folder, config)
    else:
        data = write_config(config, layout, dtype=dtype_name)
    write_json(folder / "config.json", data)
    if not (folder / "generation_config.json").is_file():
        write_json(folder / "generation_config.json", _generation_config(config))
    return (_CROP_NOTE,) if layout == "hf" else ()


def copy_files(source: Path, folder: Path, names: Collection[str]) -> None:
    """Copy the named files that exist, and licences."""
    if not source.is_dir():
        raise CheckpointError(f"{source} is not a folder; expected one with tokenizer files")
    for path in sorted(source.iterdir()):
        is_legal = path.name.lower().startswith(_LEGAL_PREFIXES)
        if path.is_file() and (is_legal or path.name in names):
            shutil.copyfile(path, folder / path.name)


def clip_head(
    config: FastVLMConfig, layout: Layout, dtype: torch.dtype, *, source: Path | None
) -> tuple[Tensor | None, tuple[str, ...]]:
    """The CLIP head for a folder in Apple's layout: the original where it is known, else zeros.

    FastVLM never uses it, but Apple's code loads strictly and wants it, [hidden_size, 768]. Only for the fused
    published tower, the one that Apple's code can build; None for others.
    """
    if layout != "apple" or config.vision != VisionConfig():
        return None, ()
    shape = (config.vision.hidden_size, _CLIP_EMBED_DIM)
    stored = find_clip_head(source) if source is not None else None
    if stored is not None and stored.shape == shape:
        with TensorReader({stored.key: stored}) as reader:
            return cast(reader.read(stored.key), dtype, stored.key), ()
    note = f"{CLIP_HEAD} is not known: written as zeros, because Apple's code wants it and never uses it"
    return torch.zeros(shape, dtype=dtype), (note,)


def find_clip_head(folder: Path) -> StoredTensor | None:
    """Where a folder keeps the CLIP head: among the weights (apple) or in the side file (hf)."""
    found = dict(list_tensors(folder)) if has_weights(folder) else {}
    if (folder / SIDE_FILE).is_file():
        found |= list_file(folder / SIDE_FILE)
    return found.get(CLIP_HEAD)


@contextmanager
def new_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to fill; it takes its place under its name only when the block ends without an error.

    Args:
        target: must not exist or be empty, unless `overwrite`.
        overwrite: put the new folder in place of what is there.

    Raises:
        CheckpointError: the place is taken or cannot be written.
    """
    is_taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if is_taken and (not overwrite or not target.is_dir()):
        raise CheckpointError(f"{target} exists and is not an empty folder; name another place")
    staging = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
    try:
        staging.mkdir(parents=True)
        yield staging
        _swap(staging, target)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _swap(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    old = staging.with_suffix(".old")
    target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _generation_config(config: FastVLMConfig) -> dict[str, Any]:
    text = config.text
    return {
        "bos_token_id": text.bos_token_id,
        "do_sample": False,
        "eos_token_id": text.eos_token_id,
        "pad_token_id": text.bos_token_id,
    }
