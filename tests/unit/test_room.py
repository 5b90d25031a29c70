"""What a slot holds: whole blocks, for everybody's longest."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ktqueue.room import Room

COUNTS = st.integers(1, 10_000_000)
ROOMS = st.builds(Room, st.integers(1, 4096), st.integers(0, 10_000_000), st.integers(1, 256), st.just("reference"))


def test_an_engine_without_a_cache_holds_as_many_however_long_they_are() -> None:
    assert Room(7).at_once(1, 1) == Room(7).at_once(10_000_000, 10_000_000) == 7


def test_blocks_are_whole_and_belong_to_one_job_each() -> None:
    room = Room(100, tokens=1_000, block_tokens=16)  # 62 blocks, and 8 tokens that make none

    assert room.at_once(16, 16) == 31
    assert room.at_once(16, 17) == 20
    assert room.at_once(1, 1) == 62
    assert room.at_once(900, 92) == 1
    assert room.at_once(900, 93) == 0
    assert Room(5, tokens=1_000, block_tokens=16).at_once(1, 1) == 5


@given(ROOMS, COUNTS, COUNTS)
def test_so_many_fit_and_not_one_more(room: Room, prompt: int, answer: int) -> None:
    assert room.tokens is not None
    assert room.block_tokens is not None
    tokens, size = room.tokens, room.block_tokens

    def fits(jobs: int) -> bool:
        of_each = len(range(0, prompt + answer, size)) * size
        return jobs <= room.jobs and jobs * of_each <= tokens

    at_once = room.at_once(prompt, answer)
    assert fits(at_once)
    assert not fits(at_once + 1)


@given(ROOMS | st.builds(Room, COUNTS))
def test_what_is_told_is_what_is_read(room: Room) -> None:
    assert Room.from_json(room.to_json()) == room


def test_what_another_version_told_is_read() -> None:
    assert Room.from_json(json.dumps({"jobs": 4, "tokens": 32, "block_tokens": 16, "more": [1]})) == Room(4, 32, 16)
    assert Room.from_json(b'{"jobs": 4}') == Room(4)


def test_logs_say_it_in_words() -> None:
    assert str(Room(8)) == "8 jobs at once"
    assert str(Room(256, 180_000, 16, "triton")) == (
        "256 jobs at once, 150 with prompts of 1000 tokens and answers of 200;"
        " a cache of 180000 tokens, 11250 blocks of 16, read by triton"
    )
