"""Take a model out of a zip file that is not trusted.

Every name, kind and size is checked from the directory of the archive before the first byte is written. The
model is the one folder with a config.json; its plain files are written, nothing else.
"""

from __future__ import annotations

import hashlib
import re
import stat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from fastvlm.checkpoint.partial_body import FileRecord
from fastvlm.errors import DownloadError

_CHUNK_BYTES: Final = 1 << 20
_MAX_MEMBERS: Final = 1000
_MAX_EXPANSION: Final = 20
"""Weights hardly compress and JSON does about tenfold; an archive that grows more than this is a bomb."""
_ALWAYS_ALLOWED_BYTES: Final = 64 << 20
_SAFE_PART: Final = re.compile(r"[\w.+@()-]+(?: [\w.+@()-]+)*")
_WINDOWS_DEVICES: Final = re.compile(
    r"(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³])(\..*)?", re.IGNORECASE
)
_WEIGHTS_AND_TEXTS: Final = (".safetensors", ".json", ".txt", ".md", ".jinja")
_TEXTS_WITHOUT_SUFFIX: Final = ("license", "notice", "readme")
_USELESS: Final = ("trainer_state.json",)


def is_model_file(name: str) -> bool:
    """Whether a file of a published model is of use here: weights as safetensors, JSON and texts.

    Python code and pickles (`.py`, `.bin`, `.pt`) are of no use because they are never run or unpickled.
    """
    name = name.lower()
    if name in _USELESS:
        return False
    return name.endswith(_WEIGHTS_AND_TEXTS) or name.startswith(_TEXTS_WITHOUT_SUFFIX)


def safe_parts(name: str) -> tuple[str, ...]:
    """Split a relative path that came from outside; it stays below its folder on every system.

    Raises:
        DownloadError: absolute, with `..`, drive, backslash, control characters, or a name Windows reserves.
    """
    parts = tuple(name.removesuffix("/").split("/"))
    for part in parts:
        is_plain = _SAFE_PART.fullmatch(part) and not part.endswith(".")
        if not is_plain or _WINDOWS_DEVICES.fullmatch(part):
            raise DownloadError(
                f"file name {name!r} is not a plain relative path; refused, nothing was unpacked or fetched"
            )
    return parts


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchivePlan:
    """What will be taken out of an archive."""

    members: dict[str, zipfile.ZipInfo]
    """File name in the model folder -> member."""
    left_out: tuple[str, ...]
    """Members that are of no use, with their path in the archive."""

    @property
    def total_bytes(self) -> int:
        """Bytes on disk after unpacking."""
        return sum(member.file_size for member in self.members.values())


def plan_unpacking(archive: Path) -> ArchivePlan:
    """Check every member of a zip file and choose those that make up the model.

    Raises:
        DownloadError: not a zip file, damaged, a member that is unsafe, a bomb, or not exactly one config.json.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DownloadError(f"{archive.name} is not a readable zip file: {error}") from error
    if len(members) > _MAX_MEMBERS:
        raise DownloadError(
            f"{archive.name} has {len(members)} members, expected at most {_MAX_MEMBERS}"
        )
    seen: set[str] = set()
    for member in members:
        _check_member(archive.name, member, seen)
    _check_expansion(archive, members)

    paths = {PurePosixPath(*safe_parts(member.filename)): member for member in members}
    roots = [path.parent for path in paths if path.name == "config.json" and len(path.parts) <= 2]
    if len(roots) != 1:
        raise DownloadError(
            f"{archive.name} has {len(roots)} config.json near its top, expected one model"
        )
    taken: dict[str, zipfile.ZipInfo] = {}
    left_out: list[str] = []
    for path, member in paths.items():
        if member.is_dir():
            continue
        if path.parent == roots[0] and is_model_file(path.name):
            taken[path.name] = member
        else:
            left_out.append(str(path))
    return ArchivePlan(members=taken, left_out=tuple(left_out))


def _check_member(archive: str, member: zipfile.ZipInfo, seen: set[str]) -> None:
    # orig_filename: zipfile cuts a name at a NUL and turns the separators of this system into slashes.
    safe_parts(member.orig_filename)
    folded = member.filename.lower().removesuffix("/")
    if folded in seen:
        raise DownloadError(f"{archive} holds {member.filename!r} twice; refused")
    seen.add(folded)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DownloadError(f"{archive}: {member.filename!r} is a link or a device; refused")
    if member.flag_bits & 0x1:
        raise DownloadError(
            f"{archive}: {member.filename!r} is encrypted; expected a plain zip file"
        )


def _check_expansion(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    packed = archive.stat().st_size
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(_ALWAYS_ALLOWED_BYTES, _MAX_EXPANSION * packed):
        raise DownloadError(
            f"{archive.name} would grow from {packed} to {unpacked} bytes, more than {_MAX_EXPANSION} times; refused"
        )


def unpack(
    archive: Path,
    plan: ArchivePlan,
    destination: Path,
    *,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> dict[str, FileRecord]:
    """Write the planned members into a folder that has none of them yet.

    Args:
        archive: the zip file.
        plan: from `plan_unpacking` on the same file.
        destination: an existing folder.
        on_bytes: told the bytes written so far.

    Returns:
        Size and hash of each file written.

    Raises:
        DownloadError: a member is damaged or longer than its entry says.
        OSError: the disk failed.
    """
    records: dict[str, FileRecord] = {}
    num_bytes = 0
    try:
        with zipfile.ZipFile(archive) as opened:
            for name, member in plan.members.items():
                digest, size = hashlib.sha256(), 0
                with opened.open(member) as source, (destination / name).open("xb") as target:
                    while chunk := source.read(_CHUNK_BYTES):  # raises on a wrong CRC
                        target.write(chunk)
                        digest.update(chunk)
                        size += len(chunk)
                        on_bytes(num_bytes + size)
                num_bytes += size
                if size != member.file_size:
                    raise DownloadError(
                        f"{archive.name}: {name} unpacks to {size} bytes, its entry says {member.file_size}"
                    )
                records[name] = FileRecord(size=size, sha256=digest.hexdigest())
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DownloadError(f"{archive.name} is damaged: {error}") from error
    return records
