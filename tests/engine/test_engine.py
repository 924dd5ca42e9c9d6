from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from fastvlm.engine import Answer, Engine
from fastvlm.errors import (
    ConfigError,
    ContextLengthError,
    MediaError,
    NumericalError,
    ShapeError,
)
from fastvlm.messages import Message, user_message

QUESTIONS = ["What color is the circle?", "How many?", "Is there a red square left of it?"]


def picture(seed: int, height: int = 90, width: int = 140) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_stream_pieces_join_to_the_answer(tiny_engine: Engine) -> None:
    stream = tiny_engine.stream(QUESTIONS[0], [picture(0)], max_new_tokens=12)
    pieces = list(stream)
    assert "".join(pieces) == stream.answer.text
    assert len(pieces) > 1
    assert tiny_engine.ask(QUESTIONS[0], [picture(0)], max_new_tokens=12).text == stream.answer.text


def test_usage_and_timings_are_filled(tiny_engine: Engine) -> None:
    answer = tiny_engine.ask(QUESTIONS[0], [picture(0), picture(1)], max_new_tokens=5)
    assert answer.usage.image_tokens == 2 * 4
    assert answer.usage.completion_tokens == len(answer.token_ids) <= 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + len(answer.token_ids)
    timings = answer.timings
    assert 0 < timings.preprocess_ms + timings.vision_ms + timings.prefill_ms <= timings.ttft_ms
    assert timings.tokens_per_second > 0


def test_batch_of_unequal_prompts_equals_one_by_one(tiny_engine: Engine) -> None:
    conversations = [
        [user_message(QUESTIONS[0], picture(0))],
        [user_message(QUESTIONS[1])],
        [user_message(QUESTIONS[2], picture(1), picture(2, 300, 50))],
        [
            Message.from_text("system", "Be short."),
            user_message("Hi", picture(3)),
            Message.from_text("assistant", "Hello."),
            user_message(QUESTIONS[1]),
        ],
    ]
    together = tiny_engine.generate(conversations, max_new_tokens=16)
    alone = [tiny_engine.ask(conversation, max_new_tokens=16) for conversation in conversations]
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]
    assert [a.text for a in together] == [a.text for a in alone]
    assert len({a.text for a in alone}) == len(alone)


def test_rows_that_end_early_leave_the_others_unchanged(tiny_engine: Engine) -> None:
    long = tiny_engine.ask(QUESTIONS[0], max_new_tokens=20)
    stop = long.text[5:8]
    answers = tiny_engine.generate([QUESTIONS[0], QUESTIONS[1]], max_new_tokens=20, stop=stop)
    assert answers[0].finish_reason == "stop"
    assert answers[0].text == long.text[: long.text.index(stop)]
    other = tiny_engine.ask(QUESTIONS[1], max_new_tokens=20, stop=stop)
    assert answers[1].text == other.text


def test_end_token_ends_the_answer_and_is_not_in_its_text(tiny_engine: Engine) -> None:
    first = tiny_engine.ask(QUESTIONS[0], max_new_tokens=6)
    tiny_engine._eos_token_ids = frozenset({first.token_ids[3]})
    again = tiny_engine.ask(QUESTIONS[0], max_new_tokens=6)
    end = first.token_ids.index(first.token_ids[3])
    assert again.finish_reason == "stop"
    assert again.token_ids == first.token_ids[: end + 1]
    assert again.text == tiny_engine.processor.tokenizer.decode(first.token_ids[:end])


def test_seed_repeats_a_sampled_answer(tiny_engine: Engine) -> None:
    options = {"temperature": 1.5, "top_p": 0.9, "top_k": 50, "max_new_tokens": 12}
    first = tiny_engine.ask(QUESTIONS[0], seed=1, **options)
    assert tiny_engine.ask(QUESTIONS[0], seed=1, **options).text == first.text
    others = {tiny_engine.ask(QUESTIONS[0], seed=seed, **options).text for seed in range(2, 6)}
    assert others != {first.text}


