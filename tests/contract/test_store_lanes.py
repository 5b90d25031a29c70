"""What operators order of lanes, as every store must follow it: quotas, and the end of what is queued."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from ktqueue.job import Job, JobState
from ktqueue.store.base import Queued, Quota, Store
from tests.contract.test_store import HOUR, added, claim, got, ids_of, in_parallel, new_job, running, verdict


def claim_within(store: Store, jobs: list[Job], most: int, token: str = "t") -> list[Job]:
    quota = Quota("echo", most)
    return store.claim(ids_of(jobs), token=token, worker="w", lease_ms=HOUR, quota=quota)


def suspects(store: Store, count: int) -> list[Job]:
    jobs = running(store, count)
    store.finish([verdict(job, JobState.QUEUED, charged=False, company=8, crashes=8) for job in jobs])
    return jobs


def test_what_runs_is_counted_by_lane(store: Store) -> None:
    running(store, 3)
    running(store, 1, model="other")
    added(store, 2)
    assert (store.running("echo"), store.running("other"), store.running("nobody")) == (3, 1, 0)


@pytest.mark.parametrize(("most", "claimed"), [(0, 0), (2, 0), (3, 1), (4, 2), (10, 5)])
def test_a_claim_stays_within_its_quota(store: Store, most: int, claimed: int) -> None:
    running(store, 2)
    jobs = added(store, 5)
    assert ids_of(claim_within(store, jobs, most)) == ids_of(jobs[:claimed])
    assert store.running("echo") == 2 + claimed


def test_another_lanes_jobs_do_not_count(store: Store) -> None:
    running(store, 5, model="other")
    assert len(claim_within(store, added(store, 2), 1)) == 1


def test_suspects_stay_within_the_quota(store: Store) -> None:
    suspects(store, 4)
    quota = Quota("echo", 3)
    claimed = store.claim_suspects("echo", 10, token="t", worker="w", lease_ms=HOUR, quota=quota)
    assert len(claimed) == 3
    assert store.claim_suspects("echo", 10, token="u", worker="w", lease_ms=HOUR, quota=quota) == []


def test_claims_side_by_side_stay_within_one_quota(store: Store) -> None:
    groups = [added(store, 5) for _ in range(6)]
    claims = [partial(claim_within, store, jobs, 7, f"t{number}") for number, jobs in enumerate(groups)]
    claimed = sum(len(jobs) for jobs in in_parallel(*claims))
    assert claimed == store.running("echo") == 7


def claim_of_tenants(store: Store, jobs: list[Job], token: str = "t", **tenants: int) -> list[Job]:
    quota = Quota("echo", None, tenants)
    return store.claim(ids_of(jobs), token=token, worker="w", lease_ms=HOUR, quota=quota)


def test_what_runs_is_counted_by_tenant(store: Store) -> None:
    running(store, 2, tenant="us")
    running(store, 1, tenant="us", model="other")
    running(store, 1, tenant="them")
    added(store, 2, tenant="nobody")
    assert store.running_by_owner() == {"us": 3, "them": 1}


@pytest.mark.parametrize(("most", "claimed"), [(0, 0), (2, 0), (3, 1), (4, 2), (10, 3)])
def test_a_claim_stays_within_a_tenants_limit_in_all_lanes(store: Store, most: int, claimed: int) -> None:
    running(store, 1, tenant="us")
    running(store, 1, tenant="us", model="other")
    (ended,) = running(store, 1, tenant="us")
    store.finish([verdict(ended)])
    ours, theirs = added(store, 3, tenant="us"), added(store, 2, tenant="them")
    jobs = [ours[0], theirs[0], ours[1], theirs[1], ours[2]]
    within = [job for job in jobs if job in [*theirs, *ours[:claimed]]]
    assert ids_of(claim_of_tenants(store, [ended, *jobs], us=most, nobody=1)) == ids_of(within)


def test_both_limits_hold(store: Store) -> None:
    ours, theirs = added(store, 3, tenant="us"), added(store, 3, tenant="them")
    quota = Quota("echo", 4, {"us": 2})
    jobs = store.claim(ids_of([*ours, *theirs]), token="t", worker="w", lease_ms=HOUR, quota=quota)
    assert ids_of(jobs) == ids_of([*ours[:2], *theirs[:1]])


def test_a_job_that_ended_otherwise_makes_room_too(store: Store) -> None:
    cancelled, lost, again = running(store, 3, tenant="us", lease_ms=0)
    waiting = added(store, 4, tenant="us")
    assert claim_of_tenants(store, waiting, us=3) == []
    store.cancel(cancelled.id)
    assert store.finish([verdict(lost, JobState.QUEUED, charged=False)], only_lapsed=True) == {lost.id}
    store.finish([verdict(again, JobState.QUEUED, run_at=store.now() + HOUR)])
    assert len(claim_of_tenants(store, waiting, us=3)) == 3


def test_suspects_stay_within_a_tenants_limit(store: Store) -> None:
    ours, theirs = running(store, 3, tenant="us"), running(store, 2, tenant="them")
    suspected = [verdict(job, JobState.QUEUED, charged=False, company=8, crashes=8) for job in ours]
    fewer = [verdict(job, JobState.QUEUED, charged=False, company=4, crashes=8) for job in theirs]
    store.finish([*suspected, *fewer])
    quota = Quota("echo", None, {"us": 2})
    given: dict[str, Any] = {"worker": "w", "lease_ms": HOUR, "quota": quota}
    assert store.has_suspects("echo", {"us": 2})
    assert ids_of(store.claim_suspects("echo", 10, token="t", **given)) == ids_of(ours[:2])
    assert store.has_suspects("echo", {"us": 2})
    assert ids_of(store.claim_suspects("echo", 10, token="u", **given)) == ids_of(theirs)
    assert not store.has_suspects("echo", {"us": 2})
    assert store.has_suspects("echo")
    assert store.claim_suspects("echo", 10, token="v", **given) == []


def test_claims_side_by_side_stay_within_a_tenants_limit(store: Store) -> None:
    groups = [
        added(store, 5, tenant=tenant, model=model) for tenant in ("us", "them") for model in ("echo", "other", "more")
    ]
    claims = [partial(claim_of_tenants, store, jobs, f"t{n}", us=7, them=4) for n, jobs in enumerate(groups)]
    in_parallel(*claims)
    assert store.running_by_owner() == {"us": 7, "them": 4}


def test_what_runs_is_counted_by_key_too(store: Store) -> None:
    running(store, 2, tenant="us", key="key_1")
    running(store, 1, tenant="us", key="key_1", model="other")
    running(store, 1, tenant="us", key="key_2")
    running(store, 1, tenant="us")
    added(store, 2, tenant="us", key="key_3")
    assert store.running_by_owner() == {"us": 5, "key_1": 3, "key_2": 1}


@pytest.mark.parametrize(
    ("ours", "of_key", "claimed"), [(9, 0, 0), (9, 2, 0), (9, 3, 1), (9, 9, 3), (3, 9, 1), (2, 9, 0)]
)
def test_a_claim_stays_within_a_keys_limit_and_its_tenants(store: Store, ours: int, of_key: int, claimed: int) -> None:
    running(store, 1, tenant="us", key="key_1")
    running(store, 1, tenant="us", key="key_1", model="other")
    mine, other = added(store, 3, tenant="us", key="key_1"), added(store, 1, tenant="us", key="key_2")
    none, theirs = added(store, 1, tenant="us"), added(store, 1, tenant="them")
    owners = {"us": ours, "key_1": of_key, "key_3": 1}
    jobs = [mine[0], theirs[0], mine[1], other[0], mine[2], none[0]]
    first = mine[:claimed]
    left = ours - 2 - claimed
    within = [job for job in jobs if job in [*theirs, *first, *[*other, *none][: max(0, left)]]]
    quota = Quota("echo", None, owners)
    given: dict[str, Any] = {"token": "t", "worker": "w", "lease_ms": HOUR, "quota": quota}
    assert ids_of(store.claim(ids_of(jobs), **given)) == ids_of(within)
    assert store.running_by_owner().get("key_1", 0) == 2 + claimed


def test_suspects_stay_within_a_keys_limit(store: Store) -> None:
    mine, none = running(store, 2, tenant="us", key="key_1"), running(store, 1, tenant="us")
    store.finish([verdict(job, JobState.QUEUED, charged=False, company=8, crashes=8) for job in [*mine, *none]])
    quota = Quota("echo", None, {"key_1": 1})
    given: dict[str, Any] = {"worker": "w", "lease_ms": HOUR, "quota": quota}
    assert ids_of(store.claim_suspects("echo", 10, token="t", **given)) == ids_of([mine[0], *none])
    assert not store.has_suspects("echo", {"key_1": 1})
    assert store.has_suspects("echo", {"key_1": 2})
    assert store.claim_suspects("echo", 10, token="u", **given) == []


def test_claims_side_by_side_stay_within_a_keys_limit(store: Store) -> None:
    groups = [added(store, 5, key=key, model=model) for key in ("key_1", None) for model in ("echo", "other", "more")]
    quota = Quota("echo", None, {"key_1": 7})
    given: dict[str, Any] = {"worker": "w", "lease_ms": HOUR, "quota": quota}
    in_parallel(*(partial(store.claim, ids_of(jobs), token=f"t{n}", **given) for n, jobs in enumerate(groups)))
    assert store.running_by_owner() == {"default": 22, "key_1": 7}


def test_what_is_queued_is_counted_and_cancelled(store: Store) -> None:
    waiting = added(store, 3)
    later = added(store, 1, run_at=store.now() + HOUR)
    apart = suspects(store, 2)
    runs = running(store, 1)
    other = added(store, 1, model="other")
    queued = ids_of([*waiting, *later, *apart])
    assert store.count_queued(Queued("echo")) == 6
    first = store.cancel_queued(Queued("echo"), 4)
    second = store.cancel_queued(Queued("echo"), 4)
    assert (len(first), len(second)) == (4, 2)
    assert sorted(ids_of(first + second)) == sorted(queued)
    assert {job.state for job in first + second} == {JobState.QUEUED}
    assert {got(store, job).state for job in first + second} == {JobState.CANCELLED}
    assert (got(store, runs[0]).state, got(store, other[0]).state) == (JobState.RUNNING, JobState.QUEUED)
    assert store.cancel_queued(Queued("echo"), 4) == []
    assert store.count_queued(Queued("echo")) == 0
    assert claim(store, waiting) == []


def test_only_what_is_old_enough_is_cancelled(store: Store) -> None:
    now = store.now()
    old, young = new_job(store, created_at=now - HOUR), new_job(store, created_at=now)
    store.add([old, young])
    which = Queued("echo", created_before=now)
    assert store.count_queued(which) == 1
    assert ids_of(store.cancel_queued(which, 10)) == [old.id]
    assert got(store, young).state is JobState.QUEUED


def test_only_a_tenants_jobs_are_cancelled(store: Store) -> None:
    (theirs,) = added(store, 1, tenant="them")
    (ours,) = added(store, 1, tenant="us")
    assert store.count_queued(Queued("echo", "them")) == 1
    assert ids_of(store.cancel_queued(Queued("echo", "them"), 10)) == [theirs.id]
    assert got(store, ours).state is JobState.QUEUED


def test_cancelling_beside_claims_takes_each_job_once(store: Store) -> None:
    jobs = added(store, 40)
    results = in_parallel(
        *[partial(claim, store, jobs[start : start + 10], token=f"t{start}") for start in range(0, 40, 10)],
        *[partial(store.cancel_queued, Queued("echo"), 10) for _ in range(3)],
    )
    taken = [job.id for group in results for job in group]
    assert len(taken) == len(set(taken))
    assert {got(store, job).state for job in jobs} <= {JobState.RUNNING, JobState.CANCELLED, JobState.QUEUED}
