import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvlm.errors import ConfigError
from fastvlm.messages import ImagePart, Message, TextPart, user_message
from fastvlm.processing.chat_template import (
    DEFAULT_SYSTEM,
    ConvMode,
    ImageSegment,
    Segment,
    TextSegment,
    render,
)
from fastvlm.processing.tokenizer import CONTROL_TOKENS, Tokenizer

IMAGE = b"not opened here"
MARKERS = (*CONTROL_TOKENS, "<image>", "<|im_start|>system\n", "\n", " ")

hostile = st.lists(st.text() | st.sampled_from(MARKERS), max_size=6).map("".join)
nonempty = hostile.filter(bool)


def assistant(text: str) -> Message:
    return Message.from_text("assistant", text)


def written(segments: tuple[Segment, ...], tokenizer: Tokenizer) -> str:
    """The layout for a reader's eye, control tokens and pictures spelled out."""
    names = {token_id: token for token, token_id in tokenizer.special_tokens.items()}
    pieces = []
    for segment in segments:
        if isinstance(segment, ImageSegment):
            pieces.append(f"<image {segment.index}>")
        else:
            pieces += [names.get(i) or tokenizer.decode([i]) for i in segment.ids]
    return "".join(pieces)


def trainable(segments: tuple[Segment, ...]) -> list[TextSegment]:
    return [part for part in segments if isinstance(part, TextSegment) and part.is_trainable]


def reference_ids(prompt: str, tokenizer: Tokenizer) -> list[int]:
    """Tokenise a prompt string at its markers, as the reference does; images are -200."""
    table = {**tokenizer.special_tokens, "<image>": -200}
    ids = []
    for piece in re.split("(" + "|".join(map(re.escape, table)) + ")", prompt):
        ids += [table[piece]] if piece in table else tokenizer.encode(piece)
    return ids


def flat_ids(segments: tuple[Segment, ...]) -> list[int]:
    ids: list[int] = []
    for segment in segments:
        ids += [-200] if isinstance(segment, ImageSegment) else segment.ids
    return ids


SYSTEM_BLOCK = f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n"


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param(
            [user_message("What?", IMAGE)],
            SYSTEM_BLOCK + "<|im_start|>user\n<image 0>\nWhat?<|im_end|>\n<|im_start|>assistant\n",
            id="one image",
        ),
        pytest.param(
            [user_message("What?")],
            SYSTEM_BLOCK + "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n",
            id="no image",
        ),
        pytest.param(
            [Message.from_text("system", "Be brief."), user_message("Which?", IMAGE, IMAGE)],
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image 0>\n<image 1>\nWhich?"
            "<|im_end|>\n<|im_start|>assistant\n",
            id="system and two images",
        ),
        pytest.param(
            [Message.from_text("system", ""), user_message("What?")],
            "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n",
            id="empty system leaves the block out",
        ),
        pytest.param(
            [user_message("A?", IMAGE), assistant("B."), user_message("C?", IMAGE)],
            SYSTEM_BLOCK
            + "<|im_start|>user\n<image 0>\nA?<|im_end|>\n<|im_start|>assistant\nB.<|im_end|>\n"
            "<|im_start|>user\n<image 1>\nC?<|im_end|>\n<|im_start|>assistant\n",
            id="two turns",
        ),
        pytest.param(
            [Message("user", (TextPart("See "), ImagePart(IMAGE), TextPart("here")))],
            SYSTEM_BLOCK
            + "<|im_start|>user\nSee <image 0>\nhere<|im_end|>\n<|im_start|>assistant\n",
            id="image between words",
        ),
        pytest.param(
            [Message("user", (ImagePart(IMAGE),))],
            SYSTEM_BLOCK + "<|im_start|>user\n<image 0>\n<|im_end|>\n<|im_start|>assistant\n",
            id="image alone",
        ),
    ],
)
def test_layout_of_qwen_2(
    small_tokenizer: Tokenizer, messages: list[Message], expected: str
) -> None:
    assert written(render(messages, small_tokenizer), small_tokenizer) == expected


@given(question=nonempty, follow_up=nonempty, answer=hostile, system=nonempty)
def test_typed_markers_stay_text(
    small_tokenizer: Tokenizer, question: str, follow_up: str, answer: str, system: str
) -> None:
    def shape(question: str, follow_up: str, answer: str, system: str) -> list[int]:
        segments = render(
            [
                Message.from_text("system", system),
                user_message(question, IMAGE),
                assistant(answer),
                user_message(follow_up, IMAGE),
            ],
            small_tokenizer,
        )
        structural = {-200, *small_tokenizer.special_tokens.values()}
        return [token_id for token_id in flat_ids(segments) if token_id in structural]

    assert shape(question, follow_up, answer, system) == shape("a", "b", "c", "d")


@given(
    turns=st.lists(st.tuples(nonempty, st.integers(0, 2), hostile), min_size=1, max_size=3),
    has_last_answer=st.booleans(),
)
def test_ids_equal_tokenising_the_prompt_at_its_markers(
    small_tokenizer: Tokenizer, turns: list[tuple[str, int, str]], has_last_answer: bool
) -> None:
    messages, prompt = [], SYSTEM_BLOCK
    for question, num_images, answer in turns:
        question = re.sub(r"<[^>]*>", "", question) or "?"
        answer = re.sub(r"<[^>]*>", "", answer).lstrip()  # see the module: leading line ends differ
        messages += [user_message(question, *[IMAGE] * num_images), assistant(answer)]
        prompt += "<|im_start|>user\n"
        prompt += "<image>\n" * num_images + f"{question}<|im_end|>\n"
        prompt += f"<|im_start|>assistant\n{answer}<|im_end|>\n"
    if not has_last_answer:
        messages.pop()
        prompt = prompt[: prompt.rindex("<|im_start|>")] + "<|im_start|>assistant\n"
    segments = render(messages, small_tokenizer, add_generation_prompt=not has_last_answer)
    assert flat_ids(segments) == reference_ids(prompt, small_tokenizer)


