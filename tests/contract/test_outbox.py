"""What every store leaves in the outbox, and what every outbox does with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import pytest
import sqlalchemy as sa

from ktqueue.job import Job, JobError, JobState, Task, Verdict, fence_of, new_job_id, uuid7_hex
from ktqueue.migrate import upgrade
from ktqueue.outbox import statements
from ktqueue.outbox.base import Delivery, DeliveryQuery, Endpoint, Outbox, Settlement
from ktqueue.outbox.memory import MemoryOutbox
from ktqueue.outbox.sql import SqlOutbox
from ktqueue.store.base import IdempotencyKey, Store
from ktqueue.store.memory import MemoryStore
from ktqueue.store.sql import SqlStore
from ktqueue.tenant import DEFAULT_TENANT
from ktqueue.webhook import TERMINAL, Answer, DeliveryState, Disabled, EventType, event_id
from ktqueue.webhook_policy import Circuit
from tests.contract.conftest import URLS
from tests.support.stack import until

ALL = EventType(127)
TARGET = "https://receiver.example:443"
URL = f"{TARGET}/hook"
WORKER = "host:1:2:3"
PENDING, DELIVERED, FAILED = DeliveryState.PENDING, DeliveryState.DELIVERED, DeliveryState.FAILED
OK = Answer(200, None, 12, "thanks")
BAD = Answer(500, None, 7, "no\0pe")


@dataclass
class Both:
    """A store and the outbox that it writes to; ``rung`` has an entry for each call of ``on_outbox``."""

    store: Store
    outbox: Outbox
    rung: list[str]

    def job(self, events: EventType = ALL, **given: object) -> Job:
        plain = Job(
            id=new_job_id(),
            model="echo",
            task=Task.ECHO,
            input={"say": "hi"},
            params={},
            created_at=self.store.now(),
            rank=1.0,
            webhook_url=URL if events else None,
            webhook_target=TARGET if events else None,
            webhook_events=int(events),
        )
        made = replace(plain, **given)  # type: ignore[arg-type] # fields by their names
        self.store.add([made])
        return made

    def endpoint(self, events: EventType = ALL, **given: object) -> Endpoint:
        plain = Endpoint(f"whe_{uuid7_hex()}", URL, events, "sealed", self.store.now())
        made = replace(plain, **given)  # type: ignore[arg-type] # fields by their names
        self.outbox.add_endpoint(made)
        return made

    def claim(self, job: Job) -> Job:
        return self.store.claim([job.id], token="t", worker=WORKER, lease_ms=10_000)[0]

    def finish(self, job: Job, error: JobError | None = None, state: JobState | None = None) -> None:
        ended = state or (JobState.FAILED if error else JobState.SUCCEEDED)
        result = {"said": "hi"} if ended is JobState.SUCCEEDED else None
        self.store.finish([Verdict(fence_of(job), ended, result=result, error=error)])

    def told(self, job: Job) -> list[Delivery]:
        return list(reversed(self.outbox.deliveries(DeliveryQuery(job_id=job.id))))

    def types(self, job: Job) -> list[EventType]:
        return [each.type for each in self.told(job)]

    def take(self, most: int = 10, token: str = "s", lease_ms: int = 10_000) -> list[Delivery]:
        due = self.outbox.due_targets()
        return self.outbox.claim({each.target: most for each in due}, token=token, sender="me", lease_ms=lease_ms)

    def settle(self, delivery: Delivery, answer: Answer, state: DeliveryState, next_at: int | None = None) -> set[int]:
        assert delivery.token is not None
        return self.outbox.settle([Settlement(delivery.id, delivery.token, answer, state, next_at)], {})


@pytest.fixture(params=["memory", *URLS])
def both(request: pytest.FixtureRequest) -> Iterator[Both]:
    rung: list[str] = []
    if request.param == "memory":

        def clock() -> int:
            return time.time_ns() // 1_000_000

        memory = MemoryOutbox(clock)
        yield Both(MemoryStore(clock, memory, lambda: rung.append("")), memory, rung)
        return
    url = request.getfixturevalue(URLS[request.param])
    outbox = SqlOutbox(url)
    store = SqlStore(url, lambda: rung.append(""))
    yield Both(store, outbox, rung)
    store.close()
    outbox.close()


# --- what a store leaves ---------------------------------------------------------------------------------------


def test_a_job_that_nobody_asks_about_leaves_nothing(both: Both) -> None:
    job = both.job(EventType(0))
    both.finish(both.claim(job))
    assert both.told(job) == []
    assert both.rung == []
    assert both.outbox.due_targets() == []


def test_each_change_of_a_job_is_told_once_and_in_order(both: Both) -> None:
    job = both.job()
    both.store.add([job])
    running = both.claim(job)
    both.finish(running)
    both.finish(running)
    queued, started, succeeded = both.told(job)
    assert [queued.type, started.type, succeeded.type] == [1, 2, 8]
    assert queued.seq < started.seq < succeeded.seq
    row = both.store.get(job.id)
    assert row is not None
    assert (queued.at, started.at, succeeded.at) == (row.created_at, row.started_at, row.finished_at)
    assert (queued.attempt, started.attempt, succeeded.attempt) == (0, 1, 1)
    assert (queued.started_at, started.started_at) == (None, row.started_at)
    assert all(each.target == TARGET and each.endpoint == "" and each.state is PENDING for each in both.told(job))
    assert len(both.rung) == 3


def test_only_what_was_asked_for_is_told(both: Both) -> None:
    job = both.job(TERMINAL)
    both.finish(both.claim(job), JobError("bad", "no"))
    assert both.types(job) == [EventType.JOB_FAILED]


def test_a_cancel_and_a_missed_deadline_are_told(both: Both) -> None:
    cancelled, expired = both.job(TERMINAL), both.job(TERMINAL, deadline_at=both.store.now() - 1)
    both.store.cancel(cancelled.id)
    both.store.cancel(cancelled.id)
    both.store.expire(10)
    assert both.types(cancelled) == [EventType.JOB_CANCELLED]
    assert both.types(expired) == [EventType.JOB_EXPIRED]


def test_a_job_that_goes_back_to_wait_is_told_of_when_it_runs_again(both: Both) -> None:
    job = both.job()
    both.finish(both.claim(job), JobError("crash", "no"), JobState.QUEUED)
    both.finish(both.claim(job))
    assert both.types(job) == [1, 2, 2, 8]
    seqs = [each.seq for each in both.told(job)]
    assert seqs == sorted(set(seqs))


def test_a_suspect_that_runs_apart_is_told_of(both: Both) -> None:
    job = both.job(EventType.JOB_STARTED)
    both.store.finish([Verdict(fence_of(both.claim(job)), JobState.QUEUED, company=1, crashes=5)])
    both.store.claim_suspects("echo", 1, token="u", worker=WORKER, lease_ms=1_000)
    assert both.types(job) == [2, 2]


def test_an_add_under_a_key_is_told_once(both: Both) -> None:
    job = replace(both.job(EventType(0)), id=new_job_id(), webhook_url=URL, webhook_target=TARGET, webhook_events=127)
    for _ in range(2):
        both.store.add_once(job, IdempotencyKey("key", "digest"))
    assert both.types(job) == [1]


def test_what_is_left_by_a_late_worker_is_nothing(both: Both) -> None:
    job = both.job()
    running = both.claim(job)
    both.store.cancel(job.id)
    both.finish(running)
    assert both.types(job) == [1, 2, 32]


def test_endpoints_hear_of_what_they_asked_for(both: Both) -> None:
    everything, ends, other = (
        both.endpoint(),
        both.endpoint(TERMINAL, model="echo"),
        both.endpoint(model="another"),
    )
    job = both.job(EventType(0))
    both.finish(both.claim(job))
    heard = {endpoint.id: [each.type for each in both.told(job) if each.endpoint == endpoint.id] for endpoint in
             (everything, ends, other)}  # fmt: skip
    assert heard == {everything.id: [1, 2, 8], ends.id: [8], other.id: []}
    assert {each.target for each in both.told(job)} == {everything.id, ends.id}


def test_what_a_disabled_endpoint_misses_is_kept_for_a_replay(both: Both) -> None:
    endpoint = both.endpoint(TERMINAL, disabled=Disabled.OPERATOR)
    job = both.job(EventType(0))
    both.finish(both.claim(job))
    (missed,) = both.told(job)
    assert (missed.state, missed.next_at) == (FAILED, None)
    assert both.outbox.due_targets() == []
    assert both.outbox.replay(endpoint.id, missed.at + 1) == 0
    assert both.outbox.replay(endpoint.id, missed.at) == 1
    assert [each.id for each in both.take()] == [missed.id]


def test_progress_is_told_to_those_who_want_it_and_not_often(both: Both) -> None:
    quiet, job = both.job(TERMINAL), both.job(EventType.JOB_PROGRESS)
    running = both.claim(job)
    both.claim(quiet)
    both.store.tell_progress("t", {quiet.id: 0.5, job.id: 0.25})
    both.store.tell_progress("t", {job.id: 0.5})
    both.store.tell_progress("another", {job.id: 0.75})
    (told,) = both.told(job)
    assert (told.type, told.progress, told.attempt) == (EventType.JOB_PROGRESS, 0.25, 1)
    assert told.started_at == running.started_at
    assert both.told(quiet) == []


# --- claim and settle ------------------------------------------------------------------------------------------


def test_a_delivery_is_taken_once_and_settled_by_who_holds_it(both: Both) -> None:
    job = both.job(EventType.JOB_QUEUED)
    (held,) = both.take()
    assert both.take(token="other") == []
    assert both.outbox.due_targets() == []
    assert both.outbox.settle([Settlement(held.id, "other", OK, DELIVERED)], {}) == set()
    assert both.settle(held, OK, DELIVERED) == {held.id}
    assert both.settle(held, OK, DELIVERED) == set()
    (told,) = both.told(job)
    assert (told.state, told.attempts, told.next_at, told.token) == (DELIVERED, 1, None, None)
    (attempt,) = both.outbox.attempts([told.id])
    assert (attempt.number, attempt.status, attempt.error, attempt.answer) == (1, 200, None, "thanks")
    assert attempt.duration_ms == 12


def test_a_failure_is_tried_again_when_it_is_due(both: Both) -> None:
    both.job(EventType.JOB_QUEUED)
    (first,) = both.take()
    both.settle(first, BAD, PENDING, both.outbox.now() + 300)
    assert both.take() == []
    (second,) = until(both.take, "the second attempt")
    assert second.attempts == second.tries == 1
    both.settle(second, BAD, FAILED)
    assert [each.answer for each in both.outbox.attempts([first.id])] == ["no�pe"] * 2
    assert both.take() == []


def test_what_a_sender_took_along_is_due_again_when_its_lease_is_over(both: Both) -> None:
    both.job(EventType.JOB_QUEUED)
    (lost,) = both.take(lease_ms=200)
    (again,) = until(lambda: both.take(token="other"), "the lease to run out")
    assert again.id == lost.id
    assert both.settle(lost, OK, DELIVERED) == set()
    assert both.settle(again, OK, DELIVERED) == {again.id}


def test_what_a_dead_sender_holds_is_released(both: Both) -> None:
    both.job(EventType.JOB_QUEUED)
    assert both.outbox.senders() == []
    both.take()
    assert both.outbox.senders() == ["me"]
    assert both.outbox.release("another") == 0
    assert both.outbox.release("me") == 1
    assert len(both.take(token="other")) == 1


def test_events_of_one_job_go_to_one_receiver_one_after_the_other(both: Both) -> None:
    job = both.job()
    both.finish(both.claim(job))
    other = both.job()
    first, second = sorted(both.take(), key=lambda each: each.job_id)
    assert (first.type, second.type) == (1, 1)
    assert {first.job_id, second.job_id} == {job.id, other.id}
    assert both.take() == []
    both.settle(first, OK, DELIVERED)
    (third,) = both.take()
    assert third.type == 2


def test_what_comes_before_is_looked_up_by_its_job(new_postgres: Callable[[], AbstractContextManager[str]]) -> None:
    """Also by a plan that PostgreSQL made before there was any delivery."""
    given = {"for_target": TARGET, "most": 16, "new_token": "t", "new_sender": "s", "lease_ms": 30_000}
    with new_postgres() as url:
        upgrade(url)
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"prepare_threshold": 0})
        with engine.connect() as connection:
            connection.exec_driver_sql("SET plan_cache_mode = force_generic_plan")
            connection.execute(statements.CLAIM, given).all()
            known = (
                "SELECT name, cardinality(parameter_types) FROM pg_prepared_statements WHERE statement LIKE 'WITH %%'"
            )
            name, parameters = connection.exec_driver_sql(known).one()
            nothing = ", ".join(["NULL"] * parameters)
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN EXECUTE {name}({nothing})").scalars())
        engine.dispose()
    assert "deliveries_event on deliveries earlier" in plan


def test_one_that_fails_does_not_hold_up_the_next(both: Both) -> None:
    job = both.job()
    both.claim(job)
    (first,) = both.take()
    both.settle(first, BAD, PENDING, both.outbox.now() + 60_000)
    (second,) = both.take()
    assert second.type == 2


def test_order_holds_for_each_receiver_apart(both: Both) -> None:
    both.endpoint()
    both.endpoint()
    both.claim(both.job())
    assert [each.type for each in both.take()] == [1, 1, 1]


def test_of_each_target_only_so_many_are_taken(both: Both) -> None:
    endpoint = both.endpoint(EventType.JOB_QUEUED)
    for _ in range(5):
        both.job(EventType.JOB_QUEUED)
    wanted = {TARGET: 2, endpoint.id: 3, "https://unknown:443": 9}
    taken = both.outbox.claim(wanted, token="s", sender="me", lease_ms=10_000)
    assert sorted(each.target for each in taken) == sorted([TARGET] * 2 + [endpoint.id] * 3)


def test_the_longest_due_are_taken_first(both: Both) -> None:
    jobs = [both.job(EventType.JOB_QUEUED) for _ in range(4)]
    assert [each.job_id for each in both.take(2)] == [job.id for job in jobs[:2]]
    assert [each.job_id for each in both.take(2)] == [job.id for job in jobs[2:]]


# --- circuits --------------------------------------------------------------------------------------------------


def test_a_target_whose_circuit_is_open_is_left_alone(both: Both) -> None:
    endpoint = both.endpoint(EventType.JOB_QUEUED)
    both.job(EventType.JOB_QUEUED)
    now = both.outbox.now()
    open_one = Circuit(failures=7, failing_since=now, open_until=now + 400)
    both.outbox.settle([], {TARGET: open_one, endpoint.id: None})
    assert both.outbox.circuits([TARGET, endpoint.id]) == {TARGET: open_one}
    assert [each.target for each in both.outbox.due_targets()] == [endpoint.id]
    (probed,) = until(
        lambda: [each for each in both.outbox.due_targets() if each.target == TARGET], "the circuit to be half open"
    )
    assert probed.circuit == open_one
    # Whoever takes the probe keeps others from trying as well.
    both.outbox.claim({TARGET: 1}, token="s", sender="me", lease_ms=10_000)
    both.job(EventType.JOB_QUEUED)
    assert TARGET not in [each.target for each in both.outbox.due_targets()]
    both.outbox.settle([], {TARGET: None})
    assert TARGET in [each.target for each in both.outbox.due_targets()]


def test_a_target_that_failed_now_and_then_is_not_held_up(both: Both) -> None:
    both.job(EventType.JOB_QUEUED)
    both.job(EventType.JOB_QUEUED)
    both.outbox.settle([], {TARGET: Circuit(failures=4, failing_since=both.outbox.now(), open_until=0)})
    assert len(both.outbox.claim({TARGET: 1}, token="s", sender="me", lease_ms=10_000)) == 1
    assert [each.target for each in both.outbox.due_targets()] == [TARGET]


def test_an_endpoint_that_is_disabled_gives_up_what_is_pending(both: Both) -> None:
    endpoint = both.endpoint(EventType.JOB_QUEUED)
    job = both.job(EventType.JOB_QUEUED)
    (held,) = [each for each in both.take() if each.endpoint]
    assert both.outbox.disable(endpoint.id, Disabled.GONE) == 1
    assert both.outbox.disable(endpoint.id, Disabled.FAILING) == 0
    assert both.settle(held, OK, DELIVERED) == set()
    row = both.outbox.endpoint(endpoint.id)
    assert row is not None
    assert row.disabled is Disabled.GONE
    assert {each.endpoint: each.state for each in both.told(job)} == {"": PENDING, endpoint.id: FAILED}


# --- endpoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["disable", "delete", "replay", "delete the job"])
def test_deliveries_are_locked_in_the_order_in_which_senders_lock_theirs(empty_postgres_url: str, ending: str) -> None:
    """Or a sender that settles some, and has the first of them, would wait for another, and who has that for it."""
    outbox, store = SqlOutbox(empty_postgres_url), SqlStore(empty_postgres_url)
    both = Both(store, outbox, [])
    endpoint = both.endpoint()
    if ending == "delete the job":
        job = both.job()
        both.finish(both.claim(job))
        _, first, last, *_ = (each.id for each in both.told(job))
    else:
        first, *_, last = (made.id for _ in range(100) if (made := outbox.add_test(endpoint.id)) is not None)
    if ending == "replay":
        outbox.disable(endpoint.id, Disabled.OPERATOR)
    work: Callable[[], object] = {
        "disable": lambda: outbox.disable(endpoint.id, Disabled.OPERATOR),
        "delete": lambda: outbox.delete_endpoint(endpoint.id),
        "replay": lambda: outbox.replay(endpoint.id, 0),
        "delete the job": lambda: store.delete(job.id),
    }[ending]
    engine = sa.create_engine(empty_postgres_url, isolation_level="AUTOCOMMIT")
    lock = sa.text("SELECT id FROM deliveries WHERE id = :id FOR UPDATE SKIP LOCKED")
    with engine.connect() as watch, engine.connect() as sender, ThreadPoolExecutor(1) as pool:
        # All are one endpoint's, so they are read as they lie on the disk: the first behind the last.
        watch.exec_driver_sql(f"UPDATE deliveries SET tries = 1 WHERE id = {first}")
        watch.exec_driver_sql("ANALYZE deliveries")
        sender.exec_driver_sql("BEGIN")
        assert sender.execute(lock, {"id": first}).scalar() == first
        done = pool.submit(work)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        until(lambda: watch.exec_driver_sql(waiting).scalar_one() == 1, "it waits for the first")
        had = sender.execute(lock, {"id": last}).scalar()
        sender.exec_driver_sql("ROLLBACK")
        done.result()
    engine.dispose()
    outbox.close()
    store.close()
    assert had == last


def test_endpoints_are_kept_as_they_are_given(both: Both) -> None:
    one = both.endpoint(model="echo", description="ours")
    other = both.endpoint(EventType.JOB_FAILED)
    assert both.outbox.endpoint(one.id) == one
    assert both.outbox.endpoints_of(DEFAULT_TENANT) == [one, other]
    assert both.outbox.endpoints([other.id, "whe_unknown"]) == [other]
    assert both.outbox.endpoint("whe_unknown") is None
    changed = replace(one, url="https://new.example/", old_secret="old", old_secret_until=5, disabled=Disabled.OPERATOR)
    assert both.outbox.change_endpoint(one.id, lambda _: replace(changed, id="whe_other", created_at=1)) == changed
    assert both.outbox.endpoint(one.id) == changed
    assert both.outbox.change_endpoint("whe_unknown", lambda endpoint: endpoint) is None


def test_two_changes_of_an_endpoint_at_once_are_both_made(both: Both) -> None:
    endpoint = both.endpoint(description="0")

    def one_more(seen: Endpoint) -> Endpoint:
        return replace(seen, description=str(int(seen.description) + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: both.outbox.change_endpoint(endpoint.id, one_more), range(40)))
    assert both.outbox.endpoint(endpoint.id) == replace(endpoint, description="40")


def test_an_endpoint_that_is_enabled_again_begins_with_a_clean_slate(both: Both) -> None:
    endpoint = both.endpoint(EventType.JOB_QUEUED)
    now = both.outbox.now()
    both.outbox.settle([], {endpoint.id: Circuit(9, now, now + 60_000)})
    both.job(EventType(0))
    both.outbox.change_endpoint(endpoint.id, lambda seen: replace(seen, disabled=Disabled.OPERATOR))
    assert [each.state for each in both.outbox.deliveries(DeliveryQuery())] == [FAILED]
    both.outbox.change_endpoint(endpoint.id, lambda seen: replace(seen, disabled=None))
    both.job(EventType(0))
    assert len(both.take()) == 1


def test_an_endpoint_is_deleted_with_its_deliveries(both: Both) -> None:
    endpoint = both.endpoint(EventType.JOB_QUEUED)
    job = both.job(EventType.JOB_QUEUED)
    for held in both.take():
        both.settle(held, BAD, FAILED)
    ids = [each.id for each in both.told(job)]
    assert both.outbox.delete_endpoint(endpoint.id)
    assert not both.outbox.delete_endpoint(endpoint.id)
    assert [each.endpoint for each in both.told(job)] == [""]
    assert len(both.outbox.attempts(ids)) == 1


def test_a_test_is_delivered_like_any_event(both: Both) -> None:
    endpoint = both.endpoint(EventType.JOB_QUEUED)
    made = both.outbox.add_test(endpoint.id)
    assert made is not None
    assert (made.type, made.job_id, made.state) == (EventType.TEST, "", PENDING)
    assert event_id("", made.seq, endpoint.id) == f"evt_{endpoint.id[4:]}_{made.seq}"
    assert [each.id for each in both.take()] == [made.id]
    assert both.outbox.add_test("whe_unknown") is None
    assert both.outbox.prune_tests(made.at, 10) == 0
    assert both.outbox.prune_tests(made.at + 1, 10) == 1
    assert both.outbox.delivery(made.id) is None


def test_tests_at_once_are_each_of_a_moment_of_its_own(both: Both) -> None:
    endpoint = both.endpoint(EventType.JOB_QUEUED)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: both.outbox.add_test(endpoint.id), range(80)))
    assert len({each.seq for each in made if each is not None}) == 80


def test_senders_that_settle_at_once_may_find_the_same_receivers_failing(both: Both) -> None:
    now = both.outbox.now()
    targets = [f"https://{number}.example:443" for number in range(20)]
    failing = {target: Circuit(1, now, now) for target in targets}

    def settle(round_: int) -> None:
        # Each in an order of its own, and each finds other receivers well.
        order = targets[round_ % 20 :] + targets[: round_ % 20]
        both.outbox.settle(
            [], {target: failing[target] if (place + round_) % 5 else None for place, target in enumerate(order)}
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(settle, range(160)))
    both.outbox.settle([], failing)
    assert both.outbox.circuits(targets) == failing


# --- lists, redelivery, deletion -------------------------------------------------------------------------------


def test_deliveries_are_listed_newest_first_and_by_what_is_asked(both: Both) -> None:
    endpoint = both.endpoint(EventType.JOB_QUEUED)
    jobs = [both.job(EventType.JOB_QUEUED) for _ in range(3)]
    everything = both.outbox.deliveries(DeliveryQuery())
    assert [each.id for each in everything] == sorted((each.id for each in everything), reverse=True)
    assert len(everything) == 6
    page = both.outbox.deliveries(DeliveryQuery(limit=2))
    assert page + both.outbox.deliveries(DeliveryQuery(before=page[-1].id)) == everything
    assert {each.job_id for each in both.outbox.deliveries(DeliveryQuery(endpoint=endpoint.id))} == {
        job.id for job in jobs
    }
    both.outbox.disable(endpoint.id, Disabled.OPERATOR)
    assert len(both.outbox.deliveries(DeliveryQuery(state=FAILED))) == 3
    assert len(both.outbox.deliveries(DeliveryQuery(endpoint="", state=PENDING))) == 3


def test_a_redelivery_begins_anew_under_the_same_id(both: Both) -> None:
    both.job(EventType.JOB_QUEUED)
    (held,) = both.take()
    assert both.outbox.redeliver(held.id) == held
    both.settle(held, OK, DELIVERED)
    again = both.outbox.redeliver(held.id)
    assert again is not None
    assert (again.id, again.seq, again.state, again.attempts, again.tries) == (held.id, held.seq, PENDING, 1, 0)
    (held,) = both.take()
    both.settle(held, BAD, FAILED)
    assert [each.number for each in both.outbox.attempts([held.id])] == [1, 2]
    assert both.outbox.redeliver(10**9) is None


def test_a_job_is_deleted_with_what_was_told_of_it(both: Both) -> None:
    job = both.job(TERMINAL)
    both.store.cancel(job.id)
    (held,) = both.take()
    both.settle(held, BAD, FAILED)
    assert both.store.delete(job.id)
    assert both.told(job) == []
    assert both.outbox.attempts([held.id]) == []


def test_a_job_that_somebody_is_still_to_be_told_of_is_not_pruned(both: Both) -> None:
    job = both.job(TERMINAL)
    both.store.cancel(job.id)
    later = both.store.now() + 60_000
    assert both.store.prune(later, after="", limit=10).jobs == 0
    (held,) = both.take()
    both.settle(held, OK, DELIVERED)
    assert both.store.prune(later, after="", limit=10).jobs == 1
    assert both.told(job) == []
    assert both.outbox.attempts([held.id]) == []
