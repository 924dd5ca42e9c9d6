"""Every format gives the same records; what cannot be used is one line that names file and record."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from record_files import llava, picture, shown, write_json

from fastvlm.data.records import Record, open_records
from fastvlm.errors import DataError
from fastvlm.messages import ImagePart, TextPart, VideoOptions, VideoPart


def only_record(folder: Path, record: dict[str, Any], **options: Any) -> Any:
    return open_records(write_json(folder / "train.json", [record]), **options)[0]


def sources(record: Record) -> tuple[object, ...]:
    return tuple(part.image for part in record.media if isinstance(part, ImagePart))


# LLaVA: markers and media.


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("<image>\nWhat is this?", ["image a.jpg", "What is this?"]),
        ("What is this?\n<image>", ["image a.jpg", "What is this?"]),
        ("  Look: <image> what is it? ", ["image a.jpg", "Look:  what is it?"]),
        ("<image>", ["image a.jpg"]),
        ("What is this?", ["image a.jpg", "What is this?"]),
    ],
)
def test_one_picture_comes_first_as_in_the_reference(
    question: str, expected: list[str], tmp_path: Path
) -> None:
    record = only_record(tmp_path, llava(question, image="a.jpg"))
    assert shown(record.messages[0].content) == expected
    assert sources(record) == (tmp_path / "a.jpg",)
    assert record.messages[1].text == "A cat."


def test_several_pictures_keep_their_places(tmp_path: Path) -> None:
    question = "Compare <image>\nwith <image>.\nWhich is larger?"
    record = only_record(tmp_path, llava(question, image=["a.jpg", "b.jpg"]))
    assert shown(record.messages[0].content) == [
        "Compare ", "image a.jpg", "with ", "image b.jpg", ".\nWhich is larger?",
    ]  # fmt: skip


def test_pictures_of_later_turns_stay_in_their_turns(tmp_path: Path) -> None:
    turns = [("human", "<image>\nA?"), ("gpt", "a"), ("human", "And <image> this?"), ("gpt", "b")]
    record = only_record(
        tmp_path,
        {
            "images": ["a.jpg", "b.jpg"],
            "conversations": [{"from": f, "value": v} for f, v in turns],
        },
    )
    assert [shown(message.content) for message in record.messages] == [
        ["image a.jpg", "A?"], ["a"], ["image b.jpg", "And  this?"], ["b"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "question", "expected"),
    [
        ({"video": "c.mp4"}, "<video>\nWhat?", ["video c.mp4", "What?"]),
        ({"video": "c.mp4"}, "<image>\nWhat?", ["video c.mp4", "What?"]),
        ({"image": "c.MOV"}, "<image>\nWhat?", ["video c.MOV", "What?"]),
        ({"image": "c.mkv"}, "<video>\nWhat?", ["video c.mkv", "What?"]),
        (
            {"image": ["a.jpg", "c.mp4"]},
            "<image>\n<image>\nWhat?",
            ["image a.jpg", "video c.mp4", "What?"],
        ),
        (
            {"image": "a.jpg", "video": ["c.mp4", "d.mp4"]},
            "<video>\n<image>\n<video>\nWhat?",
            ["video c.mp4", "image a.jpg", "video d.mp4", "What?"],
        ),
    ],
)
def test_clips(fields: dict[str, Any], question: str, expected: list[str], tmp_path: Path) -> None:
    options = VideoOptions(num_frames=4)
    record = only_record(tmp_path, llava(question, **fields), video=options)
    assert shown(record.messages[0].content) == expected
    assert {part.options for part in record.media if isinstance(part, VideoPart)} == {options}


def test_text_alone_and_a_system_turn(tmp_path: Path) -> None:
    record = only_record(tmp_path, llava("Hi?", system="Be brief.", id=7))
    assert [(m.role, m.text) for m in record.messages] == [
        ("system", "Be brief."), ("user", "Hi?"), ("assistant", "A cat."),
    ]  # fmt: skip
    assert record.id == "7"
    assert record.media == ()


@pytest.mark.parametrize(
    ("record", "kind", "message"),
    [
        (llava("<image>\n<image>\nWhat?", image="a.jpg"), "markers", "2 <image> and 0 <video> markers, but it names 1 pictures and 0 clips"),
        (llava("<image>\nWhat?"), "markers", "1 <image> .* names 0 pictures"),
        (llava("<video>\nWhat?", image="a.jpg"), "markers", "0 <image> and 1 <video> markers, but it names 1"),
        (llava("What?", "See <image>", image="a.jpg"), "markers", r"turn 1 \(assistant\) holds <image>"),
        (llava("What?", "  \n"), "empty answer", r"turn 1 \(assistant\) is an empty answer"),
        (llava("What?", None), "empty answer", "turn 1 has a value of type NoneType"),  # type: ignore[arg-type]
        (llava(" "), "roles", r"turn 0 \(user\) is empty"),
        ({"conversations": [{"from": "gpt", "value": "Hi"}]}, "roles", "its turns are assistant; expected user and"),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, "roles", "its turns are user; expected"),
        ({"conversations": []}, "roles", "its turns are none"),
        ({"conversations": [{"from": "bot", "value": "Hi"}]}, "roles", "is from 'bot'; expected one of human"),
        ({"conversations": "Hi"}, "schema", "'conversations' is str; expected a list"),
        ({"conversations": [{"role": "user"}]}, "schema", "turn 0 is role; expected the keys from and value"),
        ({"question": "Hi", "answer": "Ho"}, "schema", "has the fields question, answer; expected conversations"),
        (llava("What?", image=7), "media", "its image is 7; expected a path"),
        (llava("What?", image="https://example.org/a.jpg"), "media", "is an address; nothing is fetched"),
        (llava("What?", image="../a.jpg"), "media", "is outside of"),
        (llava("What?", image="b/../../a.jpg"), "media", "is outside of"),
        (llava("What?", video="a.jpg"), "media", "its video 'a.jpg' is a picture"),
        (llava("What?", image="a\0.jpg"), "media", "no possible path"),
    ],
)  # fmt: skip
def test_unusable_records(record: dict[str, Any], kind: str, message: str, tmp_path: Path) -> None:
    path = write_json(tmp_path / "train.json", [llava("Hi?"), record])
    with pytest.raises(DataError, match=message) as caught:
        open_records(path)[1]
    assert str(caught.value).startswith(f"{path}, record 1: ")
    assert caught.value.kind == kind
    assert pickle.loads(pickle.dumps(caught.value)).kind == kind  # as worker processes send it


# Messages.


def test_messages_with_parts(tmp_path: Path) -> None:
    content = [
        {"type": "text", "text": "Is <image> in "},
        {"type": "image", "image": "a.jpg"},
        {"type": "video", "path": "c.mp4"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "?"},
    ]
    answer = {"role": "assistant", "content": "<video>"}
    record = only_record(tmp_path, {"messages": [{"role": "user", "content": content}, answer]})
    assert shown(record.messages[0].content) == [
        "Is <image> in ", "image a.jpg", "video c.mp4", "image str", "?",
    ]  # fmt: skip
    assert record.messages[1].text == "<video>"


def test_messages_take_pictures_from_columns(tmp_path: Path) -> None:
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Same?"}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "No."}]}
    record = {
        "messages": [{"role": "user", "content": parts}, answer],
        "images": ["a.jpg", "b.jpg"],
    }
    assert shown(only_record(tmp_path, record).messages[0].content) == [
        "image a.jpg", "image b.jpg", "Same?",
    ]  # fmt: skip
    with pytest.raises(DataError, match="none is left under 'images'"):
        only_record(tmp_path, record | {"images": ["a.jpg"]})
    with pytest.raises(DataError, match="1 of its pictures and 0 of its clips have no part"):
        only_record(tmp_path, record | {"images": ["a.jpg", "b.jpg", "c.jpg"]})


def test_messages_with_markers_in_plain_text(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "<image>Who?"}, {"role": "assistant", "content": "Me."}]
    record = only_record(tmp_path, {"messages": turns, "images": ["a.jpg"]})
    assert shown(record.messages[0].content) == ["image a.jpg", "Who?"]
    with pytest.raises(DataError, match=r"1 <image> .* names 0 pictures"):
        only_record(tmp_path, {"messages": turns})


# Where media are.


def test_media_folder_confines_absolute_paths(tmp_path: Path) -> None:
    inside, outside = tmp_path / "media" / "a.jpg", tmp_path / "b.jpg"
    record = llava("What?", image=[str(inside), str(outside)])
    assert shown(only_record(tmp_path, record).messages[0].content[:2]) == [
        "image a.jpg",
        "image b.jpg",
    ]
    inside.parent.mkdir()
    with pytest.raises(DataError, match=r"b.jpg' is outside of .*media"):
        only_record(tmp_path, record, media_folder=inside.parent)
    named = only_record(tmp_path, llava("What?", image="x/a.jpg"), media_folder=inside.parent)
    assert sources(named) == (inside.parent / "x" / "a.jpg",)
    with pytest.raises(DataError, match=r"media folder .* does not exist"):
        only_record(tmp_path, record, media_folder=tmp_path / "nowhere")


# Containers.


def test_json_lines_equal_the_list(tmp_path: Path) -> None:
    records = [llava(f"<image>\nWhat is {i}?", image=f"{i}.jpg", id=i) for i in range(5)]
    as_list = open_records(write_json(tmp_path / "a.json", records))
    as_lines = open_records(write_json(tmp_path / "b.jsonl", records))
    assert [r.messages for r in map(as_list.__getitem__, range(5))] == [
        r.messages for r in map(as_lines.__getitem__, range(5))
    ]


def test_parquet_of_llava_records(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.png").read_bytes()
    rows = [
        llava("<image>\nWhat?", f"Answer {i}", id=str(i), image={"bytes": data, "path": None})
        for i in range(7)
    ]
    rows[3]["image"] = {"bytes": None, "path": "a.png"}
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    file = pickle.loads(pickle.dumps(open_records(path)))
    assert len(file) == 7
    assert [file[i].messages[1].text for i in (6, 0, 5, 2)] == [
        "Answer 6", "Answer 0", "Answer 5", "Answer 2",
    ]  # fmt: skip
    assert file[2].messages[0].content == (ImagePart(data), TextPart("What?"))
    assert sources(file[3]) == (tmp_path / "a.png",)


def test_parquet_of_messages_with_null_fields(tmp_path: Path) -> None:
    user = [
        {"type": "image", "text": None, "image": None},
        {"type": "text", "text": "Who?", "image": None},
    ]
    answer = [{"type": "text", "text": "Me.", "image": None}]
    rows = [
        {
            "messages": [
                {"role": "user", "content": user},
                {"role": "assistant", "content": answer},
            ],
            "images": [{"bytes": b"abc", "path": "x.jpg"}],
        }
    ]
    path = tmp_path / "any_name"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert open_records(path)[0].messages[0].content == (ImagePart(b"abc"), TextPart("Who?"))


def test_other_parquet_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), path)
    with pytest.raises(DataError, match="has the columns question, answer; expected messages"):
        open_records(path)
    path.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(DataError, match="no parquet file that can be read"):
        open_records(path)


def tar_shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_tar_shard(tmp_path: Path) -> None:
    jpeg = picture(tmp_path / "a.jpg").read_bytes()
    two = json.dumps(llava("<image>\n<image>\nSame?", "No.", id="b7", image=["x/1.jpg", "x/2.jpg"]))
    shard = tar_shard(
        tmp_path / "shard-000.tar",
        {
            "s/0000.jpg": jpeg, "s/0000.txt": b"A red field.\n", "s/0000.json": b'{"url": "?"}',
            "s/0001.0.jpg": b"first", "s/0001.1.png": b"second", "s/0001.json": two.encode(),
            "s/0002.mp4": b"clip", "s/0002.json": json.dumps(llava("<video>\nWhat?")).encode(),
            "s/0003.jpg": jpeg,
        },
    )  # fmt: skip
    file = open_records(shard)
    assert len(file) == 4
    assert [(m.role, m.content) for m in file[0].messages] == [
        ("user", (ImagePart(jpeg),)),
        ("assistant", (TextPart("A red field."),)),
    ]
    assert file[0].id == "s/0000"
    assert sources(file[1]) == (b"first", b"second")
    assert file[1].id == "b7"
    assert file[2].messages[0].content[0] == VideoPart(b"clip")
    with pytest.raises(DataError, match=r"record 3 \(s/0003\): has neither a .json nor a .txt"):
        file[3]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"id,question\n", "begins with b'id,question"),
        (b"\x1f\x8b\x08\x00", "is compressed; unpack it first"),
        (b"\xff\xfe[\x00", "is UTF-16"),
        (b'{\n "data": []\n}', "is one object over several lines"),
    ],
)
def test_unknown_formats_list_the_known_ones(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{message}.*expected a JSON list or JSON Lines"):
        open_records(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no.json: there is no such file"):
        open_records(tmp_path / "no.json")
    with pytest.raises(DataError, match="is a folder; expected a file"):
        open_records(tmp_path)
