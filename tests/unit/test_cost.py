"""What jobs cost, before and after."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktqueue.cost import DEFAULT_MAX_TOKENS, MOST, estimated_cost, true_cost
from ktqueue.job import JsonObject, Task, Usage


@pytest.mark.parametrize(
    ("task", "given", "params", "cost"),
    [
        (Task.GENERATE, {"prompt": "x" * 401}, {"max_tokens": 50}, 101 + 50),
        (Task.GENERATE, {"prompt": "x"}, {}, 1 + DEFAULT_MAX_TOKENS),
        (Task.GENERATE, {"prompt": "x" * 400}, {"max_tokens": 50, "n": 3}, 100 + 150),
        (Task.GENERATE, {"messages": [{"role": "user", "content": "x" * 8}] * 2}, {"max_tokens": 1}, 4 + 1),
        (Task.ECHO, {}, {"delay_ms": 2 * MOST}, MOST),
        (Task.EMBED, {"text": "x" * 40}, {}, 10),
        (Task.EMBED, {"texts": ["x" * 40, "x", "x"]}, {}, 3 * 10),
        (Task.CLASSIFY, {"texts": ["x"]}, {}, 1),
        (Task.RERANK, {"query": "x" * 8, "documents": ["x" * 32, "x"]}, {}, 2 * 10),
        (Task.ECHO, {"say": "hi"}, {}, 1),
        (Task.ECHO, {}, {"delay_ms": 250}, 250),
    ],
)
def test_what_a_job_is_estimated_to_cost(task: Task, given: JsonObject, params: JsonObject, cost: int) -> None:
    assert estimated_cost(task, given, params) == cost


def test_what_nobody_counted_cost_what_was_estimated() -> None:
    assert true_cost(Task.EMBED, {"text": "x"}, 7, None) == 7
    assert true_cost(Task.ECHO, {}, 7, Usage(3, 4)) == 7


def test_a_text_cost_the_tokens_it_had() -> None:
    assert true_cost(Task.GENERATE, {"prompt": "x" * 400}, 356, Usage(90, 12)) == 102
    assert true_cost(Task.GENERATE, {"prompt": "x" * 400}, 356, Usage(0, 0)) == 1


@given(lengths=st.lists(st.integers(1, 400), min_size=1, max_size=5), more=st.integers(1, 4))
def test_padding_is_kept_where_texts_had_other_tokens_than_thought(lengths: list[int], more: int) -> None:
    given = {"texts": ["x" * length for length in lengths]}
    estimate = estimated_cost(Task.EMBED, given, {})
    thought = sum(-(-length // 4) for length in lengths)

    assert true_cost(Task.EMBED, given, estimate, Usage(more * thought, 0)) == more * estimate
