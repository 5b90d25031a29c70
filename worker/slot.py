"""A slot: the child process that holds one model on one device, and drains its lane."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable

from ktqueue.bootstrap import Services, bootstrap
from ktqueue.errors import Unavailable
from ktqueue.settings import Settings
from worker.engines.base import Engine
from worker.engines.registry import load
from worker.runner import EngineBroken, Runner

logger = logging.getLogger(__name__)


class Slot:
    """One model, loaded in this process. Made after the fork: it holds connections and device memory."""

    def __init__(self, settings: Settings, model: str, stopping: Callable[[], bool]) -> None:
        self._services: Services = bootstrap(settings)
        self._model = model
        self._stopping = stopping
        self._runner = self._new_runner()

    def drain(self) -> int:
        """Run the lane until it is empty; how many jobs were claimed."""
        try:
            return self._runner.drain()
        except EngineBroken:
            logger.exception("%s: the engine is broken, loading it anew", self._model)
            self._runner = self._new_runner()
            # What was given back comes with a later bell; what waits should not have to.
            return self._runner.drain()
        except Unavailable as error:
            logger.warning("%s: left the lane to a later bell: %s", self._model, error)
            return 0

    def _new_runner(self) -> Runner:
        settings = self._services.settings
        return Runner(
            self._services.execution,
            self._load(),
            model=self._model,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            heartbeat_s=settings.heartbeat_seconds,
            grace_s=settings.grace_seconds,
            stopping=self._stopping,
        )

    def _load(self) -> Engine:
        began = time.monotonic()
        engine = load(self._services.catalogue[self._model])
        logger.info("%s: ready after %.1f s", self._model, time.monotonic() - began)
        return engine
