"""From the name of a model to a local folder: find it on disk, or fetch it when the user says so.

`resolve_model` never uses the network. `pull_model` builds the folder under a temporary name beside its place,
verifies it, and renames it: what stands at the final path is whole. Interrupted pulls go on where they stopped.
"""

from __future__ import annotations

import importlib.resources
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from fastvlm.checkpoint.catalogue import KNOWN_MODELS, ModelEntry, find_entry, require_entry
from fastvlm.checkpoint.download import Downloader
from fastvlm.checkpoint.manifest import ArchiveLock, read_manifest
from fastvlm.checkpoint.sources import PullListener, fill_from_archive, fill_from_repository
from fastvlm.checkpoint.verify import verify_folder
from fastvlm.errors import CheckpointError, DownloadError


class _Silent:
    def on_note(self, line: str) -> None:
        pass

    def on_progress(self, name: str, done: int, total: int) -> None:
        pass


def home_folder() -> Path:
    """Where pulled models live: FASTVLM_HOME, or `fastvlm` in the cache folder of the user."""
    if explicit := os.environ.get("FASTVLM_HOME"):
        return Path(explicit).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "fastvlm"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastvlm"


def pulled_folder(entry: ModelEntry) -> Path:
    """Where `pull_model` puts a model, whether or not it is there."""
    return home_folder() / "models" / entry.folder_name


def local_folder(entry: ModelEntry) -> Path | None:
    """The folder of a model that is on this disk already, None if it is not.

    Looks into the package, the pulled models and, for Hub names, the cache that huggingface_hub keeps.
    """
    if entry.source == "embedded":
        folder = Path(str(importlib.resources.files("fastvlm"))) / "assets" / entry.name
        return folder if (folder / "config.json").is_file() else None
    folder = pulled_folder(entry)
    if folder.is_dir():
        return folder
    return _hugging_face_cache(entry) if entry.source == "hub" else None


def list_pulled() -> tuple[ModelEntry, ...]:
    """Pulled models that are not in the catalogue, by name."""
    found: dict[str, ModelEntry] = {}
    known = {entry.folder_name for entry in KNOWN_MODELS}
    for folder in (home_folder() / "models").glob("[!.]*"):
        manifest = read_manifest(folder) if folder.name not in known else None
        if manifest is not None:
            entry = ModelEntry(name=manifest.name, source="hub", licence=manifest.licence)
            found[entry.name] = entry
    return tuple(found[name] for name in sorted(found))


def resolve_model(name_or_path: str | Path) -> Path:
    """The folder that a name or a path stands for. Never uses the network.

    A folder wins over a name; for a known name it must hold a config.json, so that a folder that happens to be
    called `nano` is not taken for the model.

    Example:
        >>> resolve_model("nano").name
        'nano'

    Raises:
        CheckpointError: no such folder or name, or the model is known but not on this disk.
    """
    name = str(name_or_path)
    path, kind = _on_disk(Path(name_or_path)) if name else (Path(), None)  # Path("") is "."
    entry = find_entry(name)
    if kind == "folder" and (entry is None or (path / "config.json").is_file()):
        return path
    if kind == "file":
        raise CheckpointError(f"{name} is a file; give the folder with config.json and the weights")
    entry = entry or require_entry(name)
    folder = local_folder(entry)
    if folder is not None:
        return folder
    if entry.source == "embedded":
        raise CheckpointError(
            f"the embedded model {entry.name!r} is missing; install fastvlm again"
        )
    raise CheckpointError(
        f"{entry.name} is not on this disk; fetch it with `fastvlm models pull {name}`"
    )


def _on_disk(path: Path) -> tuple[Path, Literal["folder", "file"] | None]:
    try:
        path = path.expanduser()
        mode = path.stat().st_mode
    except (OSError, ValueError, RuntimeError):  # not there, no possible path, no such user
        return path, None
    return path, "folder" if stat.S_ISDIR(mode) else "file"


def _hugging_face_cache(entry: ModelEntry) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(entry.name, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    # Other programs fetch single files: a config alone is no model.
    return folder if verify_folder(folder, with_hashes=False).is_whole else None


def pull_model(
    name: str, *, listener: PullListener | None = None, downloader: Downloader | None = None
) -> Path:
    """Fetch a model by name, verify it, and return its folder.

    A model that is there and whole is not fetched again. A second process that pulls the same model waits for
    the first one. After an interruption the next call goes on with what arrived.

    Args:
        name: a name or alias of the catalogue, or any `owner/repository` of the Hub.
        listener: told the licence before the download starts, and the progress.
        downloader: another patience than the usual one.

    Raises:
        CheckpointError: unknown name, or what was fetched is no FastVLM checkpoint.
        DownloadError: the network, the server or the disk failed; nothing is at the final path.
    """
    entry = require_entry(name)
    listener = listener or _Silent()
    if entry.source == "embedded":
        listener.on_note(f"{entry.name} comes with the package")
        return resolve_model(entry.name)
    target = pulled_folder(entry)
    with _alone(entry, listener):
        if target.is_dir():
            report = verify_folder(target, with_hashes=False)
            if report.is_whole:
                listener.on_note(f"{entry.name} is on this disk already")
                return target
            listener.on_note(f"{target} is damaged ({report.problems[0]}); fetching it again")
        _refuse_offline(entry)
        staging = target.with_name(f".{target.name}.partial")
        agent = f"fastvlm/{version('fastvlm')}"
        try:
            with nullcontext(downloader) if downloader else Downloader(user_agent=agent) as client:
                _fill(entry, staging, listener, client)
            _publish(staging / "files", target)
        except OSError as error:
            raise DownloadError(
                f"{entry.name} cannot be written: {error.strerror or error} ({error.filename or staging}); "
                "what arrived is kept, run the same command again to resume"
            ) from error
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _fill(entry: ModelEntry, staging: Path, listener: PullListener, client: Downloader) -> None:
    if entry.source == "hub":
        fill_from_repository(entry, staging, listener=listener, downloader=client)
    else:
        lock = ArchiveLock(home_folder() / "archives.lock.json")
        fill_from_archive(entry, staging, lock=lock, listener=listener, downloader=client)


@contextmanager
def _alone(entry: ModelEntry, listener: PullListener) -> Iterator[None]:
    """Hold the lock of one model; wait for another process that has it."""
    folder = home_folder() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be made ({error.strerror or error}); set FASTVLM_HOME to a folder of yours"
        ) from error
    lock = FileLock(folder / f"{entry.folder_name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        listener.on_note(f"another process is fetching {entry.name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _refuse_offline(entry: ModelEntry) -> None:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        raise DownloadError(f"{entry.name} cannot be fetched while HF_HUB_OFFLINE is set")


def _publish(files: Path, target: Path) -> None:
    """Put a verified folder in its place; a damaged one that stands there goes first."""
    old = target.with_name(f".{target.name}.damaged")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    files.rename(target)
    shutil.rmtree(old, ignore_errors=True)
