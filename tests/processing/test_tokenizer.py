import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from fastvlm.errors import CheckpointError, ConfigError
from fastvlm.processing.tokenizer import (
    CONTROL_TOKENS,
    ENDOFTEXT,
    IM_END,
    IM_START,
    AddedToken,
    Tokenizer,
    byte_level_core,
)
from fastvlm.processing.tokenizer_training import SMALLEST_VOCAB, train_tokenizer

MARKERS = (
    *CONTROL_TOKENS,
    "<image>",
    "<|image_pad|>",
    "<tool_call>",
    "<im_start>",
    "<im_end>",
    "<image-placeholder>",
    "\0",
    "\u200d",
    "\ufeff",
)
ADDED_LIKE_PUBLISHED = {"<tool_call>": False, "<image>": False, "<|image_pad|>": True}

marker = st.sampled_from(MARKERS)
texts = st.lists(st.text() | marker | st.sampled_from([" ", "\n", "\ud800"]), max_size=8).map(
    "".join
)
surrogate_texts = st.lists(
    st.text(st.characters(codec=None, categories=None)) | marker, max_size=6
).map("".join)


@pytest.fixture(scope="module")
def crowded_folder(small_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose tokenizer.json and slow files register further added tokens, as published ones do."""
    folder = tmp_path_factory.mktemp("crowded")
    small_tokenizer.save(folder)
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
    for token_id, (text, special) in enumerate(
        ADDED_LIKE_PUBLISHED.items(), start=small_tokenizer.vocab_size
    ):
        entry = document["added_tokens"][0] | {"content": text, "special": special}
        document["added_tokens"].append(entry | {"id": token_id})
        config["added_tokens_decoder"][str(token_id)] = {
            key: value for key, value in entry.items() if key != "id"
        }
        added[text] = token_id
    for name, value in (
        ("tokenizer.json", document),
        ("tokenizer_config.json", config),
        ("added_tokens.json", added),
    ):
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def crowded(crowded_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(crowded_folder)


def slow_copy(folder: Path, target: Path, *, without: tuple[str, ...] = ()) -> Path:
    """The same folder without tokenizer.json, as Apple ships it."""
    target.mkdir()
    for path in folder.iterdir():
        if path.name not in ("tokenizer.json", *without):
            (target / path.name).write_bytes(path.read_bytes())
    return target


def nfc(text: str) -> str:
    return normalizers.NFC().normalize_str(text)


@given(text=texts.filter(lambda text: "\ud800" not in text))
def test_text_comes_back_in_nfc(small_tokenizer: Tokenizer, text: str) -> None:
    assert small_tokenizer.decode(small_tokenizer.encode(text)) == nfc(text)


@given(text=texts)
def test_user_text_never_becomes_an_added_token(crowded: Tokenizer, text: str) -> None:
    ids = crowded.encode(text)
    first_added = min(crowded.special_tokens.values())
    assert all(0 <= token_id < first_added for token_id in ids)


@given(text=surrogate_texts)
def test_lone_surrogates_become_the_replacement_character(
    small_tokenizer: Tokenizer, text: str
) -> None:
    decoded = small_tokenizer.decode(small_tokenizer.encode(text))
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert decoded == nfc(whole)


def test_paired_surrogates_are_one_character(small_tokenizer: Tokenizer) -> None:
    assert small_tokenizer.decode(small_tokenizer.encode("\ud83d\ude00 \ud83d")) == "😀 \ufffd"


@given(text=texts)
def test_added_tokens_beside_the_core_do_not_change_ids(
    small_tokenizer: Tokenizer, crowded: Tokenizer, text: str
) -> None:
    assert crowded.encode(text) == small_tokenizer.encode(text)


def test_slow_files_give_the_same_ids(crowded_folder: Path, tmp_path: Path) -> None:
    fast = Tokenizer.from_folder(crowded_folder)
    slow = Tokenizer.from_folder(slow_copy(crowded_folder, tmp_path / "slow"))
    text = "What's  this?\r\n\n 123 Straße 你好 👩‍👩‍👧 <|im_end|> <image> cafe\u0301"
    assert slow.encode(text) == fast.encode(text)
    assert slow.special_tokens == fast.special_tokens
    assert slow.vocab_size == fast.vocab_size
    assert all(slow.token_bytes(i) == fast.token_bytes(i) for i in range(fast.vocab_size + 5))


@pytest.mark.parametrize("without", ["added_tokens.json", "tokenizer_config.json"])
def test_control_tokens_are_read_from_either_file(
    small_tokenizer: Tokenizer, tmp_path: Path, without: str
) -> None:
    small_tokenizer.save(tmp_path / "whole")
    folder = slow_copy(tmp_path / "whole", tmp_path / "slow", without=(without,))
    assert Tokenizer.from_folder(folder).special_tokens == small_tokenizer.special_tokens


def test_merges_may_lack_the_version_line_and_have_windows_line_ends(
    small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    small_tokenizer.save(tmp_path / "whole")
    folder = slow_copy(tmp_path / "whole", tmp_path / "slow")
    merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n", 1)[1]
    (folder / "merges.txt").write_bytes(merges.replace("\n", "\r\n").encode())
    text = "What color is the circle?"
    assert Tokenizer.from_folder(folder).encode(text) == small_tokenizer.encode(text)


def test_control_tokens_listed_in_the_vocabulary_too_stay_out_of_text(
    small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    small_tokenizer.save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["vocab"] |= small_tokenizer.special_tokens
    document["model"]["ignore_merges"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    loaded = Tokenizer.from_folder(tmp_path)
    for token, token_id in small_tokenizer.special_tokens.items():
        assert token_id not in loaded.encode(token)
    assert loaded.vocab_size == small_tokenizer.vocab_size


def test_options_of_the_model_in_tokenizer_json_are_kept(
    small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    small_tokenizer.save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["vocab"]["Ġzebra"] = 900  # no merge leads there
    document["model"]["ignore_merges"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    assert Tokenizer.from_folder(tmp_path).encode(" zebra") == [900]


def test_merges_may_be_written_as_strings(small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """As tokenizers before 0.20 wrote them, and so most published files."""
    small_tokenizer.save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["merges"] = [" ".join(merge) for merge in document["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    text = "What color is the circle?"
    assert Tokenizer.from_folder(tmp_path).encode(text) == small_tokenizer.encode(text)


def test_worker_processes_get_the_same_tokenizer(crowded: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(crowded))
    assert copy.encode("What <image>?") == crowded.encode("What <image>?")
    assert copy.special_tokens == crowded.special_tokens


def test_control_ids_have_no_text_and_other_added_tokens_do(crowded: Tokenizer) -> None:
    ids = [crowded.im_start_id, *crowded.encode("red"), crowded.im_end_id, crowded.endoftext_id]
    tool_call = max(crowded.special_tokens[token] for token in CONTROL_TOKENS) + 1
    assert crowded.decode(ids) == "red"
    assert crowded.decode([tool_call]) == "<tool_call>"
    assert crowded.token_bytes(crowded.special_tokens["<|image_pad|>"]) == b""


@pytest.mark.parametrize("token_id", [-200, -1, 100_000, 151_935])
def test_ids_beyond_the_vocabulary_are_skipped(small_tokenizer: Tokenizer, token_id: int) -> None:
    ids = small_tokenizer.encode("red")
    assert small_tokenizer.token_bytes(token_id) == b""
    assert small_tokenizer.decode([token_id, *ids, token_id]) == "red"


def test_broken_utf8_is_replaced(small_tokenizer: Tokenizer) -> None:
    byte_ids = [
        i for i in range(small_tokenizer.vocab_size) if small_tokenizer.token_bytes(i) == b"\xe4"
    ]
    assert small_tokenizer.decode([*byte_ids, *small_tokenizer.encode("a")]) == "\ufffda"


ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
CONTROL = {token: AddedToken(300 + i, True) for i, token in enumerate(CONTROL_TOKENS)}


def test_a_vocabulary_entry_outside_the_byte_alphabet_is_its_own_text() -> None:
    vocab = {symbol: i for i, symbol in enumerate([*ALPHABET, "日 本"])}
    tokenizer = Tokenizer(byte_level_core(vocab, []), added_tokens=CONTROL)
    assert tokenizer.decode([vocab["a"], vocab["日 本"]]) == "a日 本"


def test_a_vocabulary_that_would_lose_bytes_is_refused() -> None:
    vocab = {symbol: i for i, symbol in enumerate(ALPHABET) if symbol != "A"}
    with pytest.raises(CheckpointError, match=r"lacks 1 of the 256 bytes, 0x41 for one"):
        Tokenizer(byte_level_core(vocab, []), added_tokens=CONTROL)


def test_named_ids(small_tokenizer: Tokenizer) -> None:
    special = small_tokenizer.special_tokens
    assert small_tokenizer.im_start_id == special[IM_START]
    assert small_tokenizer.im_end_id == special[IM_END]
    assert small_tokenizer.endoftext_id == special[ENDOFTEXT]
    assert small_tokenizer.eos_token_ids == (special[IM_END], special[ENDOFTEXT])


class TestTraining:
    def test_control_tokens_come_last_and_all_bytes_are_there(
        self, small_tokenizer: Tokenizer
    ) -> None:
        size = small_tokenizer.vocab_size
        assert small_tokenizer.special_tokens == {
            ENDOFTEXT: size - 3,
            IM_START: size - 2,
            IM_END: size - 1,
        }
        singles = {small_tokenizer.token_bytes(i) for i in range(size)}
        assert {bytes([byte]) for byte in range(256)} <= singles

    def test_vocab_size_is_reached_and_merges_shorten_text(self) -> None:
        sentences = [f"The {color} circle is left of it." for color in ("red", "blue", "green")]
        tokenizer = train_tokenizer(sentences * 3, 280)
        assert tokenizer.vocab_size == 280
        assert len(tokenizer.encode(sentences[0])) < len(sentences[0])

    def test_same_texts_give_the_same_tokenizer(self, tmp_path: Path) -> None:
        sentences = ["one two three four five six seven eight nine ten"] * 3
        for name in ("first", "second"):
            train_tokenizer(iter(sentences), 300).save(tmp_path / name)
        first = (tmp_path / "first" / "tokenizer.json").read_bytes()
        assert first == (tmp_path / "second" / "tokenizer.json").read_bytes()

    def test_too_small_a_vocabulary_is_refused(self) -> None:
        with pytest.raises(
            ConfigError, match=r"vocab_size 258 is too small; expected at least 259"
        ):
            train_tokenizer(["a"], SMALLEST_VOCAB - 1)

    def test_bytes_alone_are_enough(self) -> None:
        tokenizer = train_tokenizer(["aaa"], SMALLEST_VOCAB)
        assert tokenizer.vocab_size == SMALLEST_VOCAB
        assert tokenizer.decode(tokenizer.encode("日本\0")) == "日本\0"


class TestSaving:
    def test_round_trip_keeps_everything(self, crowded: Tokenizer, tmp_path: Path) -> None:
        crowded.save(tmp_path)
        again = Tokenizer.from_folder(tmp_path)
        assert again.special_tokens == crowded.special_tokens
        assert again.vocab_size == crowded.vocab_size
        assert all(
            again.token_bytes(i) == crowded.token_bytes(i) for i in range(crowded.vocab_size)
        )
        text = "What's that? 你好 <image>"
        assert again.encode(text) == crowded.encode(text)

    def test_nothing_temporary_is_left(self, small_tokenizer: Tokenizer, tmp_path: Path) -> None:
        small_tokenizer.save(tmp_path / "new" / "folder")
        small_tokenizer.save(tmp_path / "new" / "folder")
        assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
            "added_tokens.json",
            "merges.txt",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
        ]


class TestDamage:
    @pytest.fixture
    def folder(self, small_tokenizer: Tokenizer, tmp_path: Path) -> Path:
        small_tokenizer.save(tmp_path)
        return tmp_path

    def refuses(self, folder: Path, match: str) -> None:
        with pytest.raises(CheckpointError, match=match):
            Tokenizer.from_folder(folder)

    def test_empty_folder_names_what_is_expected(self, tmp_path: Path) -> None:
        self.refuses(tmp_path, r"neither tokenizer\.json nor vocab\.json and merges\.txt; expected")

    def test_missing_merges_is_named(self, folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        (folder / "merges.txt").unlink()
        self.refuses(folder, r"neither tokenizer\.json nor merges\.txt; expected")

    def test_missing_control_tokens_are_named(self, folder: Path) -> None:
        for name in ("tokenizer.json", "added_tokens.json", "tokenizer_config.json"):
            (folder / name).unlink()
        self.refuses(folder, r"no <\|endoftext\|>, <\|im_start\|>, <\|im_end\|>")

    @pytest.mark.parametrize(
        "content", [b"{", b"\xff\xfe", b'["a"]', b"{}", b'{"added_tokens": 3}']
    )
    def test_damaged_tokenizer_json(self, folder: Path, content: bytes) -> None:
        (folder / "tokenizer.json").write_bytes(content)
        self.refuses(folder, r"tokenizer\.json")

    def test_tokenizer_of_another_kind(self, folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        document["decoder"] = {"type": "Fuse"}
        (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
        self.refuses(folder, r"BPE tokenizer with a Fuse decoder; expected Qwen2's byte-level BPE")

    def test_tokenizer_json_that_the_library_refuses(self, folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        document["model"]["merges"].append(["no such", "entry"])
        (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
        self.refuses(folder, r"cannot be read as a tokenizer")

    @pytest.mark.parametrize(
        ("line", "match"),
        [("one two three", r"the line 'one two three'; expected two"), ("xq zq", r"do not belong")],
    )
    def test_damaged_merges(self, folder: Path, line: str, match: str) -> None:
        (folder / "tokenizer.json").unlink()
        with (folder / "merges.txt").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self.refuses(folder, match)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("added_tokens.json", b'{"<|im_end|>": "x"}'),
            ("added_tokens.json", b'{"<|im_end|>": null}'),
            ("tokenizer_config.json", b'{"added_tokens_decoder": {"3": {"special": true}}}'),
            ("tokenizer_config.json", b'{"added_tokens_decoder": [3]}'),
        ],
    )
    def test_unreadable_added_tokens(self, folder: Path, name: str, content: bytes) -> None:
        (folder / "tokenizer.json").unlink()
        (folder / name).write_bytes(content)
        self.refuses(folder, rf"{name} has an added token that cannot be read")

    @pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json", "vocab.json"])
    @pytest.mark.parametrize("content", [b"", b"[]", b"\xff"])
    def test_damaged_slow_files(self, folder: Path, name: str, content: bytes) -> None:
        (folder / "tokenizer.json").unlink()
        (folder / name).write_bytes(content)
        self.refuses(folder, name)
