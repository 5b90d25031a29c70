"""Every operation of the API, as the OpenAPI document tells of it."""

from __future__ import annotations

from api.bulk import NDJSON
from api.errors import PROBLEM
from api.inputs import JobRequest
from api.key_operations import KEY_OPERATIONS
from api.lane_operations import LANE_OPERATIONS
from api.listing import DEFAULT_JOBS, METADATA, MOST_IDS, MOST_JOBS
from api.operation import JOB_ID, Operation, Reply, parameter
from api.query import LONGEST_WAIT_S
from api.schemas import AttemptList, BulkLine, EventFields, Health, JobList, ModelList, Problem, Readiness
from api.usage_operations import USAGE_OPERATION
from api.webhook_operations import WEBHOOK_OPERATIONS
from ktqueue.bodies import JobBody, ReceiptBody
from ktqueue.job import JobState
from ktqueue.tenant import Scope

PLAIN = "text/plain"
EVENT_STREAM = "text/event-stream"
TIME = {"type": "string", "format": "date-time"}
WAIT = parameter(
    "query",
    "wait",
    {"type": "integer", "minimum": 0, "maximum": LONGEST_WAIT_S},
    "Answer when the job has ended, at the latest after so many seconds.",
)
SUBMIT_HEADERS = [
    parameter(
        "header",
        "Idempotency-Key",
        {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "The same key with the same body is the same job, however often it is sent.",
    ),
    parameter(
        "header", "Prefer", {"type": "string"}, "`wait=N`: answer 200 with the job if it ends within N (up to 60) s."
    ),
]
LIST_FILTERS = [
    parameter(
        "query",
        "state",
        {"type": "array", "items": {"type": "string", "enum": [state.value for state in JobState]}},
        "Jobs in any of these states.",
    ),
    parameter("query", "model", {"type": "string"}, "Jobs of this model."),
    parameter(
        "query",
        "id",
        {"type": "array", "items": {"type": "string", "pattern": "^job_[0-9a-f]{32}$"}, "maxItems": MOST_IDS},
        "Jobs with any of these ids.",
    ),
    parameter("query", "created_from", TIME, "Created then or later."),
    parameter("query", "created_to", TIME, "Created before then."),
    parameter(
        "query",
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MOST_JOBS, "default": DEFAULT_JOBS},
        "Most jobs on this page.",
    ),
    parameter("query", "cursor", {"type": "string"}, "`next_cursor` of the page before."),
]
LAST_EVENT_ID = parameter(
    "header", "Last-Event-ID", {"type": "string", "pattern": "^[0-9]{1,9}-[0-9]{1,10}$"}, "Resume after this event."
)
IF_NONE_MATCH = parameter("header", "If-None-Match", {"type": "string"}, "Answer 304 if the job is still this.")

ACCEPTED = Reply(
    "Accepted: the job is stored.",
    JobBody,
    headers={
        "Location": "Where the job is.",
        "Retry-After": "In how many seconds it is worth asking.",
        "Preference-Applied": "Which preferences were kept.",
        "Idempotency-Replayed": "`true` if the key was known: this is the job of the first request.",
    },
)

