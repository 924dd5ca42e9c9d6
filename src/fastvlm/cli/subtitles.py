"""Answers with times as SubRip (SRT) and WebVTT; https://www.w3.org/TR/webvtt1/ section 4. Pure functions on text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]")


@dataclass(frozen=True, slots=True)
class Cue:
    """Text that is shown from one time to another, in seconds."""

    start_s: float
    end_s: float
    text: str


def timecode(time_s: float, *, num_digits: int = 3, point: str = ".") -> str:
    """Seconds as 00:01:02.500, with 1 to 3 digits after the point; hours go on above 99."""
    units = round(time_s * 10**num_digits)
    seconds, fraction = divmod(units, 10**num_digits)
    return (
        f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        f"{point}{fraction:0{num_digits}}"
    )


def merge_equal(cues: Sequence[Cue]) -> list[Cue]:
    """Join cues of equal text that follow one another without a gap."""
    merged: list[Cue] = []
    for cue in cues:
        if merged and merged[-1].text == cue.text and cue.start_s <= merged[-1].end_s:
            merged[-1] = replace(merged[-1], end_s=cue.end_s)
        else:
            merged.append(cue)
    return merged


def to_srt(cues: Sequence[Cue]) -> str:
    """The text of an .srt file. It knows no escapes, so an arrow in a text is shortened to `->`."""
    blocks = [
        f"{number}\n{timecode(cue.start_s, point=',')} --> {timecode(cue.end_s, point=',')}\n"
        f"{cue.text.replace('-->', '->')}\n"
        for number, cue in enumerate(_shown(cues), start=1)
    ]
    return "\n".join(blocks)


def to_vtt(cues: Sequence[Cue]) -> str:
    """The text of a .vtt file; `&`, `<` and `>` are escaped, so an arrow in a text is only text."""
    blocks = [
        f"{timecode(cue.start_s)} --> {timecode(cue.end_s)}\n{_escaped(cue.text)}\n"
        for cue in _shown(cues)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _shown(cues: Sequence[Cue]) -> list[Cue]:
    """Cues that a player can show: with text, no blank lines (they would end the cue), and not over at once."""
    shown = []
    for cue in cues:
        lines = (" ".join(line.split()) for line in _CONTROL.sub("", cue.text).splitlines())
        if text := "\n".join(line for line in lines if line):
            shown.append(Cue(cue.start_s, max(cue.end_s, cue.start_s + 0.001), text))
    return shown
