"""Whether and when a request is sent again. Pure.

- No byte reached the server: always.
- 429: always, it is decided before anything is stored.
- The connection broke, or 502, 503, 504: nobody knows whether the server acted on it, so only what may be repeated:
  GET, DELETE, cancel, and a submit, because each carries an Idempotency-Key. A bulk submit and the retry of a
  failed job carry none, so they are not.
- Everything else would be refused again.
"""

from __future__ import annotations

from ktqueue.client.errors import ApiError, ConnectionFailed, RateLimited, Unavailable
from ktqueue.retry import Backoff

BACKOFF = Backoff(base_ms=250, cap_ms=8_000)
LONGEST_RETRY_AFTER_S = 120.0
"""A server that asks for more patience than this is not obeyed but reported."""


def delay_before_retry(
    error: ConnectionFailed | ApiError, *, tries: int, max_retries: int, repeatable: bool, jitter: float
) -> float | None:
    """Seconds until the request is sent again after ``tries`` failures, or None: raise the error."""
    if tries > max_retries or not _safe(error, repeatable=repeatable):
        return None
    asked = error.retry_after if isinstance(error, ApiError) else None
    if asked is None:
        return BACKOFF.delay_ms(tries, jitter) / 1000
    # Everybody who was turned away was told the same number: spread them a little.
    return asked * (1 + jitter / 10) if asked <= LONGEST_RETRY_AFTER_S else None


def _safe(error: ConnectionFailed | ApiError, *, repeatable: bool) -> bool:
    if isinstance(error, ConnectionFailed):
        return repeatable or not error.sent
    return isinstance(error, RateLimited) or (repeatable and isinstance(error, Unavailable))
