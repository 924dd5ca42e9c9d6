"""A check finds what it should, in files with media that are really there, and lengths are those of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from record_files import clip, llava, picture, write_json

from fastvlm.checkpoint.config_json import read_config
from fastvlm.checkpoint.hub import resolve_model
from fastvlm.data.check import CheckReport, check_files, evenly
from fastvlm.data.contact_sheet import draw_contact_sheet, save_contact_sheet
from fastvlm.data.media_probe import MediaProbe
from fastvlm.data.records import open_records
from fastvlm.data.token_count import count_tokens
from fastvlm.errors import DataError
from fastvlm.messages import VideoOptions
from fastvlm.processing.processor import Processor
from fastvlm.processing.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def processor() -> Processor:
    folder = resolve_model("nano")
    tokenizer = Tokenizer.from_folder(folder)
    return Processor(read_config(folder)[0], tokenizer, trusts_videos=True)


def check(folder: Path, records: list[Any], **options: Any) -> CheckReport:
    return check_files([open_records(write_json(folder / "train.json", records))], **options)


def test_a_clean_file(tmp_path: Path, processor: Processor) -> None:
    picture(tmp_path / "a.png")
    clip(tmp_path / "c.mp4")
    records = [
        llava("<image>\nWhat color is it?", "Red.", image="a.png", id="1"),
        llava("<video>\nWhat happens?", "It gets brighter.", video="c.mp4", id="2"),
        llava("Hello?", "Hi."),
    ]
    report = check(tmp_path, records, processor=processor)
    assert report.problems == report.notes == {}
    assert (report.num_pictures, report.num_clips, report.num_text_only) == (1, 1, 1)
    assert report.files == ((str(tmp_path / "train.json"), 3, 3),)
    assert report.is_complete
    assert report.lengths is not None
    assert sum(count for _, count in report.lengths.bins) == 3


@pytest.mark.parametrize(
    "options",
    [
        VideoOptions(num_frames=4),
        VideoOptions(num_frames=16),
        VideoOptions(num_frames=3, frame_size=128, has_time_marks=True),
        VideoOptions(num_frames=8, sampling="fps", fps=5),
    ],
)
def test_lengths_are_those_of_training(
    options: VideoOptions, tmp_path: Path, processor: Processor
) -> None:
    clip(tmp_path / "c.mp4", num_frames=6)
    picture(tmp_path / "a.png")
    record = llava("Before <image> and\n<video>\nafter?", "Yes.", image="a.png", video="c.mp4")
    first = open_records(write_json(tmp_path / "a.json", [record]), video=options)[0]
    probe = MediaProbe(trusts_videos=True)
    expected = len(processor(first.messages, with_labels=True).input_ids)
    assert count_tokens(first, [probe(part) for part in first.media], processor) == expected


def test_every_kind_of_broken_record_is_counted_and_named(
    tmp_path: Path, processor: Processor
) -> None:
    data = picture(tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    records: list[Any] = [
        llava("<image>\nWhat?", image="good.png"),
        llava("<image>\nWhat?", image="gone.png"),
        llava("<image>\nWhat?", image="folder.png"),
        llava("<image>\nWhat?", image="cut.png"),
        llava("<video>\nWhat?", video="empty.mp4"),
        llava("<image>\n<image>\nWhat?", image="good.png"),
        llava("What?", ""),
        llava("What? " * 2000),
        {"conversations": [{"from": "gpt", "value": "Hi."}]},
        7,
        {"text": "Hi."},
    ]
    path = tmp_path / "train.jsonl"
    write_json(path, records)
    path.write_bytes(path.read_bytes() + b'{"conversations": [}\n')
    report = check_files([open_records(path)], processor=processor)
    assert {kind: found.count for kind, found in report.problems.items()} == {
        "missing media": 2,
        "broken media": 2,
        "markers": 1,
        "empty answer": 1,
        "too long": 1,
        "roles": 1,
        "schema": 3,
    }
    assert report.num_problems == 11
    assert report.problems["missing media"].examples[0] == (
        f"{path}, record 1: {tmp_path / 'gone.png'}: there is no such file"
    )
    assert report.problems["broken media"].examples[0].startswith(f"{path}, record 3: ")
    assert "tokens exceed max_length 2048" in report.problems["too long"].examples[0]
    assert all("\n" not in text for found in report.problems.values() for text in found.examples)


def test_duplicates_are_media_and_words_together(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", "red")
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    picture(tmp_path / "b.png", "blue")
    records = [
        llava("<image>\nWhat?", image="a.png"),
        llava("<image>\nWhat?", image="b.png"),
        llava("<image>\nWhat?", "Other.", image="a.png"),
        llava("<image>\nWhat?", image="copy.png"),
        llava("<image>\nWhat?", image="a.png"),
    ]
    report = check(tmp_path, records)
    name = tmp_path / "train.json"
    assert report.notes["duplicate"].count == 2
    assert report.notes["duplicate"].examples == [
        f"{name}, record 3: as {name}, record 0",
        f"{name}, record 4: as {name}, record 0",
    ]
    assert check(tmp_path, records, opens_media=False).notes["duplicate"].count == 1


def test_leaks_between_splits_are_found_by_content(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", "red")
    picture(tmp_path / "b.png", "blue")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "renamed.png").write_bytes((tmp_path / "a.png").read_bytes())
    train = [
        llava("<image>\nColor?", "Red.", image="a.png", id="t1"),
        llava("<image>\nColor?", "Blue.", image="b.png", id="t2"),
        llava("<image>\nDark?", "No.", image="a.png", id="t3"),
        llava("Same words?", "Yes.", id="t4"),
    ]
    val = [
        llava("<image>\nBright?", "Yes.", image="renamed.png", id="v1"),
        llava("Same words?", "Yes.", id="t2"),
    ]
    other = write_json(tmp_path / "val" / "val.json", val)
    report = check(tmp_path, train, other_split=[open_records(other)])
    assert report.problems["media in both splits"].count == 2
    assert report.problems["media in both splits"].examples[0] == (
        f"{tmp_path / 'train.json'}, record 0: also in {other}, record 0"
    )
    assert report.problems["in both splits"].count == 1
    assert report.notes["id in both splits"].examples == [
        f"{tmp_path / 'train.json'}, record 1: also in {other}, record 1"
    ]


def test_a_sample_is_spread_over_the_file(tmp_path: Path) -> None:
    assert list(evenly(10, 4)) == [0, 2, 5, 7]
    assert list(evenly(3, 9)) == [0, 1, 2]
    report = check(tmp_path, [llava(f"What is {i}?") for i in range(100)], max_records=7)
    assert report.files[0][1:] == (100, 7)
    assert not report.is_complete


def test_a_picture_is_opened_once(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    record = open_records(write_json(tmp_path / "a.json", [llava("What?", image="a.png")]))[0]
    probe = MediaProbe()
    assert probe(record.media[0]) == probe(record.media[0])
    assert (probe.num_opened, probe(record.media[0]).width) == (1, 60)


def test_the_contact_sheet_shows_pictures_and_frames(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (255, 0, 0), (300, 100))
    clip(tmp_path / "c.mp4")
    records = [
        llava("<image>\nColor?", "Red. " * 90, image="a.png"),
        llava("<video>\nWhat happens?", "It gets brighter.", video="c.mp4"),
        llava("Hello?", "x" * 500),
        llava("<image>\nColor?", image="gone.png"),
    ]
    file = open_records(write_json(tmp_path / "train.json", records))
    save_contact_sheet([file], tmp_path / "sheet.png", num_records=4)
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape[1] == 4 * 312 + 12
    assert tuple(sheet[12 + 95, 12 + 150]) == (255, 0, 0)
    middle = sheet[12 + 95]
    frames = [int(middle[12 + 312 + x, 0]) for x in (50, 150, 250)]
    assert frames == sorted(set(frames))  # brighter from the first to the last
    tile = sheet[12 + 190 :, 12 + 3 * 312 :]
    assert (tile[..., 0] > tile[..., 1].astype(int) + 100).any()  # the reason, in red
    assert draw_contact_sheet([file, file], num_records=1).size[0] == 312 + 12
    with pytest.raises(DataError, match=r"expected a .png in a folder that exists"):
        save_contact_sheet([file], tmp_path / "sheet.jpg")
