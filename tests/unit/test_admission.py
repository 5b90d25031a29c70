"""Invariant 11: what is accepted stays bounded, and who is refused learns when to come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktqueue.admission import LONGEST_RETRY_AFTER_S, REFRESH_S
from ktqueue.errors import QueueFull
from ktqueue.job import new_job_id
from ktqueue.lanes.base import Entry
from tests.support.scene import MODEL, Scene, submission


def fill(scene: Scene, jobs: int) -> None:
    scene.true_lanes.add([Entry(MODEL, new_job_id(), 0.0) for _ in range(jobs)])


@given(st.integers(1, 50), st.lists(st.integers(1, 20), max_size=30))
def test_never_more_than_the_bound_is_admitted_within_a_refresh(bound: int, groups: list[int]) -> None:
    scene, admitted = Scene(max_queued=bound), 0
    for jobs in groups:
        try:
            scene.admission.admit(MODEL, jobs)
            admitted += jobs
        except QueueFull:
            assert admitted + jobs > bound

    assert admitted <= bound


def test_a_full_lane_takes_more_once_it_has_room() -> None:
    scene = Scene(max_queued=2)
    fill(scene, 2)
    with pytest.raises(QueueFull, match="2 jobs wait for 'echo'; 2 may"):
        scene.admission.admit(MODEL, 1)

    scene.true_lanes.pull(MODEL, 1)
    with pytest.raises(QueueFull):
        scene.admission.admit(MODEL, 1)
    scene.clock.sleep(REFRESH_S + 0.01)
    scene.admission.admit(MODEL, 1)


def test_lanes_fill_up_apart() -> None:
    scene = Scene(max_queued=1)
    scene.admission.admit("one", 1)
    scene.admission.admit("other", 1)

    with pytest.raises(QueueFull, match="'one'"):
        scene.admission.admit("one", 1)


@given(finished=st.integers(1, 10_000), excess=st.integers(1, 100))
def test_retry_after_is_the_time_in_which_the_lane_makes_room(finished: int, excess: int) -> None:
    scene = Scene(max_queued=10)
    scene.true_lanes.count_finished(MODEL, finished)
    rate = scene.true_lanes.view(MODEL).rate
    with pytest.raises(QueueFull) as refusal:
        scene.admission.admit(MODEL, 10 + excess)

    assert rate is not None
    seconds = refusal.value.retry_after_s
    assert 1 <= seconds <= LONGEST_RETRY_AFTER_S
    assert seconds == LONGEST_RETRY_AFTER_S or seconds * rate >= excess
    assert seconds == 1 or (seconds - 1) * rate < excess


def test_where_nothing_finishes_the_longest_time_is_told() -> None:
    scene = Scene(max_queued=1)

    with pytest.raises(QueueFull) as refusal:
        scene.admission.admit(MODEL, 2)
    assert refusal.value.retry_after_s == LONGEST_RETRY_AFTER_S


def test_the_bound_holds_while_redis_is_away() -> None:
    scene = Scene(max_queued=3)
    scene.redis.go()
    for _ in range(3):
        scene.submit()

    with pytest.raises(QueueFull, match="3 jobs wait"):
        scene.submit()
    scene.clock.sleep(REFRESH_S + 0.01)
    with pytest.raises(QueueFull, match="3 jobs wait"):
        scene.submit()


def test_what_is_refused_is_not_stored() -> None:
    scene = Scene(max_queued=1)

    with pytest.raises(QueueFull):
        scene.intake.submit_many([submission(), submission()])
    assert scene.true_store.census() == []


def test_jobs_for_later_are_bounded_too() -> None:
    scene = Scene(max_queued=3)
    later = scene.clock.now() + 3_600_000
    for _ in range(3):
        scene.submit(run_at=later)
        scene.clock.sleep(REFRESH_S + 0.01)

    with pytest.raises(QueueFull, match="3 jobs wait"):
        scene.submit(run_at=later)
    scene.submit()


def test_the_wait_of_the_last_job_follows_from_depth_and_rate() -> None:
    scene = Scene()
    assert scene.admission.wait_s(MODEL) is None

    scene.true_lanes.count_finished(MODEL, 10)
    rate = scene.true_lanes.view(MODEL).rate
    scene.admission.admit(MODEL, 6)
    assert rate is not None
    assert scene.admission.wait_s(MODEL) == 6 / rate