def test_cancel_ends_within_one_token(tiny_engine: Engine) -> None:
    stream = tiny_engine.stream(QUESTIONS[0], max_new_tokens=100)
    next(stream)
    stream.cancel()
    answer = stream.answer
    assert answer.finish_reason == "cancelled"
    whole = tiny_engine.ask(QUESTIONS[0], max_new_tokens=100)
    assert len(answer.token_ids) < len(whole.token_ids)
    assert whole.token_ids[: len(answer.token_ids)] == answer.token_ids


def test_cancelled_batch_gives_what_there_is(tiny_engine: Engine) -> None:
    cancelled = threading.Event()
    cancelled.set()
    answers = tiny_engine.generate(QUESTIONS, cancelled=cancelled, max_new_tokens=50)
    assert [answer.finish_reason for answer in answers] == ["cancelled"] * 3
    assert all(len(answer.token_ids) == 1 for answer in answers)


def test_same_picture_is_encoded_once(tiny_engine: Engine) -> None:
    calls = []
    encode = tiny_engine.backend.encode_images
    tiny_engine.backend.encode_images = lambda pixels: calls.append(1) or encode(pixels)
    chat = tiny_engine.chat(max_new_tokens=4)
    chat.ask(QUESTIONS[0], [picture(0)])
    chat.ask(QUESTIONS[1])
    tiny_engine.ask(QUESTIONS[2], [picture(0)], max_new_tokens=2)
    assert len(calls) == 1
    tiny_engine.ask(QUESTIONS[2], [picture(1)], max_new_tokens=2)
    assert len(calls) == 2


def test_chat_sends_its_history(tiny_engine: Engine) -> None:
    chat = tiny_engine.chat(system="Be short.", max_new_tokens=6)
    first = chat.ask(QUESTIONS[0], [picture(0)])
    second = chat.ask(QUESTIONS[1])
    whole = [
        Message.from_text("system", "Be short."),
        user_message(QUESTIONS[0], picture(0)),
        Message.from_text("assistant", first.text),
        user_message(QUESTIONS[1]),
    ]
    assert tiny_engine.ask(whole, max_new_tokens=6).token_ids == second.token_ids
    chat.reset()
    assert chat.ask(QUESTIONS[0], [picture(0)]).text == first.text


def test_answer_is_cut_at_the_end_of_the_context(tiny_engine: Engine) -> None:
    answer = tiny_engine.ask(QUESTIONS[0], max_new_tokens=10_000)
    assert answer.finish_reason == "length"
    assert answer.usage.total_tokens == tiny_engine.config.max_length


def test_too_long_prompt_is_refused(tiny_engine: Engine) -> None:
    with pytest.raises(ContextLengthError, match="exceeds max_length 256"):
        tiny_engine.ask("word " * 500)


def test_non_finite_features_are_an_error(tiny_engine: Engine) -> None:
    tiny_engine.backend._model.projector.layers[0].weight.fill_(torch.nan)
    with pytest.raises(NumericalError, match="vision encoder gave NaN"):
        tiny_engine.ask(QUESTIONS[0], [picture(0)])


