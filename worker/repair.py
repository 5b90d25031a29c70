"""The task of the light worker, thin: what beat starts. A lost or doubled message changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import TypeAlias

from celery import Celery

from ktqueue.bootstrap import bootstrap
from ktqueue.celery_settings import SWEEP
from ktqueue.errors import Unavailable
from ktqueue.ledgers import Role
from ktqueue.settings import Settings
from worker.app import in_this_process
from worker.bookkeeping import keep_books
from worker.metrics import RepairMetrics
from worker.roster import keep_aside, keeper

Roster: TypeAlias = tuple[int, Sequence[str]]
"""The pipe to tell it through, and the models that its worker was begun with."""

logger = logging.getLogger(__name__)


def serve_light(app: Celery, settings: Settings, roster: Roster | None) -> None:
    """Make this process the light worker: what is quick, and no model's business. It may keep a roster too."""
    swept = cache(lambda: (bootstrap(settings).sweep, RepairMetrics()))
    keep_books(Role("light"))

    def prepare() -> None:
        swept()
        if roster is not None:
            keep_aside(keeper(*roster, settings))

    in_this_process(prepare, settings)

    @app.task(name=SWEEP)
    def repair() -> None:
        sweep, metrics = swept()
        try:
            metrics.repaired(sweep())
        except Unavailable as error:
            logger.warning("the sweep goes on in a second: %s", error)
