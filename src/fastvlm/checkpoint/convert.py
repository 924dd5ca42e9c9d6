"""Checkpoint file to checkpoint file: between the layouts, from pickle, or into another dtype.

Works tensor by tensor, so a model needs the memory of its two largest tensors. Nothing is lost on the way: what the
other layout has no place for goes into `unused_tensors.safetensors` beside the weights, so that converting there
and back gives every tensor bit for bit.

This is the one place that opens pickle files, by `torch.load(weights_only=True)`, which runs no code of theirs.
"""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import torch
from torch import Tensor

from fastvlm.checkpoint.config_json import parse_config
from fastvlm.checkpoint.keymap import CLIP_HEAD, Layout, key_map
from fastvlm.checkpoint.load import (
    EMBEDDINGS,
    PROJECTOR_NAME,
    PROJECTOR_PICKLE_NAME,
    cast,
    match_tensors,
    settle_tying,
)
from fastvlm.checkpoint.save import (
    MAX_SHARD_BYTES,
    SIDE_FILE,
    clip_head,
    copy_files,
    new_folder,
    write_companions,
)
from fastvlm.checkpoint.shards import (
    CODES,
    DTYPES,
    PICKLE_NAME,
    PlannedTensor,
    StoredTensor,
    TensorReader,
    TensorSource,
    find_shards,
    has_weights,
    list_file,
    list_tensors,
    read_json,
    write_file,
    write_shards,
)
from fastvlm.config import FastVLMConfig
from fastvlm.errors import CheckpointError

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes written and the bytes in all."""


_UNPICKLING_ERRORS: Final = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What torch's unpickler raises on damaged files, found by flipping bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertReport:
    """What a conversion did.

    Attributes:
        source_layout: layout of the folder that was read.
        layout: layout of the folder that was written.
        num_tensors: tensors written, those in the side file not counted.
        num_bytes: their size.
        set_aside: keys of the tensors in `unused_tensors.safetensors`.
        files: names in the new folder.
        notes: what the user should know.
    """

    source_layout: Layout
    layout: Layout
    num_tensors: int
    num_bytes: int
    set_aside: tuple[str, ...]
    files: tuple[str, ...]
    notes: tuple[str, ...]


def convert_checkpoint(
    src: Path,
    dst: Path,
    *,
    layout: Layout,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
) -> ConvertReport:
    """Write a checkpoint folder again, in the layout that is asked for.

    Args:
        src: any folder that `load_model` takes, or one with `pytorch_model.bin`; a projector-only folder
            (`mm_projector.bin`) becomes one with `mm_projector.safetensors`.
        dst: must not exist or be empty, unless `overwrite`; it appears when all is written.
        layout: the layout to write; that of the source is fine.
        dtype: of all weights but counters; None keeps theirs.
        progress: called with the bytes written and the bytes in all.
        max_shard_bytes: largest weight file.
        overwrite: replace a folder that holds something.

    Raises:
        CheckpointError: the source is incomplete or damaged, or the target taken.
        ConfigError: the layout cannot describe this network.
    """
    src, dst = Path(src), Path(dst)
    if _is_projector_only(src):
        return _convert_projector(src, dst, layout=layout, dtype=dtype, overwrite=overwrite)
    with _open_weights(src) as weights:
        plan = _plan_conversion(src, weights, layout)
        own_dtype = dtype or DTYPES[plan.embeddings.dtype]
        with new_folder(dst, overwrite=overwrite) as staging:
            notes = write_companions(staging, plan.config, layout, dtype=own_dtype, source=src)
            head, head_notes = (
                (None, ())
                if CLIP_HEAD in plan.written
                else clip_head(plan.config, layout, own_dtype, source=None)
            )

            origin = plan.written | plan.aside

            def read(key: str) -> Tensor:
                if key == CLIP_HEAD and head is not None:
                    return head
                value = weights.source.read(origin[key].key)
                return cast(value, dtype, key) if dtype else value

            planned = [_planned(key, tensor, dtype) for key, tensor in plan.written.items()]
            if head is not None:
                planned.append(PlannedTensor(CLIP_HEAD, head.dtype, tuple(head.shape)))
            write_shards(staging, planned, read, max_shard_bytes=max_shard_bytes, progress=progress)
            aside = [_planned(key, tensor, dtype) for key, tensor in plan.aside.items()]
            if aside:
                write_file(staging / SIDE_FILE, aside, read)
    return ConvertReport(
        source_layout=plan.source_layout,
        layout=layout,
        num_tensors=len(planned),
        num_bytes=sum(tensor.num_bytes for tensor in planned),
        set_aside=tuple(plan.aside),
        files=tuple(sorted(path.name for path in dst.iterdir())),
        notes=(*plan.notes, *notes, *head_notes),
    )


@dataclass(frozen=True, slots=True)
class _Weights:
    """The tensors of a source folder, those of its side file apart, and what reads both."""

    stored: Mapping[str, StoredTensor]
    side: Mapping[str, StoredTensor]
    source: TensorSource


@dataclass(frozen=True, slots=True)
class _Plan:
    """What goes where: tensors of the source by their keys in the target."""

    config: FastVLMConfig
    source_layout: Layout
    written: dict[str, StoredTensor]
    aside: dict[str, StoredTensor]
    embeddings: StoredTensor
    notes: tuple[str, ...]


def _plan_conversion(src: Path, weights: _Weights, layout: Layout) -> _Plan:
    config_json = src / "config.json"
    config, source_layout = parse_config(
        read_json(config_json), where=config_json, keys=weights.stored
    )
    matched = match_tensors(weights.stored, config, source_layout)
    matched.report.raise_if_unexplained(src)
    # The output layer is written as it is stored; config.json has to say whether it is the embedding.
    config, report = settle_tying(matched, config, weights.source)
    keys, target_keys = key_map(source_layout, config), key_map(layout, config)
    written = {
        target_keys.to_layout(name): weights.stored[key] for key, name in matched.names.items()
    }
    aside: dict[str, StoredTensor] = {}
    ignored = {key: weights.stored[key] for key in matched.report.ignored_with_reason}
    for key, tensor in {**weights.side, **ignored}.items():
        key = keys.canonical(key)
        (written if target_keys.ignored_reason(key) else aside)[key] = tensor
    embeddings = written[target_keys.to_layout(EMBEDDINGS)]
    return _Plan(config, source_layout, written, aside, embeddings, report.notes)


def _planned(key: str, tensor: StoredTensor, dtype: torch.dtype | None) -> PlannedTensor:
    own = DTYPES.get(tensor.dtype)
    if own is None:
        raise CheckpointError(
            f"tensor {tensor.key!r} of {tensor.file.name} is {tensor.dtype}, which cannot be converted"
        )
    return PlannedTensor(key, dtype if dtype and own.is_floating_point else own, tensor.shape)


@contextmanager
def _open_weights(src: Path) -> Iterator[_Weights]:
    """The tensors of a folder, from safetensors where there are any, else from pickle."""
    if has_weights(src, PICKLE_NAME) and not has_weights(src):
        pickles = _PickleReader(find_shards(src, PICKLE_NAME))
        yield _Weights(pickles.stored, {}, pickles)
        return
    stored = list_tensors(src)
    side = list_file(src / SIDE_FILE) if (src / SIDE_FILE).is_file() else {}
    side = {key: tensor for key, tensor in side.items() if key not in stored}
    with TensorReader({**stored, **side}) as reader:
        yield _Weights(stored, side, reader)


class _PickleReader:
    """Tensors of `.bin` files; two files are open at a time, and mapped where their format allows.

    Two, because embedding and output layer are compared and lie in the first and the last one.
    """

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._opened: dict[Path, dict[str, Tensor]] = {}
        self.stored: dict[str, StoredTensor] = {}
        for file in files:
            for key, tensor in self._load(file).items():
                code = CODES.get(tensor.dtype, str(tensor.dtype))
                shape = tuple(tensor.shape)
                self.stored[key] = StoredTensor(key, file, code, shape, tensor.nbytes)

    def read(self, key: str) -> Tensor:
        return self._load(self.stored[key].file)[key]

    def is_equal(self, one: str, other: str) -> bool:
        return torch.equal(self.read(one), self.read(other))

    def _load(self, file: Path) -> dict[str, Tensor]:
        if file not in self._opened:
            if len(self._opened) > 1:
                del self._opened[next(iter(self._opened))]
            self._opened[file] = _unpickle(file)
        return self._opened[file]


def _unpickle(file: Path) -> dict[str, Tensor]:
    """The tensors of one pickle file.

    Raises:
        CheckpointError: the file is damaged, or holds anything but tensors by name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickle protocols; what cannot be read raises
            data = torch.load(  # noqa: TID251 -- weights_only: no code of the file runs
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
    except _UNPICKLING_ERRORS as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{file} cannot be opened as weights only: {reason}") from error
    if not isinstance(data, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in data.items()
    ):
        raise CheckpointError(f"{file} holds {type(data).__name__}; expected tensors by name")
    return data


def _is_projector_only(src: Path) -> bool:
    if has_weights(src) or has_weights(src, PICKLE_NAME):
        return False
    return (src / PROJECTOR_NAME).is_file() or (src / PROJECTOR_PICKLE_NAME).is_file()


@contextmanager
def _open_projector(src: Path) -> Iterator[_Weights]:
    if (src / PROJECTOR_NAME).is_file():
        stored = list_file(src / PROJECTOR_NAME)
        with TensorReader(stored) as reader:
            yield _Weights(stored, {}, reader)
    else:
        pickles = _PickleReader((src / PROJECTOR_PICKLE_NAME,))
        yield _Weights(pickles.stored, {}, pickles)


def _convert_projector(
    src: Path, dst: Path, *, layout: Layout, dtype: torch.dtype | None, overwrite: bool
) -> ConvertReport:
    """A folder with nothing but a projector, which goes on top of a full checkpoint when it is loaded."""
    if layout != "apple":
        raise CheckpointError(
            f"{src} holds only a projector, for which transformers has no place; use layout 'apple', or convert "
            "the full model"
        )
    with _open_projector(src) as weights:
        stored = weights.stored
        if strange := [key for key in stored if "mm_projector." not in key]:
            raise CheckpointError(
                f"{src} holds {len(strange)} tensors that are no projector's: {', '.join(strange[:10])}"
            )
        origin = {f"model.mm_projector.{key.rpartition('mm_projector.')[2]}": key for key in stored}
        planned = [_planned(key, stored[old], dtype) for key, old in origin.items()]

        def read(key: str) -> Tensor:
            value = weights.source.read(origin[key])
            return cast(value, dtype, key) if dtype else value

        with new_folder(dst, overwrite=overwrite) as staging:
            copy_files(src, staging, {"config.json"})
            write_file(staging / PROJECTOR_NAME, planned, read)
    return ConvertReport(
        source_layout="apple",
        layout=layout,
        num_tensors=len(planned),
        num_bytes=sum(tensor.num_bytes for tensor in planned),
        set_aside=(),
        files=tuple(sorted(path.name for path in dst.iterdir())),
        notes=(),
    )
