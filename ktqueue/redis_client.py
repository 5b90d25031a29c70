"""The Redis client: one way to connect, and one way to say that the server did not serve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from ktqueue.errors import ConfigurationError, LanesUnavailable

CONNECT_S = 1.0
ANSWER_S = 2.0
"""Longest a command may take; a read that blocks must ask for less."""
PING_AFTER_IDLE_S = 15
RECONNECTS = 5
"""With the pauses below some 0.9 s in all: a server that restarts is waited for, one that is gone is soon reported."""


def connect(url: str) -> redis.Redis:
    """A thread-safe, pooled client for ``redis://``, ``rediss://`` or ``unix://``; connects when it is first used.

    Answers are ``str``. Raises ConfigurationError for any other URL.
    """
    try:
        return redis.Redis.from_url(
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


@contextmanager
def served() -> Iterator[None]:
    """Turn whatever keeps the server from doing its work into LanesUnavailable.

    That is no answer, and an error for an answer too: full, read-only, still loading, out of disk.
    """
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError) as error:
        raise LanesUnavailable("the queue's Redis is not available") from error
