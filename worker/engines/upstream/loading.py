"""Makes the engine of a catalogue entry that names other servers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import Lock

from ktqueue.job import uuid7_hex
from ktqueue.leases.base import Leases
from ktqueue.liveness import identity
from ktqueue.models import ModelSpec
from worker.engines.upstream.breaker import State
from worker.engines.upstream.call import Caller
from worker.engines.upstream.crew import Crew
from worker.engines.upstream.desk import Desk
from worker.engines.upstream.engine import UpstreamEngine
from worker.engines.upstream.instance import Instance
from worker.engines.upstream.tenure import Tenure

LOOK_S = 0.02


def load_upstream(spec: ModelSpec, leases: Leases, environment: Mapping[str, str]) -> UpstreamEngine:
    """The engine, once each instance that is ours has been asked how it is, or that took longer than it may.

    Raises ConfigurationError if a key is not in the environment.
    """
    instances = [Instance(each, spec.rest_seconds) for each in spec.instances]
    callers = {each: Caller(each.spec, spec.alias, each.spec.key(environment), spec) for each in instances}
    desk, lock = Desk(instances), Lock()
    # A process may load an engine again. What the one before had, it had let go, or is to wait for like any other's.
    holder = f"{identity()} {uuid7_hex()}"
    tenure = Tenure(leases, instances, alias=spec.alias, holder=holder, clock=time.monotonic)
    engine = UpstreamEngine(
        desk,
        lock,
        lambda tell, broken: Crew(desk, callers, tenure, lock, total_s=spec.total_seconds, tell=tell, broken=broken),
    )
    _wait(tenure, instances, spec.connect_seconds)
    return engine


def _wait(tenure: Tenure, instances: list[Instance], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        now = time.monotonic()
        if tenure.asked and all(each.breaker.state is not State.NEW for each in instances if each.held(now)):
            return
        time.sleep(LOOK_S)
