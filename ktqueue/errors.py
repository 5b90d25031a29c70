"""Everything that can be refused or go wrong, as one tree.

::

    KtqueueError
    ├── Invalid                 the request is wrong; names the field and what is allowed
    │   ├── UnknownModel        no such alias; carries the names there are
    │   ├── UnsupportedTask     the model exists and can't do this task
    │   ├── TooLarge            a part of the request is over its bound
    │   └── IdempotencyMismatch the key was used before, for another request
    ├── Unauthenticated         no valid key
    ├── Forbidden               a valid key that lacks a scope; carries it
    ├── ForeignPage             a web page of another site would change something, and nobody is asked for keys
    ├── UnknownHost             asked for by a name that may be anybody's, and nobody is asked for keys
    ├── NotFound                no such job (or no longer)
    ├── Conflict                the job's state does not allow this
    ├── QueueFull               the lane has its limit; carries when to try again
    │   └── LimitExceeded       a tenant or a key has spent what it may; carries how its limits stand
    ├── LaneDraining            the lane takes no new jobs, by an operator's order
    ├── Unavailable             a part we depend on did not answer; safe to try again
    │   ├── StoreUnavailable    SQL
    │   └── LanesUnavailable    Redis
    ├── NotVerified             a webhook that was received is not signed as it must be
    └── ConfigurationError      settings or models.toml are wrong; shown at start, ends the process
        └── SecretUnreadable    no key opens a sealed secret

HTTP statuses are not known here: `api/errors.py` maps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class KtqueueError(Exception):
    """The root; ``str()`` of it is fit to be shown to a client."""


class Invalid(KtqueueError):
    """The request is wrong. ``field`` is a dotted path into it, or "" for the whole."""

    code = "invalid_request"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class UnknownModel(Invalid):
    """No model of that alias in the catalogue."""

    code = "unknown_model"

    def __init__(self, model: str, known: list[str]) -> None:
        super().__init__(f"no model named {model!r}; there are: {', '.join(known)}", field="model")
        self.known = known


class UnsupportedTask(Invalid):
    """The model is there and can't do the task that was asked for."""

    code = "unsupported_task"


class TooLarge(Invalid):
    """Some part of the request is over its bound."""

    code = "too_large"


class IdempotencyMismatch(Invalid):
    """The Idempotency-Key was used before, with another request."""

    code = "idempotency_mismatch"


class Unauthenticated(KtqueueError):
    """It needs a key. ``given`` says whether there was one: it is wrong, then, or no longer valid."""

    code = "unauthenticated"

    def __init__(self, message: str, *, given: bool) -> None:
        super().__init__(message)
        self.given = given


class Forbidden(KtqueueError):
    """The key is valid and does not have ``scope``."""

    code = "forbidden"

    def __init__(self, scope: str) -> None:
        super().__init__(f"this key does not have the scope {scope}")
        self.scope = scope


class ForeignPage(KtqueueError):
    """A browser sent it for a page of another site, which may do nothing in its user's name."""

    code = "foreign_page"


class UnknownHost(KtqueueError):
    """It was sent to a name that nobody said leads here: another site's, perhaps, for a page that a browser shows."""

    code = "unknown_host"


class NotFound(KtqueueError):
    """There is no such thing, or there is no longer."""

    code = "not_found"


class Conflict(KtqueueError):
    """What was asked does not fit the job's present state."""

    code = "conflict"


class QueueFull(KtqueueError):
    """The lane holds as many queued jobs as it may. ``retry_after_s``: whole seconds, at least 1."""

    code = "queue_full"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooLate(KtqueueError):
    """By what waits before it a job would end after its deadline. ``retry_after_s``: whole seconds, at least 1."""

    code = "too_late"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LaneDraining(KtqueueError):
    """An operator ordered that the lane takes no new jobs; those that it has are run."""

    code = "lane_draining"


class LimitExceeded(QueueFull):
    """A tenant or a key has spent what it may. ``standings`` are the rates that were asked, the last one used up."""

    code = "limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: int, standings: Sequence[Any] = ()) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.standings = standings


class Unavailable(KtqueueError):
    """Something we depend on did not answer. Trying again later is safe."""

    code = "unavailable"


class StoreUnavailable(Unavailable):
    """The SQL database did not answer, or is locked."""


class LanesUnavailable(Unavailable):
    """Redis did not answer."""


class ConfigurationError(KtqueueError):
    """Settings or models.toml are wrong. One clear line, then a non-zero exit."""

    code = "configuration"


class SecretUnreadable(ConfigurationError):
    """None of our keys opens a secret that was stored."""


class NotVerified(KtqueueError):
    """A request is not from whom it says, or not from now."""

    code = "not_verified"
