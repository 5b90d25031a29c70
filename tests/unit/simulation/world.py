"""A whole service in one process: the real use cases and drain loops, over memory, a clock and a scheduler.

What the store is told is watched as it happens; the numbers are those of the invariants in the design.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Sequence
from itertools import count
from operator import attrgetter
from typing import Any

from ktqueue.admission import Admission, Bounds
from ktqueue.controls.memory import MemoryControls
from ktqueue.controls.watched import WatchedControls
from ktqueue.delivery import Deliveries, Dispatch, Redelivery
from ktqueue.errors import LanesUnavailable, StoreUnavailable, Unavailable
from ktqueue.events.base import START, Event, EventId
from ktqueue.events.memory import MemoryEvents
from ktqueue.execution import Execution
from ktqueue.following import Following
from ktqueue.foretelling import Foretelling
from ktqueue.intake import Intake, Submission
from ktqueue.job import TRANSITIONS, Job, JobState
from ktqueue.lanes.memory import MemoryLanes
from ktqueue.outbox.base import DeliveryQuery
from ktqueue.outbox.memory import MemoryOutbox
from ktqueue.quotas import Quotas
from ktqueue.rates.counted import in_memory
from ktqueue.recovery import Recovery
from ktqueue.registry.memory import MemoryRegistry
from ktqueue.retention import Retention
from ktqueue.running import RunningLimits
from ktqueue.store.base import IdempotencyKey
from ktqueue.store.memory import MemoryStore
from ktqueue.sweep import Sweep
from ktqueue.webhook import Answer, DeliveryState
from ktqueue.webhook_signing import Keyring
from tests.support.scene import LEASE_MS, MODEL, Clock, around
from tests.support.toy import ToyEngine
from tests.unit.simulation.actor import Actor, Killed, Turn
from tests.unit.simulation.receivers import Receivers
from worker.runner import Runner

STEP_S = 0.05
HEARTBEAT_S = 2.0
GRACE_S = 3.0
BOUNDS = Bounds(lane=1000, jobs=1000, size=1_000_000)
MANY = 2_000
"""More calls than anyone makes."""
WRITES = {"add", "add_once", "claim", "claim_suspects", "renew", "finish", "cancel", "expire", "wake", "delete"}


class PatientEvents(MemoryEvents):
    """Waiting is the scheduler's business: a reader is told at once that there is nothing yet."""

    def read(self, job_id: str, after: EventId, *, wait_s: float) -> list[Event]:
        return super().read(job_id, after, wait_s=0)


class Follower:
    """A client that reads a job's events to the end, and comes back with the last id when it is cut off."""

    def __init__(self, following: Following, job_id: str, tenant: str) -> None:
        self._following = following
        self._tenant = tenant
        self.job_id = job_id
        self.seen: list[Event] = []

    def __call__(self) -> None:
        while True:
            try:
                for event in self._following.follow(
                    self.job_id, self.seen[-1].id if self.seen else START, tenant=self._tenant
                ):
                    self.seen += [event] if event is not None else []
            except StoreUnavailable:
                continue
            return


