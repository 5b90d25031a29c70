"""Waiting for a job and following it, over streams that lose, repeat, forget and fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktqueue.errors import LanesUnavailable, NotFound
from ktqueue.events.base import END, START, Event, EventId
from ktqueue.following import LOOK_AGAIN_BLIND_S, LOOK_AGAIN_S, Following
from ktqueue.job import Job, JobState
from ktqueue.store.base import Store
from tests.support.lives import ENDS, NEW, Moment, ended, lives

KEPT, LOST, TWICE, LATE = "kept", "lost", "twice", "late"


class World:
    """A life that goes on by one moment each time the reader has to wait; the store, the stream and the clock of it.

    ``fates`` says what becomes of each event on its way into the stream, ``outages`` at which reads that is away.
    """

    def __init__(
        self, life: Sequence[Moment], fates: Sequence[str] = (), outages: frozenset[int] = frozenset()
    ) -> None:
        self._life = list(life)
        self._fates = list(fates)
        self._outages = outages
        self._stream: list[Event] = []
        self._late: list[Event] = []
        self._reads = 0
        self.row = self._life.pop(0).row
        self.now = 0.0
        self.told: list[Event] = []

    def following(self) -> Following:
        return Following(cast("Store", self), self, clock=lambda: self.now, sleep=self.sleep)

    def get(self, job_id: str) -> Job | None:
        return self.row if job_id == self.row.id else None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.live_on()

    def live_on(self) -> None:
        if self._life:
            moment = self._life.pop(0)
            self.row = moment.row
            self.publish(moment.events)

    def publish(self, events: Sequence[Event]) -> None:
        for event in events:
            fate = self._fates.pop(0) if self._fates else KEPT
            if fate == LATE:
                self._late.append(event)
            elif fate != LOST:
                self._stream += [event, *self._late] if fate == KEPT else [event, event, *self._late]
                self._late.clear()

    def read(self, job_id: str, after: EventId, *, wait_s: float) -> list[Event]:
        self._reads += 1
        if self._reads in self._outages:
            raise LanesUnavailable("away")
        if not (found := self._above(after)):
            self.live_on()
            found = self._above(after)
        self.now += 0.01 if found else wait_s
        return found

    def _above(self, after: EventId) -> list[Event]:
        return [event for event in self._stream if event.id > after]

    def latest(self, job_id: str) -> Event | None:
        return self._stream[-1] if self._stream else None


def followed(world: World, after: EventId = START) -> list[Event]:
    return [event for event in world.following().follow(NEW.id, after) if event is not None]


def ids(events: Sequence[Event]) -> list[EventId]:
    return [event.id for event in events]


def state_ids(events: Sequence[Event]) -> list[EventId]:
    return ids([event for event in events if event.type == "state"])


def all_told(life: Sequence[Moment]) -> list[Event]:
    return [event for moment in life for event in moment.events]


FATES = st.lists(st.sampled_from([KEPT, LOST, TWICE, LATE]), max_size=20)
OUTAGES = st.frozensets(st.integers(1, 20), max_size=6)


@given(lives(ENDS))
def test_a_good_stream_is_followed_event_by_event(life: list[Moment]) -> None:
    assert followed(World(life)) == all_told(life)


@given(lives(ENDS), FATES, OUTAGES)
def test_whatever_the_stream_does_the_states_have_no_gap(
    life: list[Moment], fates: list[str], outages: frozenset[int]
) -> None:
    events = followed(World(life, fates, outages))

    assert ids(events) == sorted(set(ids(events)))
    assert state_ids(events) == state_ids(all_told(life))


@given(lives([JobState.SUCCEEDED]), FATES, OUTAGES, st.data())
def test_whatever_the_stream_does_the_text_is_exact_also_across_a_resume(
    life: list[Moment], fates: list[str], outages: frozenset[int], data: st.DataObject
) -> None:
    whole = followed(World(life, fates, outages))
    after = data.draw(st.sampled_from([START, *ids(whole)]))
    events = [event for event in whole if event.id <= after] + followed(World(life, fates, outages), after)
    result = life[-1].row.result
    text = ""
    for event in events:
        if event.type == "token" and event.id.claim == life[-1].row.claims:
            assert event.data["offset"] == len(text)
            text += event.data["text"]

    assert result is not None
    assert text == result["text"]
    assert state_ids(events) == state_ids(all_told(life))


@given(lives([JobState.SUCCEEDED]), FATES, st.integers(0, 16))
def test_a_reader_may_resume_in_the_middle_of_a_token(life: list[Moment], fates: list[str], seen: int) -> None:
    row = life[-1].row
    assert row.result is not None
    seen = min(seen, len(row.result["text"]))
    events = followed(World(life, fates), EventId(row.claims, seen))

    assert "".join(event.data["text"] for event in events if event.type == "token") == row.result["text"][seen:]


def choice(number: int, before: str, text: str, told: int) -> Event:
    data = {"text": text, "offset": len(before), "choice": number}
    return Event(NEW.id, EventId(1, told), "token", data)


def test_several_choices_are_told_as_they_come_each_once() -> None:
    row = replace(NEW, state=JobState.RUNNING, claims=1, started_at=1, token="t", params={"n": 2})
    told = [choice(0, "", "abc", 3), choice(1, "", "x", 4), choice(0, "abc", "d", 5), choice(1, "x", "yz", 7)]
    end = replace(
        row,
        state=JobState.SUCCEEDED,
        token=None,
        finished_at=2,
        result={"choices": [{"text": "abcd"}, {"text": "xyz"}]},
    )
    life = [Moment(NEW, ()), Moment(row, ()), *(Moment(row, (event,)) for event in told), Moment(end, ())]

    assert [event for event in followed(World(life)) if event.type == "token"] == told


def test_what_a_stream_lost_of_several_choices_is_told_at_the_end() -> None:
    row = replace(NEW, state=JobState.RUNNING, claims=1, started_at=1, token="t", params={"n": 2})
    told = [choice(0, "", "abc", 3), choice(1, "", "x", 4), choice(0, "abc", "d", 5)]
    end = replace(
        row,
        state=JobState.SUCCEEDED,
        token=None,
        finished_at=2,
        result={"choices": [{"text": "abcd"}, {"text": "x"}]},
    )
    life = [Moment(NEW, ()), Moment(row, ()), *(Moment(row, (event,)) for event in told), Moment(end, ())]
    events = [event for event in followed(World(life, [KEPT, LOST, KEPT])) if event.type == "token"]

    assert [(event.data["choice"], event.data["text"]) for event in events] == [(0, "abc"), (0, "abcd"), (1, "x")]


@given(FATES)
def test_progress_never_goes_back(fates: list[str]) -> None:
    row = replace(NEW, state=JobState.RUNNING, claims=1, started_at=1, token="t")
    done = [Event(NEW.id, EventId(1, items), "progress", {"progress": items / 4}) for items in (1, 2, 3)]
    end = ended(row, JobState.SUCCEEDED, "")
    events = followed(World([Moment(row, ()), *(Moment(row, (event,)) for event in done), Moment(end, ())], fates))

    assert ids(events) == sorted(set(ids(events)))


def test_a_reader_that_saw_the_end_is_told_nothing_more() -> None:
    life = [Moment(ended(NEW, JobState.CANCELLED, ""), ())]

    assert followed(World(life), EventId(0, END)) == []


def test_quiet_times_are_told_so_that_a_server_can_say_it_is_there() -> None:
    world = World([Moment(NEW, ())])
    following = world.following().follow(NEW.id)

    assert [event and event.data for event in (next(following) for _ in range(4))] == [
        {"state": "queued"},
        None,
        None,
        None,
    ]
    assert world.now == 2 * LOOK_AGAIN_S


def test_there_is_no_following_of_what_is_not_there() -> None:
    world = World([Moment(NEW, ())])

    with pytest.raises(NotFound, match="there is no job job_x"):
        next(world.following().follow("job_x"))
    with pytest.raises(NotFound, match="there is no job job_x"):
        world.following().wait("job_x", 1.0)


# --- wait ------------------------------------------------------------------------------------------------------


@given(lives(ENDS), FATES, OUTAGES)
def test_a_wait_ends_with_the_job(life: list[Moment], fates: list[str], outages: frozenset[int]) -> None:
    assert World(life, fates, outages).following().wait(NEW.id, 10_000.0) == life[-1].row


@given(lives(ENDS))
def test_a_wait_wakes_on_the_terminal_event_not_on_the_next_look(life: list[Moment]) -> None:
    world = World(life)
    world.following().wait(NEW.id, 10_000.0)

    assert world.now < LOOK_AGAIN_S


@given(lives(ENDS))
def test_without_the_stream_a_wait_looks_into_the_store(life: list[Moment]) -> None:
    world = World(life, outages=frozenset(range(1000)))

    assert world.following().wait(NEW.id, 10_000.0) == life[-1].row
    assert world.now <= len(life) * LOOK_AGAIN_BLIND_S


@given(lives(), st.floats(0, 20))
def test_a_wait_that_is_over_tells_the_job_as_it_is_then(life: list[Moment], timeout_s: float) -> None:
    world = World(life)

    assert world.following().wait(NEW.id, timeout_s) == world.row
    assert world.now <= timeout_s + 0.02
