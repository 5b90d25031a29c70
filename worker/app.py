"""The Celery side: one app a process, stock Celery, set up by signals.

The parent of a worker with children only supervises: models are loaded, and connections opened, in its children.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
from collections.abc import Callable

from celery import Celery
from celery.signals import setup_logging, worker_process_init, worker_process_shutdown, worker_shutting_down

from ktqueue.celery_settings import celery_app
from ktqueue.process import AFTER_GRACE_S, watch_parent
from ktqueue.settings import Settings

LOAD_TIMEOUT_S = 900.0
"""A child is up once its model is loaded; Celery replaces one that takes longer."""
LEFT_S = 0.5
"""Of what a process may take after its grace, kept for the kernel to end it and its children."""


class StopFlag:
    """Set by a worker's parent when it is told to stop, seen by its children: a byte of shared memory."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Ask the children to stop pulling."""
        self._page[0] = 1

    def __call__(self) -> bool:
        """Whether a stop was asked."""
        return self._page[0] == 1


def create_app(settings: Settings) -> Celery:
    """A Celery app without tasks, for whichever role asks."""
    app = celery_app(settings.redis_url, current=True)
    app.conf.worker_proc_alive_timeout = LOAD_TIMEOUT_S
    setup_logging.connect(lambda **_: configure_logging(settings), weak=False)
    return app


def configure_logging(settings: Settings) -> None:
    """One line an entry on stderr; the libraries below us speak only of trouble."""
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", level=logging.WARNING, force=True)
    for ours in ("ktqueue", "worker", "api"):
        logging.getLogger(ours).setLevel(settings.log_level.upper())


def in_each_child(
    prepare: Callable[[], object], stop: StopFlag, settings: Settings, *, leave: Callable[[], None] = lambda: None
) -> None:
    """Run ``prepare`` in every child before its first task, and ``leave`` when it ends in good order.

    Children are told of a stop, and of their parent's death.
    """

    def started(**_: object) -> None:
        # Celery has the kernel kill children with their parent on Linux; elsewhere they must see it for themselves.
        watch_parent(os.getppid(), stop.set, settings.grace_seconds)
        prepare()

    def told_to_stop(**_: object) -> None:
        if not stop():
            stop.set()
            _end_within(settings.grace_seconds + AFTER_GRACE_S - LEFT_S)

    worker_process_init.connect(started, weak=False)
    worker_process_shutdown.connect(lambda **_: leave(), weak=False)
    worker_shutting_down.connect(told_to_stop, weak=False)


def in_this_process(prepare: Callable[[], object], settings: Settings) -> None:
    """Run ``prepare`` in a worker without children before its first task. A task that runs is not told of a stop.

    Whoever starts the process sees to it that it ends with its parent.
    """
    worker_process_init.connect(lambda **_: prepare(), weak=False)
    worker_shutting_down.connect(lambda **_: _end_within(settings.grace_seconds + AFTER_GRACE_S - LEFT_S), weak=False)


def _end_within(seconds: float) -> None:
    """Let the kernel end this process, and its children with it: Celery waits for ever for what hangs.

    An alarm that nobody handles, as in `worker.watchdog`. Only the main thread may set it, and the first time counts.
    """
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
