from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fastvlm.data.synthetic.write_clips import encode_clip
from fastvlm.engine import Engine
from fastvlm.errors import ContextLengthError
from fastvlm.messages import VideoOptions, VideoPart, user_message
from fastvlm.processing.video import read_frames


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "grey.mp4"
    levels = np.linspace(0, 255, 12).astype(np.uint8)
    encode_clip(path, np.broadcast_to(levels[:, None, None, None], (12, 64, 64, 3)).copy())
    return path


@pytest.fixture
def encoded(tiny_engine: Engine) -> list[int]:
    """The number of pictures of every call of the encoder, which still does its work."""
    sizes: list[int] = []
    encode = tiny_engine.backend.encode_images

    def counted(pixel_values):
        sizes.append(len(pixel_values))
        return encode(pixel_values)

    tiny_engine.backend.encode_images = counted
    return sizes


def ids(engine: Engine, messages: Sequence[object]) -> list[int]:
    return engine.processor(messages).input_ids.tolist()


def test_frames_cost_tokens_like_pictures(tiny_engine: Engine, clip: Path) -> None:
    answer = tiny_engine.ask("Hi", videos=clip, num_frames=5, max_new_tokens=2)
    assert answer.usage.image_tokens == 5 * 4


def test_stream_is_the_answer(tiny_engine: Engine, clip: Path) -> None:
    stream = tiny_engine.stream("Hi", videos=[clip], max_new_tokens=6)
    text = "".join(stream)
    assert text == tiny_engine.ask("Hi", videos=[clip], max_new_tokens=6).text == stream.answer.text


def test_clip_in_a_message_is_the_same_question(tiny_engine: Engine, clip: Path) -> None:
    options = VideoOptions(num_frames=3, has_time_marks=True)
    question = user_message("Hi", VideoPart(clip, options))
    one = tiny_engine.ask("Hi", videos=clip, video_options=options, max_new_tokens=6)
    assert tiny_engine.ask([question], max_new_tokens=6).token_ids == one.token_ids


def test_order_of_frames_reaches_the_model(tiny_engine: Engine, clip: Path) -> None:
    frames = [frame.image for frame in read_frames(clip, VideoOptions(num_frames=4))]
    prompt = user_message("Hi", VideoPart(clip, VideoOptions(num_frames=4)))
    (message,) = tiny_engine.processor.prepare([prompt])
    shown = [picture.pixel_values for picture in message.pictures]
    for picture, frame in zip(shown, frames, strict=True):
        assert np.array_equal(picture, tiny_engine.processor.prepare_image(frame).pixel_values)
    assert [picture.mean() for picture in shown] == sorted(picture.mean() for picture in shown)


def test_batched_clips_answer_as_one_by_one(tiny_engine: Engine, clip: Path) -> None:
    questions = [
        [user_message("Hi", VideoPart(clip, VideoOptions(num_frames=count)))] for count in (1, 4)
    ]
    alone = [tiny_engine.ask(question, max_new_tokens=6).token_ids for question in questions]
    together = tiny_engine.generate(questions, max_new_tokens=6)
    assert [answer.token_ids for answer in together] == alone


def test_conversation_encodes_a_clip_once(
    tiny_engine: Engine, clip: Path, encoded: list[int], tmp_path: Path
) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    talk = tiny_engine.chat(max_new_tokens=4)
    first = talk.ask("Hi", videos=copy, video_options=VideoOptions(num_frames=6))
    assert encoded == [1] * 6
    copy.unlink()  # not read a second time either
    second = talk.ask("And now?")
    assert encoded == [1] * 6
    assert second.usage.image_tokens == first.usage.image_tokens == 6 * 4


def test_too_many_frames_are_refused_before_the_encoder_runs(
    tiny_engine: Engine, clip: Path, encoded: list[int]
) -> None:
    options = VideoOptions(num_frames=12, frame_size=512)
    with pytest.raises(ContextLengthError, match=r"12 frames x 64 tokens = 768 .*lower num_frames"):
        tiny_engine.ask("Hi", videos=clip, video_options=options)
    assert encoded == []
