"""The outbox as dictionaries: for unit tests and simulations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import nsmallest
from threading import RLock

from ktqueue.job import Job
from ktqueue.outbox.base import Delivery, DeliveryAttempt, DeliveryQuery, DueTarget, Endpoint, Settlement
from ktqueue.webhook import PROGRESS_MS, DeliveryState, Disabled, EventType, event_of, moment
from ktqueue.webhook_policy import Circuit


class MemoryOutbox:
    """Implements `Outbox`; see there. ``clock`` stands for the database's and gives Unix milliseconds.

    A `MemoryStore` calls `note`, `note_progress` and `forget` under the lock that both share.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self.lock = RLock()
        self._clock = clock
        self._deliveries: dict[int, Delivery] = {}
        self._known: set[tuple[str, str, int]] = set()
        self._senders: dict[int, str] = {}
        self._attempts: dict[int, list[DeliveryAttempt]] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._circuits: dict[str, Circuit] = {}
        self._last = 0

    def now(self) -> int:
        """What the clock says."""
        return self._clock()

    def note(self, jobs: Sequence[Job]) -> bool:
        """Leave what receivers are to be told of each job as it now is; whether there was any."""
        return sum(self._note(job, event_of(job.state), None) for job in jobs) > 0

    def note_progress(self, job: Job, progress: float) -> bool:
        """Leave how far a job has come, if that was not told of late; whether anybody is to be told."""
        since = self._clock() - PROGRESS_MS
        told = (each.at > since for each in self._of_job(job.id) if each.type is EventType.JOB_PROGRESS)
        return not any(told) and self._note(job, EventType.JOB_PROGRESS, progress)

    def _note(self, job: Job, kind: EventType, progress: float | None) -> bool:
        left = False
        for endpoint, target, enabled in self._receivers(job, kind):
            seq = moment(kind, job.claims, progress)
            if (job.id, endpoint, seq) not in self._known:
                at = self._clock() if progress is not None else job.finished_at or job.started_at or job.created_at
                self._add(
                    kind,
                    seq,
                    at,
                    tenant=job.tenant,
                    endpoint=endpoint,
                    target=target,
                    enabled=enabled,
                    job=job,
                    progress=progress,
                )
                left = True
        return left

    def _receivers(self, job: Job, kind: EventType) -> Iterator[tuple[str, str, bool]]:
        if job.webhook is not None and kind in job.webhook.events:
            yield "", job.webhook.target, True
        for endpoint in self._endpoints.values():
            if endpoint.tenant == job.tenant and kind in endpoint.events and endpoint.model in {None, job.model}:
                yield endpoint.id, endpoint.id, endpoint.disabled is None

    def _add(
        self,
        kind: EventType,
        seq: int,
        at: int,
        *,
        tenant: str,
        endpoint: str,
        target: str,
        enabled: bool = True,
        job: Job | None = None,
        progress: float | None = None,
    ) -> Delivery:
        self._last += 1
        self._known.add((job.id if job else "", endpoint, seq))
        made = self._deliveries[self._last] = Delivery(
            id=self._last,
            job_id=job.id if job else "",
            seq=seq,
            type=kind,
            at=at,
            endpoint=endpoint,
            target=target,
            state=DeliveryState.PENDING if enabled else DeliveryState.FAILED,
            attempts=0,
            tries=0,
            next_at=self._clock() if enabled else None,
            token=None,
            attempt=job.attempt if job else 0,
            started_at=job.started_at if job else None,
            run_at=job.run_at if job else None,
            progress=progress,
            tenant=tenant,
        )
        return made

    def forget(self, job_id: str) -> None:
        """Delete what belongs to a job."""
        self._delete([each.id for each in self._of_job(job_id)])

    def pending(self, job_id: str) -> bool:
        """Whether anybody is still to be told of a job."""
        return any(each.state is DeliveryState.PENDING for each in self._of_job(job_id))

    def due_targets(self) -> list[DueTarget]:
        """Receivers that something is due for, and whose circuit is not open."""
        with self.lock:
            targets = sorted({each.target for each in self._deliveries.values() if self._due(each)})
            return [DueTarget(target, self._circuits.get(target)) for target in targets if not self._open(target)]

    def claim(self, wanted: Mapping[str, int], *, token: str, sender: str, lease_ms: int) -> list[Delivery]:
        """Take what is due, up to so many deliveries of each target, the longest due first."""
        claimed = []
        with self.lock:
            until = self._clock() + lease_ms
            for target, most in wanted.items():
                due = [each for each in self._deliveries.values() if each.target == target and self._claimable(each)]
                for each in nsmallest(most, due, key=lambda delivery: (delivery.next_at or 0, delivery.id)):
                    claimed.append(self._change(each, token=token, next_at=until))
                    self._senders[each.id] = sender
                circuit = self._circuits.get(target)
                if circuit is not None and circuit.probing:
                    self._circuits[target] = replace(circuit, open_until=until)
        return sorted(claimed, key=lambda delivery: (delivery.at, delivery.id))

    def _claimable(self, delivery: Delivery) -> bool:
        return self._due(delivery) and not any(
            other.endpoint == delivery.endpoint
            and other.seq < delivery.seq
            and other.attempts == 0
            and other.state is DeliveryState.PENDING
            for other in self._of_job(delivery.job_id)
        )

    def settle(self, settlements: Sequence[Settlement], circuits: Mapping[str, Circuit | None]) -> set[int]:
        """Write down attempts and what follows from them, and how targets fare; the ids that changed."""
        changed = set()
        with self.lock:
            for each in settlements:
                delivery = self._deliveries.get(each.delivery_id)
                if delivery is not None and delivery.token == each.token:
                    self._settle(delivery, each)
                    changed.add(delivery.id)
            for target, circuit in circuits.items():
                self._circuits.pop(target, None)
                if circuit is not None:
                    self._circuits[target] = circuit
        return changed

    def _settle(self, delivery: Delivery, settlement: Settlement) -> None:
        answer, number = settlement.answer, delivery.attempts + 1
        at = self._clock() - answer.duration_ms
        made = DeliveryAttempt(
            delivery.id, number, at, answer.duration_ms, answer.status, answer.error, answer.body.replace("\0", "�")
        )
        self._attempts.setdefault(delivery.id, []).append(made)
        self._change(
            delivery,
            state=settlement.state,
            next_at=settlement.next_at,
            attempts=number,
            tries=delivery.tries + 1,
            token=None,
        )

    def circuits(self, targets: Sequence[str]) -> dict[str, Circuit]:
        """How targets fare; one that is well has no entry."""
        with self.lock:
            return {target: self._circuits[target] for target in targets if target in self._circuits}

    def disable(self, endpoint_id: str, why: Disabled) -> int:
        """Tell an enabled endpoint nothing more; what is pending for it fails."""
        with self.lock:
            endpoint = self._endpoints.get(endpoint_id)
            if endpoint is not None and endpoint.disabled is None:
                self._endpoints[endpoint_id] = replace(endpoint, disabled=why)
            return self._give_up(endpoint_id)

    def _give_up(self, endpoint_id: str) -> int:
        pending = [each for each in self._of_endpoint(endpoint_id) if each.state is DeliveryState.PENDING]
        for each in pending:
            self._change(each, state=DeliveryState.FAILED, next_at=None, token=None)
        return len(pending)

    def senders(self) -> list[str]:
        """Every sender that holds deliveries."""
        with self.lock:
            return sorted({self._senders[each.id] for each in self._deliveries.values() if each.token is not None})

    def release(self, sender: str) -> int:
        """Make due what a sender holds that is known to be gone; how many that were."""
        with self.lock:
            held = [each for each in self._deliveries.values() if each.token is not None]
            ours = [each for each in held if self._senders[each.id] == sender]
            for each in ours:
                self._change(each, token=None, next_at=self._clock())
        return len(ours)

    def add_endpoint(self, endpoint: Endpoint) -> None:
        """Commit a new endpoint."""
        with self.lock:
            self._endpoints.setdefault(endpoint.id, endpoint)

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        """The endpoint as it is now."""
        with self.lock:
            return self._endpoints.get(endpoint_id)

    def endpoints(self, ids: Sequence[str]) -> list[Endpoint]:
        """Those with these ids; the oldest first."""
        with self.lock:
            found = [each for each in self._endpoints.values() if each.id in ids]
        return sorted(found, key=lambda endpoint: endpoint.id)

    def endpoints_of(self, tenant: str) -> list[Endpoint]:
        """All of a tenant's; the oldest first."""
        with self.lock:
            found = [each for each in self._endpoints.values() if each.tenant == tenant]
        return sorted(found, key=lambda endpoint: endpoint.id)

    def change_endpoint(self, endpoint_id: str, change: Callable[[Endpoint], Endpoint]) -> Endpoint | None:
        """Write what ``change`` makes of an endpoint; what it then is. One that is enabled has no circuit any more."""
        with self.lock:
            endpoint = self._endpoints.get(endpoint_id)
            if endpoint is None:
                return None
            changed = replace(change(endpoint), id=endpoint_id, created_at=endpoint.created_at, tenant=endpoint.tenant)
            self._endpoints[endpoint_id] = changed
            if changed.disabled is None:
                self._circuits.pop(endpoint_id, None)
            else:
                self._give_up(endpoint_id)
        return changed

    def delete_endpoint(self, endpoint_id: str) -> bool:
        """Delete it with its deliveries; whether it was there."""
        with self.lock:
            self._delete([each.id for each in self._of_endpoint(endpoint_id)])
            self._circuits.pop(endpoint_id, None)
            return self._endpoints.pop(endpoint_id, None) is not None

    def add_test(self, endpoint_id: str) -> Delivery | None:
        """A pending delivery of a test event; None if there is no such endpoint."""
        with self.lock:
            endpoint = self._endpoints.get(endpoint_id)
            if endpoint is None:
                return None
            now = self._clock()
            tests = (each for each in self._deliveries.values() if (each.job_id, each.endpoint) == ("", endpoint_id))
            seq = max([now, *(each.seq + 1 for each in tests)])
            return self._add(EventType.TEST, seq, now, tenant=endpoint.tenant, endpoint=endpoint_id, target=endpoint_id)

    def delivery(self, delivery_id: int) -> Delivery | None:
        """The delivery as it is now."""
        with self.lock:
            return self._deliveries.get(delivery_id)

    def deliveries(self, query: DeliveryQuery) -> list[Delivery]:
        """Those that match, newest first."""
        with self.lock:
            found = [each for each in self._deliveries.values() if _matches(each, query)]
        return sorted(found, key=lambda delivery: delivery.id, reverse=True)[: query.limit]

    def attempts(self, delivery_ids: Sequence[int]) -> list[DeliveryAttempt]:
        """The attempts of these deliveries, the oldest first."""
        with self.lock:
            return [attempt for each in sorted(set(delivery_ids)) for attempt in self._attempts.get(each, [])]

    def redeliver(self, delivery_id: int) -> Delivery | None:
        """Begin anew, due at once, unless it is under way; the delivery as it now is."""
        with self.lock:
            delivery = self._deliveries.get(delivery_id)
            if delivery is None or delivery.token is not None:
                return delivery
            return self._anew(delivery)

    def replay(self, endpoint_id: str, since: int) -> int:
        """Begin anew everything that failed of what happened to an endpoint since then; how many that were."""
        with self.lock:
            missed = [each for each in self._of_endpoint(endpoint_id) if each.state is DeliveryState.FAILED]
            again = [self._anew(each) for each in missed if each.at >= since]
        return len(again)

    def prune_tests(self, before: int, limit: int) -> int:
        """Delete tests that were sent before then; the other deliveries go with their jobs."""
        with self.lock:
            old = [each.id for each in self._deliveries.values() if not each.job_id and each.at < before][:limit]
            self._delete(old)
        return len(old)

    def _anew(self, delivery: Delivery) -> Delivery:
        return self._change(delivery, state=DeliveryState.PENDING, next_at=self._clock(), tries=0)

    def _due(self, delivery: Delivery) -> bool:
        return delivery.next_at is not None and delivery.next_at <= self._clock()

    def _open(self, target: str) -> bool:
        return target in self._circuits and self._circuits[target].open_until > self._clock()

    def _of_job(self, job_id: str) -> list[Delivery]:
        return [each for each in self._deliveries.values() if each.job_id == job_id]

    def _of_endpoint(self, endpoint_id: str) -> list[Delivery]:
        return [each for each in self._deliveries.values() if each.endpoint == endpoint_id]

    def _delete(self, ids: Sequence[int]) -> None:
        for each in ids:
            gone = self._deliveries.pop(each)
            self._known.discard((gone.job_id, gone.endpoint, gone.seq))
            self._attempts.pop(each, None)

    def _change(self, delivery: Delivery, **values: object) -> Delivery:
        changed = self._deliveries[delivery.id] = replace(delivery, **values)  # type: ignore[arg-type] # each by its name
        return changed


def _matches(delivery: Delivery, query: DeliveryQuery) -> bool:
    return (
        query.tenant in {None, delivery.tenant}
        and query.job_id in {None, delivery.job_id}
        and query.endpoint in {None, delivery.endpoint}
        and query.state in {None, delivery.state}
        and (query.before is None or delivery.id < query.before)
    )
