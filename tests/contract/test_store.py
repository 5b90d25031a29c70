"""What every store must do, held against each of them: in memory, on SQLite, on PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from ktqueue.job import (
    ENGINE_CRASHED,
    Fence,
    Job,
    JobError,
    JobState,
    Outcome,
    Ride,
    Task,
    Usage,
    Verdict,
    fence_of,
    last_attempt,
    new_job_id,
)
from ktqueue.priority_class import Entry
from ktqueue.store.base import Census, Due, Holder, IdempotencyKey, JobQuery, LaneCensus, Pruned, Store
from ktqueue.tenant import DEFAULT_TENANT

RIDE = Ride(12, 1, 3.5, 8)
HOUR = 3_600_000
SOON = 3_000
"""So late that a claim is over by then on a machine that has much else to do."""
TERMINAL = [state for state in JobState if state.terminal]


def new_job(store: Store, **values: Any) -> Job:
    now = store.now()
    made = Job(
        id=new_job_id(),
        model="echo",
        task=Task.ECHO,
        input={"prompt": "hello"},
        params={"max_tokens": 5},
        created_at=now,
        rank=float(now),
    )
    return replace(made, **values)


def added(store: Store, count: int = 1, **values: Any) -> list[Job]:
    jobs = [new_job(store, **values) for _ in range(count)]
    store.add(jobs)
    return jobs


def claim(store: Store, jobs: Sequence[Job], *, token: str = "token-1", lease_ms: int = HOUR) -> list[Job]:
    return store.claim([job.id for job in jobs], token=token, worker="worker-1", lease_ms=lease_ms)


def running(store: Store, count: int = 1, *, lease_ms: int = HOUR, **values: Any) -> list[Job]:
    return claim(store, added(store, count, **values), lease_ms=lease_ms)


def verdict(job: Job, state: JobState = JobState.SUCCEEDED, **values: Any) -> Verdict:
    return Verdict(fence_of(job), state, **values)


def ended(store: Store, state: JobState) -> Job:
    """A job that came to ``state`` the usual way."""
    if state is JobState.CANCELLED:
        (job,) = running(store)
        store.cancel(job.id)
    elif state is JobState.EXPIRED:
        (job,) = added(store, deadline_at=store.now() - 1)
        store.expire(10)
    else:
        (job,) = running(store)
        store.finish([verdict(job, state, result={"text": "done"})])
    now = got(store, job)
    assert now.state is state
    return now


def got(store: Store, job: Job) -> Job:
    found = store.get(job.id)
    assert found is not None
    return found


def ids_of(jobs: Sequence[Job]) -> list[str]:
    return [job.id for job in jobs]


def in_parallel(*calls: Callable[[], Any]) -> list[Any]:
    """Run each in a thread of its own, all let go at once; their results in order."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        gate.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


# --- add, get --------------------------------------------------------------------------------------------------


def test_a_job_comes_back_as_it_was_added(store: Store) -> None:
    job = new_job(
        store,
        model="smollm2-135m",
        task=Task.GENERATE,
        priority=9,
        rank=1.5,
        max_attempts=7,
        metadata={"team": "search"},
        run_at=store.now() + HOUR,
        deadline_at=store.now() + 2 * HOUR,
        retry_of="job_old",
    )
    store.add([job])
    assert store.get(job.id) == job


def test_text_of_every_script_comes_back(store: Store) -> None:
    text = "naïve 東京 🦜 \u202e \x01\x1f \\ \" ' % ? :name %(x)s \U0010ffff"
    (job,) = added(store, input={text: [text, {"n": [1.5, -0.0, 2**53, True, None]}]}, metadata={text: text})
    assert got(store, job) == job
    (claimed,) = claim(store, [job], token=text)
    store.finish([verdict(claimed, JobState.FAILED, error=JobError("code", text))])
    assert got(store, job).error == JobError("code", text)


def test_what_was_added_is_not_tied_to_the_callers_objects(store: Store) -> None:
    document = {"texts": ["one"]}
    (job,) = added(store, input=document)
    document["texts"].append("two")
    assert got(store, job).input == {"texts": ["one"]}


def test_an_unknown_id_is_none(store: Store) -> None:
    assert store.get("job_nobody") is None


def test_adding_nothing_is_fine(store: Store) -> None:
    store.add([])
    assert store.search(JobQuery()) == []


def test_add_can_be_repeated(store: Store) -> None:
    jobs = added(store, 3)
    (first,) = claim(store, jobs[:1])
    store.add(jobs)
    store.add(jobs[:1])
    assert len(store.search(JobQuery())) == 3
    assert got(store, first) == first


def test_add_takes_all_or_none(store: Store) -> None:
    good = new_job(store)
    with pytest.raises(Exception, match=r"JSON|serializ"):
        store.add([good, new_job(store, input={"not": object()})])
    assert store.get(good.id) is None


