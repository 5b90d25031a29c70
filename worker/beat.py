"""Beat's scheduler: sends what is due, unless the one before it still waits: nobody may be there to take them."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.beat import ScheduleEntry, Scheduler

from ktqueue.errors import LanesUnavailable
from ktqueue.redis_client import Client, connect


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
