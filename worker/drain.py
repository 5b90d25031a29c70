"""The task of a lane's worker, thin: what a bell starts. A lost or doubled message changes nothing."""

from __future__ import annotations

from functools import cache

from celery import Celery

from ktqueue.celery_settings import DRAIN
from ktqueue.ledgers import Role
from ktqueue.settings import Settings
from worker.app import StopFlag, in_each_child
from worker.bookkeeping import keep_books
from worker.places import Places
from worker.slot import Slot


def serve_lane(app: Celery, settings: Settings, model: str, places: Places) -> None:
    """Make this app's children slots of one lane, each in one of ``places``."""
    stop = StopFlag()
    # Loaded before the first bell; a load that failed is tried again with the next.
    seat = cache(places.take)
    slot = cache(lambda: Slot(settings, model, seat(), stop))
    keep_books(Role("lane", model))

    def leave() -> None:
        if slot.cache_info().currsize:
            slot().close()

    in_each_child(slot, stop, settings, leave=leave)

    @app.task(name=DRAIN)
    def drain(_model: str) -> int:
        return slot().drain()
