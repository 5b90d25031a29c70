"""What the API answers of lanes, workers and their use, as types: see `api.schemas`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from ktqueue.bodies import Time
from ktqueue.control import LaneMode
from ktqueue.instance import STATES as INSTANCE_STATES
from ktqueue.presence.base import SlotState


class LaneCapacity(TypedDict):
    """What one slot of a lane holds at once."""

    jobs: Annotated[int, Field(description="The most, however short they are.")]
    cache_tokens: Annotated[
        int | None, Field(description="Tokens that fit its cache of keys and values; null: it has none.")
    ]
    block_tokens: Annotated[int | None, Field(description="The cache is given out in blocks of so many tokens.")]
    prompt_tokens: Annotated[int, Field(description="As asked for: what a prompt is taken to have.")]
    answer_tokens: Annotated[int, Field(description="As asked for: what an answer is taken to have.")]
    jobs_at_once: Annotated[int, Field(description="Jobs of that size that fit together; 0: not even one.")]


class InstanceBody(TypedDict):
    """A server that a slot passes its jobs on to."""

    url: str
    kind: str
    state: Annotated[
        str,
        WithJsonSchema({"type": "string", "enum": list(INSTANCE_STATES)}),
        Field(
            description="`closed`: well. `half-open`, `warming`: was not, and takes fewer jobs for now. `new`, `open`,"
            " `resting`: takes none. `elsewhere`: another slot uses it."
        ),
    ]
    rests_seconds: Annotated[float | None, Field(description="For so long it takes no jobs; null: not known, or does.")]
    running: Annotated[int, Field(ge=0, description="Jobs that it has of this slot.")]
    outstanding_tokens: Annotated[int, Field(ge=0, description="What they may still take, as estimated.")]
    jobs: Annotated[int, Field(description="The most at once, however short they are.")]
    cache_tokens: Annotated[int | None, Field(description="Tokens that it holds at once; null: not said.")]


class LaneInstanceBody(InstanceBody):
    """The same, with what it takes of jobs of the size that was asked for."""

    jobs_at_once: Annotated[int, Field(description="Jobs of that size that fit together; 0: not even one.")]


class LaneEtaError(TypedDict):
    """How far `eta_seconds`, as it was at submit, was from the wait, as a part of the wait; of the latest jobs."""

    p50: float
    p90: float
    jobs: int


class LaneBody(TypedDict):
    """The queue of one model."""

    model: str
    object: Literal["lane"]
    mode: Annotated[
        str,
        WithJsonSchema({"type": "string", "enum": [mode.value for mode in LaneMode]}),
        Field(description="`paused` keeps what it takes, `draining` takes nothing and runs what it has."),
    ]
    concurrency: Annotated[int | None, Field(description="Most jobs that may run at once; null: as many as fit.")]
    workers: Annotated[list[str], Field(description="Those that live and are to serve it; empty: its jobs wait.")]
    depth: Annotated[int, Field(description="Jobs that wait.")]
    running: int
    throughput: Annotated[float | None, Field(description="Jobs finished per second of late; null: too few to say.")]
    oldest_wait_seconds: Annotated[float | None, Field(description="How long the first in it has waited.")]
    eta_error: Annotated[LaneEtaError | None, Field(description="null: no job has waited a second for a day.")]
    capacity: Annotated[LaneCapacity | None, Field(description="Of one slot; null: none has told for a day.")]
    instances: Annotated[list[LaneInstanceBody], Field(description="The servers that its slots pass jobs on to.")]


class LaneList(TypedDict):
    """Every lane."""

    object: Literal["list"]
    data: list[LaneBody]
    next_cursor: None


class WorkerCapacity(TypedDict):
    """What a slot holds at once."""

    jobs: Annotated[int, Field(description="The most, however short they are.")]
    cache_tokens: Annotated[
        int | None, Field(description="Tokens that fit its cache of keys and values; null: it has none.")
    ]
    block_tokens: Annotated[int | None, Field(description="The cache is given out in blocks of so many tokens.")]


class WorkerPulse(TypedDict):
    """How a slot did in its last heartbeat, and how it is now."""

    prompt_tokens_per_second: float
    generated_tokens_per_second: float
    busy: Annotated[float, Field(ge=0, le=1, description="The part of the time in which its engine made a step.")]
    batch: Annotated[float, Field(ge=0, description="Jobs in a step, on average; 0 if there was none.")]
    cache_blocks: Annotated[int, Field(description="Of its cache of keys and values; 0: it has none.")]
    cache_blocks_used: int
    memory_bytes: Annotated[int, Field(description="That its process holds.")]
    device_memory_bytes: Annotated[int, Field(description="Of its GPUs, whoever uses them; 0: it has none.")]
    device_memory_used_bytes: int


class WorkerBody(TypedDict):
    """A slot: one process that holds one model."""

    name: Annotated[str, Field(description="As attempts tell it.")]
    object: Literal["worker"]
    worker: Annotated[str, Field(description="Whose slot it is, as `/api/v1/rosters` has it.")]
    host: str
    pid: int | None
    model: str
    state: Annotated[
        str,
        WithJsonSchema({"type": "string", "enum": [state.value for state in SlotState]}),
        Field(description="`starting` loads its model, `stopping` takes no more jobs."),
    ]
    slot: Annotated[int, Field(ge=0, description="Which of its worker's slots for this model it is.")]
    device: Annotated[str, Field(description="Where it computes, for people.")]
    capacity: Annotated[WorkerCapacity | None, Field(description="null while it starts.")]
    running: Annotated[int, Field(ge=0, description="Jobs in it.")]
    instances: Annotated[list[InstanceBody], Field(description="The servers that it passes jobs on to.")]
    pulse: WorkerPulse
    ready_at: Annotated[
        Time | None, Field(description="When it had loaded its model, by its own clock; null while it starts.")
    ]
    heartbeat_at: Annotated[Time, Field(description="When it told this.")]


class WorkerList(TypedDict):
    """Every slot that told of late, by model and name."""

    object: Literal["list"]
    data: list[WorkerBody]
    next_cursor: None


class RosterBody(TypedDict):
    """The models that one worker serves."""

    worker: Annotated[str, Field(description="By `KTQ_WORKER_NAME`, or its host's name.")]
    object: Literal["roster"]
    host: str
    models: Annotated[list[str], Field(description="Those that it is to serve; see its slots for how far that is.")]
    offers: Annotated[list[str], Field(description="Those that its catalogue has, so that they can be moved to it.")]
    heartbeat_at: Annotated[Time, Field(description="When it told this.")]


class RosterList(TypedDict):
    """Every worker that told of late, by name."""

    object: Literal["list"]
    data: list[RosterBody]
    next_cursor: None


class UsageDay(TypedDict):
    """What one tenant's jobs of one model used that ended on one day (UTC)."""

    day: Annotated[str, Field(json_schema_extra={"format": "date"})]
    tenant: str
    model: str
    succeeded: Annotated[int, Field(ge=0, description="Jobs that ended so.")]
    failed: int
    cancelled: int
    expired: int
    prompt_tokens: int
    completion_tokens: int
    device_seconds: Annotated[
        float, Field(description="Their shares of the steps they were in, in the attempts that ended them.")
    ]


UsageList = TypedDict(
    "UsageList",
    {
        "object": Literal["list"],
        "from": Annotated[str, Field(json_schema_extra={"format": "date"})],
        "to": Annotated[str, Field(json_schema_extra={"format": "date"})],
        "data": list[UsageDay],
        "next_cursor": None,
    },
)
"""Every row of the range, by day, tenant and model."""


class PurgeBody(TypedDict):
    """What a purge did, or would do."""

    object: Literal["purge"]
    model: str
    dry_run: bool
    jobs: Annotated[int, Field(ge=0, description="Cancelled; in a dry run: that would be.")]
    remaining: Annotated[int, Field(ge=0, description="Still queued of those it is meant for; if any, ask again.")]