def test_ping_and_clock(store: Store) -> None:
    store.ping()
    asked = time.monotonic()
    before = store.now()
    # It is never ahead; it lags by as long as the answer may have been on its way.
    late_ms = int((time.monotonic() - asked) * 1000) + 1
    (job,) = running(store)
    assert job.started_at is not None
    assert before - 5 <= job.started_at <= store.now() + late_ms + 5


# --- add_once --------------------------------------------------------------------------------------------------


def test_a_key_makes_one_job(store: Store) -> None:
    key = IdempotencyKey("key-1", "digest-1")
    first, second = new_job(store), new_job(store)
    kept = store.add_once(first, key)
    assert (kept.job_id, kept.digest, kept.created) == (first.id, "digest-1", True)
    again = store.add_once(second, IdempotencyKey("key-1", "another digest"))
    assert (again.job_id, again.digest, again.created) == (first.id, "digest-1", False)
    assert store.get(first.id) == first
    assert store.get(second.id) is None
    assert store.kept(DEFAULT_TENANT, "key-1") == again
    assert store.kept(DEFAULT_TENANT, "key-2") is None


def test_sixteen_callers_with_one_key_get_one_job(store: Store) -> None:
    for round_ in range(5):
        key = IdempotencyKey(f"key-{round_}", "digest")
        jobs = [new_job(store) for _ in range(16)]
        kept = in_parallel(*(partial(store.add_once, job, key) for job in jobs))
        assert len({each.job_id for each in kept}) == 1
        assert sum(each.created for each in kept) == 1
        assert len(store.jobs(ids_of(jobs))) == 1


def test_a_deleted_jobs_key_is_free_again(store: Store) -> None:
    key = IdempotencyKey("key-1", "digest")
    first, second = new_job(store), new_job(store)
    store.add_once(first, key)
    store.cancel(first.id)
    assert store.delete(first.id)
    assert store.add_once(second, key).created


# --- claim -----------------------------------------------------------------------------------------------------


def test_a_claimed_job_runs_under_its_token_and_lease(store: Store) -> None:
    (job,) = added(store)
    (claimed,) = store.claim([job.id], token="token-1", worker="host:1", lease_ms=5_000)
    assert claimed.started_at is not None
    assert claimed == replace(
        job,
        state=JobState.RUNNING,
        attempt=1,
        claims=1,
        token="token-1",
        worker="host:1",
        started_at=claimed.started_at,
        lease_until=claimed.started_at + 5_000,
    )
    assert got(store, job) == claimed


def test_claims_come_in_the_order_they_were_asked_for(store: Store) -> None:
    jobs = added(store, 20)
    wanted = ids_of(jobs)[::-1]
    assert ids_of(store.claim([*wanted, wanted[0]], token="t", worker="w", lease_ms=HOUR)) == wanted


def test_only_what_may_run_is_claimed(store: Store) -> None:
    now = store.now()
    (good,) = added(store, run_at=now - 1, deadline_at=now + HOUR)
    (early,) = added(store, run_at=now + HOUR)
    (late,) = added(store, deadline_at=now - 1)
    (taken,) = running(store)
    dead = [ended(store, state) for state in TERMINAL]
    claimed = claim(store, [early, late, taken, *dead, new_job(store), good], token="token-2")
    assert ids_of(claimed) == [good.id]
    assert got(store, taken) == taken


def test_what_can_not_be_in_time_any_more_is_not_claimed(store: Store) -> None:
    now = store.now()
    (late,) = added(store, deadline_at=now + HOUR, cost=10_000)
    (small,) = added(store, deadline_at=now + HOUR, cost=10)
    (patient,) = added(store, deadline_at=now + 100 * HOUR, cost=10_000)
    (careless,) = added(store, cost=10_000)
    ids = ids_of([late, small, patient, careless])
    claimed = store.claim(ids, token="t", worker="w", lease_ms=HOUR, least_ms_each=HOUR / 1_000)
    assert ids_of(claimed) == ids_of([small, patient, careless])
    assert got(store, late) == late


def test_nothing_to_claim(store: Store) -> None:
    assert store.claim([], token="t", worker="w", lease_ms=HOUR) == []


def test_thousands_are_claimed_at_once(store: Store) -> None:
    jobs = added(store, 3_000)
    assert ids_of(claim(store, jobs)) == ids_of(jobs)


def test_two_claims_never_give_the_same_job(store: Store) -> None:
    jobs = added(store, 400)
    groups = [jobs[at : at + 20] for at in range(0, 400, 20)]

    def take(token: str, mine: Sequence[Sequence[Job]]) -> list[Job]:
        return [job for group in mine for job in claim(store, group, token=token)]

    one, two, three = in_parallel(
        lambda: take("one", groups), lambda: take("two", groups), lambda: take("three", groups[::-1])
    )
    assert sorted(ids_of(one + two + three)) == sorted(ids_of(jobs))
    assert all(job.attempt == 1 for job in store.search(JobQuery(limit=400)))


