"""Any file of records by its path: `open_records` finds out what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TypeAlias

from fastvlm.data.json_file import JsonFile
from fastvlm.data.media import DEFAULT_VIDEO, MediaFolder
from fastvlm.data.parquet import ParquetFile
from fastvlm.data.record import Record, RecordFile
from fastvlm.data.webdataset import TarFile
from fastvlm.errors import DataError
from fastvlm.messages import VideoOptions

__all__ = ["KNOWN_FORMATS", "Record", "RecordFile", "open_records"]

KNOWN_FORMATS: Final = "a JSON list or JSON Lines of LLaVA, ShareGPT or messages records, a parquet file, or a WebDataset tar shard"
_Format: TypeAlias = Literal["list", "lines", "parquet", "tar"]
_BOM: Final = b"\xef\xbb\xbf"


def open_records(
    path: str | Path,
    *,
    media_folder: Path | None = None,
    video: VideoOptions | None = None,
) -> RecordFile:
    """Open a file of records, whatever its format; the content decides, not the name.

    A million records in a JSON list take seconds and 8 bytes each, since only their places are read.

    Args:
        path: the file.
        media_folder: where its pictures and clips are; by default the folder of the file.
        video: which frames of its clips are taken.

    Raises:
        DataError: no such file, no known format, or no records in it.
        MissingExtraError: a parquet file without pyarrow.

    Example:
        >>> records = open_records("train.json")  # doctest: +SKIP
        >>> records[17].messages[0].text  # doctest: +SKIP
        'What is on the table?'
    """
    path = Path(path)
    folder = MediaFolder.of_file(path, media_folder, video or DEFAULT_VIDEO)
    try:
        match _format_of(path):
            case "parquet":
                return ParquetFile(path, folder)
            case "tar":
                return TarFile(path, folder)
            case layout:
                return JsonFile(path, layout, folder)
    except OSError as err:
        raise DataError(f"{path}: {_reason(path, err)}") from err


def _format_of(path: Path) -> _Format:
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head[257:262] == b"ustar":
        return "tar"
    text = head.removeprefix(_BOM).lstrip()
    if text.startswith(b"["):
        return "list"
    if text.startswith(b"{") and text[1:].lstrip(b" \t\r")[:1] != b"\n":
        return "lines"
    if not head:
        found = "is empty"
    elif head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        found = "is compressed; unpack it first"
    elif head.startswith((b"\xff\xfe", b"\xfe\xff")):
        found = "is UTF-16; save it as UTF-8"
    elif text.startswith(b"{"):
        found = "is one object over several lines"
    elif not text:
        found = "begins with 4096 blanks"
    else:
        found = f"begins with {text[:12]!r}"
    raise DataError(f"{path} {found}; expected {KNOWN_FORMATS}")


def _reason(path: Path, err: OSError) -> str:
    if isinstance(err, FileNotFoundError):
        return "there is no such file"
    if path.is_dir():
        return f"is a folder; expected a file: {KNOWN_FORMATS}"
    return (err.strerror or str(err)).lower()
