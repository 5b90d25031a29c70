"""Who runs next, in numbers: shares, a backlog's neighbour, deadlines under overload, ETAs, ageing.

On a clock that is made up (`benchmarks.simulated`), because what is decided, and not how fast, is in question; then the
same jobs of one tenant and of a thousand through a real worker, because deciding must not cost speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from benchmarks.drain import check, finish_rate
from benchmarks.figures import Figure, at_least, at_least_times, at_most
from benchmarks.ours import Ours
from benchmarks.simulated import MODEL, START, Simulation
from ktqueue.turns import age_of

SECOND = 1_000
AT_ONCE = 16
TENANTS = 1_000


def measure(*, quick: bool) -> list[Figure]:
    """Parts are in percent; "other" of the deadlines is plain FIFO, of the rates one tenant."""
    scale = 4 if quick else 1
    return [
        *_shares(8_000 // scale),
        _neighbour(100_000 // scale),
        *_deadlines(600 // scale),
        *_etas(900 // scale),
        _lowest(),
        _rates(quick=quick),
    ]


def _lengths(random: Random) -> Iterator[int]:
    """Milliseconds: most short, some long."""
    while True:
        yield min(10_000, max(20, int(random.lognormvariate(6.0, 1.0))))


def _shares(jobs: int) -> list[Figure]:
    """While all have jobs waiting."""
    random = Random(1)
    lengths = _lengths(random)
    two = Simulation(AT_ONCE)
    two.lanes.tell_weights({"a": 2.0})
    for number in range(2 * jobs):
        two.submit("ab"[number % 2], next(lengths))
    two.run_out(jobs)
    off = 100 * abs(two.served["a"] / two.served["b"] / 2 - 1)

    ten = Simulation(AT_ONCE)
    for number in range(2 * jobs):
        ten.submit(str(number % 10), next(lengths) * (1 + number % 10))
    ten.run_out(jobs // 2)
    shares = [ten.served[str(tenant)] for tenant in range(10)]
    jain = sum(shares) ** 2 / (10 * sum(share**2 for share in shares))
    return [
        at_most("two tenants of weights 2:1: served cost off 2:1 by, %", [off], [off], 3),
        at_least("ten equal tenants with jobs of other lengths: Jain index, %", [100 * jain], 99),
    ]


def _neighbour(backlog: int) -> Figure:
    simulation, plain = Simulation(AT_ONCE), Simulation(AT_ONCE, fifo=True)
    before = []
    for each in (simulation, plain):
        for _ in range(backlog):
            each.submit("a", 50)
        each.run_to(START + 10 * SECOND)
        job = each.submit("b", 50)
        assert job is not None
        at = len(each.started)
        while job.id not in each.started:
            each.run_out(len(each.ended) + 1)
        before.append([*each.started].index(job.id) - at)
    what = f"behind a backlog of {backlog:,}: jobs that start before another tenant's one (other: FIFO)"
    return at_most(what, before[:1], before[1:], AT_ONCE)


def _deadlines(seconds: int) -> list[Figure]:
    """Twice as much comes as can be run; a job is to end within 5 to 60 s."""
    ours = _overload(Simulation(AT_ONCE), seconds, reject_if_late=True)
    fifo = _overload(Simulation(AT_ONCE, fifo=True), seconds, reject_if_late=False)
    return [
        at_least_of("twice the capacity, with deadlines: accepted and on time, % (other: FIFO)", ours[0], fifo[0], 90),
        at_least_of("  of all that were sent, on time, % (other: FIFO)", ours[1], fifo[1], 0),
    ]


def at_least_of(what: str, ours: float, theirs: float, target: float) -> Figure:
    """A figure beside another's."""
    return Figure(what, ours, theirs, (), f"≥ {target:g}" if target else "", ours >= target if target else None)


def _overload(simulation: Simulation, seconds: int, *, reject_if_late: bool) -> tuple[float, float]:
    random = Random(2)
    lengths = _lengths(random)
    sent, accepted = 0, []
    until, at = START + seconds * SECOND, float(START)
    mean_ms = 660.0
    while at < until:
        at += random.expovariate(2 * AT_ONCE / mean_ms)
        simulation.run_to(int(at))
        deadline_ms = random.randint(5 * SECOND, 60 * SECOND)
        job = simulation.submit(
            random.choice("abcd"), next(lengths), deadline_ms=deadline_ms, reject_if_late=reject_if_late
        )
        sent += 1
        accepted += [] if job is None else [job]
    simulation.run_to(until + 120 * SECOND)
    on_time = sum(simulation.ended.get(job.id, until * 2) <= (job.deadline_at or 0) for job in accepted)
    return 100 * on_time / len(accepted), 100 * on_time / sent


def _etas(seconds: int) -> list[Figure]:
    """Load that goes up and down around the capacity, so that a queue comes and goes."""
    random = Random(3)
    lengths = _lengths(random)
    simulation = Simulation(AT_ONCE)
    until, at = START + seconds * SECOND, float(START)
    while at < until:
        busy = (at - START) // (60 * SECOND) % 3 != 2
        at += random.expovariate((1.3 if busy else 0.4) * AT_ONCE / 660.0)
        simulation.run_to(int(at))
        simulation.submit(random.choice("abc"), next(lengths))
    accuracy = simulation.lanes.accuracies([MODEL])[MODEL]
    p50, p90 = [100 * accuracy.p50], [100 * accuracy.p90]
    return [
        at_most(f"ETA at submit, mixed lengths, {accuracy.jobs} jobs: median error, %", p50, p50, 20),
        at_most("  90th percentile, %", p90, p90, 50),
    ]


def _lowest() -> Figure:
    """One job of priority 0 while more of priority 9 comes than can be run."""
    simulation = Simulation(AT_ONCE)
    lowest = None
    for tick in range(1_200):
        for _ in range(2 * AT_ONCE):
            simulation.submit("high", 1_000, priority=9)
        if tick == 10:
            lowest = simulation.submit("low", 1_000, priority=0)
        simulation.run_to(START + (tick + 1) * SECOND)
    assert lowest is not None
    waited_s = (simulation.started[lowest.id] - lowest.created_at) / 1000
    return at_most(
        "priority 0 under constant priority 9: starts after, s", [waited_s], [waited_s], age_of(0) / 1000 + 1
    )


def _rates(*, quick: bool) -> Figure:
    """No-op jobs claimed and finished by one worker, of a thousand tenants and of one."""
    rounds, jobs = (1, 2_000) if quick else (15, 10_000)
    with Ours.open() as many, Ours.open() as one:
        rates = []
        for _ in range(rounds):
            for side, tenants in ((many, TENANTS), (one, 1)):
                side.preload(jobs, tenants=tenants)
            rates.append((finish_rate(many, jobs), finish_rate(one, jobs)))
        check(many, finished=rounds * jobs)
        check(one, finished=rounds * jobs)
    ours, theirs = zip(*rates, strict=True)
    return at_least_times(f"no-op jobs of {TENANTS:,} tenants finished (other: of one), jobs/s", ours, theirs, 0.9)