# --- renew -----------------------------------------------------------------------------------------------------


def test_renew_extends_what_the_token_holds(store: Store) -> None:
    held, lost, done = running(store, 3, lease_ms=0)
    store.finish([verdict(lost, JobState.QUEUED), verdict(done)])
    claim(store, [lost], token="token-2", lease_ms=0)
    assert store.renew("token-1", ids_of([held, lost, done, new_job(store)]), lease_ms=HOUR) == {held.id}
    assert ids_of(store.lapsed(10)) == [lost.id]
    assert (got(store, held).lease_until or 0) > store.now()
    assert store.renew("token-1", [], lease_ms=HOUR) == set()


# --- finish ----------------------------------------------------------------------------------------------------


def test_a_group_is_finished_each_in_its_own_way(store: Store) -> None:
    good, bad, again, given_back = running(store, 4)
    later = store.now() + HOUR
    error = JobError("out_of_memory", "no memory left", retryable=True)
    changed = store.finish(
        [
            verdict(good, result={"text": "hi"}, usage=Usage(3, 4), largest_batch=17, device_s=2.5, ride=RIDE),
            verdict(bad, JobState.FAILED, error=error, largest_batch=2),
            verdict(again, JobState.QUEUED, error=error, run_at=later),
            verdict(given_back, JobState.QUEUED, charged=False),
        ]
    )
    assert changed == set(ids_of([good, bad, again, given_back]))
    good_now, bad_now = got(store, good), got(store, bad)
    assert good_now.finished_at is not None
    assert good_now == replace(
        good,
        state=JobState.SUCCEEDED,
        token=None,
        lease_until=None,
        finished_at=good_now.finished_at,
        result={"text": "hi"},
        usage=Usage(3, 4),
        largest_batch=17,
        device_s=2.5,
        ride=RIDE,
    )
    assert (bad_now.state, bad_now.error, bad_now.result) == (JobState.FAILED, error, None)
    released = {"state": JobState.QUEUED, "token": None, "lease_until": None, "worker": None, "started_at": None}
    assert got(store, again) == replace(again, **released, run_at=later)  # type: ignore[arg-type]
    assert got(store, given_back) == replace(given_back, **released, attempt=0)  # type: ignore[arg-type]


def test_an_attempt_that_is_given_back_is_counted_as_a_claim_only(store: Store) -> None:
    (job,) = added(store)
    for claims in range(1, 6):
        (held,) = claim(store, [job], token=f"token-{claims}")
        assert (held.attempt, held.claims) == (1, claims)
        store.finish([verdict(held, JobState.QUEUED, charged=False)])
    assert got(store, job).attempt == 0


# --- attempts and suspects ---------------------------------------------------------------------------------------


def test_an_attempt_after_which_a_job_is_queued_again_is_kept(store: Store) -> None:
    (job,) = added(store)
    endings: list[dict[str, Any]] = [
        {"error": JobError("busy", "try again", retryable=True), "device_s": 0.5, "ride": RIDE},
        {"error": ENGINE_CRASHED, "charged": False},
        {"charged": False},
    ]
    for number, ending in enumerate(endings):
        (held,) = claim(store, [job], token=f"token-{number}")
        store.finish([verdict(held, JobState.QUEUED, **ending)])
    kept = store.attempts(job.id)

    assert [(each.claim, each.attempt, each.charged, each.outcome) for each in kept] == [
        (1, 1, True, Outcome.FAILED),
        (2, 2, False, Outcome.CRASHED),
        (3, 2, False, Outcome.GIVEN_BACK),
    ]
    assert [each.error for each in kept] == [endings[0]["error"], ENGINE_CRASHED, None]
    assert [(each.device_s, each.ride) for each in kept] == [(0.5, RIDE), (None, None), (None, None)]
    assert {each.worker for each in kept} == {"worker-1"}
    assert all(each.ended_at is not None and each.started_at <= each.ended_at for each in kept)


def test_the_last_attempt_is_told_by_the_job_alone(store: Store) -> None:
    (job,) = running(store)
    assert store.attempts(job.id) == []
    store.finish([verdict(job, result={})])
    assert store.attempts(job.id) == []
    last = last_attempt(got(store, job))
    assert last is not None
    assert (last.claim, last.worker, last.outcome) == (1, "worker-1", Outcome.SUCCEEDED)
    assert (last.device_s, last.ride) == (0.0, None)


def test_a_stale_verdict_keeps_no_attempt(store: Store) -> None:
    (job,) = running(store)
    store.finish([Verdict(Fence(job.id, "another", 1), JobState.QUEUED)])
    assert store.attempts(job.id) == []


