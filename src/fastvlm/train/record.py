"""What a run writes down about itself: settings, parts, data, machine, and a line for every log event."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from fastvlm.config import FastVLMConfig
from fastvlm.data.sources import read_sources
from fastvlm.device import resolve_device
from fastvlm.errors import ConfigError, DataError
from fastvlm.machine import describe_machine
from fastvlm.train.parts import PartRow
from fastvlm.train.settings import Phase, as_plain, settings_from

RUN_FILE: Final = "run.json"
LOG_FILE: Final = "log.jsonl"


@dataclass(slots=True)
class RunRecord:
    """`run.json` and `log.jsonl` of a run folder."""

    folder: Path
    document: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, phases: tuple[Phase, ...]) -> RunRecord:
        """Begin a record, or go on with the one in the folder.

        A run that came to no phase, since a file was missing, say, makes room for another.

        Raises:
            ConfigError: the folder holds a run with other phases, or something that is no run.
        """
        file = folder / RUN_FILE
        if file.is_file():
            begun = read_phases(folder)
            document = json.loads(file.read_text(encoding="utf-8"))
            if begun == phases:
                return cls(folder, document)
            if any(folder.glob("phases/*/checkpoint-*")) or (folder / LOG_FILE).is_file():
                raise ConfigError(
                    f"{folder} holds a run with other settings; resume it, or give another --output"
                )
        elif folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder} is not empty and holds no run; give another --output")
        plain = [{"name": phase.name, **as_plain(phase.settings)} for phase in phases]
        document = {
            "model": phases[0].settings.model,
            "phases": plain,
            "recipe": plain[-1],
            "data": [_describe_file(path) for path in _data_files(phases)],
            "machine": describe_machine(resolve_device(phases[0].settings.device)),
            "fastvlm_version": version("fastvlm"),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        folder.mkdir(parents=True, exist_ok=True)
        record = cls(folder, document)
        record._write()
        return record

    def begin_phase(self, phase: Phase, parts: tuple[PartRow, ...], config: FastVLMConfig) -> None:
        """Note what a phase trains."""
        rows = [
            {
                "group": row.group,
                "parameters": row.parameters,
                "trained": row.trained,
                "learning_rate": row.learning_rate,
                "is_trained": row.trained > 0,
            }
            for row in parts
        ]
        self.document.setdefault("trainable_by_phase", {})[phase.name] = rows
        self.document["trainable"] = rows
        self.document["image_size"], self.document["image_mode"] = (
            config.image_size,
            config.image_mode,
        )
        self._write()

    def log(self, line: dict[str, Any]) -> None:
        """Append a line."""
        with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, phase: str, step: int) -> None:
        """Drop lines of steps that a resumed phase will do again."""
        file = self.folder / LOG_FILE
        if not file.is_file() or int(os.environ.get("RANK", "0")):
            return
        kept = []
        for text in file.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # a line cut by a kill
            if line.get("phase") != phase or line.get("step", 0) <= step:
                kept.append(text)
        staging = file.with_suffix(".new")
        staging.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")
        staging.replace(file)

    def _write(self) -> None:
        if int(os.environ.get("RANK", "0")):
            return
        staging = self.folder / f".{RUN_FILE}"
        staging.write_text(json.dumps(self.document, indent=2) + "\n", encoding="utf-8")
        staging.replace(self.folder / RUN_FILE)


def is_tuning_run(folder: Path) -> bool:
    """Whether a folder holds a tuning run; training from nothing has a `run.json` of its own kind."""
    try:
        return "phases" in json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def read_phases(folder: Path) -> tuple[Phase, ...]:
    """The phases that a run folder was started with.

    Raises:
        ConfigError: it holds no run.
    """
    file = folder / RUN_FILE
    if not file.is_file():
        raise ConfigError(f"{folder} holds no run; expected {RUN_FILE} in it")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))["phases"]
        return tuple(
            Phase(
                one["name"],
                settings_from({k: v for k, v in one.items() if k != "name"}, where=str(file)),
            )
            for one in stored
        )
    except (ValueError, KeyError, TypeError) as err:
        raise ConfigError(f"{file} cannot be read: {err}; start the run anew") from err


def _data_files(phases: Sequence[Phase]) -> list[Path]:
    """Every file that a phase reads, once."""
    names = [
        name for _, one in phases for name in (*one.data, *one.validation, *one.image_validation)
    ]
    return list(dict.fromkeys(source.path for source in read_sources(names)))


def _describe_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise DataError(f"{path} cannot be read: {err.strerror or err}") from err
    return {"file": str(path), "bytes": path.stat().st_size, "sha256": digest}
