"""What beat sends, over a real Redis: a sweep at a time, however long nobody takes it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ktqueue.celery_settings import LIGHT, SWEEP, celery_app
from ktqueue.redis_client import Client, connect
from ktqueue.settings import Settings
from worker.beat import SparingScheduler, schedule


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with connect(redis_url) as opened:
        yield opened


@pytest.fixture
def scheduler(redis_url: str) -> Iterator[SparingScheduler]:
    app = celery_app(redis_url, current=False)
    schedule(app, Settings(redis_url=redis_url))
    yield app.conf.beat_scheduler(app=app)
    app.close()


def test_sweeps_that_nobody_takes_do_not_pile_up(scheduler: SparingScheduler, client: Client) -> None:
    sweep = scheduler.schedule["sweep"]
    for _ in range(3):
        scheduler.apply_entry(sweep)
        assert client.llen(LIGHT) == 1
    [message] = client.lrange(LIGHT, 0, -1)
    assert SWEEP in message

    client.delete(LIGHT)
    scheduler.apply_entry(sweep)
    assert client.llen(LIGHT) == 1
