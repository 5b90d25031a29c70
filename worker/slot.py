"""A slot: the child process that holds one model in one place, and drains its lane."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeAlias

from ktqueue.bootstrap import Services, bootstrap
from ktqueue.errors import Unavailable
from ktqueue.leases.base import Leases
from ktqueue.liveness import identity
from ktqueue.models import ModelSpec, Place
from ktqueue.presence import base as presence
from ktqueue.presence.base import SlotState
from ktqueue.roster import named
from ktqueue.settings import Settings
from worker.engines import registry
from worker.engines.base import Engine, Relay
from worker.herald import Herald
from worker.metrics import LaneMetrics
from worker.places import Seat
from worker.pulse import PulseTaker
from worker.runner import EngineBroken, Runner
from worker.watchdog import Watchdog

LEAVING_S = 0.5
"""Kept of the grace for what comes after the last step: Celery takes its time to end a child and then its parent."""

Load: TypeAlias = Callable[[ModelSpec, Place, Leases], Engine]

logger = logging.getLogger(__name__)


class Slot:
    """One model, loaded in this process. Made after the fork: it holds connections and device memory."""

    def __init__(
        self,
        settings: Settings,
        model: str,
        seat: Seat,
        stopping: Callable[[], bool],
        *,
        load: Load = registry.load,
    ) -> None:
        services = bootstrap(settings)
        self._model = model
        self._stopping = stopping
        self._relay: Relay | None = None
        self._metrics = LaneMetrics(model)
        self._status = presence.Slot(
            identity(),
            model,
            ", ".join(seat.place),
            room=None,
            running=0,
            since=None,
            number=seat.number,
            worker=named(settings.worker_name),
            state=SlotState.STARTING,
        )
        self._herald = Herald(services.presence, self._as_it_is, every_s=settings.heartbeat_seconds)
        with ExitStack() as on_failure:
            on_failure.callback(self._herald.stop)
            self._herald.start()
            engine = self._loaded(services, seat, load)
            on_failure.pop_all()
        self._runner = self._on(engine, services)
        self._runner.tell_room()
        now = int(time.time() * 1000)  # noqa: TID251 - for people
        self._status = replace(self._status, room=engine.room(), since=now, state=SlotState.READY)
        self._herald.tell()

    def _loaded(self, services: Services, seat: Seat, load: Load) -> Engine:
        model = self._model
        try:
            # This process may be here in place of one that died. Loading takes long, so its jobs are let go first.
            services.recovery.of_the_dead()
        except Unavailable as error:
            logger.warning("%s: what the dead held is left to the sweep: %s", model, error)
        began = time.monotonic()
        spec = services.catalogue[model]
        engine = load(spec, seat.place, services.leases)
        device = registry.device_of(spec, seat.place)
        self._status = replace(self._status, device=device)
        logger.info("%s: ready on %s after %.1f s; %s", model, device, time.monotonic() - began, engine.room())
        self._relay = engine if isinstance(engine, Relay) else None
        self._pulse = PulseTaker(engine.vitals, lambda: registry.device_use(spec, seat.place), self._metrics)
        return engine

    def _on(self, engine: Engine, services: Services) -> Runner:
        settings = services.settings
        return Runner(
            services.execution,
            engine,
            model=self._model,
            worker=self._status.name,
            heartbeat_s=settings.heartbeat_seconds,
            grace_s=max(0.0, settings.grace_seconds - LEAVING_S),
            stopping=self._stopping,
            watchdog=Watchdog(settings.step_seconds),
            meter=self._metrics,
        )

    def _as_it_is(self) -> presence.Slot:
        """Asked by the herald, from its thread, from before the model is loaded."""
        status = self._status
        if self._stopping():
            status = replace(status, state=SlotState.STOPPING)
        if status.since is None:
            return status
        instances = () if self._relay is None else self._relay.instances()
        return replace(status, running=self._runner.running, instances=instances, pulse=self._pulse.look())

    def close(self) -> None:
        """The process ends in good order: whatever other slots wait for is theirs at once, and no more is told."""
        self._herald.stop()
        if self._relay is not None:
            self._relay.close()

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