def test_a_deleted_jobs_attempts_are_forgotten(store: Store) -> None:
    (job,) = running(store)
    store.finish([verdict(job, JobState.QUEUED)])
    store.cancel(job.id)
    assert len(store.attempts(job.id)) == 1
    assert store.delete(job.id)
    assert store.attempts(job.id) == []


def suspects(store: Store, company: int, count: int, **values: Any) -> list[Job]:
    held = running(store, count, **values)
    store.finish([verdict(job, JobState.QUEUED, company=company, charged=False) for job in held])
    return held


def claim_suspects(store: Store, limit: int = 99, *, model: str = "echo", token: str = "token-2") -> list[Job]:
    return store.claim_suspects(model, limit, token=token, worker="worker-2", lease_ms=HOUR)


def test_suspects_are_in_no_lane(store: Store) -> None:
    suspected = suspects(store, 4, 3, size=7)
    (other,) = added(store, size=5)

    assert [each.id for each in store.waiting("echo", after=None, limit=9)] == [other.id]
    assert claim(store, [*suspected, other]) == [got(store, other)]
    assert store.has_suspects("echo")
    assert not store.has_suspects("else")
    (lane,) = store.census()
    assert (lane.queued, lane.due, lane.suspects, lane.running, lane.size) == (3, 0, 3, 1, 21)


def test_suspects_are_claimed_in_the_company_they_may_have(store: Store) -> None:
    alone, few = suspects(store, 1, 2), suspects(store, 3, 4)

    first = claim_suspects(store)
    assert (ids_of(first), {job.company for job in first}) == (ids_of(few[:3]), {3})
    assert {(job.state, job.worker, job.attempt, job.claims) for job in first} == {(JobState.RUNNING, "worker-2", 1, 2)}
    assert ids_of(claim_suspects(store, 2)) == ids_of(few[3:])
    assert ids_of(claim_suspects(store)) == ids_of(alone[:1])
    assert claim_suspects(store, model="else") == []
    assert ids_of(claim_suspects(store)) == ids_of(alone[1:])
    assert claim_suspects(store) == []
    assert not store.has_suspects("echo")


def test_a_suspect_waits_for_its_time_and_not_past_its_deadline(store: Store) -> None:
    (later,) = running(store)
    store.finish([verdict(later, JobState.QUEUED, company=1, run_at=store.now() + HOUR)])
    (late,) = running(store, deadline_at=store.now() + 30)
    store.finish([verdict(late, JobState.QUEUED, company=1)])
    while store.now() <= (late.deadline_at or 0):
        pass

    assert not store.has_suspects("echo")
    assert claim_suspects(store) == []


def test_one_that_was_queued_again_without_company_is_no_suspect(store: Store) -> None:
    (job,) = suspects(store, 1, 1)
    (held,) = claim_suspects(store)
    store.finish([verdict(held, JobState.QUEUED)])

    assert not store.has_suspects("echo")
    assert ids_of(claim(store, [job], token="token-3")) == [job.id]


def test_two_claims_never_give_the_same_suspect(store: Store) -> None:
    jobs = suspects(store, 4, 64)

    def claim_all(number: int) -> list[str]:
        mine: list[str] = []
        while got := ids_of(claim_suspects(store, token=f"t{number}")):
            mine += got
        return mine

    found = in_parallel(*(partial(claim_all, number) for number in range(4)))
    assert sorted(job_id for mine in found for job_id in mine) == sorted(ids_of(jobs))


def test_who_holds_what_is_known(store: Store) -> None:
    jobs = running(store, 3)
    (other,) = claim(store, added(store), token="token-9")
    added(store)

    assert sorted(store.holders(), key=lambda each: each.token) == [
        Holder("token-1", "worker-1"),
        Holder("token-9", "worker-1"),
    ]
    assert ids_of(store.held("token-1")) == sorted(ids_of(jobs))
    assert store.held("token-9") == [got(store, other)]
    store.finish([verdict(other, result={})])
    assert store.held("token-9") == []


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.QUEUED])
@pytest.mark.parametrize("only_lapsed", [False, True])
def test_a_stale_fence_changes_nothing(store: Store, state: JobState, only_lapsed: bool) -> None:
    (first,) = running(store, lease_ms=0)
    store.finish([verdict(first, JobState.QUEUED)])
    (second,) = claim(store, [first], token="token-2", lease_ms=0)
    stale = [
        fence_of(first),
        Fence(second.id, "token-2", 1),
        Fence(second.id, "token-1", 2),
        Fence("job_nobody", "token-2", 2),
    ]
    for fence in stale:
        assert store.finish([Verdict(fence, state, result={"text": "late"})], only_lapsed=only_lapsed) == set()
    assert got(store, second) == second
    assert store.finish([verdict(second, state)], only_lapsed=only_lapsed) == {second.id}


