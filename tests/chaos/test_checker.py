"""The checker finds what it is there to find: histories made by hand, each with one thing wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ktqueue.events.base import END, REQUEUED
from tests.chaos.checker import check, innocent_failures
from tests.chaos.history import Action, Arrival, History, Job, Operation, Order, Seen

ORDER = Order(1, follow=True)
QUEUED = Job("job_a", 1, "queued", attempt=0)
RUNNING = Job("job_a", 1, "running", attempt=1)
DONE = Job("job_a", 1, "succeeded", result=ORDER.input, attempt=1, finished_at="12:00")
CANCELLED = Job("job_a", 1, "cancelled", attempt=1, finished_at="12:01")
CRASHED = Job("job_a", 1, "failed", error="engine_crashed", attempt=3, finished_at="12:02")
EVENTS = (Seen(0, 1, "queued"), Seen(1, 0, "running"), Seen(1, END, "succeeded"))
BEGAN = Arrival("job", "evt_a_1000000", 1.0, "began", RUNNING)
TOLD = Arrival("job", "evt_a_1001000", 2.0, "told", DONE)
ALSO = replace(TOLD, receiver="endpoint")
HOOKED = replace(ORDER, webhook=("job.started", "job.succeeded"))
RETRIED = (*EVENTS[:2], Seen(1, REQUEUED, "queued"), Seen(2, 0, "running"), Seen(2, END, "succeeded"))


def submit(at: float, job: Job | None = QUEUED, *, status: int | None = 202, key: str | None = None) -> Operation:
    jobs = () if job is None else (job,)
    job_id = None if job is None else job.id
    return Operation("c", "submit", at, at + 0.5, status, number=1, job_id=job_id, key=key, jobs=jobs)


def poll(at: float, job: Job, *, took: float = 0.5) -> Operation:
    return Operation("c", "poll", at, at + took, 200, job_id=job.id, jobs=(job,))


def follow(*events: Seen, complete: bool = True) -> Operation:
    return Operation("f", "follow", 0.0, 9.0, 200, job_id="job_a", events=events, complete=complete)


def violated(*operations: Operation, order: Order = ORDER, actions: tuple[Action, ...] = ()) -> set[str]:
    history = History({order.number: order}, list(operations), list(actions))
    return {violation.rule for violation in check(history)}


@pytest.mark.parametrize("events", [EVENTS, RETRIED])
def test_a_good_history_holds_nothing(events: tuple[Seen, ...]) -> None:
    assert violated(submit(0), poll(1, RUNNING), poll(2, DONE), poll(3, DONE), follow(*events)) == set()


def test_a_job_that_never_ends_is_lost() -> None:
    assert violated(submit(0), poll(1, RUNNING)) == {"lost"}


def test_a_job_that_is_not_found_has_vanished() -> None:
    gone = Operation("c", "poll", 1, 2, 404, job_id="job_a")
    assert violated(submit(0), gone, poll(3, DONE)) == {"vanished"}


@pytest.mark.parametrize(
    "other",
    [
        replace(DONE, finished_at="12:03"),
        replace(DONE, attempt=2),
        replace(CRASHED, finished_at=DONE.finished_at),
    ],
)
def test_an_end_that_changes_is_found(other: Job) -> None:
    assert violated(submit(0), poll(1, DONE), poll(2, other)) == {"changed"}


def test_a_job_that_comes_back_to_life_is_found() -> None:
    assert violated(submit(0), poll(1, DONE), poll(2, RUNNING)) == {"revived"}


def test_two_looks_at_once_may_see_a_job_before_and_after_its_end() -> None:
    assert violated(submit(0), poll(1, DONE), poll(1.2, RUNNING, took=3.0)) == set()


def test_a_cancelled_job_that_succeeds_is_found() -> None:
    order = replace(ORDER, cancel_after_s=1.0)
    assert violated(submit(0), poll(1, CANCELLED), poll(2, DONE), order=order) == {
        "changed",
        "cancelled then succeeded",
    }


@pytest.mark.parametrize(
    ("order", "end"),
    [
        (ORDER, replace(DONE, result={"number": 2})),
        (ORDER, replace(DONE, result=None)),
        (ORDER, replace(CANCELLED, result=ORDER.input)),
        (ORDER, CANCELLED),
        (ORDER, replace(CRASHED, error="engine_error")),
        (ORDER, replace(CRASHED, state="expired")),
        (replace(ORDER, fail="permanent"), DONE),
        (replace(ORDER, fail="retryable"), replace(CRASHED, error="internal")),
    ],
)
def test_an_end_that_was_not_ordered_is_found(order: Order, end: Job) -> None:
    assert violated(submit(0), poll(1, end), order=order) == {"wrong result"}


def test_a_failure_that_was_ordered_is_none() -> None:
    end = replace(CRASHED, error="engine_error")
    assert violated(submit(0), poll(1, end), order=replace(ORDER, fail="retryable")) == set()


def test_who_failed_for_the_sake_of_others_is_counted_apart() -> None:
    history = History({1: ORDER}, [submit(0), poll(1, CRASHED)])
    assert check(history) == []
    assert innocent_failures(history) == ["job_a"]
    assert innocent_failures(History({1: replace(ORDER, fail="permanent")}, [submit(0), poll(1, CRASHED)])) == []


def test_a_job_that_nobody_submitted_is_found() -> None:
    assert violated(submit(0), poll(1, DONE), poll(1, Job("job_b", 77, "queued"))) == {"phantom"}


def test_two_jobs_of_one_submit_are_found() -> None:
    assert violated(submit(0), poll(1, DONE), poll(1, replace(DONE, id="job_b"))) == {"doubled"}


def test_a_submit_without_an_answer_may_have_made_a_job() -> None:
    restart = Action("kill api", 0.0, 0.5)
    unanswered = submit(0, None, status=None)
    assert (
        violated(unanswered, submit(1), poll(2, DONE), poll(2, replace(DONE, id="job_b")), actions=(restart,)) == set()
    )


def test_two_jobs_of_one_key_are_found() -> None:
    order = replace(ORDER, key="k")
    twice = [submit(0, key="k"), submit(1, replace(QUEUED, id="job_b"), key="k")]
    assert violated(*twice, poll(2, DONE), poll(2, replace(DONE, id="job_b")), order=order) == {"doubled"}


@pytest.mark.parametrize(
    "events",
    [
        (),
        EVENTS[1:],
        EVENTS[:2],
        (EVENTS[0], EVENTS[2]),
        (*EVENTS[:2], *EVENTS[1:]),
        (*RETRIED[:2], *RETRIED[3:]),
        (*RETRIED[:3], RETRIED[4]),
        (*EVENTS, EVENTS[2]),
        (*EVENTS[:2], Seen(1, END, "failed")),
    ],
)
def test_events_with_a_hole_a_double_or_another_end_are_found(events: tuple[Seen, ...]) -> None:
    assert violated(submit(0), poll(1, DONE), follow(*events)) == {"events"}


def test_a_reader_who_never_hears_the_end_is_found() -> None:
    assert violated(submit(0), poll(1, DONE), follow(*EVENTS[:2], complete=False)) == {"events"}


def test_two_readers_who_are_told_different_things_are_found() -> None:
    assert violated(submit(0), poll(1, DONE), follow(*EVENTS), follow(*RETRIED)) == {"events"}


def told(*arrivals: Arrival, actions: tuple[Action, ...] = (), seen: tuple[Operation, ...] = ()) -> set[str]:
    """What is violated where a job's own webhook and an endpoint are to be told of its end, seen at 3."""
    operations = [submit(0), *(seen or (poll(3, DONE),))]
    history = History({1: HOOKED}, operations, list(actions), list(arrivals), endpoint=True)
    return {violation.rule for violation in check(history)}


