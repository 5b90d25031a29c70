"""One trial: clients and the nemesis for a while, then peace, and a last look at every job."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue

from tests.chaos import orders
from tests.chaos.clients import Client, Follower, Notes
from tests.chaos.dialect import Ours
from tests.chaos.history import History
from tests.chaos.known import ACCEPTED
from tests.chaos.nemesis import SENDER_KILLS, WORKER_KILLS, Nemesis, schedule
from tests.chaos.receiving import await_the_told, receiving
from tests.chaos.recovery import Recovery
from tests.chaos.services import Service
from tests.support.stack import until

PEACE_S = 60.0
"""Within so long after the last fault every job must have ended."""
TOLD_S = 90.0
"""Within so long after the last job has ended all that is to be told must have arrived: two waits of a circuit's."""
LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """``seconds``, ``kills`` of workers and those of senders are all reached before a trial ends.

    ``kinds``: the faults to draw from. ``pace``: how long it pauses between two, as a share of what is usual.
    ``parked``: so many jobs wait all the time, in a lane that does not move.
    """

    seed: int
    seconds: float
    kills: int
    kinds: tuple[str, ...]
    parked: int = 0
    sender_kills: int = 0
    clients: int = 8
    followers: int = 3
    pace: float = 1.0


@dataclass(slots=True)
class Trial:
    """What came of it."""

    name: str
    plan: Plan
    history: History = field(default_factory=History)
    seconds: float = 0.0
    before_mb: dict[str, float] = field(default_factory=dict)
    after_mb: dict[str, float] = field(default_factory=dict)


def run(service: Service, plan: Plan) -> Trial:
    """Run ``plan`` against ``service``."""
    trial = Trial(service.name, plan)
    if plan.parked:
        service.park(plan.parked)
    began = time.monotonic()
    with receiving(service, trial.history) as receiver:
        with _measured(service) as recovery, _followers(service, plan, trial.history) as to_follow:
            with _clients(service, plan, trial.history, to_follow):
                time.sleep(1.0)  # so that there is something to lose
                trial.before_mb = service.memory_mb()
                nemesis = Nemesis(service, trial.history, recovery, receiver)
                _torment(nemesis, service, plan, began + plan.seconds)
            until(service.ready, f"{service.name}, ready again", PEACE_S)
            _last_look(service, trial.history)
        await_the_told(trial.history, TOLD_S)
    trial.after_mb = service.memory_mb()
    trial.seconds = time.monotonic() - began
    return trial


def _torment(nemesis: Nemesis, service: Service, plan: Plan, ends_at: float) -> None:
    possible = service.kinds()
    steps = (step for step in schedule(plan.seed, plan.kinds, plan.pace) if step.kind in possible)

    def enough(so_far: History) -> bool:
        killed = kills(so_far) >= plan.kills and sender_kills(so_far) >= plan.sender_kills
        return killed and time.monotonic() >= ends_at

    nemesis.run(steps, enough)


def kills(history: History) -> int:
    """How many times a worker or its child was killed."""
    return sum(action.kind in WORKER_KILLS for action in history.actions)


def sender_kills(history: History) -> int:
    """How many times a sender of webhooks or its parent was killed."""
    return sum(action.kind in SENDER_KILLS for action in history.actions)


@contextmanager
def _measured(service: Service) -> Iterator[Recovery]:
    recovery = Recovery(service)
    recovery.start()
    try:
        yield recovery
    finally:
        recovery.finish()


@contextmanager
def _clients(service: Service, plan: Plan, history: History, to_follow: SimpleQueue[str | None]) -> Iterator[None]:
    """Clients at work while the block runs. Raises what one of them raised."""
    stopping = threading.Event()
    ours = isinstance(service.dialect, Ours)
    with ThreadPoolExecutor(plan.clients) as pool:
        at_work = []
        for number in range(plan.clients):
            notes = Notes(f"client-{number}", history, service.dialect, service.port)
            wanted = (orders.mixed if ours else orders.plain)(plan.seed, number)
            chance = random.Random(f"habits {plan.seed} {number}")
            client = Client(notes, wanted, to_follow, stopping, lists=ours, chance=chance)
            at_work.append(pool.submit(client.run))
        try:
            yield
        finally:
            stopping.set()
        for each in at_work:
            each.result()


@contextmanager
def _followers(service: Service, plan: Plan, history: History) -> Iterator[SimpleQueue[str | None]]:
    """Readers of events; when the block ends each has the time to read what is left to the end."""
    to_follow: SimpleQueue[str | None] = SimpleQueue()
    given_up = threading.Event()
    with ThreadPoolExecutor(plan.followers) as pool:
        reading = []
        for number in range(plan.followers):
            notes = Notes(f"follower-{number}", history, service.dialect, service.port)
            reading.append(pool.submit(Follower(notes, to_follow, service.port, given_up).run))
        patience_s = 0.0
        try:
            yield to_follow
            patience_s = PEACE_S
        finally:
            for _ in reading:
                to_follow.put(None)
            wait(reading, patience_s)
            given_up.set()
        for each in reading:
            each.result()


def _last_look(service: Service, history: History) -> None:
    """Look at every accepted job until it has ended, or peace has lasted long enough; then list them all."""
    notes = Notes("last look", history, service.dialect, service.port)
    accepted = {each.job_id for each in history.operations if each.kind == "submit" and each.status in ACCEPTED}
    ended = {job.id for each in history.operations for job in each.jobs if job.terminal}
    open_jobs = sorted(str(job_id) for job_id in accepted - ended)
    patience = time.monotonic() + PEACE_S
    while open_jobs and time.monotonic() < patience:
        seen = {job_id: notes.poll(job_id) for job_id in open_jobs}
        open_jobs = [job_id for job_id, job in seen.items() if job is None or not job.terminal]
        time.sleep(LOOK_S)
    if isinstance(service.dialect, Ours):
        cursor = notes.list(limit=200)
        while cursor is not None:
            cursor = notes.list(limit=200, cursor=cursor)
    notes.connection.close()
