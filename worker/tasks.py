"""The tasks, thin: what a message starts. Correctness never rests on one: a lost or doubled message changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import TypeAlias

from celery import Celery

from ktqueue.bootstrap import bootstrap
from ktqueue.celery_settings import DELIVER, DRAIN, SWEEP
from ktqueue.errors import Unavailable
from ktqueue.ledgers import Role
from ktqueue.settings import Settings
from worker.app import StopFlag, in_each_child
from worker.bookkeeping import keep_books
from worker.metrics import RepairMetrics
from worker.places import Places
from worker.post import Post
from worker.roster import keep_aside, keeper
from worker.slot import Slot

Roster: TypeAlias = tuple[int, Sequence[str]]
"""The pipe to tell it through, and the models that its worker was begun with."""

logger = logging.getLogger(__name__)


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


def serve_light(app: Celery, settings: Settings, roster: Roster | None) -> None:
    """Make this app's child the light worker: what is quick, and no model's business. It may keep a roster too."""
    swept = cache(lambda: (bootstrap(settings).sweep, RepairMetrics()))
    keep_books(Role("light"))

    def prepare() -> None:
        swept()
        if roster is not None:
            keep_aside(keeper(*roster, settings))

    in_each_child(prepare, StopFlag(), settings)

    @app.task(name=SWEEP)
    def repair() -> None:
        sweep, metrics = swept()
        try:
            metrics.repaired(sweep())
        except Unavailable as error:
            logger.warning("the sweep goes on in a second: %s", error)


def serve_deliveries(app: Celery, settings: Settings) -> None:
    """Make this app's child the one who tells webhooks what is in the outbox."""
    stop = StopFlag()
    post = cache(lambda: Post(settings, stop))
    keep_books(Role("deliver"))
    in_each_child(post, stop, settings)

    @app.task(name=DELIVER)
    def deliver() -> int:
        return post().drain()
