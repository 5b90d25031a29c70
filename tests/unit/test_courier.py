"""The delivery loop, over the memory implementations and a sender that a test leads."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from ktqueue.delivery import Deliveries
from ktqueue.errors import StoreUnavailable
from ktqueue.outbox.base import DeliveryQuery
from ktqueue.webhook import TERMINAL, Answer, DeliveryState, Webhook
from ktqueue.webhook_signing import Keyring, new_key, verify
from tests.support.scene import Scene
from worker.courier import Courier

NOW = 1_800_000_000.0
OK = Answer(204, None, 1)


class Receivers:
    """Takes requests: counts them, hangs where it is told to, and says when one has begun."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.hanging: set[str] = set()
        self.broken: set[str] = set()
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.begun = threading.Event()

    async def send(self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float) -> Answer:
        self.requests.append((url, dict(headers), body))
        self.under_way[url] += 1
        self.most[url] = max(self.most[url], self.under_way[url])
        self.begun.set()
        try:
            if url in self.broken:
                raise RuntimeError("a fault of ours")
            await asyncio.sleep(3_600 if url in self.hanging else 0.001)
        finally:
            self.under_way[url] -= 1
        assert timeout_s == 15.0
        return OK


class Delivering:
    """A courier in a scene."""

    def __init__(self, in_flight: int = 8, grace_s: float = 0.1) -> None:
        self.scene = Scene()
        self.receivers = Receivers()
        self.keyring = Keyring(new_key())
        self.stop = threading.Event()
        deliveries = Deliveries(
            self.scene.store,
            self.scene.outbox,
            self.keyring,
            sender="me",
            most_each=3,
            lease_ms=30_000,
            disable_days=5,
        )
        self.courier = Courier(
            deliveries,
            self.receivers,
            self.keyring,
            in_flight=in_flight,
            timeout_s=15.0,
            grace_s=grace_s,
            stopping=self.stop.is_set,
            unix_time=lambda: NOW,
        )

    def ended(self, host: str, jobs: int = 1) -> str:
        """So many jobs end that tell this host; its URL."""
        url = f"https://{host}.example/hook"
        for _ in range(jobs):
            job = self.scene.submit(webhook=Webhook(url, f"https://{host}.example:443", TERMINAL))
            self.scene.intake.cancel(job.id)
        return url

    def states(self) -> Counter[DeliveryState]:
        return Counter(each.state for each in self.scene.true_outbox.deliveries(DeliveryQuery(limit=1_000)))


@pytest.fixture
def delivering() -> Iterator[Delivering]:
    made = Delivering()
    yield made
    made.courier.close()


def test_everything_due_is_delivered_and_every_request_verifies(delivering: Delivering) -> None:
    delivering.ended("a", 20)
    delivering.ended("b", 5)
    assert delivering.courier.drain() == 25
    assert delivering.states() == {DeliveryState.DELIVERED: 25}
    assert len({headers["webhook-id"] for _, headers, _ in delivering.receivers.requests}) == 25
    for _, headers, body in delivering.receivers.requests:
        keys = [key["whpk"] for key in delivering.keyring.public_keys()]
        verify(headers, body, secrets=[], public_keys=keys, now=NOW)
        verify(headers, body, secrets=[delivering.keyring.default_secret()], now=NOW)
        assert headers["user-agent"].startswith("ktqueue/")
    assert delivering.courier.drain() == 0


def test_no_receiver_is_asked_more_at_once_than_it_may_be(delivering: Delivering) -> None:
    url = delivering.ended("a", 30)
    delivering.courier.drain()
    assert delivering.receivers.most[url] == 3


def test_what_becomes_due_meanwhile_is_delivered_though_a_receiver_hangs(delivering: Delivering) -> None:
    delivering.receivers.hanging.add(delivering.ended("hangs"))

    def meanwhile() -> None:
        assert delivering.receivers.begun.wait(10)
        delivering.ended("well", 10)
        while delivering.states()[DeliveryState.DELIVERED] < 10:
            pass
        delivering.stop.set()

    other = threading.Thread(target=meanwhile)
    other.start()
    delivering.courier.drain()
    other.join()
    assert delivering.states() == {DeliveryState.DELIVERED: 10, DeliveryState.PENDING: 1}


def test_what_does_not_fit_the_grace_is_given_back_at_once(delivering: Delivering) -> None:
    delivering.receivers.hanging.add(delivering.ended("hangs", 2))

    def meanwhile() -> None:
        assert delivering.receivers.begun.wait(10)
        delivering.stop.set()

    other = threading.Thread(target=meanwhile)
    other.start()
    delivering.courier.drain()
    other.join()
    assert delivering.scene.true_outbox.senders() == []
    assert len(delivering.scene.true_outbox.due_targets()) == 1


def test_after_a_stop_nothing_is_begun(delivering: Delivering) -> None:
    delivering.ended("a")
    delivering.stop.set()
    assert delivering.courier.drain() == 0
    assert delivering.receivers.requests == []


def test_a_fault_of_ours_costs_one_delivery_its_turn_and_no_other(
    delivering: Delivering, caplog: pytest.LogCaptureFixture
) -> None:
    delivering.receivers.broken.add(delivering.ended("a"))
    delivering.ended("b", 3)
    delivering.courier.drain()
    assert delivering.states() == {DeliveryState.DELIVERED: 3, DeliveryState.PENDING: 1}
    assert "a fault of ours" in caplog.text


def test_answers_are_kept_while_the_database_is_away(delivering: Delivering) -> None:
    delivering.ended("a", 3)
    failures = iter([True, True])

    def before(name: str) -> None:
        if name == "settle" and next(failures, False):
            raise StoreUnavailable("away")

    delivering.scene.sql.before = before
    assert delivering.courier.drain() == 3
    assert delivering.states() == {DeliveryState.DELIVERED: 3}


def test_a_database_that_is_away_ends_a_drain_that_holds_nothing(delivering: Delivering) -> None:
    delivering.scene.sql.go()
    with pytest.raises(StoreUnavailable):
        delivering.courier.drain()