def test_non_finite_logits_are_an_error(tiny_engine: Engine) -> None:
    tiny_engine.backend._model.lm_head.weight.fill_(torch.inf)
    with pytest.raises(NumericalError, match="language model gave NaN"):
        tiny_engine.ask(QUESTIONS[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"stop": ""}, "stop is"),
        ({"max_tokens": 5}, "unknown option 'max_tokens'"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5; expected a whole number"),
        ({"temperature": None}, "temperature is None; expected a number"),
        ({"seed": -1}, "seed is -1"),
        ({"stop": 5}, "stop is 5"),
        ({"stop": ["a", 5]}, "expected texts"),
    ],
)
def test_bad_options_are_named(tiny_engine: Engine, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_engine.ask("Hi", **options)


def test_one_picture_needs_no_list(tiny_engine: Engine, tmp_path) -> None:
    array = picture(0)
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = tiny_engine.ask("Hi", [array], max_new_tokens=4).text
    path = tmp_path / "a.png"
    for source in (array, Image.fromarray(array), path, str(path), path.read_bytes()):
        assert tiny_engine.ask("Hi", source, max_new_tokens=4).text == expected
    assert tiny_engine.ask("Hi", (image for image in [array]), max_new_tokens=4).text == expected


@pytest.mark.parametrize(
    "ask",
    [
        lambda engine: engine.ask(b"hi"),
        lambda engine: engine.ask([{"role": "user", "content": "hi"}]),
        lambda engine: engine.ask(None, images=[picture(0)]),
        lambda engine: engine.ask("hi", images=5),
        lambda engine: engine.ask("hi", images=[None]),
        lambda engine: engine.generate("What?"),
        lambda engine: engine.chat(temperature=-1),
    ],
    ids=["bytes", "dicts", "none", "number", "no picture", "one text", "chat option"],
)
def test_wrong_types_are_errors_of_this_package(tiny_engine: Engine, ask) -> None:
    with pytest.raises((ConfigError, ShapeError), match="expected"):
        ask(tiny_engine)


def test_a_message_is_a_conversation_of_one(tiny_engine: Engine) -> None:
    message = user_message("Hi", picture(0))
    expected = tiny_engine.ask([message], max_new_tokens=4).text
    assert tiny_engine.ask(message, max_new_tokens=4).text == expected


def test_seed_repeats_sampled_beams(tiny_engine: Engine) -> None:
    options = {"num_beams": 3, "temperature": 3.0, "max_new_tokens": 8}
    texts = {tiny_engine.ask("Hi", seed=1, **options).text for _ in range(3)}
    assert len(texts) == 1
    assert {tiny_engine.ask("Hi", seed=seed, **options).text for seed in range(2, 6)} != texts


def test_beams_have_figures(tiny_engine: Engine) -> None:
    answer = tiny_engine.ask("Hi", num_beams=3, max_new_tokens=8)
    timings = answer.timings
    assert timings.prefill_ms > 0
    assert timings.decode_ms > 0
    assert timings.ttft_ms > timings.prefill_ms + timings.decode_ms


def test_slow_reader_does_not_slow_the_figures(tiny_engine: Engine) -> None:
    stream = tiny_engine.stream("Hi", max_new_tokens=6)
    began = time.perf_counter()
    for _ in stream:
        time.sleep(0.1)  # stands for whatever the caller does with a piece
    waited_ms = (time.perf_counter() - began) * 1000
    assert stream.answer.timings.decode_ms < waited_ms - 200


def test_chat_remembers_the_picture_as_it_was(tiny_engine: Engine, tmp_path) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    chat = tiny_engine.chat(max_new_tokens=4)
    with Image.open(tmp_path / "a.png") as image:
        chat.ask("Hi", image)
    changing = picture(1)
    chat.ask("And this?", changing)
    changing[:] = 0
    (tmp_path / "a.png").unlink()
    again = tiny_engine.chat(max_new_tokens=4)
    again.ask("Hi", picture(0))
    again.ask("And this?", picture(1))
    assert chat.ask("Go on.").text == again.ask("Go on.").text


def test_listeners_of_a_chat_stream_all_hear_the_answer(tiny_engine: Engine) -> None:
    chat = tiny_engine.chat(max_new_tokens=4)
    heard = []
    stream = chat.stream("Hi")
    stream.when_finished(heard.append)
    assert heard == [] != [stream.answer]
    assert heard == [stream.answer]
    assert len(chat.messages) == 2


def test_failed_stream_keeps_its_error(tiny_engine: Engine) -> None:
    stream = tiny_engine.stream("word " * 500)
    for _ in range(2):
        with pytest.raises(ContextLengthError):
            _ = stream.answer


def test_missing_picture_is_named(tiny_engine: Engine, tmp_path) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.png"):
        tiny_engine.ask("Hi", [tmp_path / "nowhere.png"])


def test_answers_of_a_batch_keep_their_order(tiny_engine: Engine) -> None:
    answers = tiny_engine.generate(QUESTIONS, max_new_tokens=3)
    assert all(isinstance(answer, Answer) for answer in answers)
    assert [a.text for a in answers] == [
        tiny_engine.ask(question, max_new_tokens=3).text for question in QUESTIONS
    ]
