"""The nemesis: one fault after another, each drawn from the seed, each noted down with its victims."""

from __future__ import annotations

import math
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import psutil
import redis.exceptions
import sqlalchemy.exc

from tests.chaos.history import TERMINAL, Action, History
from tests.chaos.receiving import WAYS, Receiver
from tests.chaos.recovery import Recovery
from tests.chaos.services import Progress, Service
from tests.support.partition import Elsewhere
from tests.support.stack import alive

WEIGHTS: Mapping[str, float] = {
    "kill child": 55,
    "kill worker": 15,
    "kill light": 4,
    "kill beat": 2,
    "kill api": 2,
    "kill api worker": 3,
    "kill valkey": 3,
    "kill deliver child": 14,
    "kill deliver": 4,
    "kill all": 1,
    "stop child": 4,
    "stop worker": 2,
    "flushall": 6,
    "term worker": 3,
    "term deliver": 1,
    "receiver down": 3,
    "restart valkey": 3,
    "restart postgres": 3,
    "cut worker": 5,
}
"""How often each is drawn, relative to the others."""
WORKER_KILLS = frozenset({"kill child", "kill worker"})
SENDER_KILLS = frozenset({"kill deliver child", "kill deliver"})
FAMILIES = frozenset({"worker", "child", "deliver", "deliver child"})
"""Roles whose processes have work in hand."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.4, 2.6
LONGEST_AWAY_S = 4.0
RECEIVER_RESTS_S = 35.0
"""A receiver is well for so long after each of its faults: a delivery that fails twice waits for five minutes."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the schedule. ``share`` in [0, 1) picks the victim, or says how long."""

    pause_s: float
    kind: str
    share: float


def schedule(seed: int, kinds: Sequence[str], pace: float = 1.0) -> Iterator[Step]:
    """The same for the same seed, however the service behaves. Pauses are ``pace`` times as long as usual."""
    chance = random.Random(seed)
    weights = [WEIGHTS[kind] for kind in kinds]
    while True:
        pause_s = pace * chance.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S)
        yield Step(pause_s, chance.choices(kinds, weights)[0], chance.random())


