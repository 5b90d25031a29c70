"""A slot: the child process that holds one model on one device, and drains its lane."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable

from ktqueue.bootstrap import bootstrap
from ktqueue.errors import Unavailable
from ktqueue.models import ModelSpec
from ktqueue.settings import Settings
from worker.engines import registry
from worker.engines.base import Engine
from worker.runner import EngineBroken, Runner

logger = logging.getLogger(__name__)


class Slot:
    """One model, loaded in this process. Made after the fork: it holds connections and device memory."""

    def __init__(
        self,
        settings: Settings,
        model: str,
        stopping: Callable[[], bool],
        *,
        load: Callable[[ModelSpec], Engine] = registry.load,
    ) -> None:
        services = bootstrap(settings)
        began = time.monotonic()
        engine = load(services.catalogue[model])
        logger.info("%s: ready after %.1f s", model, time.monotonic() - began)
        self._model = model
        self._runner = Runner(
            services.execution,
            engine,
            model=model,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            heartbeat_s=settings.heartbeat_seconds,
            grace_s=settings.grace_seconds,
            stopping=stopping,
        )

    def drain(self) -> int:
        """Run the lane until it is empty; how many jobs were claimed. Ends this process if the engine broke."""
        try:
            return self._runner.drain()
        except EngineBroken:
            # A device that is lost to a process stays lost to it. Celery starts another in its place, and the sweep
            # rings for what waits.
            logger.exception("%s: the engine is broken, this process makes room for a new one", self._model)
            sys.exit(1)
        except Unavailable as error:
            logger.warning("%s: left the lane to a later bell: %s", self._model, error)
            return 0
