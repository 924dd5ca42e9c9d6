"""A sheet of records as a person sees them: pictures, or three frames of a clip, above question and answer.

Written with the letters of Pillow's own font; those outside of Latin show as boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from fastvlm.data.check import evenly
from fastvlm.data.record import Record, RecordFile
from fastvlm.errors import DataError, FastVLMError
from fastvlm.messages import ImagePart, VideoOptions, VideoPart
from fastvlm.processing.image_file import open_image

_COLUMNS: Final = 4
_TILE_WIDTH: Final = 300
_MEDIA_HEIGHT: Final = 190
_TEXT_LINES: Final = 9
_LINE_HEIGHT: Final = 17
_GAP: Final = 12
_MAX_MEDIA: Final = 3
"""Thumbnails of one record."""
_INK, _GREY, _RED = (20, 20, 20), (110, 110, 110), (190, 20, 20)
_PAPER, _MAT = (255, 255, 255), (232, 234, 238)
_FONT_SIZE: Final = 13


def draw_contact_sheet(files: Sequence[RecordFile], *, num_records: int = 24) -> Image.Image:
    """Draw records, evenly taken from all files. A broken one shows its reason.

    Args:
        files: at least one.
        num_records: how many, 1 or more.
    """
    total = sum(map(len, files))
    places = list(evenly(total, num_records))
    num_rows = -(-len(places) // _COLUMNS)
    tile_height = _MEDIA_HEIGHT + (_TEXT_LINES + 1) * _LINE_HEIGHT
    sheet = Image.new(
        "RGB",
        (
            min(len(places), _COLUMNS) * (_TILE_WIDTH + _GAP) + _GAP,
            num_rows * (tile_height + _GAP) + _GAP,
        ),
        _PAPER,
    )
    for number, place in enumerate(places):
        row, column = divmod(number, _COLUMNS)
        corner = _GAP + column * (_TILE_WIDTH + _GAP), _GAP + row * (tile_height + _GAP)
        _draw_tile(sheet, corner, files, place)
    return sheet


def save_contact_sheet(files: Sequence[RecordFile], path: Path, *, num_records: int = 24) -> None:
    """Draw records and write them as PNG, at once or not at all.

    Raises:
        DataError: the path does not end in .png, or its folder does not exist.
    """
    check_sheet_path(path)
    sheet = draw_contact_sheet(files, num_records=num_records)
    partial = path.with_name(f".{path.name}.partial")
    sheet.save(partial, "PNG")
    partial.replace(path)


def check_sheet_path(path: Path) -> None:
    """Raise before any work if a sheet cannot be written there.

    Raises:
        DataError: the path does not end in .png, or its folder does not exist.
    """
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise DataError(
            f"the contact sheet {path} cannot be written; expected a .png in a folder that exists"
        )


def _draw_tile(
    sheet: Image.Image, corner: tuple[int, int], files: Sequence[RecordFile], place: int
) -> None:
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + _TILE_WIDTH - 1, top + _MEDIA_HEIGHT - 1), fill=_MAT)
    text_top = top + _MEDIA_HEIGHT + 4
    number = 0
    while place >= len(files[number]):
        place -= len(files[number])
        number += 1
    file = files[number]
    title = f"{Path(file.name).name}, record {place}"
    try:
        record = file[place]
        thumbnails = _thumbnails(record)
    except (FastVLMError, OSError) as err:
        _write(draw, (left, text_top), [(title, _GREY), (str(err), _RED)])
        return
    if thumbnails:
        width = (_TILE_WIDTH - (len(thumbnails) - 1) * 2) // len(thumbnails)
        for number, thumbnail in enumerate(thumbnails):
            thumbnail.thumbnail((width, _MEDIA_HEIGHT), Image.Resampling.BICUBIC)
            x = left + number * (width + 2) + (width - thumbnail.width) // 2
            sheet.paste(thumbnail, (x, top + (_MEDIA_HEIGHT - thumbnail.height) // 2))
    else:
        draw.text((left + 8, top + 8), "text only", _GREY, _font())
    num_more = len(record.media) - _MAX_MEDIA
    kind = "clip, " if any(isinstance(part, VideoPart) for part in record.media) else ""
    more = f", {num_more} more pictures or clips" if num_more > 0 else ""
    turns = [
        (f"{'A' if message.role == 'assistant' else 'Q'}: {message.text}", _INK)
        for message in record.messages
        if message.role != "system"
    ]
    _write(draw, (left, text_top), [(f"{kind}{title}{more}", _GREY), *turns])


def _thumbnails(record: Record) -> list[Image.Image]:
    """The first pictures of a record; of its only clip the first, middle and last frame."""
    media = record.media[:_MAX_MEDIA]
    if len(media) == 1 and isinstance(media[0], VideoPart):
        return _frames(media[0], 3)
    return [
        open_image(part.image) if isinstance(part, ImagePart) else _frames(part, 1)[0]
        for part in media
    ]


def _frames(part: VideoPart, count: int) -> list[Image.Image]:
    from fastvlm.processing.video import read_frames

    assert isinstance(part.video, str | Path | bytes)
    with read_frames(part.video, VideoOptions(num_frames=count)) as frames:
        return [frame.image for frame in frames]


def _write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    paragraphs: Sequence[tuple[str, tuple[int, int, int]]],
) -> None:
    """Write paragraphs one below the other, each a share of the lines that are left."""
    x, y = corner
    lines_left = _TEXT_LINES
    for number, (text, ink) in enumerate(paragraphs):
        share = max(lines_left // (len(paragraphs) - number), 1) if number else 1
        lines = _wrap(draw, text, min(max(share, 3 if number else 1), lines_left))
        for line in lines:
            draw.text((x, y), line, ink, _font())
            y += _LINE_HEIGHT
        lines_left -= len(lines)
        if lines_left <= 0:
            return


def _wrap(draw: ImageDraw.ImageDraw, text: str, max_lines: int) -> list[str]:
    """Break a text into lines that fit the tile; what does not fit ends in dots."""
    text = " ".join(text.split())[: 80 * max_lines]
    lines: list[str] = []
    while text and len(lines) < max_lines:
        fitting = len(text)
        while fitting > 1 and draw.textlength(text[:fitting], _font()) > _TILE_WIDTH:
            fitting -= max((fitting - 30) // 4, 1)
        if fitting < len(text) and (space := text.rfind(" ", 1, fitting + 1)) > 0:
            fitting = space
        lines.append(text[:fitting])
        text = text[fitting:].lstrip()
    if text:
        lines[-1] = f"{lines[-1][:-3]}..."
    return lines


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_SIZE)
