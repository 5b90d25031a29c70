"""Invariant 11: what is accepted stays bounded, and who is refused learns when to come back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktqueue.admission import LONGEST_RETRY_AFTER_S, REFRESH_S
from ktqueue.errors import QueueFull
from ktqueue.job import Job, Task, new_job_id
from ktqueue.lanes.base import BACKLOG_MS
from ktqueue.priority_class import Entry
from tests.support.scene import MODEL, Scene, ended, submission

AN_HOUR_MS = 3_600_000
SWEEP_S = 1.0


def jobs(count: int = 1, **given_: Any) -> list[Job]:
    plain: dict[str, Any] = {"model": MODEL, "task": Task.ECHO, "input": {}, "params": {}, "created_at": 0, "rank": 0.0}
    return [Job(id=new_job_id(), **plain | given_) for _ in range(count)]


def fill(scene: Scene, count: int, model: str = MODEL) -> None:
    scene.true_lanes.add([Entry(model, new_job_id(), 0.0, "default", 5, 1, 0) for _ in range(count)])


def later(scene: Scene) -> int:
    return scene.clock.now() + AN_HOUR_MS


def read_again(scene: Scene) -> None:
    scene.clock.sleep(REFRESH_S + 0.01)


@given(st.integers(1, 50), st.lists(st.integers(1, 20), max_size=30), st.sampled_from(["lane", "all", "bytes"]))
def test_never_more_than_the_bound_is_admitted_within_a_refresh(bound: int, groups: list[int], what: str) -> None:
    name = {"lane": "max_queued", "all": "max_queued_all", "bytes": "max_queued_bytes"}[what]
    bounds: dict[str, Any] = {name: bound}
    scene, admitted = Scene(**bounds), 0
    for group in groups:
        try:
            scene.admission.admit(jobs(group, size=1))
            admitted += group
        except QueueFull:
            assert admitted + group > bound

    assert admitted <= bound


def test_a_full_lane_takes_more_once_it_has_room() -> None:
    scene = Scene(max_queued=2)
    fill(scene, 2)
    with pytest.raises(QueueFull, match="2 jobs wait for 'echo'; 2 may"):
        scene.admission.admit(jobs())

    scene.true_lanes.pull(MODEL, 1)
    with pytest.raises(QueueFull):
        scene.admission.admit(jobs())
    read_again(scene)
    scene.admission.admit(jobs())


def test_lanes_fill_up_apart() -> None:
    scene = Scene(max_queued=1)
    scene.submit(model="one")
    scene.submit(model="other")

    with pytest.raises(QueueFull, match="'one'"):
        scene.submit(model="one")


def test_a_group_is_counted_as_a_whole_or_not_at_all() -> None:
    scene = Scene(max_queued=2)
    fill(scene, 2, "full")
    with pytest.raises(QueueFull):
        scene.admission.admit(jobs(2, model="one") + jobs(model="full"))

    scene.admission.admit(jobs(2, model="one"))


def test_all_lanes_together_have_a_bound_of_their_own() -> None:
    scene = Scene(max_queued=2, max_queued_all=3)
    for model in ("one", "one", "other"):
        scene.submit(model=model)
    scene.sweep()

    for admission in (scene.admission, scene.new_admission()):
        with pytest.raises(QueueFull, match="3 jobs wait in all lanes together; 3 may"):
            admission.admit(jobs(model="other"))


@pytest.mark.parametrize("in_s", [None, 3_600])
def test_bytes_are_bounded_over_sweeps_and_readings(in_s: int | None) -> None:
    size = Scene().submit().size
    scene = Scene(max_queued_bytes=10 * size)
    run_at = None if in_s is None else scene.clock.now() + 1000 * in_s
    accepted = []
    for number in range(10):
        accepted.append(scene.submit(run_at=run_at))
        read_again(scene)
        if number % 3 == 0:
            scene.sweep()

    with pytest.raises(QueueFull, match=f"the jobs that wait are {10 * size} bytes; {10 * size} may be"):
        scene.submit()
    scene.intake.cancel(accepted[0].id)
    scene.sweep()
    read_again(scene)
    scene.submit()


@given(finished=st.integers(1, 10_000), excess=st.integers(1, 100), what=st.sampled_from(["lane", "all", "bytes"]))
def test_retry_after_is_the_time_in_which_room_is_made(finished: int, excess: int, what: str) -> None:
    bounds: dict[str, Any] = {
        "lane": {"max_queued": 10},
        "all": {"max_queued_all": 10},
        "bytes": {"max_queued_bytes": 70},
    }
    scene = Scene(**bounds[what])
    scene.true_lanes.count_finished(MODEL, ended(finished))
    rate = scene.true_lanes.view(MODEL).rate
    scene.admission.admit(jobs(10, size=7))
    with pytest.raises(QueueFull) as refusal:
        scene.admission.admit(jobs(excess, size=7))

    assert rate is not None
    seconds = refusal.value.retry_after_s
    assert 1 <= seconds <= LONGEST_RETRY_AFTER_S
    assert seconds == LONGEST_RETRY_AFTER_S or seconds * rate >= excess * 0.999
    assert seconds == 1 or (seconds - 1) * rate < excess * 1.001


def test_where_nothing_finishes_the_longest_time_is_told() -> None:
    scene = Scene(max_queued=1)

    with pytest.raises(QueueFull) as refusal:
        scene.admission.admit(jobs(2))
    assert refusal.value.retry_after_s == LONGEST_RETRY_AFTER_S


def test_the_bound_holds_while_redis_is_away() -> None:
    scene = Scene(max_queued=3)
    scene.redis.go()
    for _ in range(3):
        scene.submit()

    with pytest.raises(QueueFull, match="3 jobs wait"):
        scene.submit()
    scene.clock.sleep(5)
    with pytest.raises(QueueFull, match="3 jobs wait"):
        scene.submit()


def test_what_is_refused_is_not_stored() -> None:
    scene = Scene(max_queued=1)

    with pytest.raises(QueueFull):
        scene.intake.submit_many([submission(), submission()])
    assert scene.true_store.census() == []


def test_jobs_for_later_count_whoever_admitted_them() -> None:
    scene = Scene(max_queued=4)
    for _ in range(3):
        scene.submit(run_at=later(scene))
        read_again(scene)
    scene.submit()
    scene.clock.sleep(BACKLOG_MS / 1000)

    for admission in (scene.admission, scene.new_admission()):
        with pytest.raises(QueueFull, match="4 jobs wait for 'echo'; 4 may"):
            admission.admit(jobs())


def test_the_store_is_counted_by_the_sweep_and_not_by_requests() -> None:
    scene = Scene()
    scene.submit()
    for _ in range(20):
        scene.sweep()
        counted = scene.sql.calls["census"]
        scene.clock.sleep(SWEEP_S)
        scene.submit()
        scene.submit(run_at=later(scene))
        scene.new_admission().admit(jobs())

        assert scene.sql.calls["census"] == counted


def test_where_nobody_sweeps_one_process_counts_for_all() -> None:
    scene = Scene()
    for _ in range(20):
        scene.new_admission().admit(jobs())
        scene.clock.sleep(SWEEP_S)

    assert scene.sql.calls["census"] == 20 * SWEEP_S * 1000 / BACKLOG_MS


def test_the_wait_of_the_last_job_follows_from_depth_and_rate() -> None:
    scene = Scene()
    assert scene.admission.wait_s(MODEL) is None

    scene.true_lanes.count_finished(MODEL, ended(10))
    rate = scene.true_lanes.view(MODEL).rate
    scene.admission.admit(jobs(6))
    assert rate is not None
    assert scene.admission.wait_s(MODEL) == 6 / rate
