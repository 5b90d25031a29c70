"""Every operation of the client, once. `AsyncClient` is these; `Client` runs these."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Iterable, Sequence, Sized
from contextlib import aclosing
from datetime import datetime
from typing import Unpack
from urllib.parse import quote

from tqdm import tqdm

from ktqueue.client.bulk import NumberedLine, bodies
from ktqueue.client.errors import ConnectionFailed, NotFound, WaitTimeout, ending, unreadable
from ktqueue.client.operator import OperatorOperations
from ktqueue.client.paging import GROUP, items
from ktqueue.client.patience import Patience, Rounds
from ktqueue.client.sending import Sender
from ktqueue.client.sse import EventParser
from ktqueue.client.values import (
    Event,
    Job,
    JobOptions,
    JobSpec,
    Lane,
    Model,
    Receipt,
    Submitted,
    job_body,
    key_of,
    rfc3339,
)
from ktqueue.client.webhooks import WebhookOperations
from ktqueue.client.wire import Io, Lines, Reply, Request
from ktqueue.job import JobState, JsonObject

JOBS = "/api/v1/jobs"
LONGEST_HOLD_S = 30.0
"""One long poll asks the server to hold it for this long at most."""
ENDED = tuple(state for state in JobState if state.terminal)


class Operations:
    """The operations, over any `Io`."""

    def __init__(self, io: Io, *, max_retries: int) -> None:
        self._io = io
        self._sender = Sender(io, max_retries=max_retries)
        self.webhooks = WebhookOperations(io, self._sender)
        self.operator = OperatorOperations(self._sender)

    # --- submitting ---

    async def submit(
        self,
        model: str,
        input: JsonObject | str,  # noqa: A002 - the API's word
        *,
        idempotency_key: str | None = None,
        wait: float | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Submit one job; a plain string is a prompt (for embed and classify: the text).

        Carries an Idempotency-Key, its own if none is given, so it is sent again safely when an answer is lost.
        With ``wait`` the server answers when the job has ended, or after that many seconds (60 at most) with
        the job as it is then. Raises RateLimited while the lane is full, and the rest of the error tree; ValueError
        for a key that is not 1-255 visible ASCII characters, and for NaN.
        """
        headers = {"Content-Type": "application/json", "Idempotency-Key": key_of(idempotency_key)}
        if wait is not None:
            headers["Prefer"] = f"wait={math.ceil(wait)}"
        body = json.dumps(job_body(model, input, options), allow_nan=False).encode()
        request = Request("POST", JOBS, headers=headers, body=body, hold_s=wait or 0.0)
        return (await self._sender.call(request)).value(Job)

    async def submit_many(
        self, jobs: Iterable[JobSpec | str | bytes], *, progress: bool = False
    ) -> AsyncGenerator[Submitted, None]:
        """Submit any number of jobs, read from ``jobs`` as they are sent; tell of each, in order.

        Nothing is sent until the answers are iterated over. Text, or bytes, is a line of NDJSON, sent as it is.
        One bad job does not stop the others. Raises ConnectionFailed when the connection breaks: what was told
        until then is accepted, of the next 1,000 at most nobody knows, and they are not sent again.
        """
        total = len(jobs) if isinstance(jobs, Sized) else None
        with tqdm(total=total, unit="job", disable=not progress) as bar:
            for lines in bodies(jobs):
                async with aclosing(self._submit_lines(lines)) as answers:
                    async for answer in answers:
                        bar.update()
                        yield answer

    async def _submit_lines(self, lines: Sequence[NumberedLine]) -> AsyncGenerator[Submitted, None]:
        headers = {"Content-Type": "application/x-ndjson"}
        body = b"".join(line.text for line in lines)
        request = Request("POST", f"{JOBS}:bulk", headers=headers, body=body, repeatable=False)
        stream = await self._sender.open(request)
        unanswered = [line.number for line in reversed(lines)]
        splitter = Lines()
        try:
            async for chunk in stream.chunks():
                for text in splitter.feed(chunk):
                    if not unanswered:
                        raise unreadable("has more lines than were sent", status=stream.status)
                    answer = Reply(stream.status, stream.headers, text)
                    yield answer.parsed(Submitted, answer.json() | {"line": unanswered.pop()})
        finally:
            await stream.close()
        if unanswered:
            raise ConnectionFailed(f"{len(unanswered)} of {len(lines)} jobs were not answered", sent=True)

    # --- looking ---

    async def get(self, job: Job | str) -> Job:
        """The job as it is now. Raises NotFound."""
        return (await self._sender.call(Request("GET", _path(job)))).value(Job)

    async def receipt(self, job: Job | str) -> Receipt:
        """What it took until now, attempt by attempt. Raises NotFound."""
        return (await self._sender.call(Request("GET", f"{_path(job)}/receipt"))).value(Receipt)

    def list(
        self,
        *,
        states: Sequence[str] = (),
        model: str | None = None,
        metadata: dict[str, str] | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
    ) -> AsyncGenerator[Job, None]:
        """Jobs that match, newest first; fetches the next page when it is needed."""
        query = [("state", state) for state in states]
        query += [(f"metadata.{key}", value) for key, value in (metadata or {}).items()]
        query += [("model", model)] if model is not None else []
        query += [("created_from", rfc3339(created_from))] if created_from is not None else []
        query += [("created_to", rfc3339(created_to))] if created_to is not None else []
        return items(self._sender, JOBS, query, Job)

    async def models(self) -> Sequence[Model]:
        """The models the server offers."""
        return (await self._sender.call(Request("GET", "/api/v1/models"))).values(Model)

    async def lanes(self, *, prompt_tokens: int | None = None, answer_tokens: int | None = None) -> Sequence[Lane]:
        """How much waits and runs in the lane of each model, and what a slot of it holds at once.

        That is told for prompts and answers of so many tokens; the server chooses where none are given.
        """
        query = [("prompt_tokens", str(prompt_tokens))] if prompt_tokens is not None else []
        query += [("answer_tokens", str(answer_tokens))] if answer_tokens is not None else []
        return (await self._sender.call(Request("GET", "/api/v1/lanes", query=query))).values(Lane)

    # --- waiting ---

    async def wait(self, job: Job | str, timeout: float | None = None) -> Job:  # noqa: ASYNC109 - of the job
        """The job once it has ended, however it ended. Raises WaitTimeout after ``timeout`` seconds."""
        patience = Patience(self._io.now, timeout)
        while True:
            hold = min(LONGEST_HOLD_S, patience.left())
            asked_at = self._io.now()
            query = [("wait", str(math.ceil(hold)))]
            reply = await self._sender.call(Request("GET", _path(job), query=query, hold_s=hold))
            seen = reply.value(Job)
            if seen.state.terminal:
                return seen
            if patience.over():
                raise WaitTimeout([seen.id])
            held = self._io.now() - asked_at
            await self._io.sleep(patience.pause(held=held, asked=hold, hint=reply.retry_after))

    async def result(self, job: Job | str, timeout: float | None = None) -> JsonObject:  # noqa: ASYNC109
        """What a job has made, once it has ended. Raises JobFailed, JobCancelled, JobExpired, WaitTimeout."""
        ended = await self.wait(job, timeout=timeout)
        if ended.state is not JobState.SUCCEEDED:
            raise ending(ended)
        return ended.result or {}

    async def as_completed(
        self,
        jobs: Iterable[Job | str],
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> AsyncGenerator[Job, None]:
        """Each job once it has ended, however it ended, as they end. Raises NotFound, WaitTimeout.

        Asks for a hundred jobs at a time, in rounds that come less often the more there are and the less happens.
        """
        patience = Patience(self._io.now, timeout)
        rounds = Rounds()
        pending = dict.fromkeys(_id(job) for job in jobs)
        while True:
            before = len(pending)
            ids = list(pending)
            for start in range(0, before, GROUP):
                for job in await self._ended(ids[start : start + GROUP], all_states=rounds.thorough):
                    del pending[job.id]
                    yield job
            if not pending:
                return
            if patience.over():
                raise WaitTimeout(list(pending))
            await self._io.sleep(min(patience.left(), rounds.pause(before, len(pending))))

    async def _ended(self, ids: Sequence[str], *, all_states: bool) -> Sequence[Job]:
        """Those of ``ids`` that have ended. Asking for the others too shows whether they are still there."""
        query = [("id", job_id) for job_id in ids]
        query += [] if all_states else [("state", state.value) for state in ENDED]
        # A page ends early when its results are large, so there may be several.
        jobs = [job async for job in items(self._sender, JOBS, query, Job)]
        if all_states and (missing := set(ids) - {job.id for job in jobs}):
            raise NotFound(f"there is no job {min(missing)}", status=404, code="not_found")
        return [job for job in jobs if job.state.terminal]

    async def stream(self, job: Job | str) -> AsyncGenerator[Event, None]:
        """Every event of a job from its first to its last, whenever one starts to look; survives lost connections.

        When an attempt ends without result the text starts anew: a 'token' event of offset 0 comes again.
        """
        last_id = ""
        silent = 0
        while True:
            stream = await self._sender.open(_events_request(job, last_id))
            parser = EventParser()
            try:
                async for chunk in stream.chunks():
                    silent = 0
                    for event in parser.feed(chunk):
                        yield event
                        last_id = event.id
                        if event.last:
                            return
                broken = ConnectionFailed(f"the events of {_id(job)} ended before the job did", sent=True)
            except ConnectionFailed as error:
                broken = error
            finally:
                await stream.close()
            silent += 1
            await self._sender.pause(broken, tries=silent)

    # --- changing ---

    async def cancel(self, job: Job | str) -> Job:
        """Cancel a job unless it has ended already; either way the job as it is now. Raises NotFound."""
        return (await self._sender.call(Request("POST", _path(job, "/cancel")))).value(Job)

    async def retry(self, job: Job | str) -> Job:
        """A new job like one that failed. Raises NotFound; Conflict if it did not fail."""
        return (await self._sender.call(Request("POST", _path(job, "/retry"), repeatable=False))).value(Job)

    async def delete(self, job: Job | str) -> None:
        """Forget a job that has ended. Raises NotFound; Conflict while it has not ended."""
        await self._sender.delete(_path(job))


def _events_request(job: Job | str, last_id: str) -> Request:
    resume = {"Last-Event-ID": last_id} if last_id else {}
    return Request("GET", _path(job, "/events"), headers={"Accept": "text/event-stream", **resume})


def _id(job: Job | str) -> str:
    return job if isinstance(job, str) else job.id


def _path(job: Job | str, action: str = "") -> str:
    return f"{JOBS}/{quote(_id(job), safe='')}{action}"
