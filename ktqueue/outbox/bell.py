"""The sender's bell: a Celery message that wakes the one who delivers, unless one is on its way already."""

from __future__ import annotations

import logging
from typing import Protocol

from ktqueue.celery_settings import DELIVER, DELIVERIES
from ktqueue.errors import LanesUnavailable
from ktqueue.redis_client import Client

KEY = "ktq:bell-of-deliveries"
LOST_MS = 1_000
"""A bell that nobody answers in this time is taken for lost."""

logger = logging.getLogger(__name__)


class Bell(Protocol):
    """Who sends Celery messages."""

    def send(self, task: str, arguments: list[str], queue: str) -> None:
        """Wake one who listens to ``queue``; raises LanesUnavailable."""


class DeliveryBell:
    """Rung after each commit that left something to deliver; what is lost here the sweep rings for."""

    def __init__(self, client: Client, bell: Bell) -> None:
        self._client = client
        self._bell = bell

    def ring(self) -> None:
        """Wake a sender, if Redis is there."""
        try:
            with self._client.served():
                unheard = self._client.set(KEY, 1, nx=True, px=LOST_MS)
            if unheard:
                self._bell.send(DELIVER, [], DELIVERIES)
        except LanesUnavailable as error:
            logger.debug("deliveries wait for the sweep: %s", error)

    def answer(self) -> None:
        """Note that the bell was heard: the next `ring` sends a new one. Raises LanesUnavailable."""
        with self._client.served():
            self._client.delete(KEY)
