"""The task of the sender, thin: what a bell starts. A lost or doubled message changes nothing."""

from __future__ import annotations

from functools import cache

from celery import Celery

from ktqueue.celery_settings import DELIVER
from ktqueue.ledgers import Role
from ktqueue.settings import Settings
from worker.app import StopFlag, in_each_child
from worker.bookkeeping import keep_books
from worker.post import Post


def serve_deliveries(app: Celery, settings: Settings) -> None:
    """Make this app's child the one who tells webhooks what is in the outbox."""
    stop = StopFlag()
    post = cache(lambda: Post(settings, stop))
    keep_books(Role("deliver"))
    in_each_child(post, stop, settings)

    @app.task(name=DELIVER)
    def deliver() -> int:
        return post().drain()