def test_a_stale_verdict_leaves_its_group_alone(store: Store) -> None:
    jobs = running(store, 10)
    store.cancel(jobs[3].id)
    changed = store.finish([verdict(job, result={"n": n}) for n, job in enumerate(jobs)])
    assert changed == set(ids_of(jobs)) - {jobs[3].id}
    assert got(store, jobs[3]).state is JobState.CANCELLED
    assert got(store, jobs[9]).result == {"n": 9}


def test_of_two_verdicts_on_a_job_the_first_counts(store: Store) -> None:
    (job,) = running(store)
    changed = store.finish([verdict(job, result={"n": 1}), verdict(job, JobState.QUEUED), verdict(job, result={})])
    assert changed == {job.id}
    assert got(store, job).result == {"n": 1}


def test_finishing_nothing(store: Store) -> None:
    assert store.finish([]) == set()


def test_a_good_lease_is_left_alone_by_the_sweep(store: Store) -> None:
    (alive,) = running(store)
    (dead,) = running(store, lease_ms=0)
    verdicts = [verdict(job, JobState.QUEUED) for job in (alive, dead)]
    assert store.finish(verdicts, only_lapsed=True) == {dead.id}
    assert got(store, alive) == alive


def test_a_result_of_two_megabytes(store: Store) -> None:
    (job,) = running(store)
    result = {"text": "ä🦜" * 400_000, "embeddings": [[0.1, -2.5e-7]] * 1_000}
    assert store.finish([verdict(job, result=result)]) == {job.id}
    assert got(store, job).result == result


@pytest.mark.parametrize("state", TERMINAL)
def test_a_terminal_job_never_changes(store: Store, state: JobState) -> None:
    job = ended(store, state)
    fence = Fence(job.id, "token-1", job.claims)
    assert claim(store, [job]) == []
    assert store.renew("token-1", [job.id], lease_ms=HOUR) == set()
    for new_state in (JobState.SUCCEEDED, JobState.FAILED, JobState.QUEUED):
        for only_lapsed in (False, True):
            assert store.finish([Verdict(fence, new_state, result={})], only_lapsed=only_lapsed) == set()
    assert store.cancel(job.id) == job
    assert store.expire(10) == []
    assert store.lapsed(10) == []
    assert store.wake(10) == []
    store.add([replace(job, state=JobState.QUEUED, finished_at=None)])
    assert got(store, job) == job
    assert store.waiting("echo", after=None, limit=10) == []
    assert store.census() == []


# --- cancel, expire, lapsed, wake ------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [False, True])
def test_cancel_tells_what_the_job_was(store: Store, runs: bool) -> None:
    (job,) = running(store) if runs else added(store)
    assert store.cancel(job.id) == job
    now = got(store, job)
    assert (now.state, now.token, now.lease_until) == (JobState.CANCELLED, None, None)
    assert now.finished_at is not None
    assert store.cancel(job.id) == now
    assert store.cancel("job_nobody") is None


def test_cancel_and_finish_race_to_one_end(store: Store) -> None:
    jobs = running(store, 120)
    groups = [jobs[at : at + 8] for at in range(0, 120, 8)]
    befores, finished = in_parallel(
        lambda: [store.cancel(job.id) for job in jobs],
        lambda: {job_id for group in groups[::-1] for job_id in store.finish([verdict(job) for job in group])},
    )
    for job, before in zip(jobs, befores, strict=True):
        assert before is not None
        state = got(store, job).state
        assert state is (JobState.SUCCEEDED if job.id in finished else JobState.CANCELLED)
        assert before.state is (JobState.SUCCEEDED if job.id in finished else JobState.RUNNING)


def test_jobs_past_their_deadline_expire_queued_or_running(store: Store) -> None:
    now = store.now()
    (waiting,) = added(store, deadline_at=now - 5)
    (run,) = running(store, deadline_at=now + HOUR)
    (soon,) = added(store, deadline_at=now + HOUR)
    added(store)
    assert store.expire(10) == [waiting]
    expired = got(store, waiting)
    assert (expired.state, expired.error) == (JobState.EXPIRED, None)
    assert expired.finished_at is not None
    assert store.expire(10) == []
    assert got(store, run) == run
    assert got(store, soon) == soon


def test_a_running_job_expires_and_its_worker_is_fenced_off(store: Store) -> None:
    (job,) = added(store, deadline_at=store.now() + SOON)
    (held,) = claim(store, [job])
    expired: list[Job] = []
    while not expired:
        expired = store.expire(10)
    assert expired == [held]
    assert got(store, job).state is JobState.EXPIRED
    assert store.finish([verdict(held)]) == set()


