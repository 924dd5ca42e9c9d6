from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from fastvlm.cli.subtitles import Cue, merge_equal, timecode, to_srt, to_vtt

texts = st.text(st.sampled_from("ab1<>&-\n\r\t\x00\x0b\u2028 \u00e9\u4f60"), max_size=30)
cues_of_any_text = st.lists(texts, max_size=6).map(
    lambda all_texts: [Cue(float(i), i + 1.0, text) for i, text in enumerate(all_texts)]
)


def test_srt_has_numbers_and_commas() -> None:
    assert to_srt([Cue(0, 1.5, "Rød."), Cue(3723.0004, 3724, "two\nlines")]) == (
        "1\n00:00:00,000 --> 00:00:01,500\nRød.\n\n2\n01:02:03,000 --> 01:02:04,000\ntwo\nlines\n"
    )


def test_vtt_has_a_header_and_escapes() -> None:
    assert to_vtt([Cue(0, 1, "a < b --> c & d")]) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na &lt; b --&gt; c &amp; d\n"
    )


def test_no_cues_are_still_a_file() -> None:
    assert to_vtt([]) == "WEBVTT\n"
    assert to_srt([]) == ""


def test_blank_lines_do_not_end_a_cue() -> None:
    assert to_srt([Cue(0, 1, "one\r\n \n\n two")]).endswith("\none\ntwo\n")


def test_empty_answers_have_no_cue_and_leave_no_number() -> None:
    srt = to_srt([Cue(0, 1, "a"), Cue(1, 2, " \n"), Cue(2, 3, "b")])
    assert re.findall(r"^\d$", srt, re.M) == ["1", "2"]


def test_cue_that_is_over_at_once_can_be_seen() -> None:
    assert "00:00:02.000 --> 00:00:02.001" in to_vtt([Cue(2, 2, "a")])


def test_timecodes_carry_when_rounded() -> None:
    assert timecode(59.9996) == "00:01:00.000"
    assert timecode(2, num_digits=1) == "00:00:02.0"
    assert timecode(100 * 3600, point=",") == "100:00:00,000"


@given(cues_of_any_text)
def test_every_block_of_an_srt_is_number_times_and_lines(cues: list[Cue]) -> None:
    blocks = to_srt(cues).split("\n\n") if to_srt(cues) else []
    for number, block in enumerate(blocks, start=1):
        first, times, *lines = block.removesuffix("\n").split("\n")
        assert first == str(number)
        assert re.fullmatch(r"\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}", times)
        assert lines
        assert all(line.strip() and "-->" not in line for line in lines)


@given(cues_of_any_text)
def test_every_block_of_a_vtt_is_times_and_escaped_lines(cues: list[Cue]) -> None:
    header, *blocks = to_vtt(cues).split("\n\n")
    assert header.strip() == "WEBVTT"
    for block in blocks:
        times, *lines = block.removesuffix("\n").split("\n")
        assert times.count(" --> ") == 1
        assert lines
        assert not any(set(line) & set("<>") or not line.strip() for line in lines)


def test_equal_cues_are_joined_unless_apart() -> None:
    cues = [Cue(0, 1, "a"), Cue(1, 2, "a"), Cue(2, 3, "b"), Cue(5, 6, "b")]
    assert merge_equal(cues) == [Cue(0, 2, "a"), Cue(2, 3, "b"), Cue(5, 6, "b")]
