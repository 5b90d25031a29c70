"""The operations on lanes and workers, as the OpenAPI document tells of them."""

from __future__ import annotations

from functools import partial

from api.lane_inputs import LaneChanges, MoveRequest, PurgeRequest
from api.lane_schemas import LaneBody, LaneList, PurgeBody, RosterList, WorkerList
from api.lanes import LANES
from api.operation import Operation, Reply, parameter
from api.query import MOST_TOKENS
from api.workers import ROSTERS, WORKERS
from ktqueue.room import ANSWER_TOKENS, PROMPT_TOKENS
from ktqueue.tenant import Scope

MODEL = parameter("path", "model", {"type": "string", "minLength": 1, "maxLength": 63}, "The model's alias.")
SIZES = [
    parameter(
        "query",
        name,
        {"type": "integer", "minimum": 1, "maximum": MOST_TOKENS, "default": default},
        f"`jobs_at_once` is told for {what} of this length.",
    )
    for name, default, what in (
        ("prompt_tokens", PROMPT_TOKENS, "prompts"),
        ("answer_tokens", ANSWER_TOKENS, "answers"),
    )
]
ONE = f"{LANES}/{{model}}"
NOW = {200: Reply("The lane as it now is.", LaneBody)}

_look = partial(Operation, tag="lanes", scope=Scope.LANES_READ)
_operation = partial(Operation, tag="lanes", scope=Scope.LANES_ADMIN)
_order = partial(_operation, "post", replies=NOW, problems=(404, 422, 503), parameters=[MODEL])

LANE_OPERATIONS = [
    _look(
        "get",
        LANES,
        "listLanes",
        summary="The queue of each model, and what a slot of it holds at once",
        replies={200: Reply("All.", LaneList)},
        problems=(422, 503),
        parameters=SIZES,
    ),
    _look(
        "get",
        ONE,
        "getLane",
        summary="One queue",
        replies={200: Reply("The lane.", LaneBody)},
        problems=(404, 422, 503),
        parameters=[MODEL],
    ),
    _operation(
        "patch",
        ONE,
        "changeLane",
        summary="Bound how many of its jobs run at once, over all slots",
        replies=NOW,
        problems=(400, 404, 413, 415, 422, 503),
        parameters=[MODEL],
        body=LaneChanges,
    ),
    _order(f"{ONE}/pause", "pauseLane", summary="Take jobs and keep them; what runs goes on"),
    _order(f"{ONE}/resume", "resumeLane", summary="Take jobs and run them again"),
    _order(f"{ONE}/drain", "drainLane", summary="Take no new jobs, and run those that are there"),
    _operation(
        "post",
        f"{ONE}/move",
        "moveLane",
        summary="Have one worker serve its model no more, and another serve it",
        replies=NOW,
        problems=(400, 404, 413, 415, 422, 503),
        parameters=[MODEL],
        body=MoveRequest,
    ),
    _operation(
        "post",
        f"{ONE}/purge",
        "purgeLane",
        summary="Cancel what is queued, for some seconds at most, or count what that would be",
        replies={200: Reply("How many were cancelled, and how many are left.", PurgeBody)},
        problems=(400, 404, 413, 415, 422, 503),
        parameters=[MODEL],
        body=PurgeRequest,
    ),
    Operation(
        "get",
        WORKERS,
        "listWorkers",
        "workers",
        "The slots that live, and what each holds",
        {200: Reply("All.", WorkerList)},
        problems=(422, 503),
        scope=Scope.LANES_READ,
    ),
    Operation(
        "get",
        ROSTERS,
        "listRosters",
        "workers",
        "The workers that live, and the models that each is to serve",
        {200: Reply("All.", RosterList)},
        problems=(422, 503),
        scope=Scope.LANES_READ,
    ),
]
