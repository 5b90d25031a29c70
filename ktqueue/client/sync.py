"""The synchronous client: each method runs the operation of the same name to its end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self, Unpack

import httpx

from ktqueue.client.http import SyncIo, base_url, headers_of, trusts_proxies
from ktqueue.client.operations import Operations
from ktqueue.client.sync_operator import SyncOperator
from ktqueue.client.sync_webhooks import SyncWebhooks
from ktqueue.client.values import Event, Job, JobOptions, JobSpec, Lane, Model, Receipt, Submitted
from ktqueue.client.wire import iterate, run
from ktqueue.job import JsonObject


class Client:
    """A client that blocks; threads may share it. Close it, or use it with ``with``.

    Each method is the operation of the same name; `Operations` says more of each.

    ``timeout`` is for connecting and for each read, in seconds, on top of what a wait may take. A request that
    fails is sent again up to ``max_retries`` times where that is safe. ``api_key`` is what a server that asks for keys
    has given out. Raises ValueError for a bad ``url`` or key.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        max_retries: int = 3,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        base = base_url(url)
        self._http = httpx.Client(
            base_url=base,
            headers=headers_of(api_key),
            timeout=timeout,
            transport=transport,
            trust_env=trusts_proxies(base),
        )
        self._operations = Operations(SyncIo(self._http, sleep, clock, jitter), max_retries=max_retries)
        self.webhooks = SyncWebhooks(self._operations.webhooks)
        self.operator = SyncOperator(self._operations.operator)

    def submit(
        self,
        model: str,
        input: JsonObject | str,  # noqa: A002 - the API's word
        *,
        idempotency_key: str | None = None,
        wait: float | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Submit one job; a plain string is a prompt (for embed and classify: the text)."""
        return run(self._operations.submit(model, input, idempotency_key=idempotency_key, wait=wait, **options))

    def submit_many(self, jobs: Iterable[JobSpec | str | bytes], *, progress: bool = False) -> Iterator[Submitted]:
        """Submit any number of jobs and tell of each, in order; nothing is sent until this is iterated over."""
        return iterate(self._operations.submit_many(jobs, progress=progress))

    def get(self, job: Job | str) -> Job:
        """The job as it is now. Raises NotFound."""
        return run(self._operations.get(job))

    def receipt(self, job: Job | str) -> Receipt:
        """What it took until now, attempt by attempt. Raises NotFound."""
        return run(self._operations.receipt(job))

    def list(
        self,
        *,
        states: Sequence[str] = (),
        model: str | None = None,
        metadata: dict[str, str] | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
    ) -> Iterator[Job]:
        """Jobs that match, newest first; fetches the next page when it is needed."""
        return iterate(
            self._operations.list(
                states=states,
                model=model,
                metadata=metadata,
                created_from=created_from,
                created_to=created_to,
            )
        )

    def models(self) -> Sequence[Model]:
        """The models the server offers."""
        return run(self._operations.models())

    def lanes(self, *, prompt_tokens: int | None = None, answer_tokens: int | None = None) -> Sequence[Lane]:
        """How much waits and runs in the lane of each model, and what a slot of it holds at once."""
        return run(self._operations.lanes(prompt_tokens=prompt_tokens, answer_tokens=answer_tokens))

    def wait(self, job: Job | str, timeout: float | None = None) -> Job:
        """The job once it has ended, however it ended. Raises WaitTimeout after ``timeout`` seconds."""
        return run(self._operations.wait(job, timeout=timeout))

    def result(self, job: Job | str, timeout: float | None = None) -> JsonObject:
        """What a job has made, once it has ended. Raises JobFailed, JobCancelled, JobExpired, WaitTimeout."""
        return run(self._operations.result(job, timeout=timeout))

    def as_completed(self, jobs: Iterable[Job | str], timeout: float | None = None) -> Iterator[Job]:
        """Each job once it has ended, however it ended, as they end. Raises NotFound, WaitTimeout."""
        return iterate(self._operations.as_completed(jobs, timeout=timeout))

    def stream(self, job: Job | str) -> Iterator[Event]:
        """Every event of a job from its first to its last, whenever one starts to look; survives lost connections."""
        return iterate(self._operations.stream(job))

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job unless it has ended already; either way the job as it now is. Raises NotFound."""
        return run(self._operations.cancel(job))

    def retry(self, job: Job | str) -> Job:
        """A new job like one that failed. Raises NotFound; Conflict if it did not fail."""
        return run(self._operations.retry(job))

    def delete(self, job: Job | str) -> None:
        """Forget a job that has ended. Raises NotFound; Conflict while it has not ended."""
        run(self._operations.delete(job))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
