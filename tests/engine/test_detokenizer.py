import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvlm.engine.detokenizer import StreamDecoder
from fastvlm.errors import ConfigError
from fastvlm.processing.tokenizer import Tokenizer

LETTERS = st.text("ab \n", max_size=12)
"""Few letters, so that stop strings are often met, begun and abandoned."""
stops = st.lists(st.text("ab \né你", min_size=1, max_size=4), max_size=3).map(tuple)


def cut(text: str, stop: tuple[str, ...]) -> str:
    """The text before the stop string that begins earliest."""
    return text[: min((text.find(word) for word in stop if word in text), default=len(text))]


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """One token a byte: the hardest way to cut a text."""
    by_bytes = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    return [by_bytes[bytes([byte])] for byte in data]


def pieces(decoder: StreamDecoder, ids: list[int]) -> list[str]:
    return [*(decoder.push(token_id) for token_id in ids), decoder.finish()]


def check(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...]) -> None:
    decoder = StreamDecoder(tokenizer, stop)
    whole = tokenizer.decode(ids)
    expected = cut(whole, stop)
    emitted = ""
    for token_id in ids:
        emitted += decoder.push(token_id)
        assert expected.startswith(emitted)
    emitted += decoder.finish()
    assert emitted == expected
    assert decoder.stopped == (expected != whole)


@given(ids=st.lists(st.integers(0, 700), max_size=40), stop=stops)
def test_any_ids_equal_decoding_them_at_once(
    small_tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...]
) -> None:
    check(small_tokenizer, ids, stop)


@given(text=st.text(max_size=30) | LETTERS, stop=stops, data=st.data())
def test_any_split_of_any_text(
    small_tokenizer: Tokenizer, text: str, stop: tuple[str, ...], data: st.DataObject
) -> None:
    encoded = text.encode()
    starts = data.draw(st.sets(st.integers(0, len(encoded))))
    ids: list[int] = []
    for start, end in zip([0, *sorted(starts)], [*sorted(starts), len(encoded)], strict=True):
        part = encoded[start:end]
        try:
            ids += small_tokenizer.encode(part.decode())
        except UnicodeDecodeError:  # a cut inside a character: only bytes can spell it
            ids += byte_ids(small_tokenizer, part)
    check(small_tokenizer, ids, stop)


@given(text=LETTERS, stop=stops.filter(bool))
def test_stop_strings_taken_from_the_text_itself(
    small_tokenizer: Tokenizer, text: str, stop: tuple[str, ...]
) -> None:
    middle = "".join(stop)
    check(small_tokenizer, byte_ids(small_tokenizer, (text + middle + text).encode()), stop)


def test_a_character_comes_whole(small_tokenizer: Tokenizer) -> None:
    ids = byte_ids(small_tokenizer, "é你😀".encode())
    assert pieces(StreamDecoder(small_tokenizer), ids) == [
        *("", "é"),
        *("", "", "你"),
        *("", "", "", "😀"),
        "",
    ]


def test_half_a_character_at_the_end_is_replaced(small_tokenizer: Tokenizer) -> None:
    ids = byte_ids(small_tokenizer, "a😀".encode()[:-1])
    assert pieces(StreamDecoder(small_tokenizer), ids) == ["a", "", "", "", "\ufffd"]


def test_text_is_given_out_at_once_when_nothing_can_stop_it(small_tokenizer: Tokenizer) -> None:
    ids = byte_ids(small_tokenizer, b"one stop")
    assert pieces(StreamDecoder(small_tokenizer, ("##",)), ids) == [*"one stop", ""]


def test_what_may_begin_a_stop_string_waits(small_tokenizer: Tokenizer) -> None:
    decoder = StreamDecoder(small_tokenizer, ("END",))
    ids = byte_ids(small_tokenizer, b"aENxEND!")
    assert pieces(decoder, ids) == ["a", "", "", "ENx", "", "", "", "", ""]
    assert decoder.stopped


def test_an_unfinished_stop_string_is_text_in_the_end(small_tokenizer: Tokenizer) -> None:
    decoder = StreamDecoder(small_tokenizer, ("END",))
    assert pieces(decoder, byte_ids(small_tokenizer, b"EN")) == ["", "", "EN"]
    assert not decoder.stopped


def test_a_stop_string_inside_one_token_cuts_the_token(small_tokenizer: Tokenizer) -> None:
    (token_id,) = small_tokenizer.encode(" circle")
    decoder = StreamDecoder(small_tokenizer, ("rc",))
    assert decoder.push(token_id) == " ci"
    assert decoder.stopped
    assert decoder.push(token_id) == ""
    assert decoder.finish() == ""


def test_the_stop_string_that_begins_earliest_wins_although_it_ends_later(
    small_tokenizer: Tokenizer,
) -> None:
    decoder = StreamDecoder(small_tokenizer, ("abcX", "bc"))
    assert "".join(pieces(decoder, byte_ids(small_tokenizer, b"-abcX"))) == "-"
    decoder = StreamDecoder(small_tokenizer, ("abcX", "bc"))
    assert "".join(pieces(decoder, byte_ids(small_tokenizer, b"-abcY"))) == "-a"
    assert decoder.stopped


def test_control_ids_neither_show_nor_disturb(small_tokenizer: Tokenizer) -> None:
    first, second = byte_ids(small_tokenizer, "é".encode())
    control = list(small_tokenizer.special_tokens.values())
    decoder = StreamDecoder(small_tokenizer, ("<|im_end|>",))
    assert "".join(pieces(decoder, [*control, first, *control, second, *control])) == "é"
    assert not decoder.stopped


def test_an_empty_stop_string_is_refused(small_tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match=r"stop strings \('a', ''\) contain an empty one"):
        StreamDecoder(small_tokenizer, ("a", ""))
