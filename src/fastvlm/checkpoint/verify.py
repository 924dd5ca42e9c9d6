"""Whether a checkpoint folder is whole: every named file there, every length right, every hash as recorded.

Reads headers and, if asked, hashes; loads no tensor and needs no torch. Whether the tensors fit the network is
decided by the strict loader.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastvlm.checkpoint.manifest import MANIFEST_NAME, read_manifest
from fastvlm.checkpoint.safetensors_header import read_safetensors_header
from fastvlm.errors import CheckpointError

SINGLE_NAME: Final = "model.safetensors"
INDEX_NAME: Final = f"{SINGLE_NAME}.index.json"
PROJECTOR_NAME: Final = "mm_projector.safetensors"
_LAYOUTS: Final = {"llava_qwen2": "apple", "fast_vlm": "hf"}
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class FileCheck:
    """What was found out about one file."""

    name: str
    size: int | None
    """Bytes; None if it is not there."""
    detail: str = ""
    """What was checked, for people."""
    problem: str | None = None
    """What is wrong, None if nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What was found out about a folder."""

    folder: Path
    layout: str | None
    """`apple`, `hf`, or None if config.json does not say."""
    checks: tuple[FileCheck, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that is wrong, with file names."""
        return tuple(f"{check.name}: {check.problem}" for check in self.checks if check.problem)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_folder(
    folder: Path,
    *,
    with_hashes: bool = True,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> VerifyReport:
    """Check a checkpoint folder of any published layout.

    Args:
        folder: with config.json, tokenizer files and safetensors.
        with_hashes: also read every byte and compare with the manifest of a pulled folder.
        on_bytes: told how many bytes were hashed so far.

    Returns:
        The report; what is wrong is in it and is not raised.

    Raises:
        CheckpointError: not a folder.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder; expected one with config.json and safetensors files"
        )
    layout, config_check = _check_config(folder)
    checks = [config_check, *_check_weights(folder)]
    if not _is_projector_only(folder):
        checks += _check_tokenizer(folder)
    checks += _check_manifest(folder, on_bytes if with_hashes else None)
    return VerifyReport(folder=folder, layout=layout, checks=_merge(checks))


def _merge(checks: list[FileCheck]) -> tuple[FileCheck, ...]:
    """One row per file."""
    merged: dict[str, FileCheck] = {}
    for check in checks:
        before = merged.get(check.name)
        if before is None:
            merged[check.name] = check
        else:
            merged[check.name] = FileCheck(
                name=check.name,
                size=check.size,
                detail=", ".join(filter(None, (before.detail, check.detail))),
                problem=before.problem or check.problem,
            )
    return tuple(merged.values())


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"holds {type(document).__name__}, expected a JSON object")
    return document


def _check_config(folder: Path) -> tuple[str | None, FileCheck]:
    path = folder / "config.json"
    size = _size(path)
    if size is None:
        return None, FileCheck(name=path.name, size=None, problem="missing")
    try:
        config = _read_object(path)
    except CheckpointError as error:
        return None, FileCheck(name=path.name, size=size, problem=str(error))
    model_type = config.get("model_type")
    layout = _LAYOUTS.get(str(model_type))
    if layout is None:
        problem = f"model_type is {model_type!r}, expected one of {', '.join(_LAYOUTS)}"
        return None, FileCheck(name=path.name, size=size, problem=problem)
    return layout, FileCheck(name=path.name, size=size, detail=f"layout {layout}")


def _check_tokenizer(folder: Path) -> list[FileCheck]:
    wanted = ["tokenizer.json"]
    if _size(folder / "tokenizer.json") is None and _size(folder / "vocab.json") is not None:
        wanted = ["vocab.json", "merges.txt"]
    return [
        FileCheck(name=name, size=size, detail="present")
        if (size := _size(folder / name))
        else FileCheck(name=name, size=size, problem="missing" if size is None else "empty")
        for name in wanted
    ]


def _is_projector_only(folder: Path) -> bool:
    """A folder that loads on top of a full model, and needs no tokenizer."""
    is_full = any(_size(folder / name) is not None for name in (SINGLE_NAME, INDEX_NAME))
    return not is_full and _size(folder / PROJECTOR_NAME) is not None


def _check_weights(folder: Path) -> list[FileCheck]:
    """The index and its shards, or the one file; other safetensors files are listed but not needed."""
    checks: list[FileCheck] = []
    expected: dict[str, set[str]] = {
        PROJECTOR_NAME if _is_projector_only(folder) else SINGLE_NAME: set()
    }
    if (index_size := _size(folder / INDEX_NAME)) is not None:
        try:
            expected = _read_index(folder / INDEX_NAME)
            detail = f"names {len(expected)} files"
            checks.append(FileCheck(name=INDEX_NAME, size=index_size, detail=detail))
        except CheckpointError as error:
            checks.append(FileCheck(name=INDEX_NAME, size=index_size, problem=str(error)))
    names = {path.name for path in folder.glob("*.safetensors")} | set(expected)
    return checks + [_check_shard(folder / name, expected.get(name)) for name in sorted(names)]


def _read_index(path: Path) -> dict[str, set[str]]:
    """Shard name -> tensors that the index promises in it."""
    weight_map = _read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("has no weight_map")
    shards: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or shard in {"", ".", ".."} or set(shard) & set("/\\:\0"):
            raise CheckpointError(f"names {shard!r} for tensor {tensor!r}, expected a file name")
        shards.setdefault(shard, set()).add(tensor)
    return shards


def _check_shard(path: Path, expected: set[str] | None) -> FileCheck:
    """One safetensors file; None for one that nothing asks for."""
    size = _size(path)
    if size is None:
        has_pickles = any(path.parent.glob("*.bin"))
        hint = "; `fastvlm models convert` turns the .bin files that are there into it"
        return FileCheck(name=path.name, size=None, problem=f"missing{hint if has_pickles else ''}")
    try:
        found = set(read_safetensors_header(path))
    except CheckpointError as error:
        reason = str(error).removeprefix(path.name).lstrip(": ")
        return FileCheck(name=path.name, size=size, problem=reason)
    detail = f"{len(found)} tensors{', not part of the model' if expected is None else ''}"
    if missing := sorted((expected or set()) - found):
        problem = f"{len(missing)} tensors of the index are not in it, e.g. {missing[0]!r}"
        return FileCheck(name=path.name, size=size, detail=detail, problem=problem)
    return FileCheck(name=path.name, size=size, detail=detail)


def _check_manifest(folder: Path, on_bytes: Callable[[int], None] | None) -> list[FileCheck]:
    """Compare with the manifest; hashes only if there is a listener."""
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        return [
            FileCheck(name=MANIFEST_NAME, size=_size(folder / MANIFEST_NAME), problem=str(error))
        ]
    if manifest is None:
        return []
    hashed = 0
    checks: list[FileCheck] = []
    for name, record in manifest.files.items():
        size = _size(folder / name)
        problem: str | None = None
        detail = ""
        if size is None:
            problem = "missing, the manifest names it"
        elif size != record.size:
            problem = f"has {size} bytes, the manifest says {record.size}"
        elif on_bytes is not None:
            found = _sha256(folder / name, hashed, on_bytes)
            hashed += size
            if found == record.sha256:
                detail = "SHA-256 right"
            else:
                problem = f"SHA-256 is {found}, the manifest says {record.sha256}"
        checks.append(FileCheck(name=name, size=size, detail=detail, problem=problem))
    return checks


def _sha256(path: Path, hashed_before: int, on_bytes: Callable[[int], None]) -> str:
    digest, done = hashlib.sha256(), hashed_before
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            on_bytes(done)
    return digest.hexdigest()
