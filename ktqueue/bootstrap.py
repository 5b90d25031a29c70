"""Settings in, wired use cases out: the only place that knows which implementation stands behind which port."""

from __future__ import annotations

from dataclasses import dataclass

from ktqueue.admission import Admission, Bounds
from ktqueue.errors import ConfigurationError
from ktqueue.events.redis import RedisEvents
from ktqueue.execution import Execution
from ktqueue.failpoints import Failpoints
from ktqueue.following import Following
from ktqueue.intake import Intake
from ktqueue.lanes.bell import CeleryBell
from ktqueue.lanes.redis import RedisLanes
from ktqueue.liveness import is_dead
from ktqueue.models import Catalogue, load_catalogue
from ktqueue.recovery import Recovery
from ktqueue.redis_client import connect
from ktqueue.retention import Retention
from ktqueue.settings import PREFIX, Settings
from ktqueue.store.sql import SqlStore
from ktqueue.sweep import Sweep


@dataclass(frozen=True, slots=True)
class Services:
    """What an entry point works with. Make it after forking: it holds connections."""

    settings: Settings
    catalogue: Catalogue
    intake: Intake
    following: Following
    execution: Execution
    recovery: Recovery
    sweep: Sweep


def bootstrap(settings: Settings) -> Services:
    """Wire everything on the database and the Redis that ``settings`` name. Raises ConfigurationError."""
    if not settings.redis_url:
        raise ConfigurationError(f"{PREFIX}REDIS_URL: must be set here; only `ktqueue up` starts a server of its own")
    catalogue = load_catalogue(settings.models)
    points = Failpoints(settings.failpoints)
    store = points.around("store", SqlStore(settings.sql_url))
    client = connect(settings.redis_url)
    bell = points.around("bell", CeleryBell(settings.redis_url))
    lanes = points.around("lanes", RedisLanes(client, bell))
    events = points.around("events", RedisEvents(client))
    recovery = Recovery(store, lanes, events, is_dead=is_dead)
    bounds = Bounds(lane=settings.max_queued, jobs=settings.max_queued_all, size=settings.max_queued_bytes)
    return Services(
        settings=settings,
        catalogue=catalogue,
        intake=Intake(store, lanes, events, Admission(store, lanes, bounds=bounds)),
        following=Following(store, events),
        execution=Execution(store, lanes, events, lease_ms=int(settings.lease_seconds * 1000)),
        recovery=recovery,
        sweep=Sweep(store, lanes, events, recovery, Retention(store, days=settings.retention_days)),
    )
