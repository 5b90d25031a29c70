"""What a history must not hold. Pure, and it knows only what clients saw, and receivers of webhooks.

Each rule takes a history and gives the violations it finds, each with its evidence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

from ktqueue.events.base import END, REQUEUED
from tests.chaos import told
from tests.chaos.history import History, Job, Operation, Order
from tests.chaos.known import ACCEPTED, Known, Violation

BLAMELESS = frozenset({"engine_crashed", "lease_lost"})
"""How a job fails that asked for no such thing: reported, but not lost."""


def check(history: History) -> list[Violation]:
    """Every violation of every rule."""
    known = Known(history)
    return [violation for rule in RULES for violation in rule(known)]


def innocent_failures(history: History) -> list[str]:
    """Ids of jobs that failed for the sake of others: they asked for no failure, and a death was held against them."""
    known = Known(history)
    found = []
    for job_id in known.sightings:
        order = known.order_of(job_id)
        if order and order.fail is None and any(end.job.error in BLAMELESS for end in known.ends(job_id)):
            found.append(job_id)
    return found


def lost(known: Known) -> Iterator[Violation]:
    """Whatever was accepted ends. (The history's last part looks at every job, long after the last fault.)"""
    for job_id, submit in known.accepted.items():
        if not known.ends(job_id):
            last = max(known.sightings[job_id], key=lambda each: each.operation.ended, default=None)
            yield Violation("lost", job_id, f"accepted at {submit.ended:.3f}, never seen to end; last seen: {last}")


def vanished(known: Known) -> Iterator[Violation]:
    """A 2xx means that the row is there: whatever was accepted is found, always."""
    for operation in known.operations:
        job_id = operation.job_id
        if operation.status == 404 and job_id in known.accepted and operation.began > known.accepted[job_id].ended:
            yield Violation("vanished", job_id, f"404 to a {operation.kind} at {operation.began:.3f}")


def changed(known: Known) -> Iterator[Violation]:
    """A job that has ended never changes: not its state, its result, its error, nor when it ended."""
    for job_id in known.sightings:
        ends = known.ends(job_id)
        for other in ends[1:]:
            if other.job != ends[0].job:
                yield Violation("changed", job_id, f"{ends[0]} | {other}")
                break


def revived(known: Known) -> Iterator[Violation]:
    """Once seen as ended, it is never again seen as queued or running."""
    for job_id, sightings in known.sightings.items():
        ended = min((end.operation.ended for end in known.ends(job_id)), default=float("inf"))
        for sighting in sightings:
            if not sighting.job.terminal and sighting.operation.began > ended:
                yield Violation("revived", job_id, f"seen as ended at {ended:.3f} | {sighting}")
                break


def cancelled_then_succeeded(known: Known) -> Iterator[Violation]:
    """Who is told 'cancelled' is told so for good."""
    for job_id in known.sightings:
        states = {end.job.state for end in known.ends(job_id)}
        cancels = [end for end in known.ends(job_id) if end.job.state == "cancelled"]
        if {"cancelled", "succeeded"} <= states:
            yield Violation("cancelled then succeeded", job_id, str(cancels[0]))


def wrong_result(known: Known) -> Iterator[Violation]:
    """The end is the one that the order demands."""
    for job_id in known.sightings:
        order = known.order_of(job_id)
        for end in known.ends(job_id):
            if order is not None and (why := _wrong(order, end.job)):
                yield Violation("wrong result", job_id, f"{why} | {end}")
                break


def _wrong(order: Order, job: Job) -> str | None:
    told = f"{job.state} ({job.error})"
    if job.state == "succeeded":
        good = order.fail is None and job.result == order.input
        return None if good else f"fail={order.fail}, and the result should be {order.input}"
    if job.result is not None:
        return f"{told}, with a result"
    if job.state == "cancelled":
        return None if order.cancel_after_s is not None else "nobody cancelled it"
    # Who failed for the sake of others is told of by `innocent_failures`.
    allowed = BLAMELESS if order.fail is None else {"engine_error", *BLAMELESS}
    return None if job.state == "failed" and job.error in allowed else f"{told}, and nobody asked for that"


def phantom(known: Known) -> Iterator[Violation]:
    """Every job was submitted by somebody."""
    for job_id, sightings in known.sightings.items():
        if known.order_of(job_id) is None:
            yield Violation("phantom", job_id, str(sightings[0]))


def doubled(known: Known) -> Iterator[Violation]:
    """One submit, one job. A submit that was not answered may have made one; one that was repeated has a key."""
    submits: dict[int, int] = defaultdict(int)
    for operation in known.operations:
        if operation.kind == "submit" and operation.number is not None:
            submits[operation.number] += 1
    jobs: dict[int, set[str]] = defaultdict(set)
    for job_id, sightings in known.sightings.items():
        jobs[sightings[0].job.number].add(job_id)
    for number, ids in jobs.items():
        order = known.orders.get(number)
        most = 1 if order is not None and order.key else submits[number]
        if order is not None and len(ids) > most:
            by = f"key {order.key}" if order.key else f"{most} submits"
            yield Violation("doubled", min(ids), f"{len(ids)} jobs by {by}: {', '.join(sorted(ids))}")


def events_with_holes(known: Known) -> Iterator[Violation]:
    """Each follower saw every event once, in order, across all its reconnects; and the same as the others."""
    for job_id, follows in known.follows.items():
        for follow in follows:
            if why := broken(follow):
                yield Violation("events", job_id, f"{why}: {_told(follow)}")
        whole = [follow for follow in follows if not broken(follow)]
        if len({follow.events for follow in whole}) > 1:
            yield Violation("events", job_id, " | ".join(_told(follow) for follow in whole))
        for end in known.ends(job_id)[:1]:
            for follow in whole:
                if follow.events[-1].state != end.job.state:
                    yield Violation("events", job_id, f"the last is not the job's: {_told(follow)} | {end}")


def broken(follow: Operation) -> str | None:
    """What is wrong with the events of one follow, by the rules of `ktqueue/events/base.py`; None if nothing is."""
    ids = [(event.claim, event.offset) for event in follow.events]
    if not ids:
        return "no event at all"
    if ids[0] != (0, 1):
        return f"begins with {ids[0]}"
    for before, after in pairwise(ids):
        if after not in _may_follow(*before):
            return f"{after} follows {before}"
    return None if follow.complete and ids[-1][1] == END else "the terminal event never came"


def _may_follow(claim: int, offset: int) -> set[tuple[int, int]]:
    if offset == END:
        return set()
    waiting = (claim, offset) == (0, 1) or offset == REQUEUED
    return {(claim, END), (claim + 1, 0) if waiting else (claim, REQUEUED)}


def _told(follow: Operation) -> str:
    names = {END: "end", REQUEUED: "requeued"}
    said = [f"{event.claim}-{names.get(event.offset, event.offset)} {event.state}" for event in follow.events]
    return f"{follow.client} at {follow.began:.3f}: {', '.join(said)}"


def refused(known: Known) -> Iterator[Violation]:
    """A submit is answered 2xx, whatever happens to workers and to Redis; only an API or a database may excuse it."""
    excuses = [(action.began, action.ended + SETTLING_S) for action in known.actions if action.kind in EXCUSES]
    for operation in known.operations:
        if operation.kind != "submit" or operation.status in ACCEPTED:
            continue
        if not any(began <= operation.ended and operation.began <= ended for began, ended in excuses):
            said = "no answer" if operation.status is None else str(operation.status)
            at = f"{operation.began:.3f}-{operation.ended:.3f}"
            yield Violation("refused", operation.key or str(operation.number), f"{said} to a submit at {at}")


EXCUSES = frozenset({"kill api", "kill api worker", "kill all", "restart postgres"})
SETTLING_S = 5.0

RULES: tuple[Callable[[Known], Iterator[Violation]], ...] = (
    lost,
    vanished,
    changed,
    revived,
    cancelled_then_succeeded,
    wrong_result,
    phantom,
    doubled,
    events_with_holes,
    refused,
    *told.RULES,
)