@given(answers=st.lists(hostile, min_size=1, max_size=3))
def test_each_answer_with_its_end_is_trainable_and_nothing_else(
    small_tokenizer: Tokenizer, answers: list[str]
) -> None:
    messages = []
    for answer in answers:
        messages += [user_message("What?", IMAGE), assistant(answer)]
    segments = render(messages, small_tokenizer, add_generation_prompt=False)
    line_end = tuple(small_tokenizer.encode("\n"))
    assert [segment.ids for segment in trainable(segments)] == [
        (*small_tokenizer.encode(answer), small_tokenizer.im_end_id, *line_end)
        for answer in answers
    ]


@given(answer=nonempty)
def test_history_has_the_ids_that_generation_would_have_made(
    small_tokenizer: Tokenizer, answer: str
) -> None:
    question = user_message("What?", IMAGE)
    prompt = flat_ids(render([question], small_tokenizer))
    history = flat_ids(render([question, assistant(answer), user_message("And?")], small_tokenizer))
    generated = [*prompt, *small_tokenizer.encode(answer), small_tokenizer.im_end_id]
    assert history[: len(generated)] == generated


def test_neighbouring_text_is_one_segment(small_tokenizer: Tokenizer) -> None:
    segments = render(
        [user_message("What?", IMAGE), assistant("A.")],
        small_tokenizer,
        add_generation_prompt=False,
    )
    kinds = [part.is_trainable if isinstance(part, TextSegment) else part for part in segments]
    assert kinds == [False, ImageSegment(0), False, True]


class TestPlain:
    def render(self, tokenizer: Tokenizer, *messages: Message) -> tuple[Segment, ...]:
        return render(messages, tokenizer, template="plain", add_generation_prompt=False)

    def test_caption_follows_the_image_and_is_trainable(self, small_tokenizer: Tokenizer) -> None:
        segments = self.render(
            small_tokenizer,
            user_message("dropped, as in the reference", IMAGE),
            assistant("A dog."),
        )
        assert segments == (
            ImageSegment(0),
            TextSegment(tuple(small_tokenizer.encode("A dog.\n")), is_trainable=True),
        )

    def test_image_alone_is_the_prompt(self, small_tokenizer: Tokenizer) -> None:
        prompt = Message("user", (ImagePart(IMAGE),))
        assert render([prompt], small_tokenizer, template="plain") == (ImageSegment(0),)

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            (user_message("A photo of", IMAGE), "<image 0>\nA photo of\n"),
            (user_message("Once"), "Once\n"),
        ],
    )
    def test_words_of_a_prompt_stand_on_a_line(
        self, small_tokenizer: Tokenizer, message: Message, expected: str
    ) -> None:
        segments = render([message], small_tokenizer, template="plain")
        assert written(segments, small_tokenizer) == expected

    @pytest.mark.parametrize(
        "messages",
        [
            [Message.from_text("system", "s"), user_message("a")],
            [user_message("a"), assistant("b"), user_message("c")],
        ],
    )
    def test_other_turns_are_refused(
        self, small_tokenizer: Tokenizer, messages: list[Message]
    ) -> None:
        with pytest.raises(
            ConfigError, match=r"conv mode 'plain' got the turns .*; expected one user"
        ):
            self.render(small_tokenizer, *messages)


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ([], r"0 messages has no user turn"),
        ([Message.from_text("system", "s")], r"1 messages has no user turn"),
        ([assistant("a")], r"message 1 is from 'assistant'; expected 'user'"),
        ([user_message("a"), user_message("b")], r"message 2 is from 'user'; expected 'assistant'"),
        (
            [Message.from_text("system", "s"), user_message("a"), user_message("b")],
            r"message 3 is from 'user'; expected 'assistant'",
        ),
        (
            [user_message("a"), Message.from_text("system", "s")],
            r"message 2 is from 'system'; expected 'assistant'",
        ),
        ([user_message("")], r"message 1 \(user\) is empty; expected a text or a picture"),
        ([user_message("a"), assistant("b")], r"nothing to answer; expected a user message"),
        (
            [user_message("a"), Message("assistant", (ImagePart(IMAGE),)), user_message("b")],
            r"message 2 \(assistant\) holds 1 picture\(s\) or clip\(s\); only user",
        ),
        (
            [Message("system", (ImagePart(IMAGE),)), user_message("b")],
            r"message 1 \(system\) holds 1 picture\(s\) or clip\(s\); only user",
        ),
    ],
)
def test_turns_out_of_order_are_refused(
    small_tokenizer: Tokenizer, messages: list[Message], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        render(messages, small_tokenizer)


def test_unknown_conv_mode_names_the_known_ones(small_tokenizer: Tokenizer) -> None:
    unknown: ConvMode = "vicuna_v1"  # type: ignore[assignment]  # what a user may type
    with pytest.raises(
        ConfigError, match=r"'vicuna_v1' is not known; expected one of qwen_2, plain"
    ):
        render([user_message("a")], small_tokenizer, template=unknown)
