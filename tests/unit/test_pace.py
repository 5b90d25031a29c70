from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktqueue.lanes.pace import SPAN_S, SPANS, pace, span_of

NOW = 1_790_000_002_000
PRESENT = span_of(NOW)
INTO_SPAN_S = NOW / 1000 - PRESENT * SPAN_S


def test_nothing_finished_is_no_pace() -> None:
    assert pace({}, NOW) is None


def test_what_finished_more_than_a_minute_ago_says_nothing() -> None:
    assert pace({PRESENT - SPANS: 100}, NOW) is None


def test_what_a_clock_set_back_left_in_the_future_says_nothing() -> None:
    assert pace({PRESENT + 1: 100}, NOW) is None


def test_a_lane_that_just_started_is_not_divided_by_a_minute() -> None:
    assert pace({PRESENT: 10}, NOW) == 10 / SPAN_S
    assert pace({PRESENT - 1: 30, PRESENT: 5}, NOW) == pytest.approx(35 / (SPAN_S + INTO_SPAN_S))


@given(st.integers(1, 10_000), st.integers(0, SPAN_S * 1000 - 1))
def test_a_steady_lane_has_its_own_pace(per_second: int, into_span_ms: int) -> None:
    now = PRESENT * SPAN_S * 1000 + into_span_ms
    finished = {PRESENT - back: per_second * SPAN_S for back in range(1, 2 * SPANS)}
    finished[PRESENT] = per_second * into_span_ms // 1000
    assert pace(finished, now) == pytest.approx(per_second, abs=1)


@given(st.dictionaries(st.integers(PRESENT - SPANS + 1, PRESENT), st.integers(1, 10**6), min_size=1))
def test_it_is_never_faster_than_all_of_it_in_one_span(finished: dict[int, int]) -> None:
    found = pace(finished, NOW)
    assert found is not None
    assert 0 < found <= sum(finished.values()) / SPAN_S
