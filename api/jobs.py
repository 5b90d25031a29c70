"""/api/v1/jobs: submit, look, list, attempts, receipt, cancel, retry, delete."""

from __future__ import annotations

import time

import orjson
from flask import Flask, request
from flask.globals import request_ctx

from api.answers import JSON, Answer, answer, etag_of, retry_after
from api.auth import caller, tenant
from api.body import decode, read, require_type
from api.exchange import leaving
from api.ids import checked_job
from api.listing import FILTERS, METADATA, job_query, page
from api.preferences import Preference, idempotency_key, preference
from api.query import parameters, wait_seconds
from api.schemas import AttemptList
from api.services import ApiServices
from api.submission import Submissions
from api.waits import Waits
from ktqueue.errors import NotFound, Unavailable
from ktqueue.job import Job
from ktqueue.representation import JOBS, attempt_body, job_body, path_of, receipt_body

TURN_S = 2.0
"""A wait asks this often whether its client is still there."""


class Jobs:
    """The resource of jobs."""

    def __init__(self, services: ApiServices, waits: Waits) -> None:
        self._intake = services.intake
        self._following = services.following
        self._catalogue = services.catalogue
        self._submissions = Submissions(services.catalogue, services.webhooks)
        self._max_body_bytes = services.settings.max_body_bytes
        self._waits = waits

    def register(self, app: Flask) -> None:
        """Add the routes."""
        app.add_url_rule(JOBS, "submit", self.submit, methods=["POST"])
        app.add_url_rule(JOBS, "list_jobs", self.list, methods=["GET"])
        app.add_url_rule(f"{JOBS}/<job_id>", "get_job", self.get, methods=["GET"])
        app.add_url_rule(f"{JOBS}/<job_id>", "delete_job", self.delete, methods=["DELETE"])
        app.add_url_rule(f"{JOBS}/<job_id>/cancel", "cancel_job", self.cancel, methods=["POST"])
        app.add_url_rule(f"{JOBS}/<job_id>/attempts", "list_attempts", self.attempts, methods=["GET"])
        app.add_url_rule(f"{JOBS}/<job_id>/receipt", "job_receipt", self.receipt, methods=["GET"])
        app.add_url_rule(f"{JOBS}/<job_id>/retry", "retry_job", self.retry, methods=["POST"])

    def submit(self) -> Answer:
        """Accept a job; wait for its end if that was preferred."""
        # Itself, for `request` looks for it again whenever it is asked for something.
        here = request_ctx.request
        parameters(here)
        require_type(here, JSON)
        document = decode(read(here, self._max_body_bytes))
        submission = self._submissions.parse(document, caller())
        job, created = self._intake.submit(submission, idempotency_key(here, document))
        preferred = preference(here)
        job, waited = self._waited(job, preferred)
        headers = {"Location": path_of(job.id)}
        if not created:
            headers["Idempotency-Replayed"] = "true"
        if applied := preferred.applied(waited=waited):
            headers["Preference-Applied"] = applied
        if waited and job.state.terminal:
            return answer(job_body(job), 200, headers)
        headers["Retry-After"] = retry_after(self._intake.wait_s(job.model))
        return answer(job_body(job), 202, headers)

    def get(self, job_id: str) -> Answer:
        """A job as it is, or as it is once it has ended."""
        wait_s = wait_seconds(parameters(request, "wait"))
        job = self._look(checked_job(job_id), wait_s)
        place = self._intake.place(job)
        body = orjson.dumps(job_body(job, place, self._intake.progress(job)))
        tag = etag_of(body)
        headers = {"ETag": f'"{tag}"', "Cache-Control": "no-cache"}
        if not job.state.terminal:
            headers["Retry-After"] = retry_after(place.eta_s, place.position)
        if request.if_none_match.contains_weak(tag):
            return Answer(b"", 304, headers)
        return Answer(body, 200, headers, content_type=JSON)

    def list(self) -> Answer:
        """A page of jobs, newest first."""
        query = job_query(parameters(request, *FILTERS, prefix=METADATA), tenant())
        return Answer(page(self._intake.search, query), 200, content_type=JSON)

    def cancel(self, job_id: str) -> Answer:
        """Cancel a job that has not ended; one that has stays as it is."""
        parameters(request)
        return answer(job_body(self._intake.cancel(checked_job(job_id), tenant())))

    def attempts(self, job_id: str) -> Answer:
        """Who ran a job, when, and how that ended."""
        parameters(request)
        attempts = self._intake.attempts(checked_job(job_id), tenant())
        body: AttemptList = {"object": "list", "data": [attempt_body(attempt) for attempt in attempts]}
        return answer(body)

    def receipt(self, job_id: str) -> Answer:
        """How long a job waited and ran in each attempt, and what it had of the steps."""
        parameters(request)
        return answer(receipt_body(self._intake.receipt(checked_job(job_id), tenant())))

    def retry(self, job_id: str) -> Answer:
        """A new job like the failed one."""
        parameters(request)
        old = self._intake.get(checked_job(job_id), tenant())
        # Since it failed its model may have left the catalogue: nobody would ever run it.
        self._catalogue[old.model].task(old.task)
        job = self._intake.retry(old.id, caller())
        headers = {"Location": path_of(job.id), "Retry-After": retry_after(self._intake.wait_s(job.model))}
        return answer(job_body(job), 202, headers)

    def delete(self, job_id: str) -> Answer:
        """Forget a job that has ended."""
        parameters(request)
        self._intake.delete(checked_job(job_id), tenant())
        return Answer(b"", 204)

    def _waited(self, job: Job, preferred: Preference) -> tuple[Job, bool]:
        """The job after the wait that was preferred, and whether there was a place to wait."""
        if preferred.wait_s is None:
            return job, False
        with self._waits.place() as free:
            if not free:
                return job, False
            try:
                return self._wait(job.id, preferred.wait_s), True
            except (Unavailable, NotFound):
                # It is committed: whatever is away now, or is deleted by now, the answer is that it was accepted.
                return job, False

    def _look(self, job_id: str, wait_s: int) -> Job:
        if wait_s:
            with self._waits.place() as free:
                if free:
                    return self._wait(job_id, wait_s)
        return self._intake.get(job_id, tenant())

    def _wait(self, job_id: str, wait_s: int) -> Job:
        """The job once it has ended, or as it is after the wait; sooner, if the wait has become pointless."""
        until = time.monotonic() + wait_s
        while True:
            left_s = max(0.0, until - time.monotonic())
            job = self._following.wait(job_id, min(left_s, TURN_S), tenant())
            if job.state.terminal or left_s <= TURN_S or leaving(request):
                return job
