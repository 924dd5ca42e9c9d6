"""Ids, text, prompts and labels beside transformers' Qwen2 tokenizer, on a tokenizer trained here."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvlm.messages import Message, user_message
from fastvlm.processing.chat_template import ImageSegment, Segment, render
from fastvlm.processing.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers", reason="needs the 'oracle' dependency group")

pytestmark = pytest.mark.oracle

SLOW_FILES = ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json")
LAYOUTS = {"tokenizer.json": ("tokenizer.json", "tokenizer_config.json"), "slow files": SLOW_FILES}


@pytest.fixture(scope="module", params=list(LAYOUTS))
def oracle(
    request: pytest.FixtureRequest,
    small_tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """transformers' tokenizer, loaded from what `Tokenizer.save` wrote, in both layouts."""
    whole, folder = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("layout")
    small_tokenizer.save(whole)
    for name in LAYOUTS[request.param]:
        (folder / name).write_bytes((whole / name).read_bytes())
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_auto_tokenizer_loads_a_qwen2_tokenizer(oracle: Any, small_tokenizer: Tokenizer) -> None:
    assert "Qwen2Tokenizer" in type(oracle).__name__
    assert len(oracle) == small_tokenizer.vocab_size
    assert oracle.eos_token_id == small_tokenizer.im_end_id
    assert oracle.pad_token_id == small_tokenizer.endoftext_id
    assert oracle.bos_token_id is None


@given(text=st.text())
def test_ids_are_equal(oracle: Any, small_tokenizer: Tokenizer, text: str) -> None:
    ids = oracle(text, add_special_tokens=True, split_special_tokens=True)["input_ids"]
    assert small_tokenizer.encode(text) == ids


@given(
    text=st.lists(
        st.text(max_size=4)
        | st.sampled_from(
            ["'s", "'LL", "\r\n", " \n ", "  ", "１２", "٣", "ſ", "'ſ", "\u1e9b\u0323", "\u0344"]
        ),
        max_size=8,
    ).map("".join)
)
def test_ids_are_equal_where_the_split_pattern_is_delicate(
    oracle: Any, small_tokenizer: Tokenizer, text: str
) -> None:
    assert small_tokenizer.encode(text) == oracle(text, split_special_tokens=True)["input_ids"]


@given(ids=st.lists(st.integers(0, 600), max_size=30))
def test_text_of_any_ids_is_equal(oracle: Any, small_tokenizer: Tokenizer, ids: list[int]) -> None:
    ids = [token_id for token_id in ids if token_id < small_tokenizer.vocab_size]
    expected = oracle.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert small_tokenizer.decode(ids) == expected


def reference_prompt_ids(prompt: str, oracle: Any) -> list[int]:
    """# REF: llava/mm_utils.py tokenizer_image_token: the pieces between images, joined with -200."""
    ids: list[int] = []
    for index, piece in enumerate(prompt.split("<image>")):
        ids += ([-200] if index else []) + oracle(piece)["input_ids"]
    return ids


def reference_labels(prompt: str, oracle: Any) -> list[int]:
    """The label mask of the released training code, by counting tokens of rounds.

    # REF: llava/train/train_qwen.py preprocess_qwen_2: rounds end in <|im_end|> and a line end; what goes
    # before the answer is masked, the answer and the two tokens after it are learned.
    """
    labels = reference_prompt_ids(prompt, oracle)
    header, end = "<|im_start|>assistant\n", "<|im_end|>\n"
    rounds = prompt.split(end)
    rounds = [end.join(rounds[:3]), *map(end.join, zip(rounds[3::2], rounds[4::2], strict=False))]
    position = 0
    for text in rounds:
        question, answer = text.split(header)
        masked = len(reference_prompt_ids(question + header, oracle))
        labels[position : position + masked] = [-100] * masked
        position += masked + len(oracle(answer)["input_ids"]) + 2
    assert position == len(labels)
    return labels


def flat(segments: tuple[Segment, ...]) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    labels: list[int] = []
    for segment in segments:
        if isinstance(segment, ImageSegment):
            ids.append(-200)
            labels.append(-100)
        else:
            ids += segment.ids
            labels += segment.ids if segment.is_trainable else [-100] * len(segment.ids)
    return ids, labels


words = st.text(st.characters(exclude_characters="<>", codec="utf-8"), min_size=1, max_size=12)


@given(
    turns=st.lists(st.tuples(words, words.map(str.lstrip)), min_size=1, max_size=3),
    num_images=st.integers(0, 2),
)
def test_prompt_and_labels_equal_the_reference(
    oracle: Any, small_tokenizer: Tokenizer, turns: list[tuple[str, str]], num_images: int
) -> None:
    messages: list[Message] = []
    prompt = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    for index, (question, answer) in enumerate(turns):
        images = [b""] * num_images if index == 0 else []
        messages += [user_message(question, *images), Message.from_text("assistant", answer)]
        prompt += "<|im_start|>user\n" + "<image>\n" * len(images) + f"{question}<|im_end|>\n"
        prompt += f"<|im_start|>assistant\n{answer}<|im_end|>\n"
    ids, labels = flat(render(messages, small_tokenizer, add_generation_prompt=False))
    assert ids == reference_prompt_ids(prompt, oracle)
    assert labels == reference_labels(prompt, oracle)
    ids, _ = flat(render(messages[:-1], small_tokenizer))
    end_of_prompt = prompt.rindex("<|im_start|>assistant\n") + len("<|im_start|>assistant\n")
    assert ids == reference_prompt_ids(prompt[:end_of_prompt], oracle)


def test_a_tokenizer_saved_by_transformers_is_read_with_the_same_ids(
    oracle: Any, small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    oracle.add_tokens(["<image>"], special_tokens=False)
    oracle.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    loaded = Tokenizer.from_folder(tmp_path)
    text = "What's <image> this? <|im_end|> 你好"
    assert loaded.encode(text) == small_tokenizer.encode(text)
    assert loaded.special_tokens == small_tokenizer.special_tokens
    added = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    assert "<image>" in [entry["content"] for entry in added]
