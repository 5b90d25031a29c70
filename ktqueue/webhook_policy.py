"""When to tell a receiver again, and when to leave it alone. Pure: values in, decisions out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ktqueue.webhook import Answer

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000

SCHEDULE_MS = (
    *(5 * SECOND, 5 * MINUTE, 30 * MINUTE),
    *(2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR),
)
"""After the first attempt, which is made at once (Standard Webhooks, "Delivery: retries")."""
JITTER = 0.1
"""A wait is longer by up to this share, so that what failed together does not come back together."""
LONGEST_RETRY_AFTER_MS = DAY

OPENS_AFTER = 5
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 5 * SECOND, 10 * MINUTE
GONE = 410
SLOW_DOWN = frozenset({429, 502, 504})


def next_attempt_ms(tries: int, answer: Answer, jitter: float) -> int | None:
    """How long to wait after the ``tries``-th attempt, which ``answer`` was a failure of; None: it was the last.

    ``jitter`` is uniform in [0, 1). A receiver that says when to come back is not bothered before.
    """
    if tries > len(SCHEDULE_MS):
        return None
    wait = SCHEDULE_MS[tries - 1] * (1 + JITTER * jitter)
    return int(max(wait, _asked_ms(answer)))


@dataclass(frozen=True, slots=True)
class Circuit:
    """How a receiver that fails is faring: so many ``failures`` in a row, the first of them ``failing_since``.

    Until ``open_until`` it is left alone; then one probe at a time shows whether it is well again (M. Nygard,
    "Release It!", 2007, chapter 5). All in Unix ms. A receiver that is well has none.
    """

    failures: int
    failing_since: int
    open_until: int

    @property
    def probing(self) -> bool:
        """Whether it is only to be tried, one delivery at a time."""
        return self.failures >= OPENS_AFTER or self.open_until > 0


def after_failure(circuit: Circuit | None, answer: Answer, now: int, *, probe: bool = False) -> Circuit:
    """The circuit of a receiver that has just failed; ``probe``: at what was sent to see whether it is well again."""
    if circuit is not None and circuit.probing and not probe:
        # It was under way when the circuit opened, and is no news: or many at once would make for a pause of minutes.
        asked = _asked_ms(answer)
        return replace(circuit, open_until=max(circuit.open_until, now + asked)) if asked else circuit
    failures = 1 + (circuit.failures if circuit else 0)
    since = circuit.failing_since if circuit else now
    opens = probe or _opens(failures, answer)
    return Circuit(failures, since, now + _pause_ms(failures, answer) if opens else 0)


def is_hopeless(circuit: Circuit, now: int, disable_days: int) -> bool:
    """Whether a receiver has failed for so long that it is to be disabled."""
    return now - circuit.failing_since >= disable_days * DAY


def _opens(failures: int, answer: Answer) -> bool:
    return failures >= OPENS_AFTER or answer.status in SLOW_DOWN or _asked_ms(answer) > 0


def _pause_ms(failures: int, answer: Answer) -> int:
    doublings = min(max(0, failures - OPENS_AFTER), 16)
    return max(min(FIRST_PAUSE_MS << doublings, LONGEST_PAUSE_MS), _asked_ms(answer))


def _asked_ms(answer: Answer) -> int:
    return min((answer.retry_after_s or 0) * SECOND, LONGEST_RETRY_AFTER_MS)
