"""What a training run keeps on disk: where it stands, and every number needed to go on exactly there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastvlm.errors import CheckpointError, ConfigError

_STATE: Final = "state.safetensors"
_PLACE: Final = "state.json"
_RUN: Final = "run.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """What decides a run; written once, when it starts."""

    recipe: str
    """Name of the recipe."""
    steps_scale: float = 1.0
    """Factor on the samples of every stage."""
    num_workers: int = 1
    """Processes that share every batch."""
    device: str = "cpu"
    """Where the network is trained."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a run has come: the next step to do."""

    stage: int
    step: int


def write_settings(folder: Path, settings: RunSettings) -> None:
    """Start a run in an empty or new folder.

    Raises:
        ConfigError: the folder already holds a run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / _RUN).exists():
        raise ConfigError(
            f"{folder} already holds a training run; add --resume to go on with it, or choose another --output"
        )
    _write_json(folder / _RUN, asdict(settings))


def read_settings(folder: Path) -> RunSettings:
    """The settings a run was started with.

    Raises:
        ConfigError: no run in this folder.
    """
    try:
        return RunSettings(**json.loads((folder / _RUN).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as err:
        raise ConfigError(
            f"{folder} holds no training run that can be resumed ({err}); start one without --resume"
        ) from err


def save_state(
    folder: Path, place: Place, modules: nn.ModuleDict, optimizer: torch.optim.Optimizer
) -> None:
    """Write weights, running statistics, moments and place; a crash in between leaves the old state."""
    tensors = {f"modules.{name}": value for name, value in _unshared(modules).items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    partial = folder / f".{_STATE}.partial"
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        partial,
        # In the same file, so that place and numbers cannot come from different moments.
        metadata={"stage": str(place.stage), "step": str(place.step)},
    )
    partial.replace(folder / _STATE)
    _write_json(folder / _PLACE, asdict(place))


def has_state(folder: Path) -> bool:
    """Whether a state was written in this folder."""
    return (folder / _STATE).is_file()


def load_place(folder: Path) -> Place:
    """Where the saved state stands."""
    from safetensors import safe_open

    try:
        with safe_open(folder / _STATE, framework="pt") as file:
            metadata = file.metadata()
        return Place(int(metadata["stage"]), int(metadata["step"]))
    except (OSError, SafetensorError, KeyError, TypeError) as err:
        raise CheckpointError(f"{folder / _STATE} cannot be read: {err}") from err


def load_modules(folder: Path, modules: nn.ModuleDict) -> None:
    """Put the saved weights and running statistics into the modules.

    Raises:
        CheckpointError: the file is damaged or belongs to another network.
    """
    saved = _read(folder, "modules.")
    expected = _unshared(modules)
    if saved.keys() != expected.keys():
        differing = sorted(saved.keys() ^ expected.keys())[:5]
        raise CheckpointError(
            f"{folder / _STATE} belongs to another network: {', '.join(differing)} on one side only"
        )
    modules.load_state_dict(saved, strict=False)


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Put the saved moments into the optimizer; there are none where a stage has just begun."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _read(folder, "optimizer.").items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    if state:
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )


def _read(folder: Path, prefix: str) -> dict[str, Tensor]:
    try:
        tensors = load_file(folder / _STATE)
    except (OSError, SafetensorError) as err:
        raise CheckpointError(f"{folder / _STATE} cannot be read: {err}") from err
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _unshared(modules: nn.ModuleDict) -> dict[str, Tensor]:
    """The state dict with tied weights once."""
    seen: set[int] = set()
    kept: dict[str, Tensor] = {}
    for name, value in modules.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            kept[name] = value
    return kept


def _write_json(path: Path, document: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
