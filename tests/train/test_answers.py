"""Answers of a model that is being trained, and what the order of frames does to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fastvlm.checkpoint.load import load_model
from fastvlm.data.record import Record
from fastvlm.data.records import open_records
from fastvlm.data.synthetic.write_clips import encode_clip
from fastvlm.engine import Engine
from fastvlm.inputs import PreparedVideo
from fastvlm.messages import Message, VideoPart, user_message
from fastvlm.processing.processor import Processor
from fastvlm.train.answers import (
    FrameOrder,
    answer_records,
    engine_of,
    order_metrics,
    reorder_frames,
    score,
)
from fastvlm.train.network import TuningNetwork


@pytest.fixture(scope="module")
def engine(base_folder: Path) -> Engine:
    return Engine.load(base_folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("clips")
    records = []
    for index in range(3):
        frames = np.random.default_rng(index).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
        encode_clip(folder / f"{index}.mp4", frames)
        turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "Yes."}]
        records.append({"id": str(index), "video": f"{index}.mp4", "conversations": turns})
    (folder / "clips.json").write_text(json.dumps(records), encoding="utf-8")
    opened = open_records(folder / "clips.json")
    return [opened[index] for index in range(len(opened))]


@pytest.mark.parametrize(
    ("order", "places"), [("forward", [0, 1, 2, 3]), ("reversed", [3, 2, 1, 0])]
)
def test_frames_are_shown_in_another_order(
    engine: Engine, order: FrameOrder, places: list[int]
) -> None:
    pictures = [engine.processor.prepare_image(np.full((8, 8, 3), i, np.uint8)) for i in range(4)]
    clip = PreparedVideo(tuple(pictures), (0.0, 1.0, 2.0, 3.0))
    (message,) = reorder_frames(engine.processor, [user_message("?", VideoPart(clip))], order)
    assert [pictures.index(one) for one in message.pictures] == places
    assert message.content[0].video.times_s == clip.times_s  # type: ignore[union-attr]


@pytest.mark.parametrize("count", range(2, 17))
def test_shuffled_frames_are_neither_as_they_were_nor_reversed(engine: Engine, count: int) -> None:
    pictures = [
        engine.processor.prepare_image(np.full((8, 8, 3), i, np.uint8)) for i in range(count)
    ]
    clip = PreparedVideo(tuple(pictures), tuple(map(float, range(count))))
    (message,) = reorder_frames(engine.processor, [user_message("?", VideoPart(clip))], "shuffled")
    places = [pictures.index(one) for one in message.pictures]
    assert sorted(places) == list(range(count))
    assert places != sorted(places)
    assert count < 3 or places != sorted(places, reverse=True)


def test_order_metrics_count_clips_alone(engine: Engine, clips: list[Record]) -> None:
    text_only = Record("t", (user_message("Hi"), Message.from_text("assistant", "Ho")), "t")
    scored = answer_records(engine, [*clips, text_only])
    metrics = order_metrics(engine, scored)
    assert metrics.keys() == {"clips_forward", "clips_reversed", "clips_shuffled", "order_gain"}
    assert metrics["order_gain"] == metrics["clips_forward"] - metrics["clips_shuffled"]
    assert order_metrics(engine, scored[-1:]) == {}


def test_a_record_without_its_clip_has_an_empty_answer(engine: Engine, clips: list[Record]) -> None:
    gone = Record(
        "gone",
        (user_message("What?", VideoPart("missing.mp4")), Message.from_text("assistant", "Yes.")),
        "gone",
    )
    scored = answer_records(engine, [clips[0], gone])
    assert scored[1].prediction == ""
    assert scored[0].prediction == answer_records(engine, clips[:1])[0].prediction
    assert score(scored[1:])["exact_match"] == 0


def test_the_engine_of_a_network_leaves_it_as_it_was(
    base_folder: Path, clips: list[Record]
) -> None:
    model, _ = load_model(base_folder, dtype=torch.float32)
    network = TuningNetwork(model)
    network.model.projector.requires_grad_(requires_grad=False)
    flags = [parameter.requires_grad for parameter in network.parameters()]
    tower = network.model.vision_tower
    processor = Processor.from_folder(base_folder, model.config)
    with engine_of(network, processor) as engine:
        of_network = [one.prediction for one in answer_records(engine, clips)]
    assert network.model.vision_tower is tower
    assert [parameter.requires_grad for parameter in network.parameters()] == flags
    plain = Engine.load(base_folder, dtype="float32", device="cpu")
    assert of_network == [one.prediction for one in answer_records(plain, clips)]
