"""What operators send about lanes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, with_config
from typing_extensions import TypedDict

from api.inputs import STRICT
from ktqueue.roster import WORKER_NAME
from ktqueue.tenant import TENANT_NAME

MOST_AT_ONCE = 1_000_000
OLDEST_S = 366 * 86_400


@with_config(STRICT)
class LaneChanges(TypedDict, total=False):
    """What is to be different about a lane; leave out what is to stay."""

    concurrency: Annotated[
        Annotated[int, Field(ge=1, le=MOST_AT_ONCE)] | None,
        Field(description="Most of its jobs that may run at once, over all slots; null: as many as fit."),
    ]


WorkerName = Annotated[str, Field(pattern=f"^{WORKER_NAME.pattern}$")]


@with_config(STRICT)
class MoveRequest(TypedDict, total=False):
    """Which worker a model is to leave, which it is to go to: at least one of them."""

    from_worker: Annotated[WorkerName, Field(description="Who is to serve it no more.")]
    to_worker: Annotated[WorkerName, Field(description="Who is to serve it.")]


@with_config(STRICT)
class PurgeRequest(TypedDict, total=False):
    """Which queued jobs of a lane to cancel: `{}` means all."""

    dry_run: Annotated[bool, Field(description="True: only count them.")]
    tenant: Annotated[str, Field(pattern=f"^{TENANT_NAME.pattern}$", description="Only this tenant's.")]
    older_than_seconds: Annotated[
        float, Field(ge=0, le=OLDEST_S, description="Only those that were created so long ago.")
    ]
