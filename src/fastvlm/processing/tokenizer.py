"""Qwen2's byte-level BPE, held so that text is always text.

Control tokens (`<|im_start|>`, `<|im_end|>`, `<|endoftext|>`) and every other added token live in a table
beside the tokenizer core, never inside it: whatever a user types is encoded by a core that does not know
them. Only `processing.chat_template` places control ids, and it takes them from the table.

Two layouts are read: tokenizer.json, and the files of the slow tokenizer (vocab.json, merges.txt,
added_tokens.json or tokenizer_config.json) that Apple's folders carry. The core is the same in both cases:
NFC, Qwen2's split pattern, byte level without a prefix space. How a tokenizer is trained stands in
`processing.tokenizer_training`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from fastvlm.errors import CheckpointError

IM_START: Final = "<|im_start|>"
IM_END: Final = "<|im_end|>"
ENDOFTEXT: Final = "<|endoftext|>"
CONTROL_TOKENS: Final = (ENDOFTEXT, IM_START, IM_END)
"""In the order of their ids in the published tokenizers (151643 to 151645)."""

SPLIT_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # English contractions
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # a word, with the space or sign before it
    r"|\p{N}"  # each digit alone
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # signs, with the line ends after them
    r"|\s*[\r\n]+"  # line ends, with the space before them
    r"|\s+(?!\S)|\s+"  # other space; the last one goes to the word that follows
)
"""How Qwen2 cuts text before merging. It is part of the checkpoint: another cut gives other ids."""


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that stands beside the merged vocabulary."""

    id: int
    is_control: bool
    """Control tokens have no text; the others (`<tool_call>` in Qwen2.5) read as they are written."""


def byte_level_core(
    vocab: Mapping[str, int], merges: Iterable[tuple[str, str]]
) -> tokenizers.Tokenizer:
    """Qwen2's pipeline around this vocabulary, without any added token."""
    core = tokenizers.Tokenizer(models.BPE(vocab=dict(vocab), merges=list(merges)))
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    return core


class Tokenizer:
    """Text to ids and back; see the module for what it promises about user text.

    Args:
        core: byte-level BPE without added tokens.
        added_tokens: the tokens beside it, control tokens among them.

    Raises:
        CheckpointError: one of Qwen2's three control tokens or of the 256 bytes is missing.
    """

    def __init__(
        self, core: tokenizers.Tokenizer, *, added_tokens: Mapping[str, AddedToken]
    ) -> None:
        missing = [token for token in CONTROL_TOKENS if token not in added_tokens]
        if missing:
            raise CheckpointError(
                f"the tokenizer has no {', '.join(missing)}; expected Qwen2's control tokens "
                f"{', '.join(CONTROL_TOKENS)} among its added tokens"
            )
        lost = [
            byte for symbol, byte in _BYTE_OF_CHARACTER.items() if core.token_to_id(symbol) is None
        ]
        if lost:
            raise CheckpointError(
                f"the vocabulary lacks {len(lost)} of the 256 bytes, {lost[0]:#04x} for one; text with them "
                "would be lost; expected a complete byte-level vocabulary"
            )
        self._core = core
        self._added = dict(added_tokens)
        self._added_bytes = {
            token.id: b"" if token.is_control else text.encode()
            for text, token in added_tokens.items()
        }

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read the tokenizer of a checkpoint folder.

        Args:
            folder: holds tokenizer.json; or vocab.json and merges.txt with the control tokens in
                added_tokens.json or tokenizer_config.json.

        Raises:
            CheckpointError: files are missing, damaged, or of another kind of tokenizer.
        """
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file():
            return _from_tokenizer_json(folder / "tokenizer.json")
        missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"no tokenizer in {folder}: found neither tokenizer.json nor {' and '.join(missing)}; "
                "expected tokenizer.json, or vocab.json and merges.txt with added_tokens.json"
            )
        return _from_slow_files(folder)

    def encode(self, text: str) -> list[int]:
        """Ids of literal text: nothing in it can become a control token or an image.

        Text is brought to Unicode NFC first. Lone surrogates, which are no characters, become U+FFFD.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return self._core.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids. Control ids and ids beyond the vocabulary have none; broken UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one id adds to the text; b"" for control ids and ids beyond the vocabulary."""
        if token_id in self._added_bytes:
            return self._added_bytes[token_id]
        token = self._core.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        if token is None:
            return b""
        try:
            return bytes(_BYTE_OF_CHARACTER[character] for character in token)
        except KeyError:  # not written in the byte alphabet: the entry is its own text
            return token.encode()

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest id, added tokens included."""
        highest = max(self._core.get_vocab(with_added_tokens=False).values())
        return 1 + max(highest, *self._added_bytes)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Control tokens and their ids."""
        return {text: token.id for text, token in self._added.items() if token.is_control}

    @property
    def im_start_id(self) -> int:
        """Opens a turn."""
        return self._added[IM_START].id

    @property
    def im_end_id(self) -> int:
        """Closes a turn; the model ends its answer with it."""
        return self._added[IM_END].id

    @property
    def endoftext_id(self) -> int:
        """Ends a document; batches are padded with it."""
        return self._added[ENDOFTEXT].id

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return (self.im_end_id, self.endoftext_id)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and the files of the slow tokenizer, readable by transformers too.

        Args:
            folder: made if it does not exist; files of the same names are replaced, each at once.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        document = json.loads(self._core.to_str())
        model = document["model"]
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        tokens = sorted(self._added.items(), key=lambda item: item[1].id)
        described = {
            token.id: {"content": text, **flags, "special": token.is_control}
            for text, token in tokens
        }
        document["added_tokens"] = [{"id": key, **value} for key, value in described.items()]
        tokenizer_config = {
            "added_tokens_decoder": {str(key): value for key, value in described.items()},
            "add_prefix_space": False,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": IM_END,
            "errors": "replace",
            "pad_token": ENDOFTEXT,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        }
        merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
        _write(folder / "tokenizer.json", _as_json(document))
        _write(folder / "vocab.json", _as_json(model["vocab"]))
        _write(folder / "merges.txt", "#version: 0.2\n" + merges)
        _write(folder / "added_tokens.json", _as_json({text: token.id for text, token in tokens}))
        _write(folder / "tokenizer_config.json", _as_json(tokenizer_config))


def _byte_of_character() -> dict[str, int]:
    """The byte alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }


