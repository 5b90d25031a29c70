"""Settings in, wired use cases out: the only place that knows which implementation stands behind which port."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ktqueue import secret_key
from ktqueue.access import Access, AccessOnceThereAreKeys, KeyAccess, OpenAccess
from ktqueue.admission import Admission, Bounds
from ktqueue.controls.sql import SqlControls
from ktqueue.controls.watched import WatchedControls
from ktqueue.delivery import Deliveries, Redelivery
from ktqueue.errors import ConfigurationError
from ktqueue.events.redis import RedisEvents
from ktqueue.execution import Execution
from ktqueue.failpoints import Failpoints
from ktqueue.following import Following
from ktqueue.foretelling import Foretelling
from ktqueue.intake import Intake
from ktqueue.key_use import KeyUse
from ktqueue.keys import Keys
from ktqueue.lanes.bell import CeleryBell
from ktqueue.lanes.redis import RedisLanes
from ktqueue.leases.base import Leases
from ktqueue.leases.sql import SqlLeases
from ktqueue.liveness import is_dead
from ktqueue.models import Catalogue, load_catalogue
from ktqueue.operating import Operating
from ktqueue.outbox.base import Outbox
from ktqueue.outbox.bell import DeliveryBell
from ktqueue.outbox.sql import SqlOutbox
from ktqueue.presence.base import Presence
from ktqueue.presence.redis import RedisPresence
from ktqueue.quotas import Quotas
from ktqueue.rates.counted import in_redis
from ktqueue.recovery import Recovery
from ktqueue.redis_client import connect
from ktqueue.registry.base import Registry
from ktqueue.registry.sql import SqlRegistry
from ktqueue.retention import Retention
from ktqueue.running import RunningLimits
from ktqueue.settings import PREFIX, Settings
from ktqueue.store.base import Store
from ktqueue.store.sql import SqlStore
from ktqueue.sweep import Sweep
from ktqueue.watched import Watched
from ktqueue.webhook_addresses import AddressRules
from ktqueue.webhook_signing import Keyring
from ktqueue.webhooks import Webhooks

LATE_S = 15.0
"""What a delivery may take besides its request before it is taken for lost."""


@dataclass(frozen=True)
class Services:
    """What an entry point works with. Make it after forking: it holds connections."""

    settings: Settings
    access: Access
    keys: Keys
    quotas: Quotas
    catalogue: Catalogue
    intake: Intake
    operating: Operating
    following: Following
    execution: Execution
    recovery: Recovery
    sweep: Sweep
    presence: Presence
    leases: Leases
    store: Store
    outbox: Outbox
    delivery_bell: DeliveryBell
    redelivery: Redelivery

    @cached_property
    def keyring(self) -> Keyring:
        """The service's keys, for those who need them. Raises ConfigurationError."""
        return secret_key.load(self.settings)

    @cached_property
    def address_rules(self) -> AddressRules:
        """Where webhooks may go."""
        return AddressRules(self.settings.webhook_allow, self.settings.webhook_ports)

    @cached_property
    def webhooks(self) -> Webhooks:
        """What the API does with webhooks."""
        return Webhooks(self.store, self.outbox, self.keyring, self.address_rules, self.delivery_bell.ring)

    def deliveries(self, sender: str) -> Deliveries:
        """What the sender of this name does with the outbox."""
        return Deliveries(
            self.store,
            self.outbox,
            self.keyring,
            sender=sender,
            most_each=self.settings.webhook_concurrency,
            lease_ms=int((self.settings.webhook_timeout_seconds + LATE_S) * 1000),
            disable_days=self.settings.webhook_disable_days,
        )


def bootstrap(settings: Settings) -> Services:
    """Wire everything on the database and the Redis that ``settings`` name. Raises ConfigurationError."""
    if not settings.redis_url:
        raise ConfigurationError(f"{PREFIX}REDIS_URL: must be set here; only `ktqueue up` starts a server of its own")
    catalogue = load_catalogue(settings.models)
    points = Failpoints(settings.failpoints)
    client = connect(settings.redis_url)
    bell = points.around("bell", CeleryBell(settings.redis_url))
    delivery_bell = DeliveryBell(client, bell)
    store = points.around("store", SqlStore(settings.sql_url, delivery_bell.ring))
    outbox = points.around("outbox", SqlOutbox(settings.sql_url))
    registry = points.around("registry", SqlRegistry(settings.sql_url))
    quotas = Quotas(registry, store, in_redis(client))
    limits = Watched(registry.running_limits)
    lanes = points.around("lanes", RedisLanes(client, bell, limits))
    events = points.around("events", RedisEvents(client))
    controls = SqlControls(settings.sql_url)
    watched = WatchedControls(controls)
    presence = RedisPresence(client)
    recovery = Recovery(store, lanes, events, is_dead=is_dead)
    redelivery = Redelivery(outbox, is_dead=is_dead, ring=delivery_bell.ring)
    retention = Retention(store, outbox, days=settings.retention_days)
    bounds = Bounds(lane=settings.max_queued, jobs=settings.max_queued_all, size=settings.max_queued_bytes)
    return Services(
        settings=settings,
        access=_access(settings, registry),
        keys=Keys(registry),
        quotas=quotas,
        catalogue=catalogue,
        intake=Intake(
            store,
            lanes,
            events,
            Admission(store, lanes, watched, bounds=bounds),
            Foretelling(lanes, limits=limits),
            quotas=quotas,
        ),
        operating=Operating(store, lanes, events, controls, presence),
        following=Following(store, events),
        execution=Execution(
            store,
            lanes,
            events,
            watched,
            RunningLimits(store, lanes, limits),
            lease_ms=int(settings.lease_seconds * 1000),
        ),
        recovery=recovery,
        sweep=Sweep(
            store,
            lanes,
            events,
            recovery,
            retention,
            redelivery=redelivery,
            weights=lambda: {tenant.name: tenant.weight for tenant in registry.tenants()},
        ),
        presence=presence,
        leases=SqlLeases(settings.sql_url),
        store=store,
        outbox=outbox,
        delivery_bell=delivery_bell,
        redelivery=redelivery,
    )


def _access(settings: Settings, registry: Registry) -> Access:
    if settings.require_keys == "false":
        return OpenAccess()
    keys = KeyAccess(registry, KeyUse(registry))
    return keys if settings.keys_are_a_must else AccessOnceThereAreKeys(registry, keys)
