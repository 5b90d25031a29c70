"""The post: the child process that sends webhooks."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ktqueue.bootstrap import bootstrap
from ktqueue.errors import Unavailable
from ktqueue.liveness import identity
from ktqueue.settings import Settings
from worker.courier import Courier
from worker.metrics import DeliveryMetrics
from worker.sender import Sender
from worker.slot import LEAVING_S

logger = logging.getLogger(__name__)


class Post:
    """Made after the fork: it holds connections, and the service's keys."""

    def __init__(self, settings: Settings, stopping: Callable[[], bool]) -> None:
        services = bootstrap(settings)
        try:
            # This process may be here in place of one that died.
            services.redelivery.of_the_dead()
        except Unavailable as error:
            logger.warning("what a dead sender held is left to the sweep: %s", error)
        self._bell = services.delivery_bell
        self._courier = Courier(
            services.deliveries(identity()),
            Sender(services.address_rules),
            services.keyring,
            in_flight=settings.webhook_in_flight,
            timeout_s=settings.webhook_timeout_seconds,
            grace_s=max(0.0, settings.grace_seconds - LEAVING_S),
            stopping=stopping,
            meter=DeliveryMetrics(),
        )

    def drain(self) -> int:
        """Deliver until nothing is due; how many requests were made."""
        try:
            # Before the first look, so that nothing later is missed.
            self._bell.answer()
            return self._courier.drain()
        except Unavailable as error:
            logger.warning("left the outbox to a later bell: %s", error)
            return 0
