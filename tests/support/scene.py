"""The use cases over the memory implementations, on a clock that a test moves, with parts that a test takes away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ktqueue.admission import Admission, Bounds
from ktqueue.controls.memory import MemoryControls
from ktqueue.controls.watched import WatchedControls
from ktqueue.delivery import Redelivery
from ktqueue.errors import LanesUnavailable, StoreUnavailable, Unavailable
from ktqueue.events.base import Event, EventId
from ktqueue.events.memory import MemoryEvents
from ktqueue.execution import Execution
from ktqueue.foretelling import Foretelling
from ktqueue.intake import Intake, Submission
from ktqueue.job import Job, Task
from ktqueue.lanes.base import Ended
from ktqueue.lanes.memory import MemoryLanes
from ktqueue.operating import Operating
from ktqueue.outbox.memory import MemoryOutbox
from ktqueue.presence.memory import MemoryPresence
from ktqueue.priority_class import entry_of
from ktqueue.quotas import Quotas
from ktqueue.rates.counted import in_memory
from ktqueue.recovery import Recovery
from ktqueue.registry.memory import MemoryRegistry
from ktqueue.retention import Retention
from ktqueue.running import RunningLimits
from ktqueue.store.memory import MemoryStore
from ktqueue.sweep import Sweep
from ktqueue.tenant import DEFAULT_TENANT, Caller
from ktqueue.watched import Watched

Port = TypeVar("Port")
Around = Callable[[str, Callable[[], Any]], Any]
MODEL = "echo"
LEASE_MS = 8_000
RETENTION_DAYS = 30


class _Proxy:
    def __init__(self, port: Callable[[], object], hook: Around) -> None:
        self._port = port
        self._hook = hook

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._hook(name, lambda: getattr(self._port(), name)(*args, **kwargs))


def around(port: Callable[[], Port], hook: Around) -> Port:
    """What ``port()`` gives, each call of it going through ``hook(name, call)``."""
    return cast("Port", _Proxy(port, hook))


class Outage:
    """Takes a port away: every call of it, or those named. With ``too_late`` only the answer of a call is lost.

    ``before`` is told the name of each call, ``calls`` counts them.
    """

    def __init__(self, error: type[Unavailable]) -> None:
        self.too_late = False
        self.before: Callable[[str], None] = lambda _: None
        self.calls: Counter[str] = Counter()
        self._error = error
        self._failing = frozenset[str]()
        self._down = False

    def go(self, *names: str) -> None:
        """From now on the calls named fail; all of them, if none is."""
        self._down = not names
        self._failing = frozenset(names)

    def come_back(self) -> None:
        """All is well again."""
        self._down, self._failing = False, frozenset()

    def __call__(self, name: str, call: Callable[[], Any]) -> Any:
        self.calls[name] += 1
        self.before(name)
        if not (self._down or name in self._failing):
            return call()
        if self.too_late:
            call()
        raise self._error(f"{name} did not answer")


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.ms = 1_750_000_000_000

    def now(self) -> int:
        """Unix milliseconds."""
        return self.ms

    def monotonic(self) -> float:
        """Seconds."""
        return self.ms / 1000

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.ms += round(seconds * 1000)


class Scene:
    """One of everything. ``true_…`` are the ports as they are, the others what the use cases see of them."""

    def __init__(
        self,
        *,
        max_queued: int = 100_000,
        max_queued_all: int = 1_000_000,
        max_queued_bytes: int = 1_000_000_000,
        jitter: float = 0.5,
    ) -> None:
        self.clock = Clock()
        self.bells: list[str] = []
        self.dead: set[str] = set()
        self.weights: dict[str, float] = {}
        self.true_outbox = MemoryOutbox(self.clock.now)
        self.rung_for_deliveries = 0
        self.true_store = MemoryStore(self.clock.now, self.true_outbox, self._ring_for_deliveries)
        self.registry = MemoryRegistry(self.clock.now)
        self.limits = Watched(self.registry.running_limits, self.clock.monotonic)
        self.true_lanes = MemoryLanes(self.bells.append, self.clock.now, self.limits)
        self.true_events = MemoryEvents()
        self.sql = Outage(StoreUnavailable)
        self.redis = Outage(LanesUnavailable)
        self.store = around(lambda: self.true_store, self.sql)
        self.outbox = around(lambda: self.true_outbox, self.sql)
        self.lanes = around(lambda: self.true_lanes, self.redis)
        self.events = around(lambda: self.true_events, self.redis)
        self.true_controls = MemoryControls()
        self.controls = around(lambda: self.true_controls, self.sql)
        self.true_presence = MemoryPresence(self.clock.now)
        self.presence = around(lambda: self.true_presence, self.redis)
        self.operating = Operating(
            self.store, self.lanes, self.events, self.controls, self.presence, clock=self.clock.monotonic
        )
        self.bounds = Bounds(lane=max_queued, jobs=max_queued_all, size=max_queued_bytes)
        self.admission = self.new_admission()
        counters = in_memory()
        self.counters = around(lambda: counters, self.redis)
        self.quotas = Quotas(self.registry, self.store, self.counters, self.clock.monotonic)
        self.intake = Intake(
            self.store,
            self.lanes,
            self.events,
            self.admission,
            Foretelling(self.lanes, limits=self.limits, clock=self.clock.monotonic),
            quotas=self.quotas,
        )
        self.execution = Execution(
            self.store,
            self.lanes,
            self.events,
            self.watched(),
            RunningLimits(self.store, self.lanes, self.limits),
            lease_ms=LEASE_MS,
            jitter=lambda: jitter,
            clock=self.clock.monotonic,
        )
        self.sweep = self.new_sweep(jitter)

    def new_sweep(self, jitter: float = 0.5) -> Sweep:
        """Another light worker."""
        recovery = Recovery(self.store, self.lanes, self.events, is_dead=self.dead.__contains__, jitter=lambda: jitter)
        retention = Retention(
            self.store, self.outbox, days=RETENTION_DAYS, clock=self.clock.monotonic, sleep=self.clock.sleep
        )
        redelivery = Redelivery(self.outbox, is_dead=self.dead.__contains__, ring=self._ring_for_deliveries)
        return Sweep(
            self.store,
            self.lanes,
            self.events,
            recovery,
            retention,
            redelivery=redelivery,
            weights=lambda: self.weights,
            clock=self.clock.monotonic,
        )

    def _ring_for_deliveries(self) -> None:
        self.rung_for_deliveries += 1

    def watched(self) -> WatchedControls:
        """What was ordered, as another process sees it."""
        return WatchedControls(self.controls, self.clock.monotonic)

    def new_admission(self) -> Admission:
        """Another API process."""
        return Admission(self.store, self.lanes, self.watched(), bounds=self.bounds, clock=self.clock.monotonic)

    def submit(self, **given: Any) -> Job:
        """Accept one job."""
        return self.intake.submit(submission(**given))[0]

    def claim(self, limit: int = 100, token: str = "t") -> list[Job]:
        """Claim as a worker does."""
        return self.execution.claim(MODEL, limit, token=token, worker=f"worker of {token}")

    def claim_suspects(self, limit: int = 100, token: str = "t") -> list[Job]:
        """Claim suspects as a worker does."""
        return self.execution.claim_suspects(MODEL, limit, token=token, worker=f"worker of {token}")

    def row(self, job: Job) -> Job:
        """The job as the store has it."""
        row = self.true_store.get(job.id)
        assert row is not None
        return row

    def told(self, job: Job) -> list[Event]:
        """What the stream kept of a job."""
        return self.true_events.read(job.id, EventId(0, 0), wait_s=0)

    def waiting(self) -> list[str]:
        """The ids in the lane, in order; they stay in it."""
        ids = self.true_lanes.pull(MODEL, 1_000_000)
        jobs = [job for job_id in ids if (job := self.true_store.get(job_id)) is not None]
        self.true_lanes.add([entry_of(job, job.created_at) for job in jobs])
        return ids

    def empty_lane(self) -> None:
        """Redis lost everything it knew of the lane."""
        self.true_lanes.pull(MODEL, 1_000_000)
        self.true_lanes.answer(MODEL)


def ended(count: int, **given: Any) -> list[Ended]:
    """So many jobs of one kind that have ended."""
    plain: dict[str, Any] = {"tenant": "default", "priority": 5, "estimate": 1, "cost": 1, "run_ms": 1}
    return [Ended(**plain | given)] * count


def submission(**given: Any) -> Submission:
    """A plain job, but for what is given."""
    plain: dict[str, Any] = {"model": MODEL, "task": Task.ECHO, "input": {"say": "hi"}, "params": {}}
    given.setdefault("caller", Caller(given.pop("tenant", DEFAULT_TENANT), key=given.pop("key", None)))
    return Submission(**plain | given)
