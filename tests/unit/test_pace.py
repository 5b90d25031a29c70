from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktqueue.lanes.pace import AT_BEST, FORGOTTEN, LOOK_BACK_MS, SPAN_S, SPANS, Service, pace, span_of
from ktqueue.lateness import too_late

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


RUNS = st.lists(st.tuples(st.integers(1, 100_000), st.integers(1, 600_000)), min_size=1, max_size=30)


def served(runs: list[tuple[int, int]], *, waiting: bool = True) -> Service:
    """After runs of (cost, ms), one after the other, the last at ``NOW``."""
    service = Service()
    for cost, ms in runs:
        service = service.ended(NOW, waiting=waiting, jobs=1, work=cost, run_ms=ms, least=ms / cost)
    return service


@given(RUNS)
def test_no_run_of_late_would_have_been_given_up(runs: list[tuple[int, int]]) -> None:
    least = served(runs).least_ms_each(NOW)
    assert least > 0
    for age, (cost, ms) in enumerate(reversed(runs)):
        assert cost * least <= AT_BEST * ms * FORGOTTEN**age * 1.000_001
        assert not too_late(NOW + ms + 1, cost, NOW, least)


@given(RUNS)
def test_nothing_is_given_up_on_a_guess(runs: list[tuple[int, int]]) -> None:
    assert Service().least_ms_each(NOW) == 0
    assert served(runs, waiting=False).least_ms_each(NOW) == 0
    assert served(runs).least_ms_each(NOW + LOOK_BACK_MS + 1) == 0
    assert too_late(NOW, 1, NOW, 0.0)
    assert not too_late(NOW + 1, 10**9, NOW, 0.0)
    assert not too_late(None, 10**9, NOW, 10**9)
