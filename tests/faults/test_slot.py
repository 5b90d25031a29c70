"""A slot over a real database and a real Redis: what it does when its engine breaks, or a part is away."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from ktqueue.bootstrap import Services, bootstrap
from ktqueue.errors import ConfigurationError
from ktqueue.job import Job, JobState
from ktqueue.liveness import identity
from ktqueue.migrate import upgrade
from ktqueue.presence.base import SlotState
from ktqueue.room import Room
from ktqueue.settings import Settings
from tests.support.scene import submission
from tests.support.stack import until
from tests.support.toy import ToyEngine
from worker.places import Seat
from worker.slot import Slot

SEAT = Seat(0, ("cpu",))
Making: TypeAlias = Callable[..., Slot]


@pytest.fixture
def slot() -> Iterator[Making]:
    """Makes slots over the Redis of all tests. Each is closed: one that is left goes on telling that it lives."""
    with ExitStack() as stack:

        def make(settings: Settings, stopping: Callable[[], bool] = lambda: False, **given: Any) -> Slot:
            made = Slot(settings, "echo", SEAT, stopping, **given)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    models = tmp_path / "models.toml"
    models.write_text('[models.echo]\nengine = "echo"\n')
    made = Settings(home=tmp_path, models=models, redis_url=redis_url)
    upgrade(made.sql_url)
    return made


@pytest.fixture
def services(settings: Settings) -> Services:
    return bootstrap(settings)


def row(services: Services, job: Job) -> Job:
    return services.intake.get(job.id)


def test_a_slot_says_what_it_holds_before_its_first_bell(
    slot: Making, settings: Settings, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        slot(settings, load=lambda *_: ToyEngine(7))

    [lane] = services.intake.lanes(["echo"])
    assert lane.room == Room(7)
    assert "; 7 jobs at once" in caplog.text


def test_a_slot_says_that_it_lives_before_its_first_bell(slot: Making, settings: Settings, services: Services) -> None:
    slot(settings, load=lambda *_: ToyEngine(7))

    [told] = until(services.operating.slots, "word of the slot")
    assert (told.slot.name, told.slot.model, told.slot.device) == (identity(), "echo", "cpu")
    assert (told.slot.room, told.slot.running, told.slot.state) == (Room(7), 0, SlotState.READY)


def test_a_slot_says_that_it_loads_its_model_and_that_it_was_told_to_leave(
    slot: Making, settings: Settings, services: Services
) -> None:
    seen: list[SlotState] = []

    def load(*_: object) -> ToyEngine:
        told = until(services.operating.slots, "word of the slot")
        seen.extend(each.slot.state for each in told)
        return ToyEngine(7)

    leaving = [False]
    one = slot(settings.model_copy(update={"worker_name": "gpu"}), lambda: leaving[0], load=load)
    seen.append(one._as_it_is().state)
    leaving[0] = True
    seen.append(one._as_it_is().state)
    assert seen == [SlotState.STARTING, SlotState.READY, SlotState.STOPPING]
    assert one._as_it_is().worker == "gpu"


def test_a_slot_that_can_not_load_its_model_says_no_more(slot: Making, settings: Settings, services: Services) -> None:
    def load(*_: object) -> ToyEngine:
        raise ConfigurationError("no weights")

    brief = settings.model_copy(update={"heartbeat_seconds": 0.02})
    with pytest.raises(ConfigurationError):
        slot(brief, load=load)
    until(lambda: not services.operating.slots(), "silence")


def test_a_slot_drains_its_lane(slot: Making, settings: Settings, services: Services) -> None:
    jobs = services.intake.submit_many([submission(input={"number": number}) for number in range(5)])
    assert slot(settings).drain() == 5
    assert [row(services, job).result for job in jobs] == [{"number": number} for number in range(5)]


def test_a_slot_with_a_broken_engine_ends_its_process(slot: Making, settings: Settings, services: Services) -> None:
    job, _ = services.intake.submit(submission())
    one = slot(settings, load=lambda *_: ToyEngine(works=False))
    with pytest.raises(SystemExit) as end:
        one.drain()

    assert end.value.code == 1
    assert (row(services, job).state, row(services, job).attempt, row(services, job).claims) == (JobState.QUEUED, 0, 1)


def test_a_slot_without_redis_leaves_the_lane_to_a_later_bell(slot: Making, settings: Settings) -> None:
    nowhere = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})

    assert slot(nowhere).drain() == 0
