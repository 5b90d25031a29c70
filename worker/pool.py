"""Celery's prefork pool, made to see at once that a child has died."""

from __future__ import annotations

from typing import Any

from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool

AGAIN_S = 0.02


class AttentivePool(AsynPool):
    """Looks again where Celery looks too early.

    A child's end is heard of when the kernel closes its pipe, a moment before it can be waited for. Whoever looks in
    that moment finds the child alive, and Celery would leave it at that until its next round, up to 5 s later.
    """

    def _event_process_exit(self, hub: Any, proc: Any) -> None:
        super()._event_process_exit(hub, proc)  # type: ignore[misc] # its published types leave it out
        if proc in self._pool:  # type: ignore[attr-defined]
            hub.call_later(AGAIN_S, self._event_process_exit, hub, proc)


class Pool(TaskPool):
    """What Celery's ``worker_pool`` may be set to."""

    Pool = AttentivePool