_BYTE_OF_CHARACTER: Final = _byte_of_character()

_BPE_OPTIONS: Final = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
)
"""What tokenizer.json says of the model beside its vocabulary."""


def _from_tokenizer_json(path: Path) -> Tokenizer:
    document = _read_json(path)
    try:
        model, decoder = document["model"], document["decoder"]
        added = {
            entry["content"]: AddedToken(int(entry["id"]), bool(entry["special"]))
            for entry in document["added_tokens"]
        }
        if (model["type"], decoder["type"]) != ("BPE", "ByteLevel"):
            raise CheckpointError(
                f"{path} is a {model['type']} tokenizer with a {decoder['type']} decoder; "
                "expected Qwen2's byte-level BPE"
            )
        vocab = _without(model["vocab"], added)
        merges = [
            tuple(merge.split(" ") if isinstance(merge, str) else merge)
            for merge in model["merges"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise CheckpointError(
            f"{path} is not the tokenizer.json that was expected: {err!r}"
        ) from err
    document |= {"post_processor": None, "truncation": None, "padding": None, "added_tokens": []}
    document["model"] = model | {"vocab": {}, "merges": []}
    options = {name: model[name] for name in _BPE_OPTIONS if model.get(name) is not None}
    try:
        core = tokenizers.Tokenizer.from_str(json.dumps(document))
        # Handing the vocabulary over as objects takes half the time of writing it as JSON once more.
        core.model = models.BPE(vocab=vocab, merges=merges, **options)
    except Exception as err:  # the library raises no narrower class
        raise CheckpointError(f"{path} cannot be read as a tokenizer: {err}") from err
    return Tokenizer(core, added_tokens=added)


def _without(vocab: Mapping[str, int], added: Mapping[str, AddedToken]) -> dict[str, int]:
    """Some trainers list added tokens in the vocabulary too, where text could reach them."""
    return {token: token_id for token, token_id in vocab.items() if token not in added}


def _from_slow_files(folder: Path) -> Tokenizer:
    vocab: dict[str, int] = _read_json(folder / "vocab.json")
    lines = _read_text(folder / "merges.txt").split("\n")
    if lines[0].startswith("#version"):
        lines = lines[1:]
    merges = [tuple(line.split(" ")) for line in map(str.rstrip, lines) if line]
    broken = next((merge for merge in merges if len(merge) != 2), None)
    if broken is not None:
        raise CheckpointError(
            f"{folder / 'merges.txt'} has the line {' '.join(broken)!r}; expected two tokens a line"
        )
    added = _slow_added_tokens(folder)
    try:
        core = byte_level_core(_without(vocab, added), [(left, right) for left, right in merges])
    except Exception as err:  # the library raises no narrower class
        raise CheckpointError(
            f"vocab.json and merges.txt in {folder} do not belong together: {err}"
        ) from err
    return Tokenizer(core, added_tokens=added)


def _slow_added_tokens(folder: Path) -> dict[str, AddedToken]:
    """Added tokens of both files; where nothing says what a token is, it is taken for a control token."""
    added: dict[str, AddedToken] = {}
    path = folder / "added_tokens.json"
    try:
        if path.is_file():
            added |= {text: AddedToken(int(key), True) for text, key in _read_json(path).items()}
        path = folder / "tokenizer_config.json"
        if path.is_file():
            for key, entry in _read_json(path).get("added_tokens_decoder", {}).items():
                added[entry["content"]] = AddedToken(int(key), bool(entry.get("special", True)))
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise CheckpointError(f"{path} has an added token that cannot be read: {err!r}") from err
    return added


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise CheckpointError(f"{path} cannot be read: {err}") from err


def _read_json(path: Path) -> Any:  # a JSON border: the callers name what they expect
    try:
        document = json.loads(_read_text(path))
    except json.JSONDecodeError as err:
        raise CheckpointError(f"{path} is damaged: {err}") from err
    if not isinstance(document, dict):
        raise CheckpointError(
            f"{path} holds a {type(document).__name__}; expected a JSON object with names"
        )
    return document


def _as_json(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    """Write beside the target first, so that a full disk leaves the old file whole."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)
