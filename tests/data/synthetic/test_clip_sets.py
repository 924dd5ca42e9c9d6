"""Written sets load back, hold what they say, and appear whole or not at all."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from fastvlm.data.records import open_records
from fastvlm.data.synthetic.clips import draw_clip, frame_times, sample_clip
from fastvlm.data.synthetic.llava_folder import join_turns, new_folder
from fastvlm.data.synthetic.questions import Question
from fastvlm.data.synthetic.write_clips import ClipSet, encode_clip, write_clip_set
from fastvlm.errors import ConfigError

SMALL = ClipSet(num_clips=6, num_pictures=4, num_validation=3, has_writing=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "clips"
    write_clip_set(folder, SMALL, seed=1)
    return folder


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_media_and_records_belong_together(written: Path) -> None:
    assert [path.name for path in sorted(written.iterdir())] == [
        "clips",
        "images_validation.json",
        "pictures",
        "train.json",
        "validation.json",
    ]
    named: set[str] = set()
    for name in ("train", "validation", "images_validation"):
        for record in json.loads((written / f"{name}.json").read_text(encoding="utf-8")):
            (media,) = {"image", "video"} & record.keys()
            assert record["conversations"][0]["value"].startswith(f"<{media}>\n")
            assert (media == "video") is record[media].startswith("clips/")
            named.add(record[media])
    on_disk = {f"{path.parent.name}/{path.name}" for path in written.glob("*/*")}
    assert named == on_disk
    assert len(named) == 6 + 4 + 3 + 3


def test_validation_has_one_question_a_record_and_order_answers(written: Path) -> None:
    records = json.loads((written / "validation.json").read_text(encoding="utf-8"))
    assert len({record["id"] for record in records}) == len(records) == 18
    assert all(len(record["conversations"]) == 2 for record in records)
    assert all(record["kind"] for record in records)
    about_order = [record for record in records if "reversed_answer" in record]
    assert about_order
    for record in about_order:
        assert record["reversed_answer"] != record["conversations"][1]["value"]


def test_the_readers_of_the_package_take_the_records(written: Path) -> None:
    for name, count in (("train", 10), ("validation", 18), ("images_validation", 18)):
        records = open_records(written / f"{name}.json")
        assert len(records) == count
        assert all(records[i].media for i in range(count))


def test_splits_share_no_clip_or_picture(written: Path) -> None:
    clips = [decode(path).tobytes() for path in sorted((written / "clips").iterdir())]
    assert len(set(clips)) == 9
    pictures = [path.read_bytes() for path in (written / "pictures").iterdir()]
    assert len(set(pictures)) == 7
    with Image.open(next((written / "pictures").iterdir())) as picture:
        assert picture.size == (192, 192)


def test_colours_survive_compression(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        clip = sample_clip(rng)
        drawn = draw_clip(clip, frame_times(8), 192)
        encode_clip(tmp_path / "clip.mp4", drawn)
        frames = decode(tmp_path / "clip.mp4")
        assert frames.shape == drawn.shape
        assert np.abs(frames.astype(int) - drawn).mean() < 5
        for index, time in enumerate(frame_times(8)):
            for thing in clip.scene_at(time).things:
                y, x = round(thing.y * 192), round(thing.x * 192)
                middle = frames[index, y - 2 : y + 3, x - 2 : x + 3].mean(axis=(0, 1))
                assert np.abs(middle - np.array(thing.rgb)).max() < 30


def test_the_same_seed_writes_the_same_questions(written: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    write_clip_set(
        tmp_path / "again",
        SMALL,
        seed=1,
        on_progress=lambda what, done, total: seen.append(f"{what} {done}/{total}"),
    )
    for name in ("train.json", "validation.json", "images_validation.json"):
        assert (tmp_path / "again" / name).read_bytes() == (written / name).read_bytes()
    assert seen[5] == "clips, train 6/6"
    assert seen[-1] == "pictures, validation 3/3"


def test_fewer_questions_a_record_make_more_records(tmp_path: Path) -> None:
    options = ClipSet(
        num_clips=2,
        num_pictures=0,
        num_validation=0,
        questions_per_clip=4,
        questions_per_record=1,
        has_writing=False,
    )
    write_clip_set(tmp_path / "set", options)
    records = json.loads((tmp_path / "set" / "train.json").read_text(encoding="utf-8"))
    assert len(records) == 8
    assert json.loads((tmp_path / "set" / "validation.json").read_text(encoding="utf-8")) == []


def test_only_chosen_kinds_are_drawn(tmp_path: Path) -> None:
    options = ClipSet(
        num_clips=12,
        num_pictures=0,
        num_validation=2,
        kinds=("motion", "vanish"),
        questions_per_record=1,
        has_writing=False,
    )
    write_clip_set(tmp_path / "set", options)
    records = json.loads((tmp_path / "set/train.json").read_text(encoding="utf-8"))
    assert {record["kind"] for record in records} == {"motion", "vanish"}
    with pytest.raises(ConfigError, match="kinds is dance; expected some of motion, order"):
        ClipSet(num_clips=1, num_pictures=0, kinds=("dance",))  # type: ignore[arg-type]


def test_what_was_said_before_is_not_asked_again() -> None:
    asked = [
        (Question("count", "How many?", "There is 1 shape."),),
        (Question("count", "Count.", "There is 1 shape."),),
        (Question("exists", "Is there?", "Yes"),),
        (Question("exists", "Do you see?", "Yes"),),
    ]
    assert [len(turns) for turns in join_turns(asked, 4)] == [3]
    assert [len(turns) for turns in join_turns(asked, 1)] == [1, 1, 1, 1]


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(ConfigError, match="exists already; expected a new or an empty folder"):
        write_clip_set(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "set") as partial:
            (partial / "half.txt").write_text("half", encoding="utf-8")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_clips": -1}, "num_clips is -1; expected 0 or more"),
        ({"questions_per_clip": 0}, "questions_per_clip is 0; expected at least 1"),
        ({"num_frames": 2}, "num_frames is 2; expected 4 to 8"),
    ],
)
def test_numbers_out_of_range_are_errors(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipSet(**({"num_clips": 1, "num_pictures": 1} | fields))
