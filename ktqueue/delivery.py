"""What a sender does with the outbox: take what is due, and write down what came of it.

Receivers share the sender's places fairly, each has so many at most, and one that fails is left alone for a while; so
one that is dead delays nobody else.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ktqueue.errors import SecretUnreadable
from ktqueue.job import Job
from ktqueue.outbox.base import Delivery, DueTarget, Endpoint, Outbox, Settlement
from ktqueue.store.base import Store
from ktqueue.webhook import Answer, DeliveryState, Disabled, EventType, event_id
from ktqueue.webhook_body import body_of, trial_body
from ktqueue.webhook_policy import GONE, Circuit, after_failure, is_hopeless, next_attempt_ms
from ktqueue.webhook_signing import Keyring

STRIDE = 16
"""So many jobs are in memory at once to be told of: each may have a result of megabytes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One delivery, ready to be sent. ``secrets`` are those that its receiver may know.

    ``probe``: it is to show whether a receiver that failed is well again.
    """

    delivery: Delivery
    url: str
    event_id: str
    body: bytes
    secrets: Sequence[str]
    probe: bool = False


class Deliveries:
    """The use cases of one sender.

    ``most_each`` is how many requests may be under way to one target, ``lease_ms`` how long one may take, all told.
    """

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        keyring: Keyring,
        *,
        sender: str,
        most_each: int,
        lease_ms: int,
        disable_days: int,
        chance: random.Random = random.Random(),  # noqa: B008, S311 - shared on purpose; for fairness, not for secrets
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._keyring = keyring
        self._sender = sender
        self._most_each = most_each
        self._lease_ms = lease_ms
        self._disable_days = disable_days
        self._chance = chance

    def claim(self, room: int, under_way: Mapping[str, int], token: str) -> list[Dispatch]:
        """Take up to ``room`` deliveries that are due; ``under_way`` counts those of each target.

        Raises StoreUnavailable.
        """
        due = self._outbox.due_targets()
        self._chance.shuffle(due)
        wanted = shares(room, {target.target: self._wanted(target, under_way) for target in due})
        if not wanted:
            return []
        taken = self._outbox.claim(wanted, token=token, sender=self._sender, lease_ms=self._lease_ms)
        endpoints = {each.id: each for each in self._outbox.endpoints(sorted({each.endpoint for each in taken} - {""}))}
        self._give_up({each.endpoint for each in taken if each.endpoint}, endpoints)
        probed = {target.target for target in due if _is_probed(target)}
        return [
            replace(dispatch, probe=True) if dispatch.delivery.target in probed else dispatch
            for some in (taken[first : first + STRIDE] for first in range(0, len(taken), STRIDE))
            for dispatch in self._dispatches(some, endpoints, self._jobs_of(some))
        ]

    def _wanted(self, due: DueTarget, under_way: Mapping[str, int]) -> int:
        most = 1 if _is_probed(due) else self._most_each
        return most - under_way.get(due.target, 0)

    def _jobs_of(self, deliveries: Iterable[Delivery]) -> dict[str, Job]:
        ids = sorted({each.job_id for each in deliveries if each.type is not EventType.TEST})
        return {job.id: job for job in self._store.jobs(ids)} if ids else {}

    def _dispatches(
        self, deliveries: Iterable[Delivery], endpoints: Mapping[str, Endpoint], jobs: Mapping[str, Job]
    ) -> Iterable[Dispatch]:
        for delivery in deliveries:
            job, endpoint = jobs.get(delivery.job_id), endpoints.get(delivery.endpoint)
            if endpoint is not None and endpoint.disabled is not None:
                continue
            url = endpoint.url if endpoint is not None else job.webhook_url if job is not None else None
            secrets = self._secrets(endpoint, delivery.tenant)
            # What was deleted since it was taken is told no more.
            if url is None or (delivery.endpoint and endpoint is None) or secrets is None:
                continue
            identity = event_id(delivery.job_id, delivery.seq, delivery.endpoint)
            if job is not None:
                yield Dispatch(delivery, url, identity, body_of(delivery, job), secrets)
            elif delivery.type is EventType.TEST:
                yield Dispatch(delivery, url, identity, trial_body(delivery), secrets)

    def _secrets(self, endpoint: Endpoint | None, tenant: str) -> Sequence[str] | None:
        """Those that are valid; None if they can't be read, which only an operator can mend: it is tried again."""
        if endpoint is None:
            return self._keyring.default_secrets(tenant)
        sealed = [endpoint.secret]
        if endpoint.old_secret is not None and self._outbox.now() < (endpoint.old_secret_until or 0):
            sealed.append(endpoint.old_secret)
        try:
            return [self._keyring.open(each, endpoint.id) for each in sealed]
        except SecretUnreadable as error:
            logger.error("%s", error)  # noqa: TRY400 - the operator's to mend, there is nothing to trace
            return None

    def _give_up(self, ids: Iterable[str], endpoints: Mapping[str, Endpoint]) -> None:
        """End what was left for an endpoint by a transaction that did not see it being disabled or deleted."""
        for endpoint_id in ids:
            endpoint = endpoints.get(endpoint_id)
            if endpoint is None:
                self._outbox.delete_endpoint(endpoint_id)
            elif endpoint.disabled is not None:
                self._outbox.disable(endpoint_id, endpoint.disabled)

    def settle(self, done: Sequence[tuple[Dispatch, Answer]]) -> None:
        """Commit a group of answers and what follows from them. Raises StoreUnavailable, then repeat."""
        now = self._outbox.now()
        known = self._outbox.circuits(sorted({dispatch.delivery.target for dispatch, _ in done}))
        circuits: dict[str, Circuit | None] = {}
        for dispatch, answer in done:
            target = dispatch.delivery.target
            before = circuits.get(target, known.get(target))
            if answer.good:
                if before is not None or target in circuits:
                    circuits[target] = None
            else:
                circuits[target] = after_failure(before, answer, now, probe=dispatch.probe)
        self._outbox.settle([self._settlement(dispatch, answer, now) for dispatch, answer in done], circuits)
        self._disable(done, circuits, now)

    def _settlement(self, dispatch: Dispatch, answer: Answer, now: int) -> Settlement:
        delivery = dispatch.delivery
        assert delivery.token is not None, "what was claimed has a token"
        if answer.good:
            return Settlement(delivery.id, delivery.token, answer, DeliveryState.DELIVERED)
        wait_ms = next_attempt_ms(delivery.tries + 1, answer, self._chance.random())
        if wait_ms is None or answer.status == GONE:
            return Settlement(delivery.id, delivery.token, answer, DeliveryState.FAILED)
        return Settlement(delivery.id, delivery.token, answer, DeliveryState.PENDING, now + wait_ms)

    def _disable(
        self, done: Sequence[tuple[Dispatch, Answer]], circuits: Mapping[str, Circuit | None], now: int
    ) -> None:
        hopeless = {
            target for target, circuit in circuits.items() if circuit and is_hopeless(circuit, now, self._disable_days)
        }
        for endpoint in sorted({dispatch.delivery.endpoint for dispatch, _ in done} - {""}):
            answers = [answer for dispatch, answer in done if dispatch.delivery.endpoint == endpoint]
            if any(answer.status == GONE for answer in answers):
                self._end(endpoint, Disabled.GONE, "it answered 410")
            elif endpoint in hopeless:
                self._end(endpoint, Disabled.FAILING, f"it has failed for {self._disable_days} days")

    def _end(self, endpoint: str, why: Disabled, said: str) -> None:
        given_up = self._outbox.disable(endpoint, why)
        logger.warning("webhook endpoint %s is disabled, for %s; %d deliveries are given up", endpoint, said, given_up)

    def leave(self) -> None:
        """Give back what this sender holds: it stops. Raises StoreUnavailable."""
        self._outbox.release(self._sender)


