"""The roster keeper: watches what operators order of a worker, and tells its supervisor and whoever looks.

Under `ktqueue up` it is a thread of the light worker, which has all that it takes already. `ktqueue worker`
runs it as a process, ``python -m worker.roster DESCRIPTOR MODEL …``: each roster goes through the pipe ``DESCRIPTOR``,
and the worker was begun with ``MODEL …``.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

from ktqueue.controls.base import Controls
from ktqueue.controls.sql import SqlControls
from ktqueue.errors import KtqueueError, LanesUnavailable, StoreUnavailable
from ktqueue.models import load_catalogue
from ktqueue.presence.base import MISSED, Presence, Worker
from ktqueue.presence.redis import RedisPresence
from ktqueue.process import die_with_parent
from ktqueue.redis_client import connect
from ktqueue.roster import named, roster, word_of
from ktqueue.settings import Settings

LOOK_S = 0.5

logger = logging.getLogger(__name__)


class RosterKeeper:
    """Call ``look`` again and again. ``tell`` is given each roster that differs from the one before."""

    def __init__(
        self,
        controls: Controls,
        presence: Presence,
        tell: Callable[[Sequence[str]], None],
        *,
        worker: str,
        host: str,
        catalogue: Sequence[str],
        begun_with: Collection[str],
        heartbeat_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._controls = controls
        self._presence = presence
        self._tell = tell
        self._worker = worker
        self._host = host
        self._catalogue = tuple(catalogue)
        self._begun_with = begun_with
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._models: list[str] | None = None
        self._away = False
        self._show_at = 0.0

    def look(self) -> None:
        """Once. While the database is away what was read last holds; before that nothing is served."""
        try:
            orders = self._controls.serving(self._worker)
        except StoreUnavailable as error:
            if not self._away:
                logger.warning("what %s is to serve can't be read: %s", self._worker, error)
            self._away = True
        else:
            self._away = False
            models = roster(self._catalogue, self._begun_with, orders)
            if models != self._models:
                self._models = models
                self._tell(models)
                self._show_at = self._clock()
        self._show()

    def _show(self) -> None:
        """Best effort: it is shown again."""
        now = self._clock()
        if self._models is None or now < self._show_at:
            return
        self._show_at = now + self._heartbeat_s
        word = Worker(self._worker, self._host, tuple(self._models), self._catalogue)
        try:
            self._presence.tell_worker(word, for_ms=int(MISSED * self._heartbeat_s * 1000))
        except LanesUnavailable as error:
            logger.debug("nobody is told what %s serves: %s", self._worker, error)


def keeper(descriptor: int, begun_with: Collection[str], settings: Settings) -> RosterKeeper:
    """One that tells through the pipe ``descriptor``. Make it after a fork: it holds connections."""
    return RosterKeeper(
        SqlControls(settings.sql_url),
        RedisPresence(connect(settings.redis_url)),
        lambda models: _say(descriptor, models),
        worker=named(settings.worker_name),
        host=socket.gethostname(),
        catalogue=list(load_catalogue(settings.models)),
        begun_with=begun_with,
        heartbeat_s=settings.heartbeat_seconds,
    )


def _say(descriptor: int, models: Sequence[str]) -> None:
    os.write(descriptor, word_of(models))


def keep(keeper: RosterKeeper) -> NoReturn:
    """Watch until the process ends."""
    while True:
        keeper.look()
        time.sleep(LOOK_S)


def keep_aside(keeper: RosterKeeper) -> None:
    """Watch from a thread of its own. What ends that ends the process: its successor tries again."""

    def watch() -> None:
        try:
            keep(keeper)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="roster", daemon=True).start()


if __name__ == "__main__":
    try:
        environment = Settings.from_env(os.environ)
        die_with_parent(environment.grace_seconds)
        logging.basicConfig(format="%(message)s", level=environment.log_level.upper())
        keep(keeper(int(sys.argv[1]), sys.argv[2:], environment))
    except KtqueueError as error:
        sys.exit(f"ktqueue worker: {error}")
