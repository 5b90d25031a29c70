from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engines.causal.detokenize import LONGEST, Detokenizer, StopStrings, TextStream

untimed = settings(deadline=None)
SMALL = st.text("ab", max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=4)


def bytes_of(tokens: list[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(tokens).decode("utf-8", "replace")


def words_of(tokens: list[int]) -> str:
    """A tokenizer whose tokens are words, all but the first with a blank before them, as SentencePiece has it."""
    return " ".join(f"w{token}" for token in tokens)


@untimed
@given(st.binary(max_size=40))
def test_the_pieces_add_up_to_the_text(data: bytes) -> None:
    pieces = Detokenizer(bytes_of)
    told = [pieces.push(token) for token in data]
    assert "".join(told) + pieces.flush() == bytes_of(list(data))


@untimed
@given(st.text(max_size=20).filter(lambda text: "\ufffd" not in text))
def test_a_character_is_told_when_it_is_whole(text: str) -> None:
    pieces = Detokenizer(bytes_of)
    for character in text:
        *parts, last = character.encode()
        assert [pieces.push(part) for part in parts] == [""] * len(parts)
        assert pieces.push(last) == character
    assert pieces.flush() == ""


@untimed
@given(st.lists(st.integers(0, 99), max_size=20))
def test_a_piece_has_the_blank_that_it_has_in_the_text(tokens: list[int]) -> None:
    pieces = Detokenizer(words_of)
    assert "".join(pieces.push(token) for token in tokens) + pieces.flush() == words_of(tokens)


def first_stop(text: str, stops: list[str]) -> str | None:
    """The text before the stop string that is complete first, reading character by character."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return None


@untimed
@given(SMALL, STOPS, st.lists(st.integers(0, 30), max_size=6))
def test_stop_strings_cut_alike_wherever_the_pieces_end(text: str, stops: list[str], cuts: list[int]) -> None:
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    guard, passed = StopStrings(stops), ""
    for start, end in pairwise(edges):
        passed += guard.push(text[start:end])
        assert text.startswith(passed)
        if guard.hit:
            break
    expected = first_stop(text, stops)
    assert guard.hit == (expected is not None)
    assert passed + guard.flush() == (text if expected is None else expected)


@untimed
@given(SMALL, STOPS)
def test_only_what_may_begin_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    guard, passed = StopStrings(stops), ""
    for end, character in enumerate(text, start=1):
        passed += guard.push(character)
        if guard.hit:
            return
        held = text[len(passed) : end]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stream_ends_at_a_stop_string_across_tokens() -> None:
    stream = TextStream(Detokenizer(bytes_of), ["né"])
    told = [stream.push(token) for token in "an né".encode()[:5]]
    assert told == ["a", "", "n ", "", ""]
    assert not stream.stopped
    assert stream.push("né".encode()[2]) == ""
    assert stream.stopped


def test_a_stream_that_is_cut_short_tells_all_it_held_back() -> None:
    stream = TextStream(Detokenizer(bytes_of), ["stop"])
    assert "".join(stream.push(token) for token in b"please sto") == "please "
    assert stream.push("é".encode()[0]) == ""
    assert stream.end() == "sto\ufffd"


def test_a_stop_string_counts_only_from_where_it_may() -> None:
    stream = TextStream(Detokenizer(bytes_of), ["ab"])
    told = [stream.push(token, stoppable=False) for token in b"abxa"]
    assert "".join(told) == "abxa"
    assert not stream.stopped
    assert [stream.push(token) for token in b"bab"] == ["b", "", ""]
    assert stream.stopped


def test_what_never_becomes_a_character_is_told_in_the_end() -> None:
    pieces = Detokenizer(bytes_of)
    told = [pieces.push(0x80) for _ in range(3 * LONGEST)]
    assert max(len(pieces._tokens), LONGEST) <= 2 * LONGEST
    assert "".join(told) + pieces.push(ord("a")) + pieces.flush() == "\ufffd" * (3 * LONGEST) + "a"
