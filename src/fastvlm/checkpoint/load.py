"""Checkpoint folder -> model: strict, streaming, with a report.

Every tensor of the network must be in the folder with its shape, and every tensor in the folder must be used or
be known as superfluous; anything else is an error that names the keys. The network is built without memory and
takes its tensors one by one in their final dtype and place, so that the peak is the model and one tensor.
Loading for inference goes further: the tower is folded before the rest is read, and weights that are stored as they
are used stay in the file, mapped, so that loading them takes no time and no memory of its own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from fastvlm.checkpoint.config_json import read_config
from fastvlm.checkpoint.empty_model import empty_model
from fastvlm.checkpoint.keymap import Layout, key_map
from fastvlm.checkpoint.shards import (
    DTYPES,
    StoredTensor,
    TensorReader,
    TensorSource,
    has_weights,
    list_file,
    list_tensors,
)
from fastvlm.config import FastVLMConfig
from fastvlm.errors import CheckpointError
from fastvlm.model.fastvlm import FastVLM
from fastvlm.model.reparam import deep_fuse

logger = logging.getLogger(__name__)

PROJECTOR_NAME: Final = "mm_projector.safetensors"
PROJECTOR_PICKLE_NAME: Final = "mm_projector.bin"
EMBEDDINGS, OUTPUT_LAYER = "language_model.embed_tokens.weight", "lm_head.weight"
_PORTION_BYTES: Final = 2**26
"""Least size of what is mapped at a time while it is converted."""
_NUM_SHOWN: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """What became of every tensor.

    Attributes:
        loaded: our names of the tensors that were found.
        missing: keys that the files should have.
        unexpected: keys of the files that nothing explains.
        mismatched: keys with what is wrong about their shape or dtype.
        ignored_with_reason: keys of the files that were left out, and why.
        notes: what else the user should know.
    """

    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: Mapping[str, str] = field(default_factory=dict)
    ignored_with_reason: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def problem(self) -> str | None:
        """What is wrong, with up to ten keys of each kind; None when all is explained."""
        found = [
            _shorten("missing", self.missing),
            _shorten("unexpected", self.unexpected),
            _shorten("mismatched", [f"{key} ({why})" for key, why in self.mismatched.items()]),
        ]
        return "; ".join(filter(None, found)) or None

    def raise_if_unexplained(self, folder: Path) -> None:
        """Refuse a checkpoint that does not fit its configuration.

        Raises:
            CheckpointError: tensors are missing, unexpected or mismatched.
        """
        if self.problem is None:
            return
        hint = "the weights and config.json do not belong together, or a file is incomplete; fetch them again"
        if any(key.startswith("language_model.model.") for key in self.unexpected):
            hint = "this is an MLX export; load the folder it was made from"
        raise CheckpointError(f"{folder} does not fit its config.json: {self.problem}; {hint}")


@dataclass(frozen=True, slots=True)
class Matched:
    """The tensors of a folder, each found its place.

    Attributes:
        stored: what the files hold, by key.
        names: our name of every key that is used.
        report: what became of all keys.
    """

    stored: Mapping[str, StoredTensor]
    names: Mapping[str, str]
    report: LoadReport


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    base: Path | None = None,
    for_inference: bool = False,
) -> tuple[FastVLM, LoadReport]:
    """Load a checkpoint folder of any published layout, fused or branched, in eval mode.

    Args:
        folder: the checkpoint; or with `base`, a folder with `mm_projector.safetensors` only.
        dtype: of all weights but counters, whatever they are stored in.
        device: where the weights go, one after the other.
        base: the full checkpoint that a projector-only folder belongs to.
        for_inference: deep-fuse the tower, and leave weights in the file where dtype and device allow it. The
            file must not be overwritten in place while the model is used; replacing it is fine.

    Returns:
        The model, and a report in which nothing is missing, unexpected or mismatched.

    Raises:
        CheckpointError: the folder is incomplete, damaged, of another model, or holds pickled weights only.
        ConfigError: config.json has a value that cannot work.
    """
    folder = Path(folder)
    projector = _projector_file(folder, base)
    full = folder if projector is None or base is None else Path(base)
    config, layout = read_config(full)
    matched = match_tensors(list_tensors(full), config, layout)
    matched.report.raise_if_unexplained(full)
    with TensorReader(matched.stored) as reader:
        config, report = settle_tying(matched, config, reader)
    model = empty_model(config)
    # Windows locks mapped files, so that nobody could replace them: there, weights are read into memory.
    is_mapped = for_inference and os.name != "nt"
    tower, *others = _portions(matched, report)
    for portion in (tower, *others):
        with TensorReader(matched.stored, is_mapped=is_mapped) as reader:
            for key, name in portion.items():
                _place(model, name, cast(reader.read(key), dtype, key).to(device))
            if for_inference and portion is tower:  # while the memory that it takes is still free
                model.vision_tower = deep_fuse(model.vision_tower.eval())
    if config.text.tie_word_embeddings:
        model.lm_head.weight = model.language_model.embed_tokens.weight
    if projector is not None:
        report = _overlay_projector(model, report, projector, dtype=dtype, device=device)
    for note in report.notes:
        logger.info("%s: %s", folder, note)
    return model.eval(), report


def check_folder(folder: Path) -> LoadReport:
    """Compare names, shapes and dtypes of a checkpoint with its config.json, reading no tensor.

    Raises:
        CheckpointError: files are missing, cut short, or no checkpoint at all.
        ConfigError: config.json has a value that cannot work.
    """
    folder = Path(folder)
    config, layout = read_config(folder)
    return match_tensors(list_tensors(folder), config, layout).report


def match_tensors(
    stored: Mapping[str, StoredTensor], config: FastVLMConfig, layout: Layout
) -> Matched:
    """Find the place of every stored tensor in the network that `config` describes."""
    keys = key_map(layout, config)
    expected = empty_model(config).state_dict()
    names: dict[str, str] = {}
    taken: set[str] = set()
    unexpected: list[str] = []
    mismatched: dict[str, str] = {}
    ignored: dict[str, str] = {}
    for key, tensor in stored.items():
        name = keys.to_ours(key)
        if name not in expected or name is None:
            if reason := keys.ignored_reason(key):
                ignored[key] = reason
            else:
                unexpected.append(key)
        elif name in taken:
            mismatched[key] = f"a second tensor for {name}"
        else:
            names[key] = name
            taken.add(name)
            if complaint := _misfit(tensor, expected[name]):
                mismatched[key] = complaint
    missing = set(expected) - taken
    if config.text.tie_word_embeddings:
        missing.discard(OUTPUT_LAYER)
    report = LoadReport(
        loaded=tuple(names.values()),
        missing=tuple(keys.to_layout(name) for name in expected if name in missing),
        unexpected=tuple(unexpected),
        mismatched=mismatched,
        ignored_with_reason=ignored,
    )
    return Matched(stored, names, report)


def settle_tying(
    matched: Matched, config: FastVLMConfig, source: TensorSource
) -> tuple[FastVLMConfig, LoadReport]:
    """Decide whether the output layer is the embedding, where config.json says so but both are stored.

    Released folders say `tie_word_embeddings` and store `lm_head.weight` all the same. Equal values are tied; a
    stored layer that differs was trained, so it is kept, and the returned configuration says untied.
    """
    key_of = {name: key for key, name in matched.names.items()}
    report = matched.report
    if not config.text.tie_word_embeddings or OUTPUT_LAYER not in key_of:
        return config, report
    output, embeddings = key_of[OUTPUT_LAYER], key_of[EMBEDDINGS]
    if not source.is_equal(output, embeddings):
        note = f"tie_word_embeddings is true but {output} differs from {embeddings}: kept as a layer of its own"
        config = replace(config, text=replace(config.text, tie_word_embeddings=False))
        return config, replace(report, notes=(*report.notes, note))
    ignored = {**report.ignored_with_reason, output: f"equal to {embeddings}, to which it is tied"}
    loaded = tuple(name for name in report.loaded if name != OUTPUT_LAYER)
    return config, replace(report, loaded=loaded, ignored_with_reason=ignored)


def cast(tensor: Tensor, dtype: torch.dtype, key: str) -> Tensor:
    """The tensor in another floating dtype; counters stay whole numbers.

    Raises:
        CheckpointError: a finite value is too large for the dtype, as float16 ends at 65504.
    """
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    result = tensor.to(dtype)
    if torch.finfo(dtype).max < torch.finfo(tensor.dtype).max and tensor.numel():
        low, high = tensor.aminmax()
        largest = torch.maximum(-low, high).item()
        if torch.finfo(dtype).max < largest < float("inf"):
            raise CheckpointError(
                f"tensor {key!r} holds values up to {largest:.4g}, which {dtype} cannot hold; use bfloat16 or float32"
            )
    return result


def _misfit(tensor: StoredTensor, expected: Tensor) -> str | None:
    """What keeps a stored tensor from its place; None when it fits."""
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None or dtype.is_floating_point != expected.is_floating_point():
        kind = "float" if expected.is_floating_point() else "int64"
        why = "; quantised weights cannot be loaded" if kind == "float" else ""
        return f"{tensor.dtype} in the file, expected {kind}{why}"
    if tensor.shape != tuple(expected.shape):
        return f"{list(tensor.shape)} in the file, {list(expected.shape)} by config.json"
    return None


def _portions(matched: Matched, report: LoadReport) -> list[dict[str, str]]:
    """What is to be loaded, key -> our name: first the tower, then the rest in portions of some size.

    A mapping is let go after each portion, if nothing in it is used as it lies in the file.
    """
    wanted = {k: n for k, n in matched.names.items() if k not in report.ignored_with_reason}
    portions = [{key: name for key, name in wanted.items() if name.startswith("vision_tower.")}]
    num_bytes = _PORTION_BYTES
    for key, name in wanted.items():
        if key in portions[0]:
            continue
        if num_bytes >= _PORTION_BYTES:
            portions.append({})
            num_bytes = 0
        portions[-1][key] = name
        num_bytes += matched.stored[key].num_bytes
    return portions


def _place(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor where a parameter or buffer without memory stands."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    old = getattr(module, leaf)
    is_parameter = isinstance(old, nn.Parameter)
    setattr(module, leaf, nn.Parameter(tensor, old.requires_grad) if is_parameter else tensor)


def _projector_file(folder: Path, base: Path | None) -> Path | None:
    """The projector of a projector-only folder; None for a full checkpoint."""
    if base is None:
        found = [
            name for name in (PROJECTOR_NAME, PROJECTOR_PICKLE_NAME) if (folder / name).is_file()
        ]
        if found and not has_weights(folder):
            raise CheckpointError(
                f"{folder} holds only a projector ({found[0]}); name the full checkpoint it belongs to as base "
                "(--model-base)"
            )
        return None
    if has_weights(folder):
        raise CheckpointError(f"{folder} is a full checkpoint; it takes no base ({base})")
    if (folder / PROJECTOR_NAME).is_file():
        return folder / PROJECTOR_NAME
    if (folder / PROJECTOR_PICKLE_NAME).is_file():
        raise CheckpointError(
            f"{folder} holds its projector as pickle ({PROJECTOR_PICKLE_NAME}), which loading refuses to open; run "
            f"`fastvlm models convert {folder} NEW_FOLDER --layout apple` once and load that"
        )
    raise CheckpointError(f"{folder} holds no projector; expected {PROJECTOR_NAME}")


def _overlay_projector(
    model: FastVLM,
    report: LoadReport,
    file: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
) -> LoadReport:
    """Replace the projector of a loaded model by a stored one."""
    stored = list_file(file)
    names = {key: projector_name(key, model.config) for key in stored}
    expected = {
        f"projector.{name}": tensor for name, tensor in model.projector.state_dict().items()
    }
    complaints = {
        key: _misfit(stored[key], expected[name]) for key, name in names.items() if name in expected
    }
    found = LoadReport(
        missing=tuple(sorted(set(expected) - set(names.values()))),
        unexpected=tuple(key for key, name in names.items() if name not in expected),
        mismatched={key: why for key, why in complaints.items() if why},
    )
    if found.problem:
        raise CheckpointError(
            f"{file} does not fit the projector {model.config.projector_type} of its base: {found.problem}"
        )
    with TensorReader(stored) as reader:
        for key, name in names.items():
            assert name is not None
            _place(model, name, cast(reader.read(key), dtype, key).to(device))
    return replace(report, notes=(*report.notes, f"projector from {file}"))


def projector_name(key: str, config: FastVLMConfig) -> str | None:
    """Our name of a tensor of a projector-only file, whatever stands before `mm_projector.` in its key."""
    _, found, rest = key.rpartition("mm_projector.")
    return key_map("apple", config).to_ours(f"model.mm_projector.{rest}") if found else None


def _shorten(kind: str, keys: tuple[str, ...] | list[str]) -> str | None:
    if not keys:
        return None
    more = f" and {len(keys) - _NUM_SHOWN} more" if len(keys) > _NUM_SHOWN else ""
    return f"{len(keys)} {kind}: {', '.join(keys[:_NUM_SHOWN])}{more}"
