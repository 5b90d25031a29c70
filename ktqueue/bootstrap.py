"""Settings in, wired use cases out: the only place that knows which implementation stands behind which port."""

from __future__ import annotations

from dataclasses import dataclass

from ktqueue.admission import Admission
from ktqueue.errors import ConfigurationError
from ktqueue.events.redis import RedisEvents
from ktqueue.execution import Execution
from ktqueue.following import Following
from ktqueue.intake import Intake
from ktqueue.lanes.bell import CeleryBell
from ktqueue.lanes.redis import RedisLanes
from ktqueue.models import Catalogue, load_catalogue
from ktqueue.redis_client import connect
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
    sweep: Sweep


def bootstrap(settings: Settings) -> Services:
    """Wire everything on the database and the Redis that ``settings`` name. Raises ConfigurationError."""
    if not settings.redis_url:
        raise ConfigurationError(f"{PREFIX}REDIS_URL: must be set here; only `ktqueue up` starts a server of its own")
    catalogue = load_catalogue(settings.models)
    store = SqlStore(settings.sql_url)
    client = connect(settings.redis_url)
    lanes = RedisLanes(client, CeleryBell(settings.redis_url))
    events = RedisEvents(client)
    return Services(
        settings=settings,
        catalogue=catalogue,
        intake=Intake(store, lanes, events, Admission(store, lanes, max_queued=settings.max_queued)),
        following=Following(store, events),
        execution=Execution(store, lanes, events, lease_ms=int(settings.lease_seconds * 1000)),
        sweep=Sweep(store, lanes, events),
    )