def test_what_runs_may_be_left_to_its_slot_for_a_while(store: Store) -> None:
    (runs,) = added(store, deadline_at=store.now() + SOON)
    (held,) = claim(store, [runs])
    (waits,) = added(store, deadline_at=store.now() - 5)
    expired: list[Job] = []
    while held not in expired:
        assert held not in store.expire(10, running_after_ms=HOUR)
        expired += store.expire(10)
    assert got(store, waits).state is JobState.EXPIRED


def test_a_slot_keeps_what_there_is_of_a_job_that_is_late(store: Store) -> None:
    (held,) = running(store)
    partial = replace(verdict(held), state=JobState.EXPIRED, result={"text": "a"})
    assert store.finish([partial]) == {held.id}
    assert (got(store, held).state, got(store, held).result) == (JobState.EXPIRED, {"text": "a"})


def test_queued_jobs_that_can_not_be_in_time_expire_before_their_deadline(store: Store) -> None:
    now = store.now()
    (late,) = added(store, deadline_at=now + HOUR, cost=10_000)
    (good,) = added(store, deadline_at=now + HOUR, cost=10)
    (run,) = running(store, deadline_at=now + HOUR, cost=10_000)
    (careless,) = added(store, cost=10_000)
    jobs = [late, good, run, careless]
    assert store.expire_late(ids_of(jobs), least_ms_each=0.0) == []
    assert store.expire_late([], least_ms_each=HOUR) == []
    assert store.expire_late(ids_of(jobs), least_ms_each=HOUR / 1_000) == [late]
    assert store.expire_late(ids_of(jobs), least_ms_each=HOUR / 1_000) == []
    expired = got(store, late)
    assert (expired.state, expired.error, expired.attempt) == (JobState.EXPIRED, None, 0)
    assert expired.finished_at is not None
    assert expired.finished_at < now + HOUR
    assert [got(store, job) for job in (good, run, careless)] == [good, run, careless]


def test_the_next_deadlines_are_told_soonest_first(store: Store) -> None:
    now = store.now()
    (third,) = added(store, deadline_at=now + HOUR - 1_000, cost=3, model="other")
    (first,) = added(store, deadline_at=now - 1_000, cost=1)
    running(store, deadline_at=now + 2_000)
    added(store)
    (far,) = added(store, deadline_at=now + 2 * HOUR, cost=4)
    dues = [Due(job.id, job.model, job.cost, job.deadline_at or 0) for job in (first, third, far)]
    assert store.due_within(HOUR, 10) == dues[:2]
    assert store.due_within(3 * HOUR, 10) == dues
    assert store.due_within(3 * HOUR, 2) == dues[:1]


def test_expire_takes_the_oldest_deadline_first(store: Store) -> None:
    now = store.now()
    jobs = [new_job(store, deadline_at=now - 1_000 + n) for n in (5, 1, 4, 2, 3)]
    store.add(jobs)
    assert [job.deadline_at for job in store.expire(2)] == [now - 999, now - 998]
    assert [job.deadline_at for job in store.expire(9)] == [now - 997, now - 996, now - 995]


def test_lapsed_leases_are_found(store: Store) -> None:
    first, second = running(store, lease_ms=-10), running(store, lease_ms=0)
    running(store)
    added(store)
    assert store.lapsed(10) == first + second
    assert store.lapsed(1) == first


def test_a_scheduled_job_is_told_once_when_its_time_has_come(store: Store) -> None:
    now = store.now()
    second, first, third = (new_job(store, run_at=now - ago) for ago in (20, 30, 10))
    later = new_job(store, run_at=now + HOUR)
    store.add([second, first, third, later, new_job(store)])
    assert store.wake(2) == [replace(first, run_at=None), replace(second, run_at=None)]
    assert store.wake(9) == [replace(third, run_at=None)]
    assert store.wake(9) == []
    assert got(store, first).run_at is None
    assert got(store, later) == later
    (census,) = store.census()
    assert (census.queued, census.due, census.oldest_due_at) == (5, 4, now - 30)


def test_a_retry_waits_for_its_time(store: Store) -> None:
    (job,) = running(store)
    store.finish([verdict(job, JobState.QUEUED, run_at=store.now() + HOUR)])
    assert claim(store, [job]) == []
    assert store.wake(9) == []
    assert [each.id for each in store.waiting("echo", after=None, limit=9)] == []
    assert store.census() == [LaneCensus(model="echo", queued=1, due=0, running=0, oldest_due_at=None)]


def test_what_is_given_back_is_due_at_once(store: Store) -> None:
    (job,) = running(store, run_at=store.now() - HOUR)
    store.finish([verdict(job, JobState.QUEUED, charged=False)])
    assert store.wake(9) == []
    (census,) = store.census()
    assert census.oldest_due_at is not None
    assert census.oldest_due_at > store.now() - HOUR
    assert ids_of(claim(store, [job])) == [job.id]


