"""How many chances of tokens one request may ask to be told."""

from __future__ import annotations

import pytest

from api.inputs import MOST_TOKENS, MOST_TOP
from ktqueue.chances import MOST_CHANCES, too_many_chances
from ktqueue.job import JsonObject


def test_one_text_may_have_all_that_can_be_told_of_it() -> None:
    assert MOST_TOKENS * (1 + MOST_TOP) == MOST_CHANCES
    assert too_many_chances({"max_tokens": MOST_TOKENS, "top_logprobs": MOST_TOP}) is None


@pytest.mark.parametrize(
    ("params", "room", "refused"),
    [
        ({}, None, False),
        ({"n": 16, "max_tokens": MOST_TOKENS}, None, False),
        ({"n": 16, "max_tokens": MOST_TOKENS, "logprobs": False, "top_logprobs": 0}, None, False),
        ({"n": 16, "max_tokens": MOST_TOKENS, "logprobs": True}, None, False),
        ({"n": 16, "max_tokens": MOST_TOKENS, "logprobs": True, "top_logprobs": 1}, None, True),
        ({"n": 2, "max_tokens": MOST_TOKENS, "top_logprobs": 20}, None, True),
        ({"n": 16, "top_logprobs": 20}, None, False),
        ({"n": 16, "max_tokens": 2048, "top_logprobs": 20}, None, False),
        ({"n": 16, "max_tokens": 2049, "top_logprobs": 20}, None, True),
        ({"n": 16, "max_tokens": 2049, "top_logprobs": 20}, 2048, False),
        ({"n": 16, "max_tokens": 5000, "top_logprobs": 20}, 2049, True),
    ],
)
def test_what_all_texts_tell_together_is_bounded(params: JsonObject, room: int | None, *, refused: bool) -> None:
    assert (too_many_chances(params, room) is not None) == refused