class World:
    """Everything there is, and everyone who acts in it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.bells: list[str] = []
        self.limits: dict[str, int] = {}
        self.actors: list[Actor] = []
        self.followers: list[Follower] = []
        self.stops: dict[Actor, list[bool]] = {}
        self.workers: dict[Actor, str] = {}
        self._dead: set[str] = set()
        self._acting: Actor | None = None
        self._owners: dict[str, Actor | None] = {}
        self.true_outbox = MemoryOutbox(self.clock.now)
        self.true_store = MemoryStore(self.clock.now, self.true_outbox)
        self.forget_redis()
        self._store = around(lambda: self.true_store, self._call_store)
        self._lanes = around(lambda: self.true_lanes, self._call_redis)
        self._events = around(lambda: self.true_events, self._call_redis)
        recovery = Recovery(self._store, self._lanes, self._events, is_dead=self._seen_dead, jitter=lambda: 0.5)
        self._outbox = around(lambda: self.true_outbox, self._call_store)
        self.receivers = Receivers(self.true_store, self.true_outbox)
        redelivery = Redelivery(self._outbox, is_dead=self._seen_dead, ring=lambda: None)
        retention = Retention(self._store, self._outbox, days=1, clock=self.clock.monotonic, sleep=self.clock.sleep)
        self.sweep = Sweep(
            self._store,
            self._lanes,
            self._events,
            recovery,
            retention,
            redelivery=redelivery,
            weights=dict,
            clock=self.clock.monotonic,
        )
        self.following = Following(self._store, self._events, clock=self.clock.monotonic, sleep=self.clock.sleep)
        self._numbers = count()
        self._keyring = Keyring(base64.b64encode(bytes(32)).decode())
        self._controls = WatchedControls(MemoryControls(), self.clock.monotonic)
        registry = MemoryRegistry(self.clock.now)
        self._quotas = Quotas(registry, self._store, in_memory(), self.clock.monotonic)
        self._execution = Execution(
            self._store,
            self._lanes,
            self._events,
            self._controls,
            RunningLimits(self._store, self._lanes, lambda: self.limits),
            lease_ms=LEASE_MS,
            jitter=lambda: 0.5,
            clock=self.clock.monotonic,
        )

    def forget_redis(self) -> None:
        """The server was restarted, empty. Celery's messages were in it too."""
        self.true_lanes = MemoryLanes(self.bells.append, self.clock.now, lambda: self.limits)
        self.true_events = PatientEvents()
        self.bells.clear()

    def jobs(self) -> list[Job]:
        """All there are, oldest first."""
        # Read where they lie, for this is asked before and after every write of every history.
        return sorted(self.true_store._jobs.values(), key=attrgetter("id"))

    # --- who acts ----------------------------------------------------------------------------------------------

    def act(self, kind: str, body: Callable[[], object]) -> Actor:
        """Start a process; it does nothing until it is let."""
        actor = Actor(kind, body)
        self.actors.append(actor)
        return actor

    def intake(self) -> Intake:
        """Of an API process that serves one request: what its threads share is tested elsewhere."""
        admission = Admission(self._store, self._lanes, self._controls, bounds=BOUNDS, clock=self.clock.monotonic)
        return Intake(
            self._store,
            self._lanes,
            self._events,
            admission,
            Foretelling(self._lanes, limits=lambda: self.limits, clock=self.clock.monotonic),
            quotas=self._quotas,
            new_id=lambda: f"job_{next(self._numbers):032x}",
        )

    def submit(self, submission: Submission, key: str | None) -> Actor:
        """A client posts a job."""
        given = None if key is None else IdempotencyKey(key, "digest")
        return self.act("client", lambda: self.intake().submit(submission, given)[0])

    def work(self, capacity: int, *, works: bool = True) -> Actor:
        """A bell woke a slot."""
        stop = [False]
        worker = f"worker {next(self._numbers)}"

        def crash() -> None:
            self._dead.add(worker)
            raise Killed

        runner = Runner(
            self._execution,
            ToyEngine(capacity, each_step=lambda: self.clock.sleep(STEP_S), works=works, crash=crash),
            model=MODEL,
            worker=worker,
            heartbeat_s=HEARTBEAT_S,
            grace_s=GRACE_S,
            stopping=lambda: stop[0],
            clock=self.clock.monotonic,
            sleep=self.clock.sleep,
        )
        actor = self.act("worker", runner.drain)
        self.stops[actor] = stop
        self.workers[actor] = worker
        return actor

    def deliver(self) -> Actor:
        """A bell woke a sender."""
        sender = f"sender {next(self._numbers)}"
        deliveries = Deliveries(
            self._store,
            self._outbox,
            self._keyring,
            sender=sender,
            most_each=2,
            lease_ms=LEASE_MS,
            disable_days=5,
            chance=random.Random(sender),
        )

        def drain() -> None:
            while taken := deliveries.claim(4, {}, sender):
                deliveries.settle([(dispatch, self._post(dispatch)) for dispatch in taken])

        actor = self.act("sender", drain)
        self.workers[actor] = sender
        return actor

    def _post(self, dispatch: Dispatch) -> Answer:
        """A request, which may fail before it gets there, or be answered too late."""
        try:
            self._take_turn("post", lambda: self.receivers.receive(dispatch), StoreUnavailable)
        except StoreUnavailable:
            return Answer(None, "timeout", 15_000)
        return Answer(204, None, 3)

    def _seen_dead(self, worker: str) -> bool:
        """Every other worker is on another machine, where nobody sees it die."""
        return worker in self._dead and int(worker.split()[1]) % 2 == 0

    def follow(self, job_id: str, tenant: str) -> Actor:
        """A client streams a job's events."""
        follower = Follower(self.following, job_id, tenant)
        self.followers.append(follower)
        return self.act("follower", follower)

    def run(self, actor: Actor, far: int | str, then: Turn | None = None) -> None:
        """Let an actor make so many calls, or all up to one; and then, if there is a next, let this happen to it."""
        self._acting = actor
        for _ in range(far if isinstance(far, int) else MANY):
            actor.go()
            if actor.ended or actor.pending == far:
                break
        if then is not None:
            actor.go(then)
        if then is Turn.KILL and actor in self.workers:
            self._dead.add(self.workers[actor])
        self._acting = None
        self.actors = [one for one in self.actors if not one.ended]

    def finish(self, actor: Actor) -> None:
        """Let an actor run to its end; it must have one."""
        self.run(actor, MANY)
        assert actor.ended, f"a {actor.kind} does not come to its end"

    # --- what their calls come to ------------------------------------------------------------------------------

    def _call_redis(self, name: str, call: Callable[[], Any]) -> Any:
        return self._take_turn(name, call, LanesUnavailable)

    def _call_store(self, name: str, call: Callable[[], Any]) -> Any:
        watched = (lambda: self._watched(name, call)) if name in WRITES else call
        return self._take_turn(name, watched, StoreUnavailable)

    def _take_turn(self, name: str, call: Callable[[], Any], error: type[Unavailable]) -> Any:
        actor = self._acting
        assert actor is not None
        match actor.wait(name):
            case Turn.KILL:
                raise Killed
            case Turn.FAIL:
                raise error("away")
            case Turn.LOSE:
                call()
                raise error("the answer is lost")
            case _:
                return call()

    def _watched(self, name: str, call: Callable[[], Any]) -> Any:
        before = dict(self.true_store._jobs)
        answer = call()
        # Jobs are never changed, only replaced.
        for job_id, job in self.true_store._jobs.items():
            if job is not before.get(job_id):
                self._check(name, before.get(job_id), job)
        running = self.true_store.running_by_owner()
        assert all(running.get(owner, 0) <= most for owner, most in self.limits.items()), "more run than may"
        return answer

    def _check(self, name: str, old: Job | None, new: Job) -> None:
        assert new.attempt <= new.max_attempts, "4"
        if old is None:
            assert (new.state, new.attempt, new.claims) == (JobState.QUEUED, 0, 0)
            return
        assert not old.state.terminal, "2: what has ended changed"
        assert new.state is old.state or new.state in TRANSITIONS[old.state]
        claims = name in {"claim", "claim_suspects"}
        assert new.claims == old.claims + claims
        if claims and new.token is not None:
            self._owners[new.token] = self._acting
        if name == "finish":
            self._check_fence(old)

    def _check_fence(self, old: Job) -> None:
        assert old.token is not None, "3: nobody held it"
        assert old.lease_until is not None
        actor = self._acting
        assert actor is not None
        if actor.kind == "sweep":
            assert old.lease_until <= self.clock.now() or old.worker in self._dead, "3: its worker lives"
        else:
            assert self._owners[old.token] is actor, "3: another held it"

    # --- the end -----------------------------------------------------------------------------------------------

    def come_to_rest(self) -> None:
        """The last faults, and then none: sweeps and bells alone must bring every job and every reader to the end."""
        for nth, actor in enumerate([one for one in self.actors if one.kind != "follower"]):
            self.run(actor, 0 if nth % 2 else MANY, Turn.KILL)
        for _ in range(600):
            self.finish(self.act("sweep", self.sweep))
            bells, self.bells[:] = set(self.bells), []
            for _ in bells:
                self.finish(self.work(2))
            if all(job.state.terminal for job in self.jobs()):
                break
            self.clock.sleep(1)
        assert all(job.state.terminal for job in self.jobs()), "2"
        for _ in range(100):
            if not self.true_outbox.deliveries(DeliveryQuery(state=DeliveryState.PENDING)):
                break
            # A receiver may have asked for hours, and a dead sender's lease must run out.
            self.clock.sleep(3_600)
            self.finish(self.act("sweep", self.sweep))
            self.finish(self.deliver())
        for job in self.jobs():
            self.receivers.check_end(job)
        for actor in [one for one in self.actors if one.kind == "follower"]:
            self.finish(actor)
        for follower in self.followers:
            self.finish(self.act("follower", follower))

    def kill_all(self) -> None:
        """Leave no thread behind."""
        for actor in list(self.actors):
            self.run(actor, 0, Turn.KILL)


def text_of(events: Sequence[Event], claim: int) -> str:
    """The text that a reader put together of one claim; it must fit."""
    text = ""
    for event in events:
        if event.type == "token" and event.id.claim == claim:
            assert event.data["offset"] == len(text), "6: a hole in the text"
            text += event.data["text"]
    return text
