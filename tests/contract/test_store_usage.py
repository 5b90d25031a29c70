"""What tenants used, as every store must write it: in the transaction that ends a job, exactly once."""

from __future__ import annotations

from functools import partial

import pytest

from ktqueue.job import JobError, JobState, Usage
from ktqueue.store.base import Queued, Store
from ktqueue.usage import DAY_MS, DayOfUse, UsageQuery, Use
from tests.contract.test_store import added, in_parallel, running, verdict

FAULT = JobError("boom", "it broke")


def of_today(store: Store, tenant: str | None = None, model: str | None = None) -> UsageQuery:
    """A test may run at midnight."""
    today = store.now() // DAY_MS
    return UsageQuery(today - 1, today + 1, tenant, model)


def used(store: Store, tenant: str | None = None, model: str | None = None) -> list[Use]:
    return [day.use for day in store.usage(of_today(store, tenant, model))]


def test_nothing_is_used_at_first(store: Store) -> None:
    running(store, 2)
    assert used(store) == []


def test_ends_tokens_and_device_time_are_summed_by_tenant_and_model(store: Store) -> None:
    jobs = [
        *running(store, 3, tenant="a"),
        *running(store, 1, tenant="b"),
        *running(store, 1, tenant="a", model="other"),
    ]
    store.finish([verdict(job, result={}, usage=Usage(3, 4), device_s=0.5) for job in jobs[1:]])
    store.finish([verdict(jobs[0], JobState.FAILED, error=FAULT, device_s=0.25)])
    assert used(store) == [
        Use("a", "echo", succeeded=2, failed=1, prompt_tokens=6, completion_tokens=8, device_seconds=1.25),
        Use("a", "other", succeeded=1, prompt_tokens=3, completion_tokens=4, device_seconds=0.5),
        Use("b", "echo", succeeded=1, prompt_tokens=3, completion_tokens=4, device_seconds=0.5),
    ]
    assert [use.tenant for use in used(store, tenant="a")] == ["a", "a"]
    assert [use.model for use in used(store, model="other")] == ["other"]
    assert used(store, tenant="b", model="other") == []


def test_a_day_is_the_databases(store: Store) -> None:
    store.cancel(added(store)[0].id)
    [day] = store.usage(of_today(store))
    assert 0 <= store.now() // DAY_MS - day.day <= 1
    assert day == DayOfUse(day.day, Use("default", "echo", cancelled=1))
    assert store.usage(UsageQuery(day.day - 5, day.day - 1)) == store.usage(UsageQuery(day.day + 1, day.day + 5)) == []


def test_a_query_is_bounded(store: Store) -> None:
    for tenant in "cab":
        store.cancel(added(store, tenant=tenant)[0].id)
    today = store.now() // DAY_MS
    first = store.usage(UsageQuery(today - 1, today + 1, limit=2))
    assert [day.use.tenant for day in first] == ["a", "b"]


def test_every_way_to_end_is_counted(store: Store) -> None:
    waiting, runs = added(store, 2), running(store, 1)
    store.cancel(waiting[0].id)
    store.cancel(runs[0].id)
    store.cancel_queued(Queued("echo"), 10)
    added(store, 2, deadline_at=store.now() - 1)
    store.expire(10)
    assert used(store) == [Use("default", "echo", cancelled=3, expired=2)]


def test_what_has_ended_is_not_counted_again(store: Store) -> None:
    (job,) = running(store)
    ending = verdict(job, result={}, usage=Usage(1, 2), device_s=1.0)
    store.finish([ending, ending])
    store.finish([ending])
    store.cancel(job.id)
    store.expire(10)
    store.delete(job.id)
    assert used(store) == [Use("default", "echo", 1, prompt_tokens=1, completion_tokens=2, device_seconds=1.0)]


@pytest.mark.parametrize("charged", [True, False])
def test_an_attempt_after_which_a_job_waits_again_is_not_billed(store: Store, charged: bool) -> None:
    (job,) = running(store)
    store.finish([verdict(job, JobState.QUEUED, charged=charged, device_s=5.0)])
    assert used(store) == []


def test_a_late_verdict_is_not_billed(store: Store) -> None:
    (job,) = running(store)
    store.cancel(job.id)
    store.finish([verdict(job, result={}, usage=Usage(1, 2), device_s=1.0)])
    assert used(store) == [Use("default", "echo", cancelled=1)]


def test_many_who_end_jobs_at_once_lose_none(store: Store) -> None:
    groups = [running(store, 2, tenant=f"t{number % 3}") for number in range(8)]
    mixed = [[*one, *other] for one, other in zip(groups[::2], groups[1::2], strict=True)]
    in_parallel(*[partial(store.finish, [verdict(job, device_s=0.5) for job in reversed(group)]) for group in mixed])
    uses = used(store)
    assert sum(use.succeeded for use in uses) == 16
    assert sum(use.device_seconds for use in uses) == 8.0


def test_many_may_post_at_once_while_others_end_jobs(store: Store) -> None:
    jobs = [job for number in range(6) for job in running(store, 3, tenant=f"t{number % 4}")]
    ends = [partial(store.finish, [verdict(job, usage=Usage(1, 2), device_s=0.25)]) for job in jobs]
    in_parallel(*ends[:9], store.post, store.post, partial(used, store))
    in_parallel(*ends[9:], store.post, partial(used, store), store.tenant_census)
    uses = used(store)
    assert [use.tenant for use in uses] == ["t0", "t1", "t2", "t3"]
    assert sum(use.succeeded for use in uses) == sum(use.prompt_tokens for use in uses) == 18
    assert sum(use.device_seconds for use in uses) == 4.5
    store.post()
    assert used(store) == uses
