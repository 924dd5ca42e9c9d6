"""Clips in prompts: their frames are pictures, with or without time marks. Opening files is tested elsewhere."""

from dataclasses import replace

import numpy as np
import pytest

from fastvlm.config import FastVLMConfig, preset
from fastvlm.errors import ConfigError
from fastvlm.inputs import IMAGE_TOKEN_ID, PreparedVideo
from fastvlm.messages import Message, VideoOptions, VideoPart, user_message
from fastvlm.processing.processor import Processor
from fastvlm.processing.tokenizer import Tokenizer

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def config() -> FastVLMConfig:
    nano = preset("nano")
    return replace(nano, text=replace(nano.text, vocab_size=1000), image_size=128, max_length=200)


@pytest.fixture(scope="module")
def processor(config: FastVLMConfig, small_tokenizer: Tokenizer) -> Processor:
    return Processor(config, small_tokenizer)


def clip(processor: Processor, *, has_time_marks: bool = False) -> VideoPart:
    frames = tuple(processor.prepare_image(frame) for frame in FRAMES)
    return VideoPart(PreparedVideo(frames, (0.0, 0.5, 1.04), has_time_marks))


def as_text(processor: Processor, messages: list[Message]) -> str:
    """The prompt with [n] for n image tokens in a row."""
    ids = processor(messages).input_ids.tolist()
    text, run, pending = "", 0, []
    for token in [*ids, None]:
        if token == IMAGE_TOKEN_ID:
            text += processor.tokenizer.decode(pending) if pending else ""
            pending, run = [], run + 1
            continue
        if run:
            text, run = text + f"[{run}]", 0
        if token is not None:
            pending.append(token)
    return text + processor.tokenizer.decode(pending)


def test_frames_follow_one_another(processor: Processor) -> None:
    prompt = as_text(processor, [user_message("What happens?", clip(processor))])
    assert "user\n[12]\nWhat happens?" in prompt


def test_time_marks_stand_before_their_frames(processor: Processor) -> None:
    prompt = as_text(processor, [user_message("What?", clip(processor, has_time_marks=True))])
    expected = "user\nFrame 1, 0.0 s:[4]\nFrame 2, 0.5 s:[4]\nFrame 3, 1.0 s:[4]\nWhat?"
    assert expected in prompt


def test_a_clip_beside_a_picture(processor: Processor) -> None:
    message = user_message("Same?", FRAMES[0], clip(processor))
    assert "user\n[4]\n[12]\nSame?" in as_text(processor, [message])
    inputs = processor([message])
    assert inputs.num_image_tokens == (4, 4, 4, 4)
    np.testing.assert_array_equal(inputs.pixel_values[0], inputs.pixel_values[1])


def test_a_clip_is_prepared_once(processor: Processor) -> None:
    (message,) = processor.prepare([user_message("?", clip(processor))])
    (again,) = processor.prepare([message])
    assert again.pictures == message.pictures


def test_a_clip_that_is_not_open_has_no_prompt(processor: Processor) -> None:
    with pytest.raises(ConfigError, match=r"clip must be opened"):
        processor.assemble([user_message("?", VideoPart("clip.mp4"))])


def test_only_users_show_clips(processor: Processor) -> None:
    with pytest.raises(ConfigError, match=r"message 1 \(system\) holds 1 picture"):
        processor([Message("system", (clip(processor),)), user_message("a")])


def test_plain_has_no_place_for_clips(processor: Processor, config: FastVLMConfig) -> None:
    plain = Processor(config, processor.tokenizer, conv_mode="plain")
    with pytest.raises(ConfigError, match="conv mode 'plain' has no place for clips"):
        plain([user_message("", clip(processor))])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_frames": 0}, "num_frames is 0; expected 1 to 64"),
        ({"num_frames": 65}, "num_frames is 65; expected 1 to 64"),
        ({"sampling": "best"}, "sampling 'best' is not known; expected one of uniform"),
        ({"sampling": "fps"}, "sampling is 'fps' but fps is not given"),
        ({"fps": 2.0}, "fps is 2.0 with sampling 'uniform'"),
        ({"sampling": "fps", "fps": 0.0}, "fps is 0.0; expected more than 0"),
        ({"sampling": "timestamps"}, "0 timestamps with sampling 'timestamps'"),
        (
            {"sampling": "timestamps", "timestamps_s": (-1.0,)},
            "expected at most 64, each 0 or more",
        ),
        ({"start_s": 3.0, "end_s": 2.0}, "the part from 3.0 s to 2.0 s is empty"),
        ({"start_s": float("nan")}, "the part from nan s to None s is empty"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        VideoOptions(**options)
    assert expected in str(caught.value)
