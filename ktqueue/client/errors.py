"""Everything a client can run into, as one tree.

::

    KtqueueClientError
    ├── ConnectionFailed     nobody answered, or the connection broke; says whether the request may have arrived
    ├── ApiError             the server answered with an error: status, code, message, field
    │   ├── InvalidRequest   4xx that fits none of the next; what was sent is wrong
    │   ├── NotFound         404
    │   ├── Conflict         409, its state does not allow this
    │   ├── RateLimited      429, nothing was stored; carries when to try again
    │   ├── Unavailable      502, 503, 504
    │   └── ServerError      any other status, or an answer that is not this API's
    ├── JobEnded             `result()` of a job that did not succeed; carries the job
    │   ├── JobFailed
    │   ├── JobCancelled
    │   └── JobExpired
    └── WaitTimeout          it was not finished in time; also a TimeoutError
"""

from __future__ import annotations

from ktqueue.client.values import Job
from ktqueue.job import JobState


class KtqueueClientError(Exception):
    """The root; ``str()`` of it is one line, fit to be shown."""


class ConnectionFailed(KtqueueClientError):
    """There was no answer, or half of one. ``sent`` is false only if it is certain that no byte reached the server.

    ``tries`` counts how often it was tried.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent
        self.tries = 1


class ApiError(KtqueueClientError):
    """The server refused.

    ``code`` is stable and for programs, ``message`` is for people, ``field`` is a dotted path into the request
    (or ""), ``retry_after`` is in seconds where the server gave it, ``tries`` counts how often it was asked.
    """

    def __init__(
        self, message: str, *, status: int, code: str, field: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.field = field
        self.retry_after = retry_after
        self.tries = 1


class InvalidRequest(ApiError):
    """What was sent is wrong; sending it again will not help."""


class NotFound(ApiError):
    """No such thing, or no longer."""


class Conflict(ApiError):
    """The state of the job, or of the endpoint, does not allow this."""


class RateLimited(ApiError):
    """The server takes no more now, and stored nothing of this request."""


class Unavailable(ApiError):
    """The server, or something that it depends on, is away for the moment."""


class ServerError(ApiError):
    """The server has a fault, or it is not a ktqueue server."""


class JobEnded(KtqueueClientError):
    """The job has ended and there is no result."""

    def __init__(self, job: Job) -> None:
        reason = f": {job.error.message} ({job.error.code})" if job.error else ""
        super().__init__(f"{job.id} is {job.state}{reason}")
        self.job = job


class JobFailed(JobEnded):
    """It failed; ``job.error`` says why."""


class JobCancelled(JobEnded):
    """Somebody cancelled it."""


class JobExpired(JobEnded):
    """Its deadline passed first."""


class WaitTimeout(KtqueueClientError, TimeoutError):
    """Not finished in time; the jobs, or the delivery, go on. ``pending`` holds their ids."""

    def __init__(self, pending: list[str]) -> None:
        what = pending[0] if len(pending) == 1 else f"{len(pending)} jobs, {pending[0]} among them,"
        super().__init__(f"{what} did not finish in time")
        self.pending = pending


def unreadable(what: str, *, status: int) -> ServerError:
    """The error for an answer that can't be this API's."""
    message = f"the server's answer (status {status}) {what}; is this a ktqueue server?"
    return ServerError(message, status=status, code="unreadable_answer")


_REFUSALS = {404: NotFound, 409: Conflict, 429: RateLimited, 502: Unavailable, 503: Unavailable, 504: Unavailable}
_ENDINGS = {JobState.FAILED: JobFailed, JobState.CANCELLED: JobCancelled, JobState.EXPIRED: JobExpired}


def refusal(status: int) -> type[ApiError]:
    """The class for an HTTP status that is not 2xx."""
    otherwise = InvalidRequest if 400 <= status < 500 else ServerError
    return _REFUSALS.get(status, otherwise)


def ending(job: Job) -> JobEnded:
    """The error for a terminal job that did not succeed."""
    return _ENDINGS[job.state](job)
