"""`<image>` gets a row of the vocabulary that nothing else uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastvlm.checkpoint.hf_processor import reserve_image_token, write_processor_files
from fastvlm.config import preset
from fastvlm.errors import CheckpointError
from fastvlm.processing.tokenizer import Tokenizer

SLOW = ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json")
FAST = ("tokenizer.json",)


def keep(folder: Path, names: tuple[str, ...]) -> None:
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("names", [SLOW, SLOW[:3], SLOW[:2] + SLOW[3:], FAST, FAST + SLOW])
def test_the_first_free_row_is_taken_and_written_everywhere(
    tmp_path: Path, small_tokenizer: Tokenizer, names: tuple[str, ...]
) -> None:
    small_tokenizer.save(tmp_path)
    keep(tmp_path, names)
    free = small_tokenizer.vocab_size
    assert reserve_image_token(tmp_path, free + 10) == free
    after = Tokenizer.from_folder(tmp_path)
    assert after.vocab_size == free + 1
    assert after.token_bytes(free) == b""  # a control token
    assert after.encode("a <image> b") == small_tokenizer.encode("a <image> b")
    ids = {
        "tokenizer.json": lambda data: {t["content"]: t["id"] for t in data["added_tokens"]},
        "added_tokens.json": dict,
        "tokenizer_config.json": lambda data: {
            token["content"]: int(key)
            for key, token in data.get(
                "added_tokens_decoder", {free: {"content": "<image>"}}
            ).items()
        },
    }
    for name in ids:
        if (tmp_path / name).is_file():
            assert ids[name](read(tmp_path / name))["<image>"] == free, name
    # A second conversion finds the token where it is.
    assert reserve_image_token(tmp_path, free + 10) == free


def test_a_full_vocabulary_is_refused(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    small_tokenizer.save(tmp_path)
    size = small_tokenizer.vocab_size
    with pytest.raises(CheckpointError, match=rf"all {size} rows .* use layout 'apple'"):
        reserve_image_token(tmp_path, size)


@pytest.mark.parametrize(("num_added", "expected"), [(3, 151_646), (22, 151_665)])
def test_the_published_vocabularies_have_a_free_row(
    tmp_path: Path, num_added: int, expected: int
) -> None:
    """Qwen2 adds three tokens to its vocabulary, Qwen2.5 twenty-two: 151646 is only free in the first."""
    vocab = {f"word{i}": i for i in range(151_643)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    added = {f"<|{i}|>": 151_643 + i for i in range(num_added)}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added), "utf-8")
    assert reserve_image_token(tmp_path, 151_936) == expected


def test_an_image_token_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "<image>": 9}', "utf-8")
    with pytest.raises(CheckpointError, match=r"<image> is token 9 but the embedding has 5 rows"):
        reserve_image_token(tmp_path, 5)


def test_a_gap_between_tokens_is_free(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}', "utf-8")
    (tmp_path / "added_tokens.json").write_text('{"<x>": 3}', "utf-8")
    assert reserve_image_token(tmp_path, 10) == 2


def test_without_a_tokenizer_nothing_is_written(tmp_path: Path) -> None:
    assert reserve_image_token(tmp_path, 152_000) == 151_646
    assert reserve_image_token(tmp_path, 100) == 99
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"model": {"vocab": ["a"]}}'),
        ("vocab.json", '{"a": "b"}'),
        ("vocab.json", "[]"),
        ("added_tokens.json", "{"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}'),
    ],
)
def test_damaged_files_are_a_clear_error(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(CheckpointError, match=r"damaged|JSON"):
        reserve_image_token(tmp_path, 100)


def test_the_processor_follows_the_image_size(tmp_path: Path) -> None:
    write_processor_files(tmp_path, preset("0.5b"))
    pixels = read(tmp_path / "preprocessor_config.json")
    assert pixels["size"] == {"shortest_edge": 1024}
    assert pixels["crop_size"] == {"height": 1024, "width": 1024}
    assert (pixels["image_mean"], pixels["image_std"]) == ([0.0] * 3, [1.0] * 3)
    assert read(tmp_path / "processor_config.json")["patch_size"] == 64
