"""What operators may do: look at workers and usage; pause, resume, drain, bound, purge and move lanes. For the API."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ktqueue.control import LaneControl, LaneMode
from ktqueue.controls.base import Controls
from ktqueue.errors import Invalid, LanesUnavailable
from ktqueue.events.base import Events
from ktqueue.history import terminal_event
from ktqueue.instance import ELSEWHERE, Instance
from ktqueue.job import Job, JobState
from ktqueue.lanes.base import Lanes
from ktqueue.presence.base import Presence, Slot, Worker
from ktqueue.store.base import LaneCensus, Queued, Store
from ktqueue.usage import DayOfUse, UsageQuery

GROUP = 500
LONGEST_PURGE_S = 5.0
"""So long does one purge go on; whoever wants the rest gone asks again."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Purge:
    """How many jobs one purge cancelled, and how many that it was meant for are still queued."""

    cancelled: int
    remaining: int


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A slot, as it told itself at ``told_at``, Unix ms."""

    slot: Slot
    told_at: int


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker, as it told itself at ``told_at``, Unix ms."""

    worker: Worker
    told_at: int


class Operating:
    """The use cases of operators. What they order, every process follows within about a second.

    ``clock`` is in seconds. Each method may raise StoreUnavailable.
    """

    def __init__(
        self,
        store: Store,
        lanes: Lanes,
        events: Events,
        controls: Controls,
        presence: Presence,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._events = events
        self._controls = controls
        self._presence = presence
        self._clock = clock

    def controls(self) -> Mapping[str, LaneControl]:
        """What was ordered of lanes; those of which nothing ever was are left out."""
        return self._controls.lanes()

    def slots(self) -> list[SlotStatus]:
        """Every slot that lives. Raises LanesUnavailable."""
        seen = self._presence.slots()
        now = self._store.now()
        return [SlotStatus(each.slot, now - each.age_ms) for each in seen]

    def instances(self) -> Mapping[str, list[Instance]]:
        """The servers of each lane, as the slot told of them that uses them. Raises LanesUnavailable."""
        told: dict[tuple[str, str], Instance] = {}
        for seen in self._presence.slots():
            for each in seen.slot.instances:
                name = (seen.slot.model, each.url)
                if name not in told or told[name].state == ELSEWHERE:
                    told[name] = each
        found: dict[str, list[Instance]] = {}
        for (model, _), each in told.items():
            found.setdefault(model, []).append(each)
        return found

    def census(self) -> tuple[Sequence[LaneCensus], int]:
        """Every lane with at least one job queued or running, and when that was, Unix ms."""
        return self._store.census(), self._store.now()

    def depths(self, models: Sequence[str]) -> Mapping[str, int]:
        """How many jobs each of these lanes holds, whose turn can come. Raises LanesUnavailable."""
        return {model: view.depth for model, view in self._lanes.views(models).items()}

    def living(self) -> Mapping[str, int]:
        """How many slots of each model live. Raises LanesUnavailable; asks nobody but Redis."""
        return Counter(each.slot.model for each in self._presence.slots())

    def workers(self) -> list[WorkerStatus]:
        """Every worker that lives. Raises LanesUnavailable."""
        seen = self._presence.workers()
        now = self._store.now()
        return [WorkerStatus(each.worker, now - each.age_ms) for each in seen]

    def serving(self, models: Collection[str]) -> dict[str, list[str]]:
        """By model, the names of the workers that live and are to serve it. Raises LanesUnavailable."""
        seen = self._presence.workers()
        return {model: [each.worker.name for each in seen if model in each.worker.models] for model in models}

    def now(self) -> int:
        """The store's clock, Unix ms."""
        return self._store.now()

    def usage(self, query: UsageQuery) -> list[DayOfUse]:
        """What was used by the jobs that ended, by day, tenant and model."""
        return self._store.usage(query)

    def order(self, model: str, mode: LaneMode) -> None:
        """Let a lane be open, paused or draining from now on. What runs goes on."""
        self._controls.set_mode(model, mode)
        self._ring(model)

    def bound(self, model: str, most: int | None) -> None:
        """Let at most so many (1 or more) jobs of a lane run at once, over all its slots; None: as many as fit."""
        self._controls.set_concurrency(model, most)
        self._ring(model)

    def move(self, model: str, *, source: str | None, target: str | None) -> None:
        """Have the worker ``source`` serve a model no more, and ``target`` serve it from now on.

        Either may be left out. ``source`` may be dead: it serves the model no more if it comes back. Raises Invalid,
        LanesUnavailable.
        """
        if source == target:
            raise Invalid("name the worker that it is to leave, the one that it is to go to, or both")
        if target is not None:
            self._check_offers(target, model)
        self._controls.move(model, source=source, target=target)

    def _check_offers(self, name: str, model: str) -> None:
        living = {seen.worker.name: seen.worker for seen in self._presence.workers()}
        if name not in living:
            raise Invalid(f"no worker {name!r} lives; there are: {', '.join(living) or 'none'}", field="to_worker")
        if model not in living[name].offers:
            raise Invalid(f"the worker {name!r} has no {model!r} in its models.toml", field="to_worker")

    def count(self, which: Queued) -> int:
        """How many jobs a purge would cancel now."""
        return self._store.count_queued(which)

    def created_before(self, seconds: float) -> int:
        """What was created before this instant is older than so many seconds."""
        return self._store.now() - int(seconds * 1000)

    def purge(self, which: Queued) -> Purge:
        """Cancel these jobs, as far as that goes in ``LONGEST_PURGE_S``. One that begins to run meanwhile is spared."""
        until = self._clock() + LONGEST_PURGE_S
        cancelled = 0
        while jobs := self._store.cancel_queued(which, GROUP):
            self._announce(which.model, jobs)
            cancelled += len(jobs)
            if self._clock() >= until:
                break
        return Purge(cancelled, self._store.count_queued(which))

    def _announce(self, model: str, jobs: Sequence[Job]) -> None:
        try:
            for job in jobs:
                self._lanes.remove(model, job.id)
            self._events.publish([terminal_event(replace(job, state=JobState.CANCELLED)) for job in jobs])
        except LanesUnavailable as error:
            # The store has it: an id that is still in the lane is passed over when it is pulled.
            logger.debug("%d purged jobs are not announced: %s", len(jobs), error)

    def _ring(self, model: str) -> None:
        """More may run now than before. Best effort: the sweep rings too."""
        try:
            self._lanes.ring(model)
        except LanesUnavailable as error:
            logger.debug("nobody is told at once of what was ordered of %s: %s", model, error)
