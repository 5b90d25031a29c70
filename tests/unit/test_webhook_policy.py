"""When a receiver is told again, and when it is left alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ktqueue.webhook import Answer
from ktqueue.webhook_policy import (
    DAY,
    FIRST_PAUSE_MS,
    LONGEST_PAUSE_MS,
    OPENS_AFTER,
    SCHEDULE_MS,
    SECOND,
    Circuit,
    after_failure,
    is_hopeless,
    next_attempt_ms,
)

BAD = Answer(500, None, 3)
JITTERS = st.floats(0, 1, exclude_max=True)
RETRY_AFTERS = st.none() | st.integers(0, 10**9)


@given(st.integers(1, 20), JITTERS, RETRY_AFTERS)
def test_a_wait_is_at_least_what_the_schedule_and_the_receiver_say(
    tries: int, jitter: float, asked: int | None
) -> None:
    wait = next_attempt_ms(tries, Answer(503, None, 1, retry_after_s=asked), jitter)
    if tries > len(SCHEDULE_MS):
        assert wait is None
        return
    assert wait is not None
    assert wait >= SCHEDULE_MS[tries - 1]
    assert wait >= min((asked or 0) * SECOND, DAY)
    assert wait <= max(SCHEDULE_MS[tries - 1] * 1.1, DAY)


def test_the_schedule_is_the_published_one() -> None:
    assert [ms // SECOND for ms in SCHEDULE_MS] == [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]


def test_pauses_double_up_to_a_bound() -> None:
    circuit, pauses = None, []
    for _ in range(OPENS_AFTER + 10):
        circuit = after_failure(circuit, BAD, now=1_000, probe=circuit is not None and circuit.probing)
        pauses.append(max(0, circuit.open_until - 1_000))
    assert pauses[: OPENS_AFTER - 1] == [0] * (OPENS_AFTER - 1)
    assert pauses[OPENS_AFTER - 1 : OPENS_AFTER + 2] == [FIRST_PAUSE_MS, 2 * FIRST_PAUSE_MS, 4 * FIRST_PAUSE_MS]
    assert pauses[-1] == LONGEST_PAUSE_MS


@given(st.integers(1, 500), st.integers(0, 10**13), RETRY_AFTERS, st.sampled_from([None, 301, 404, 429, 500, 502, 504]))
def test_a_pause_never_ends_in_the_past_and_is_never_for_ever(
    failures: int, now: int, asked: int | None, status: int | None
) -> None:
    circuit = after_failure(Circuit(failures, 5, 0), Answer(status, None, 1, retry_after_s=asked), now, probe=True)
    assert circuit.failures == failures + 1
    assert circuit.failing_since == 5
    assert circuit.open_until == 0 or now < circuit.open_until <= now + DAY


def test_who_asks_for_time_is_given_it_at_once() -> None:
    assert after_failure(None, Answer(429, None, 1), now=7).open_until == 7 + FIRST_PAUSE_MS
    assert after_failure(None, Answer(503, None, 1, retry_after_s=60), now=7).open_until == 7 + 60_000
    assert after_failure(None, BAD, now=7) == Circuit(1, 7, 0)


def test_what_was_under_way_when_a_circuit_opened_does_not_prolong_it() -> None:
    opened = Circuit(OPENS_AFTER, 5, 1_000 + FIRST_PAUSE_MS)
    assert after_failure(opened, BAD, now=1_001) == opened
    assert after_failure(opened, Answer(429, None, 1), now=1_001) == opened
    asked = after_failure(opened, Answer(503, None, 1, retry_after_s=60), now=1_001)
    assert asked == Circuit(OPENS_AFTER, 5, 61_001)


def test_a_probe_that_fails_opens_a_circuit_again_whatever_opened_it() -> None:
    circuit = after_failure(Circuit(1, 5, 900), BAD, now=1_000, probe=True)
    assert circuit == Circuit(2, 5, 1_000 + FIRST_PAUSE_MS)


def test_only_days_of_failure_are_hopeless() -> None:
    assert not is_hopeless(Circuit(99, 0, 0), 5 * DAY - 1, 5)
    assert is_hopeless(Circuit(1, 0, 0), 5 * DAY, 5)
