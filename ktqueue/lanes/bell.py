"""The bell: a Celery message that wakes an idle worker, sent by name so that no worker is imported."""

from __future__ import annotations

from kombu.exceptions import OperationalError

from ktqueue.celery_settings import DRAIN, celery_app, lane_queue
from ktqueue.errors import LanesUnavailable
from ktqueue.redis_client import connect


class CeleryBell:
    """Rings by sending ``drain(model)``; thread-safe. Make it after a fork, not before: it keeps connections."""

    def __init__(self, redis_url: str) -> None:
        self._redis = connect(redis_url)
        self._celery = celery_app(redis_url, current=False)

    def __call__(self, model: str) -> None:
        """Wake one worker of a lane."""
        self.send(DRAIN, [model], lane_queue(model))

    def send(self, task: str, arguments: list[str], queue: str) -> None:
        """Wake one who listens to ``queue``, in about a second or not at all; raises LanesUnavailable."""
        with self._redis.served():
            # While every slot is busy nobody takes bells in: one that waits is enough, more would pile up.
            waiting = self._redis.llen(queue)
        if waiting:
            return
        try:
            # In a worker the running task would remember every task it sent, for as long as it runs.
            self._celery.send_task(task, arguments, queue=queue, add_to_parent=False)
        except OperationalError as error:
            raise LanesUnavailable("the queue's Redis is not available") from error

    def close(self) -> None:
        """Give the connections back."""
        self._celery.close()
        self._redis.close()