class Nemesis:
    """Does what a schedule says to one service."""

    def __init__(
        self, service: Service, history: History, recovery: Recovery, receiver: Receiver | None = None
    ) -> None:
        self._service = service
        self._receiver = receiver
        self._receiver_rests_until = 0.0
        self._history = history
        self._recovery = recovery
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._cut_off = False

    def run(self, steps: Iterator[Step], enough: Callable[[History], bool]) -> None:
        """Until ``enough``. Whatever was stopped or cut goes on when this returns."""
        try:
            while not enough(self._history):
                step = next(steps)
                self._rest(step.pause_s)
                self._do(step)
        finally:
            self._heal()

    def _heal(self) -> None:
        """Heal what is to be healed later, now."""
        later, self._later = self._later, []
        for _, heal in later:
            heal()

    def _rest(self, pause_s: float) -> None:
        """Wait, and heal what is due."""
        until = time.monotonic() + pause_s
        while (now := time.monotonic()) < until:
            for due, heal in [each for each in self._later if each[0] <= now]:
                heal()
                self._later.remove((due, heal))
            time.sleep(min(0.05, until - now))

    def _do(self, step: Step) -> None:
        verb, _, role = step.kind.partition(" ")
        action = Action(step.kind, time.monotonic(), time.monotonic())
        match verb:
            case "kill" if role == "all":
                done = self._kill_all(action)
            case "kill":
                done = self._kill(action, role, step.share)
            case "stop":
                done = self._stop(action, role, step.share)
            case "term":
                done = self._term(action, role, step.share)
            case "restart":
                done = self._restart(action, role, step.share)
            case "cut":
                done = self._cut(action, step.share)
            case "receiver":
                done = self._trouble_receiver(action, step.share)
            case "flushall":
                done = self._flush(action)
            case _:
                raise ValueError(f"no such action: {step.kind}")
        if done:
            self._history.actions.append(action)

    def _victim(self, role: str, share: float) -> psutil.Process | None:
        there = self._service.processes(role)
        return there[int(share * len(there))] if there else None

    def _kill(self, action: Action, role: str, share: float) -> bool:
        """SIGKILL. First frozen, so that what it holds at that moment is known exactly."""
        victim = self._victim(role, share)
        if victim is None:
            return False
        family = _family(victim) if role in FAMILIES else [victim]
        _signal(family, signal.SIGSTOP)
        held = self._held(family)
        action.measured["carried"] = self._carried(family)
        action.began = action.ended = time.monotonic()
        action.pids = tuple(each.pid for each in family)
        _signal([victim], signal.SIGKILL)
        self._recovery.watch(action, held, action.began)
        _signal(family, signal.SIGCONT)  # a frozen child would not see its parent's death
        if role in {"api", "api worker", "valkey"}:
            self._await_ready(action)
        return True

    def _kill_all(self, action: Action) -> bool:
        """As if the machine had lost its power."""
        action.pids = tuple(self._service.supervisors()[:1])
        self._service.kill()
        self._service.start()
        action.ended = time.monotonic()
        return True

    def _stop(self, action: Action, role: str, share: float) -> bool:
        """SIGSTOP past the lease, then SIGCONT: what it then writes is stale."""
        victim = self._victim(role, share)
        if victim is None:
            return False
        family = _family(victim)
        _signal(family, signal.SIGSTOP)
        held = self._held(family)
        action.pids = tuple(each.pid for each in family)

        def go_on() -> None:
            taken = [job_id for job_id, row in self._progress(held).items() if row.moved_on(held[job_id])]
            action.measured |= {"held": len(held), "taken over": len(taken)}
            _signal(family, signal.SIGCONT)
            action.ended = time.monotonic()

        self._later.append((action.began + self._service.lease_s + 1.0 + 2.0 * share, go_on))
        return True

    def _term(self, action: Action, role: str, share: float) -> bool:
        """SIGTERM, and wait for the end; which of the jobs it held were not done by then."""
        self._heal()  # a process that is frozen can't end in good order
        victim = self._victim(role, share)
        if victim is None:
            return False
        family = _family(victim)
        held = self._held(family)
        action.pids = tuple(each.pid for each in family)
        action.began = time.monotonic()
        _signal([victim], signal.SIGTERM)
        while alive(victim) and time.monotonic() < action.began + 4 * self._service.grace_s:
            time.sleep(0.02)
        action.ended = time.monotonic()
        action.undone = tuple(job_id for job_id, row in self._progress(held).items() if row.state not in TERMINAL)
        action.measured |= {"held": len(held), "exit": action.ended - action.began}
        return True

    def _restart(self, action: Action, role: str, share: float) -> bool:
        """Take a server away, at once or in good order, and bring it back after up to some seconds."""
        server = self._service.outside[role]
        # SIGQUIT is PostgreSQL's stop without a checkpoint, as after a crash; SIGINT only sends its clients away.
        how = signal.SIGKILL if role == "valkey" else signal.SIGQUIT if share < 0.5 else signal.SIGINT
        server.take_away(how)
        action.said = f"{how.name}, away for {LONGEST_AWAY_S * share:.1f} s"
        time.sleep(LONGEST_AWAY_S * share)
        server.start()
        self._await_ready(action)
        return True

    def _cut(self, action: Action, share: float) -> bool:
        """Between one worker and both its servers no packet passes, for less or more than a lease."""
        place = self._service.place
        if not isinstance(place, Elsewhere) or self._cut_off:
            return False
        place.cut()
        self._cut_off = True

        def heal() -> None:
            place.heal()
            self._cut_off = False
            action.ended = time.monotonic()

        self._later.append((action.began + 2.0 + 1.5 * self._service.lease_s * share, heal))
        return True

    def _trouble_receiver(self, action: Action, share: float) -> bool:
        """Webhooks find nobody, are answered 500 or take long, for less than the first wait between two attempts."""
        receiver = self._receiver
        if receiver is None or action.began < self._receiver_rests_until:
            return False
        way, rest = divmod(share * len(WAYS), 1)
        action.said = WAYS[int(way)]
        receiver.fail(action.said)
        ends_at = action.began + 1.0 + (LONGEST_AWAY_S - 1.0) * rest
        self._receiver_rests_until = ends_at + RECEIVER_RESTS_S

        def mend() -> None:
            receiver.mend()
            action.ended = time.monotonic()

        self._later.append((ends_at, mend))
        return True

    def _flush(self, action: Action) -> bool:
        """Redis forgets everything."""
        try:
            with self._service.redis() as client:
                client.flushall()
        except redis.exceptions.RedisError as error:
            action.said = f"it was not there: {type(error).__name__}"
        action.ended = time.monotonic()
        return True

    def _held(self, family: Sequence[psutil.Process]) -> dict[str, int]:
        try:
            return self._service.held([each.pid for each in family])
        except sqlalchemy.exc.DBAPIError:
            return {}

    def _carried(self, family: Sequence[psutil.Process]) -> int:
        try:
            return self._service.carried([each.pid for each in family])
        except sqlalchemy.exc.DBAPIError:
            return 0

    def _progress(self, held: Mapping[str, int]) -> dict[str, Progress]:
        try:
            return self._service.progress(list(held)) if held else {}
        except sqlalchemy.exc.DBAPIError:
            return {}

    def _await_ready(self, action: Action) -> None:
        """What it did lasts until the service is ready again; without end, if that is not seen."""
        ready = self._service.ready()
        action.ended = time.monotonic() if ready else math.inf
        if not ready:
            self._later.append((time.monotonic() + 0.1, lambda: self._await_ready(action)))


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return [process]


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue  # it died by itself meanwhile