def test_what_is_told_twice_with_the_same_bytes_is_well_told() -> None:
    assert told(BEGAN, TOLD, replace(TOLD, at=2.5), replace(BEGAN, at=2.7), ALSO) == set()
    assert told(BEGAN, TOLD, ALSO, seen=(poll(1.5, RUNNING, took=9), poll(3, DONE))) == set()


@pytest.mark.parametrize(
    "arrivals",
    [(), (TOLD,), (ALSO,), (TOLD, replace(ALSO, taken=False)), (replace(BEGAN, receiver="endpoint"), TOLD)],
)
def test_an_end_that_somebody_is_never_told_of_is_found(arrivals: tuple[Arrival, ...]) -> None:
    assert told(*arrivals) == {"webhook lost"}


def test_who_is_to_be_told_of_nothing_may_hear_nothing() -> None:
    assert violated(submit(0), poll(1, DONE), order=HOOKED) == {"webhook lost"}
    assert violated(submit(0), poll(1, DONE)) == set()


@pytest.mark.parametrize("other", [replace(TOLD, digest="other", at=2.5), replace(ALSO, digest="other", at=2.5)])
def test_an_event_whose_bytes_change_is_found(other: Arrival) -> None:
    assert told(TOLD, ALSO, other) == {"payload changed"}


@pytest.mark.parametrize(
    "seen",
    [
        (poll(2.1, RUNNING), poll(3, DONE)),
        (poll(3, replace(DONE, finished_at="12:03")),),
        (poll(1, CANCELLED),),
    ],
)
def test_an_end_that_is_told_before_it_is_one_is_found(seen: tuple[Operation, ...]) -> None:
    assert "told before commit" in told(TOLD, ALSO, seen=seen)


def test_a_webhook_about_a_job_that_nobody_saw_is_found() -> None:
    ghost = replace(TOLD, event_id="evt_b_1001000", job=replace(DONE, id="job_b"))
    assert told(TOLD, ALSO, ghost) == {"told before commit"}


def test_events_that_come_out_of_order_are_found_unless_the_receiver_failed() -> None:
    late = replace(BEGAN, at=2.5)
    assert told(late, TOLD, ALSO) == {"out of order"}
    assert told(late, TOLD, ALSO, actions=(Action("receiver down", 1.0, 1.5),)) == set()
    assert told(late, TOLD, ALSO, actions=(Action("receiver down", 3.0, 4.0),)) == {"out of order"}


def test_a_webhook_that_does_not_verify_is_found() -> None:
    assert told(TOLD, replace(ALSO, flaw="no signature fits")) == {"bad signature"}


@pytest.mark.parametrize("status", [None, 429, 500, 503])
@pytest.mark.parametrize("kind", ["kill child", "flushall", "kill valkey", "cut worker"])
def test_a_submit_that_is_refused_is_found_where_nothing_excuses_it(status: int | None, kind: str) -> None:
    assert violated(submit(1, None, status=status), actions=(Action(kind, 0.0, 3.0),)) == {"refused"}


@pytest.mark.parametrize("kind", ["kill api", "kill api worker", "restart postgres"])
def test_a_submit_that_is_refused_while_nobody_could_take_it_is_no_violation(kind: str) -> None:
    assert violated(submit(1, None, status=503), actions=(Action(kind, 0.0, 3.0),)) == set()
