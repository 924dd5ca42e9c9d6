"""The models this package knows by name, where they come from, and under which licence.

Plain data: nothing here reads a file or the network. `hub.py` finds and fetches what is listed here.
Apple's archives: apple/ml-fastvlm `get_models.sh` (commit 592b4ad). Native ports: the repositories that the
transformers documentation of `fast_vlm` names.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Final, Literal

from fastvlm.errors import CheckpointError

ARCHIVE_ENDPOINT: Final = "https://ml-site.cdn-apple.com/datasets/fastvlm"
"""Folder of Apple's zip files; the environment variable FASTVLM_ARCHIVE_ENDPOINT names a mirror."""

_APPLE_LICENCE: Final = (
    "Apple Machine Learning Research Model licence: research only, no commercial use "
    "(https://github.com/apple/ml-fastvlm/blob/main/LICENSE_MODEL)"
)
_APPLE_LABEL: Final = "apple-amlr, research only"
_NANO_LICENCE: Final = "Apache-2.0: trained from scratch by this package, comes with it"

# The Hub's own rule for repository names; it also forbids ".." and "--", which keeps `folder_name` one to one.
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEntry:
    """One model that can be named instead of a folder."""

    name: str
    """Full name: `nano`, `owner/repository` on the Hub, or the stem of one of Apple's zip files."""
    source: Literal["embedded", "hub", "archive"]
    """Part of the package, a repository of the Hugging Face Hub, or one of Apple's zip files."""
    licence: str | None = None
    """One line shown before a download; None for a Hub name outside the table, whose page states it."""
    licence_label: str | None = None
    """Its short form, for tables."""
    approximate_bytes: int | None = None
    """Size of the weights, from parameter counts; the server states the exact one."""
    aliases: tuple[str, ...] = ()
    """Other names for it, lower case."""

    @property
    def folder_name(self) -> str:
        """Name of the folder that `fastvlm models pull` fills."""
        return self.name.replace("/", "--")


def _known_models() -> tuple[ModelEntry, ...]:
    # bf16 bytes with the output layer stored, as published.
    sizes = {"0.5b": 1_518_000_000, "1.5b": 3_819_000_000, "7b": 15_530_000_000}
    nano = ModelEntry(
        name="nano", source="embedded", licence=_NANO_LICENCE, licence_label="Apache-2.0"
    )
    entries = [nano]
    for owner in ("apple", "KamilaMila"):
        entries += [
            ModelEntry(
                name=f"{owner}/FastVLM-{size.upper()}",
                source="hub",
                licence=_APPLE_LICENCE,
                licence_label=_APPLE_LABEL,
                approximate_bytes=num_bytes,
                aliases=(size,) if owner == "apple" else (),
            )
            for size, num_bytes in sizes.items()
        ]
    entries += [
        ModelEntry(
            name=f"llava-fastvithd_{size}_stage{stage}",
            source="archive",
            licence=_APPLE_LICENCE,
            licence_label=_APPLE_LABEL,
            approximate_bytes=num_bytes,
        )
        for size, num_bytes in sizes.items()
        for stage in (2, 3)
    ]
    return tuple(entries)


KNOWN_MODELS: Final = _known_models()


def find_entry(name: str) -> ModelEntry | None:
    """The entry of a known model or alias in any case, or one made up for any other `owner/repository`."""
    wanted = name.lower()
    for entry in KNOWN_MODELS:
        if wanted == entry.name.lower() or wanted in entry.aliases:
            return entry
    if _HUB_NAME.fullmatch(name) and ".." not in name and "--" not in name:
        return ModelEntry(name=name, source="hub")
    return None


def require_entry(name: str) -> ModelEntry:
    """Like `find_entry`, but an unknown name is an error.

    Raises:
        CheckpointError: neither a known name nor of the form `owner/repository`; names the nearest ones.
    """
    entry = find_entry(name)
    if entry is not None:
        return entry
    names = {
        known.lower(): known for entry in KNOWN_MODELS for known in (entry.name, *entry.aliases)
    }
    near = [names[match] for match in difflib.get_close_matches(name.lower(), names, n=3)]
    hint = f"did you mean {' or '.join(near)}?" if near else "`fastvlm models list` shows the names"
    raise CheckpointError(
        f"{name!r} is neither a folder, nor a known model, nor a Hub name like owner/repository; {hint}"
    )
