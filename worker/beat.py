"""Beat's scheduler: sends what is due, unless the one before it still waits: nobody may be there to take them."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery import Celery
from celery.beat import ScheduleEntry, Scheduler

from ktqueue.celery_settings import LIGHT, SWEEP
from ktqueue.errors import LanesUnavailable
from ktqueue.redis_client import Client, connect
from ktqueue.settings import Settings


class SparingScheduler(Scheduler):
    """Celery's plain scheduler, which keeps its times in memory and so leaves no file behind."""

    def __init__(self, *args: Any, redis: Client, **options: Any) -> None:
        self._redis = redis
        super().__init__(*args, **options)

    def apply_async(self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **options: Any) -> Any:
        """As Celery's; None if nothing was sent."""
        return None if self._waits(entry) else super().apply_async(entry, producer, advance, **options)

    def _waits(self, entry: ScheduleEntry) -> bool:
        assert entry.options is not None, "every entry names its queue"
        try:
            with self._redis.served():
                return self._redis.llen(entry.options["queue"]) > 0
        except LanesUnavailable:
            # Sending will find out for itself, and say so.
            return False


def sparing(redis_url: str) -> partial[SparingScheduler]:
    """What Celery's ``beat_scheduler`` may be set to."""
    return partial(SparingScheduler, redis=connect(redis_url))


def schedule(app: Celery, settings: Settings) -> None:
    """What beat sends, and when. A sweep that was not heard in time is dropped: the next is on its way."""
    every = settings.sweep_seconds
    app.conf.beat_scheduler = sparing(settings.redis_url)
    app.conf.beat_schedule = {
        "sweep": {"task": SWEEP, "schedule": every, "options": {"queue": LIGHT, "expires": every}}
    }