OPERATIONS = [
    Operation(
        "post",
        "/api/v1/jobs",
        "submitJob",
        "jobs",
        "Submit a job",
        {200: Reply("It has ended within the wait that was preferred.", JobBody), 202: ACCEPTED},
        problems=(400, 404, 408, 413, 415, 422, 429, 503),
        parameters=SUBMIT_HEADERS,
        body=JobRequest,
        scope=Scope.JOBS_WRITE,
    ),
    Operation(
        "get",
        "/api/v1/jobs",
        "listJobs",
        "jobs",
        f"List jobs, newest first; `{METADATA}KEY=value` finds those with this entry in their metadata",
        {200: Reply("A page.", JobList)},
        problems=(400, 422, 503),
        parameters=LIST_FILTERS,
        scope=Scope.JOBS_READ,
    ),
    Operation(
        "post",
        "/api/v1/jobs:bulk",
        "submitJobs",
        "jobs",
        "Submit many jobs, one a line; the answer has a line for each",
        {200: Reply("What became of each line, in order.", BulkLine, media=NDJSON)},
        problems=(400, 408, 413, 415, 422, 503),
        body=JobRequest,
        media=NDJSON,
        scope=Scope.JOBS_WRITE,
    ),
    Operation(
        "get",
        "/api/v1/jobs/{job_id}",
        "getJob",
        "jobs",
        "Look at a job, or wait for its end",
        {
            200: Reply("The job.", JobBody, headers={"ETag": "Of this very answer.", "Retry-After": "When to ask."}),
            304: Reply("It is still what If-None-Match names."),
        },
        problems=(404, 422, 503),
        parameters=[JOB_ID, WAIT, IF_NONE_MATCH],
        scope=Scope.JOBS_READ,
    ),
    Operation(
        "delete",
        "/api/v1/jobs/{job_id}",
        "deleteJob",
        "jobs",
        "Forget a job that has ended",
        {204: Reply("It is forgotten.")},
        problems=(404, 409, 422, 503),
        parameters=[JOB_ID],
        scope=Scope.JOBS_WRITE,
    ),
    Operation(
        "get",
        "/api/v1/jobs/{job_id}/events",
        "jobEvents",
        "jobs",
        "Follow a job: server-sent events",
        {
            200: Reply("Events until the job has ended.", EventFields, media=EVENT_STREAM),
            204: Reply("It has ended and Last-Event-ID is its last event."),
        },
        problems=(400, 404, 422, 503),
        parameters=[JOB_ID, LAST_EVENT_ID],
        scope=Scope.JOBS_READ,
    ),
    Operation(
        "post",
        "/api/v1/jobs/{job_id}/cancel",
        "cancelJob",
        "jobs",
        "Cancel a job; one that has ended stays as it is",
        {200: Reply("The job as it now is.", JobBody)},
        problems=(404, 422, 503),
        parameters=[JOB_ID],
        scope=Scope.JOBS_WRITE,
    ),
    Operation(
        "get",
        "/api/v1/jobs/{job_id}/attempts",
        "listAttempts",
        "jobs",
        "Who ran it, when, and how that ended",
        {200: Reply("The attempts, the oldest first.", AttemptList)},
        problems=(404, 422, 503),
        parameters=[JOB_ID],
        scope=Scope.JOBS_READ,
    ),
    Operation(
        "get",
        "/api/v1/jobs/{job_id}/receipt",
        "jobReceipt",
        "jobs",
        "How long it waited and ran, and what it had of the engine's steps, attempt by attempt",
        {200: Reply("Its receipt until now.", ReceiptBody)},
        problems=(404, 422, 503),
        parameters=[JOB_ID],
        scope=Scope.JOBS_READ,
    ),
    Operation(
        "post",
        "/api/v1/jobs/{job_id}/retry",
        "retryJob",
        "jobs",
        "Submit a failed job anew",
        {202: ACCEPTED},
        problems=(404, 409, 422, 429, 503),
        parameters=[JOB_ID],
        scope=Scope.JOBS_WRITE,
    ),
    *WEBHOOK_OPERATIONS,
    *KEY_OPERATIONS,
    Operation(
        "get",
        "/api/v1/models",
        "listModels",
        "models",
        "The models",
        {200: Reply("All of them.", ModelList)},
        (422,),
        scope=Scope.JOBS_READ,
    ),
    *LANE_OPERATIONS,
    USAGE_OPERATION,
    Operation(
        "get",
        "/healthz",
        "healthz",
        "health",
        "Is the process alive?",
        {200: Reply("Yes.", Health)},
        scope=None,
    ),
    Operation(
        "get",
        "/readyz",
        "readyz",
        "health",
        "Do SQL and Redis answer?",
        {200: Reply("Yes.", Readiness)},
        (503,),
        scope=None,
    ),
    Operation(
        "get",
        "/metrics",
        "metrics",
        "health",
        "Everything that is counted here, for Prometheus; as OpenMetrics if that is what is accepted",
        {200: Reply("All of it.", str, media=PLAIN)},
        (422,),
        scope=Scope.LANES_READ,
    ),
]

MEANINGS = {
    400: "It can't be read: broken JSON, header or cursor.",
    401: "It needs a valid key.",
    403: "The key lacks a scope; or there is none, and the request is from a page of another site.",
    404: "There is no such thing, or no such model.",
    408: "The body came too slowly.",
    409: "The state of things does not allow this.",
    413: "The body is too large.",
    415: "The Content-Type is not the one that is taken here.",
    422: "It breaks a rule; `errors` says which, field by field.",
    429: "A queue is full, or a limit is reached; try again after Retry-After.",
    503: "Something that is needed does not answer, or the lane is being drained; try again after Retry-After.",
}
PROBLEMS = {status: Reply(means, Problem, media=PROBLEM) for status, means in MEANINGS.items()}
