"""Who used how much of the device."""

from __future__ import annotations

import math
from statistics import mean

from hypothesis import given
from hypothesis import strategies as st

from ktqueue.job import JobState, Ride, Usage
from ktqueue.usage import Bill, Use, together
from tests.support.draining import STEP_S, job_of, runner, toy
from tests.support.scene import Scene
from worker.shares import Share, Shares

EVENTS = st.lists(st.tuples(st.sampled_from(["join", "leave", "step"]), st.integers(0, 5)), max_size=60)
ENDS = st.tuples(
    st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from([state for state in JobState if state.terminal])
)


@given(EVENTS)
def test_shares_are_what_looking_at_each_step_comes_to(events: list[tuple[str, int]]) -> None:
    shares, inside = Shares(), dict[str, tuple[float, list[int], float]]()
    for now, (what, number) in enumerate(events):
        name = str(number)
        if what == "step":
            shares.step(number)
            many = len(inside)
            inside = {job: (used + number / many, [*sizes, many], at) for job, (used, sizes, at) in inside.items()}
        elif what == "join":
            inside[name] = 0.0, [], float(now)
            shares.join([name], float(now))
            assert shares.joined(name) == now
        else:
            used, sizes, at = inside.pop(name, (0.0, [], float(now)))
            share = shares.leave(name, float(now))
            assert math.isclose(share.device_s, used, abs_tol=1e-9)
            assert share.seconds == now - at
            assert share.ride == (Ride(len(sizes), min(sizes), round(mean(sizes), 3), max(sizes)) if sizes else None)


def test_those_that_join_and_leave_together_had_the_same() -> None:
    shares = Shares()
    shares.join(["a", "b"], 1.0)
    shares.join(["c"], 1.0)
    shares.step(3.0)

    assert [shares.leave(each, 2.0) for each in "abc"] == [Share(1.0, 1.0, Ride(1, 3, 3.0, 3))] * 3
    shares.join(["a"], 5.0)
    shares.clear()
    assert shares.leave("a", 6.0) == Share()


def test_a_drain_bills_each_job_its_share_of_each_step() -> None:
    scene = Scene()
    long, short = job_of(scene, 3), job_of(scene, 1)
    failed = job_of(scene, 2, fail="permanent")
    runner(scene, toy(scene)).drain()
    # Three share the first step, two the second, one has the third to itself.
    shares = [STEP_S / 3 + STEP_S / 2 + STEP_S, STEP_S / 3, STEP_S / 3 + STEP_S / 2]
    for job, share in zip((long, short, failed), shares, strict=True):
        assert math.isclose(scene.row(job).device_s or 0, share, rel_tol=1e-4)


def test_an_attempt_after_which_a_job_is_tried_again_is_not_billed() -> None:
    scene = Scene()
    job = job_of(scene, 4, fail="retryable", max_attempts=2)
    runner(scene, toy(scene)).drain()
    assert (scene.row(job).state, scene.row(job).device_s) == (JobState.QUEUED, None)
    scene.clock.sleep(60)
    scene.sweep()
    runner(scene, toy(scene)).drain()
    assert scene.row(job).state is JobState.FAILED
    assert math.isclose(scene.row(job).device_s or 0, 4 * STEP_S, rel_tol=1e-4)


@given(st.lists(ENDS, max_size=20))
def test_a_bill_counts_each_job_once(ends: list[tuple[str, str, JobState]]) -> None:
    bill = Bill()
    for tenant, model, state in ends:
        bill.add(tenant, model, state, Usage(2, 3), 0.5)
    uses = bill.uses()
    assert [(use.tenant, use.model) for use in uses] == sorted({end[:2] for end in ends})
    for use in uses:
        mine = [state.value for tenant, model, state in ends if (tenant, model) == (use.tenant, use.model)]
        counted = {"succeeded": use.succeeded, "failed": use.failed, "cancelled": use.cancelled, "expired": use.expired}
        assert counted == {name: mine.count(name) for name in counted}
        assert (use.prompt_tokens, use.completion_tokens) == (2 * len(mine), 3 * len(mine))
        assert use.device_seconds == 0.5 * len(mine)


def test_two_uses_together() -> None:
    assert together(Use("a", "m", 1, 2, 3, 4, 5, 6, 7.5), Use("a", "m", 1, 1, 1, 1, 1, 1, 1.0)) == Use(
        "a", "m", 2, 3, 4, 5, 6, 7, 8.5
    )
