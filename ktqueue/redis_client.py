"""The Redis client: one way to connect, and one way to say that the server did not serve."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from ktqueue.breaker import Breaker
from ktqueue.errors import ConfigurationError, LanesUnavailable

CONNECT_S = 1.0
ANSWER_S = 2.0
"""Longest a command may take; a read that blocks must ask for less."""
PING_AFTER_IDLE_S = 15
RECONNECTS = 3
"""With the pauses below some 0.3 s in all: a server that restarts is waited for, one that is gone is soon reported."""

logger = logging.getLogger(__name__)


class Client(redis.Redis):
    """A thread-safe, pooled client that knows when its server is away, and then waits for nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._breaker = Breaker("Redis", self._answers)

    @contextmanager
    def served(self) -> Iterator[None]:
        """Turn whatever keeps the server from doing its work into LanesUnavailable; at once while it is away.

        That is no answer, and an error for an answer too: full, read-only, out of disk.
        """
        if self._breaker.open:
            raise LanesUnavailable("the queue's Redis is away")
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError) as error:
            self._breaker.trip(error)
            raise LanesUnavailable("the queue's Redis is not available") from error
        except redis.ResponseError as error:
            logger.warning("Redis did not serve: %s", error)
            raise LanesUnavailable("the queue's Redis is not available") from error

    def _answers(self) -> bool:
        try:
            return bool(self.ping())
        except redis.RedisError:
            return False

    def close(self) -> None:
        """Close every connection; a later call opens new ones."""
        self._breaker.end()
        super().close()


def connect(url: str) -> Client:
    """A client for ``redis://``, ``rediss://`` or ``unix://``; connects when it is first used.

    Answers are ``str``. Raises ConfigurationError for any other URL.
    """
    try:
        _ = urlsplit(url).port
    except ValueError:
        # Redis-py would take another port. What stands there may be of the password, and is not repeated.
        raise ConfigurationError(
            "KTQ_REDIS_URL: its port is not a number; what is special in a user name or password is percent-encoded"
        ) from None
    try:
        client = Client.from_url(
            url,
            decode_responses=True,
            protocol=2,  # redis-py parses it more than twice as fast as RESP3
            socket_connect_timeout=CONNECT_S,
            socket_timeout=ANSWER_S,
            health_check_interval=PING_AFTER_IDLE_S,
            # A refused or broken connection is tried again; one that hangs has taken its time already.
            retry=Retry(ExponentialBackoff(cap=0.3, base=0.02), RECONNECTS, (redis.ConnectionError,)),
        )
    except ValueError as error:
        raise ConfigurationError(f"KTQ_REDIS_URL: {error}") from error
    return cast("Client", client)
