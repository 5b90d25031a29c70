"""What jobs of a tenant, and of a key, take, as every store must count it: from a submit to the delete, never twice."""

from __future__ import annotations

from functools import partial

import pytest
import sqlalchemy as sa

from ktqueue.job import JobError, JobState, ended_size
from ktqueue.sql.tables import jobs
from ktqueue.store.base import Census, JobQuery, Queued, Store
from ktqueue.store.sql import SqlStore
from tests.contract.test_store import HOUR, added, in_parallel, new_job, running, verdict

FAULT = JobError("boom", "it broke")
RESULT = {"text": "what it said: ü"}


def taken(store: Store, tenant: str = "default") -> int:
    return sum(census.stored for census in store.tenant_census() if census.whose == tenant)


def taken_by_key(store: Store) -> dict[str, int]:
    return {census.whose: census.stored for census in store.key_census()}


def test_what_a_job_came_with_counts_until_it_is_deleted_and_what_became_of_it_too(store: Store) -> None:
    assert taken(store) == 0
    (job,) = added(store, size=100)
    assert taken(store) == 100
    (job,) = store.claim([job.id], token="t", worker="w", lease_ms=HOUR)
    assert taken(store) == 100
    store.finish([verdict(job, result=RESULT)])
    assert taken(store) == 100 + len('{"text":"what it said: ü"}'.encode())
    store.delete(job.id)
    assert taken(store) == 0
    assert store.tenant_census() == []


@pytest.mark.parametrize("state", [state for state in JobState if state.terminal])
def test_however_it_ends_it_takes_what_is_kept_of_it(store: Store, state: JobState) -> None:
    result = RESULT if state in {JobState.SUCCEEDED, JobState.EXPIRED} else None
    error = FAULT if state is JobState.FAILED else None
    (job,) = running(store, size=10)
    store.finish([verdict(job, state, result=result, error=error)])
    assert taken(store) == ended_size(10, result, error)


def test_who_is_ended_by_decree_takes_what_it_came_with(store: Store) -> None:
    (runs,), waits = running(store, size=1), added(store, size=10)[0]
    added(store, size=100, model="other")
    added(store, size=1_000, deadline_at=store.now() - 1)
    late = added(store, size=10_000, deadline_at=store.now() + HOUR)[0]
    for job in (runs, waits):
        store.cancel(job.id)
    store.cancel_queued(Queued("other"), 10)
    store.expire(10)
    store.expire_late([late.id], least_ms_each=10.0 * HOUR)
    assert all(job.state.terminal for job in store.jobs([runs.id, waits.id, late.id]))
    assert taken(store) == 11_111


def test_what_waits_again_takes_what_it_took(store: Store) -> None:
    (job,) = running(store, size=10)
    store.finish([verdict(job, JobState.QUEUED, error=FAULT)])
    assert taken(store) == 10


def test_each_tenants_are_its_own(store: Store) -> None:
    for tenant, size in (("a", 1), ("b", 10), ("a", 100)):
        store.cancel(added(store, tenant=tenant, size=size)[0].id)
    assert (taken(store, "a"), taken(store, "b"), taken(store, "c")) == (101, 10, 0)


def test_each_keys_are_its_own_and_its_tenants_too(store: Store) -> None:
    mine, theirs, none = (running(store, tenant="a", key=key, size=10)[0] for key in ("key_1", "key_2", None))
    waits = added(store, tenant="a", key="key_2", size=5)[0]
    store.finish([verdict(job, result=RESULT) for job in (mine, theirs, none)])
    size = ended_size(10, RESULT, None)
    assert taken_by_key(store) == {"key_1": size, "key_2": size + 5}
    assert taken(store, "a") == 3 * size + 5
    store.cancel(waits.id)
    assert store.key_census() == [Census("key_1", stored=size), Census("key_2", stored=size + 5)]
    store.delete(theirs.id)
    assert taken_by_key(store) == {"key_1": size, "key_2": 5}
    store.prune(store.now() + HOUR, after="", limit=9)
    assert (store.key_census(), store.tenant_census()) == ([], [])


def test_what_waits_and_runs_is_counted_by_key(store: Store) -> None:
    added(store, 2, key="key_1", size=10)
    added(store, 1, key="key_1", model="other", run_at=store.now() + HOUR, size=1)
    running(store, 2, key="key_1", size=100)
    (suspect,) = running(store, 1, key="key_2", size=3)
    store.finish([verdict(suspect, JobState.QUEUED, company=1, crashes=8)])
    added(store, 4)
    assert store.key_census() == [Census("key_1", 3, 2, 21, 221), Census("key_2", 1, 0, 3, 3)]


def test_nothing_is_counted_twice(store: Store) -> None:
    (job,) = running(store, size=10)
    ending = verdict(job, result=RESULT)
    store.finish([ending, ending])
    store.finish([ending])
    store.cancel(job.id)
    store.add([new_job(store, id=job.id, size=10)])
    assert taken(store) == ended_size(10, RESULT, None)
    assert store.delete(job.id)
    assert not store.delete(job.id)
    store.prune(store.now() + HOUR, after="", limit=9)
    assert taken(store) == 0


def test_what_is_pruned_takes_nothing(store: Store) -> None:
    store.finish([verdict(job, result=RESULT) for job in running(store, 3, tenant="a", size=10)])
    store.cancel(added(store, tenant="b", size=7)[0].id)
    added(store, tenant="b", size=5)
    store.prune(store.now() + HOUR, after="", limit=2)
    assert taken(store, "a") == ended_size(10, RESULT, None)
    store.prune(store.now() + HOUR, after="", limit=9)
    assert (taken(store, "a"), taken(store, "b")) == (0, 5)


def test_many_who_end_and_delete_at_once_lose_none(store: Store) -> None:
    gone = running(store, 12, tenant="a", size=1) + running(store, 12, tenant="b", size=1)
    store.finish([verdict(job) for job in gone])
    groups = [
        running(store, 2, tenant="ab"[number % 2], key=(None, "key_1", "key_2")[number % 3], size=10)
        for number in range(8)
    ]
    mixed = [[*one, *other] for one, other in zip(groups[::2], groups[1::2], strict=True)]
    in_parallel(
        *[partial(store.finish, [verdict(job, result=RESULT) for job in reversed(group)]) for group in mixed],
        *[partial(store.delete, job.id) for job in gone[::2]],
        *[partial(store.prune, store.now() + HOUR, after="", limit=15) for _ in range(2)],
    )
    left = store.search(JobQuery(limit=100))
    for tenant in "ab":
        theirs = [job for job in left if job.tenant == tenant]
        assert taken(store, tenant) == sum(ended_size(job.size, job.result, job.error) for job in theirs)
    for key, took in taken_by_key(store).items():
        assert took == sum(ended_size(job.size, job.result, job.error) for job in left if job.key == key)
    for job in left:
        store.delete(job.id)
    assert (store.tenant_census(), store.key_census()) == ([], [])


def test_a_job_that_was_never_weighed_leaves_the_sum_alone(sql_store: SqlStore, sql_url: str) -> None:
    """As one that ended before there was a sum."""
    weighed, other = (running(sql_store, size=size)[0] for size in (10, 100))
    sql_store.finish([verdict(weighed)])
    engine = sa.create_engine(sql_url)
    with engine.begin() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == other.id).values(state="cancelled", finished_at=1))
    engine.dispose()
    assert taken(sql_store) == 10
    assert sql_store.delete(other.id)
    assert taken(sql_store) == 10