def test_a_retry_is_woken_too(store: Store) -> None:
    (job,) = running(store)
    store.finish([verdict(job, JobState.QUEUED, run_at=store.now() - 1)])
    assert ids_of(store.wake(9)) == [job.id]


# --- waiting, census -------------------------------------------------------------------------------------------


def test_waiting_is_in_rank_order_and_pages_without_gap(store: Store) -> None:
    now = store.now()
    jobs = [new_job(store, rank=float(n * 7 % 5)) for n in range(23)]
    others = [new_job(store, model="other"), new_job(store, run_at=now + HOUR)]
    store.add([*jobs, *others])
    running(store)
    expected = sorted((job.rank, job.id) for job in jobs)
    pages: list[list[Entry]] = [store.waiting("echo", after=None, limit=4)]
    while len(pages[-1]) == 4:
        pages.append(store.waiting("echo", after=pages[-1][-1], limit=4))
    assert [(each.rank, each.id) for page in pages for each in page] == expected
    assert store.waiting("nothing", after=None, limit=4) == []


def test_census_counts_each_lane(store: Store) -> None:
    assert store.census() == []
    now = store.now()
    added(store, 3, model="a", run_at=now - 50)
    added(store, 1, model="a", created_at=now - 10_000, run_at=now - 70)
    added(store, 2, model="a", created_at=now - 90_000, run_at=now + HOUR)
    running(store, 2, model="a", created_at=now - 99_000)
    running(store, 1, model="b")
    added(store, 1, model="c", run_at=now + HOUR)
    for state in TERMINAL:
        ended(store, state)
    assert store.census() == [
        LaneCensus(model="a", queued=6, due=4, running=2, oldest_due_at=now - 70),
        LaneCensus(model="b", queued=0, due=0, running=1, oldest_due_at=None),
        LaneCensus(model="c", queued=1, due=0, running=0, oldest_due_at=None),
    ]


# --- search, delete --------------------------------------------------------------------------------------------


def test_search_is_newest_first_and_pages_without_gap(store: Store) -> None:
    jobs = added(store, 23)
    pages = [store.search(JobQuery(limit=5))]
    while len(pages[-1]) == 5:
        added(store, id=f"job_z{len(pages)}")  # what comes meanwhile is on no later page
        pages.append(store.search(JobQuery(limit=5, before=pages[-1][-1].id)))
    assert ids_of([job for page in pages for job in page]) == sorted(ids_of(jobs), reverse=True)


def test_search_filters(store: Store) -> None:
    now = store.now()
    old = added(store, 2, model="a", created_at=now - 1_000)
    new = added(store, 2, model="b", metadata={"team": "search", "run": "7"})
    run = running(store, 1, model="a", metadata={"team": "search"})
    dead = [ended(store, state) for state in TERMINAL]

    def found(**query: Any) -> list[str]:
        return ids_of(store.search(JobQuery(**query)))

    def newest_first(jobs: Sequence[Job]) -> list[str]:
        return sorted(ids_of(jobs), reverse=True)

    assert found() == newest_first(old + new + run + dead)
    assert found(states=[JobState.QUEUED]) == newest_first(old + new)
    assert found(states=[JobState.RUNNING, JobState.QUEUED], model="a") == newest_first(old + run)
    assert found(states=TERMINAL) == newest_first(dead)
    for job in dead:
        assert found(states=[job.state]) == [job.id]
        assert found(states=[job.state], before=job.id) == []
    assert found(model="b") == newest_first(new)
    assert found(model="nothing") == []
    assert found(created_to=now) == newest_first(old)
    assert found(created_from=now - 1_000, created_to=now - 999) == newest_first(old)
    assert found(created_from=now - 999, model="a") == newest_first(run)
    assert found(metadata={"team": "search"}) == newest_first(new + run)
    assert found(metadata={"team": "search", "run": "7"}) == newest_first(new)
    assert found(metadata={"team": "7"}) == []
    assert found(ids=[new[0].id, dead[0].id, "job_nobody"]) == newest_first([new[0], dead[0]])
    assert found(ids=[new[0].id, old[0].id], model="a") == [old[0].id]
    assert found(limit=1) == newest_first(old + new + run + dead)[:1]


AWKWARD = [
    "a.b",
    'say "hi"',
    "it's",
    "$",
    "$.a",
    "a[0]",
    "#-1",
    "ü ñ",
    "東京🦜",
    "back\\slash",
    "a/b",
    "{}",
    "%s",
    ":x",
    "",
]