def _is_probed(due: DueTarget) -> bool:
    return due.circuit is not None and due.circuit.probing


def shares(room: int, wanted: Mapping[str, int]) -> dict[str, int]:
    """``room`` places shared by those who want some: no one has more than an equal part while another wants more."""
    given: dict[str, int] = {}
    # The modest first: what they leave is the others'. Equal ones stay in the order given.
    for place, (who, wants) in enumerate(sorted(wanted.items(), key=lambda item: item[1])):
        part = min(wants, -(-room // (len(wanted) - place)))
        if part > 0:
            given[who] = part
            room -= part
    return given


class Redelivery:
    """What the sweep does for the outbox: let go what dead senders hold, and wake one when something is due.

    ``is_dead(sender)`` says whether a sender is known to be gone; ``ring`` wakes one.
    """

    def __init__(self, outbox: Outbox, *, is_dead: Callable[[str], bool], ring: Callable[[], None]) -> None:
        self._outbox = outbox
        self._is_dead = is_dead
        self._ring = ring

    def of_the_dead(self) -> int:
        """Deliveries whose sender is known to be gone; how many. Raises StoreUnavailable."""
        return sum(self._outbox.release(sender) for sender in self._outbox.senders() if self._is_dead(sender))

    def __call__(self) -> int:
        """One round; how many deliveries were let go. Raises StoreUnavailable."""
        released = self.of_the_dead()
        if self._outbox.due_targets():
            self._ring()
        return released
