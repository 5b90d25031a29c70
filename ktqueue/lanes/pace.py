"""How fast a lane finishes jobs, and how fast it is served while jobs wait. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

SPAN_S = 5
SPANS = 12
"""A minute is looked back on."""


def span_of(now_ms: int) -> int:
    """Which span an instant (Unix ms) falls in."""
    return now_ms // (SPAN_S * 1000)


def pace(finished: Mapping[int, int], now_ms: int) -> float | None:
    """Jobs per second over the last minute, or since a younger lane's first span; None if none finished.

    ``finished`` counts jobs by span. Below one span a whole one is taken: better too slow than a guess.
    """
    present = span_of(now_ms)
    lately = {span: jobs for span, jobs in finished.items() if present - SPANS < span <= present}
    if not lately:
        return None
    covered_s = now_ms / 1000 - min(lately) * SPAN_S
    return sum(lately.values()) / max(covered_s, SPAN_S)


LOOK_BACK_MS = 60_000
"""What was served so long ago counts for a third."""
RUNS_KEPT = 0.98
"""What the run before the last counts."""
SERVICE_MS = 3_600_000
"""What is known of a lane's service is forgotten when nothing ended for this time."""


FORGOTTEN = 1.001
"""How much more each further run takes for the quickest of late: one that was quick is forgotten by and by."""
AT_BEST = 0.5
"""The part of what the quickest took that no run is believed to take less than."""


@dataclass(frozen=True, slots=True)
class Service:
    """How fast a lane is served: ``work`` done, in estimated cost, in ``ms`` in which jobs waited, of late.

    Time in which nobody waited says nothing: there was less to do than could be done. ``run_ms`` is what runs of
    ``run_work`` took, each by itself. ``at`` is when something ended last, ``waited`` whether others waited then.
    ``quickest`` is what the quickest run of late took for each unit of its cost, in ms; 0 is 'unknown'.
    """

    at: int = 0
    waited: bool = False
    work: float = 0.0
    ms: float = 0.0
    run_work: float = 0.0
    run_ms: float = 0.0
    quickest: float = 0.0

    @property
    def speed(self) -> float | None:
        """Cost per second while jobs wait; None is 'unknown'."""
        return 1000 * self.work / self.ms if self.ms > 0 and self.work > 0 else None

    @property
    def ms_each(self) -> float | None:
        """How long a run takes for each unit of its cost; None is 'unknown'."""
        return self.run_ms / self.run_work if self.run_work > 0 else None

    def least_ms_each(self, now: int) -> float:
        """How long a run that began at ``now`` (Unix ms) would take at least for each unit of its cost; 0 is 'unknown'.

        It is unknown while nobody has to wait, for then there is room, and whoever has less company runs quicker. When
        nothing has ended of late it is unknown too: what is never tried would never be known better.
        """
        return AT_BEST * self.quickest if self.waited and now - self.at <= LOOK_BACK_MS else 0.0

    def ended(self, now: int, *, waiting: bool, jobs: int, work: int, run_ms: int, least: float) -> Service:
        """The same once so many jobs have ended together at ``now`` (Unix ms).

        ``least`` is what the quickest of those that ran to their end took for each unit, in ms; 0 if none did.
        """
        done, ms = self.work, self.ms
        if self.waited and waiting:
            passed = max(0, now - self.at)
            kept = math.exp(-passed / LOOK_BACK_MS)
            done, ms = done * kept + work, ms * kept + passed
        kept = RUNS_KEPT**jobs
        quickest = min((each for each in (least, self.quickest * FORGOTTEN**jobs) if each), default=0.0)
        return Service(now, waiting, done, ms, self.run_work * kept + work, self.run_ms * kept + run_ms, quickest)