def test_metadata_of_any_name_is_found(store: Store) -> None:
    jobs = {key: new_job(store, metadata={key: f"<{key}>", "common": "yes"}) for key in AWKWARD}
    store.add(list(jobs.values()))
    for key, job in jobs.items():
        assert store.search(JobQuery(metadata={key: f"<{key}>"})) == [job]
        assert store.search(JobQuery(metadata={key: f"<{key}>", "common": "yes"})) == [job]
        assert store.search(JobQuery(metadata={key: "yes"})) == []
    assert len(store.search(JobQuery(metadata={"common": "yes"}))) == len(AWKWARD)


@pytest.mark.parametrize("state", TERMINAL)
def test_only_a_terminal_job_is_deleted(store: Store, state: JobState) -> None:
    (waiting,), (run,) = added(store), running(store)
    job = ended(store, state)
    assert not store.delete(waiting.id)
    assert not store.delete(run.id)
    assert not store.delete("job_nobody")
    assert store.delete(job.id)
    assert store.get(job.id) is None
    assert not store.delete(job.id)
    assert {waiting.id, run.id} == set(ids_of(store.search(JobQuery())))


@pytest.mark.parametrize("state", TERMINAL)
def test_what_ended_long_enough_ago_is_pruned(store: Store, state: JobState) -> None:
    job = ended(store, state)
    finished_at = got(store, job).finished_at
    assert finished_at is not None

    assert store.prune(finished_at, after="", limit=9).jobs == 0
    assert store.prune(finished_at + 1, after="", limit=9) == Pruned(1, job.id)
    assert store.get(job.id) is None
    assert store.prune(finished_at + 1, after="", limit=9) == Pruned(0, None)


def test_attempts_and_keys_are_pruned_with_their_job(store: Store) -> None:
    key, other_key = IdempotencyKey("key-1", "digest"), IdempotencyKey("key-2", "digest")
    job, other = new_job(store), new_job(store)
    store.add_once(job, key)
    store.add_once(other, other_key)
    for each in (job, other):
        (held,) = claim(store, [each])
        store.finish([verdict(held, JobState.QUEUED)])
    store.cancel(job.id)

    assert store.prune(store.now() + HOUR, after="", limit=9).jobs == 1
    assert store.attempts(job.id) == []
    assert store.add_once(new_job(store), key).created
    assert len(store.attempts(other.id)) == 1
    assert not store.add_once(new_job(store), other_key).created


def test_what_has_not_ended_is_never_pruned(store: Store) -> None:
    kept = [*added(store, 2), *running(store, 2), *added(store, run_at=store.now() + HOUR)]

    assert store.prune(store.now() + HOUR, after="", limit=9).jobs == 0
    assert all(store.get(job.id) is not None for job in kept)


def test_pruning_walks_from_id_to_id(store: Store) -> None:
    jobs = added(store, 6, created_at=0)
    for job in (jobs[1], jobs[2], jobs[4]):
        store.cancel(job.id)
    before, after, seen = store.now() + HOUR, "", []
    while (pruned := store.prune(before, after=after, limit=2)).reached is not None:
        after = pruned.reached
        seen.append((pruned.jobs, after))

    assert seen == [(1, jobs[1].id), (1, jobs[3].id), (1, jobs[5].id)]
    assert pruned.jobs == 0
    assert [job.id for job in store.search(JobQuery())] == [jobs[number].id for number in (5, 3, 0)]


def test_pruning_ends_where_all_are_too_young(store: Store) -> None:
    (old,) = added(store, created_at=1_000)
    young = added(store, 3, created_at=2_000)
    store.cancel(old.id)

    assert store.prune(2_000, after="", limit=2) == Pruned(0, young[0].id)
    assert store.prune(2_000, after=young[0].id, limit=2) == Pruned(0, None)


def test_two_that_prune_at_once_delete_each_job_once(store: Store) -> None:
    jobs = added(store, 60)
    for job in jobs:
        store.cancel(job.id)
    before = store.now() + HOUR

    def prune_all() -> int:
        after, deleted = "", 0
        while (pruned := store.prune(before, after=after, limit=5)).reached is not None:
            after, deleted = pruned.reached, deleted + pruned.jobs
        return deleted

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: prune_all(), range(4))) == 60
    assert store.search(JobQuery()) == []


def test_tenants_are_counted_over_all_lanes(store: Store) -> None:
    assert store.tenant_census() == []
    added(store, 2, tenant="a", size=10)
    added(store, 1, tenant="a", model="other", size=5, run_at=store.now() + HOUR)
    added(store, 1, tenant="b", size=7)
    running(store, 2, tenant="a", size=100)
    store.cancel(added(store, 1, tenant="c")[0].id)
    suspect = running(store, 1, tenant="d", size=3)[0]
    store.finish([verdict(suspect, JobState.QUEUED, company=1, crashes=8)])
    assert store.tenant_census() == [
        Census("a", 3, 2, 25, 225),
        Census("b", 1, 0, 7, 7),
        Census("d", 1, 0, 3, 3),
    ]
