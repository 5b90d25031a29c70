"""Whom the drain loop and the sender tell what they do, a group or a step at a time; they count no further."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ktqueue.execution import Settled
from ktqueue.job import Job
from ktqueue.webhook import Answer
from worker.shares import Share
from worker.tempo import Spoken


class LaneMeter(Protocol):
    """Told by the drain loop, in its thread."""

    def claimed(self, jobs: Sequence[Job]) -> None:
        """These were claimed together."""

    def stepped(self, seconds: float, jobs: int) -> None:
        """A step took so long, with so many jobs in the engine."""

    def spoke(self, spoken: Spoken) -> None:
        """Text came of a step."""

    def settled(self, settled: Sequence[tuple[Settled, Share]]) -> None:
        """These verdicts were committed, and they were still ours to give."""

    def gave_back(self, jobs: int) -> None:
        """So many did not fit the time after a stop."""


class DeliveryMeter(Protocol):
    """Told by the sender, in its loop."""

    def answered(self, answers: Sequence[Answer]) -> None:
        """What came of these requests was committed."""


class Unmetered:
    """Listens to nobody."""

    def claimed(self, jobs: Sequence[Job]) -> None:
        """Do nothing."""

    def stepped(self, seconds: float, jobs: int) -> None:
        """Do nothing."""

    def spoke(self, spoken: Spoken) -> None:
        """Do nothing."""

    def settled(self, settled: Sequence[tuple[Settled, Share]]) -> None:
        """Do nothing."""

    def gave_back(self, jobs: int) -> None:
        """Do nothing."""

    def answered(self, answers: Sequence[Answer]) -> None:
        """Do nothing."""
