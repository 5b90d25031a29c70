"""What a sender does with the outbox, over the memory implementations."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktqueue.delivery import Deliveries, Dispatch, Redelivery, shares
from ktqueue.errors import StoreUnavailable
from ktqueue.job import Job
from ktqueue.outbox.base import DeliveryQuery
from ktqueue.webhook import TERMINAL, Answer, DeliveryState, Disabled, EventType, Webhook
from ktqueue.webhook_addresses import AddressRules
from ktqueue.webhook_policy import DAY, HOUR, MINUTE, SECOND
from ktqueue.webhook_signing import Keyring, new_key
from ktqueue.webhooks import Changes, Webhooks
from tests.support.scene import Scene

OK, BAD = Answer(200, None, 5), Answer(500, None, 5)
TARGET = "https://receiver.example:443"
URL = f"{TARGET}/hook"
LEASE_MS = 30_000


@dataclass
class Post:
    """A scene with one sender in it, and receivers that a test makes answer as it likes."""

    scene: Scene
    keyring: Keyring
    answers: Callable[[Dispatch], Answer] = lambda _: OK
    got: list[Dispatch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.webhooks = Webhooks(
            self.scene.store, self.scene.outbox, self.keyring, AddressRules("receiver.example", "443"), lambda: None
        )
        self.deliveries = self.sender("me")

    def sender(self, name: str, most_each: int = 4) -> Deliveries:
        return Deliveries(
            self.scene.store,
            self.scene.outbox,
            self.keyring,
            sender=name,
            most_each=most_each,
            lease_ms=LEASE_MS,
            disable_days=5,
            chance=random.Random(7),
        )

    def submit(self, url: str = URL, events: EventType = TERMINAL) -> Job:
        return self.scene.submit(webhook=Webhook(url, url.rsplit("/", 1)[0], events))

    def ended(self, url: str = URL) -> Job:
        job = self.submit(url)
        self.scene.intake.cancel(job.id)
        return job

    def round(self, room: int = 100) -> list[Dispatch]:
        """Claim, send, settle; what was sent."""
        taken = self.deliveries.claim(room, {}, "t")
        self.got += taken
        if taken:
            self.deliveries.settle([(dispatch, self.answers(dispatch)) for dispatch in taken])
        return taken

    def states(self) -> list[DeliveryState]:
        return [each.state for each in reversed(self.scene.true_outbox.deliveries(DeliveryQuery(limit=1_000)))]


@pytest.fixture
def post() -> Post:
    return Post(Scene(), Keyring(new_key()))


def test_what_ended_is_told_once(post: Post) -> None:
    job = post.ended()
    (sent,) = post.round()
    said = orjson.loads(sent.body)
    assert (said["id"], said["type"]) == (sent.event_id, "job.cancelled")
    assert said["data"]["id"] == job.id
    assert (sent.url, list(sent.secrets)) == (URL, post.keyring.default_secrets())
    assert post.round() == []
    assert post.states() == [DeliveryState.DELIVERED]


def test_a_failure_is_told_again_with_the_same_bytes_as_long_as_the_schedule_says(post: Post) -> None:
    post.answers = lambda _: BAD
    post.ended()
    assert len(post.round()) == 1
    for wait in [5 * SECOND, 5 * MINUTE, 30 * MINUTE, *(hours * HOUR for hours in (2, 5, 10, 14, 20, 24))]:
        post.scene.clock.ms += wait - 1
        assert post.round() == []
        post.scene.clock.ms += wait // 10 + 10 * MINUTE
        assert len(post.round()) == 1
    post.scene.clock.ms += 2 * DAY
    assert post.round() == []
    assert len({(each.event_id, each.body) for each in post.got}) == 1
    assert post.states() == [DeliveryState.FAILED]


def test_a_receiver_that_is_away_for_a_day_gets_everything_when_it_is_back(post: Post) -> None:
    post.answers = lambda _: Answer(None, "connection_failed", 3)
    jobs = [post.ended() for _ in range(50)]
    for _ in range(24 * 60):
        post.round()
        post.scene.clock.ms += MINUTE
    attempts = len(post.got)
    assert attempts < 24 * 60 / 10 + 50
    post.answers = lambda _: OK
    post.got.clear()
    for _ in range(24 * 60):
        post.round()
        post.scene.clock.ms += MINUTE
    assert {each.delivery.job_id for each in post.got} == {job.id for job in jobs}
    assert len(post.got) == 50
    assert set(post.states()) == {DeliveryState.DELIVERED}


def test_a_circuit_opens_after_five_failures_and_closes_after_one_success(post: Post) -> None:
    post.answers = lambda _: BAD
    for _ in range(8):
        post.ended()
    assert len(post.round()) == 4
    assert len(post.round()) == 4
    post.ended()
    assert post.round() == []
    post.scene.clock.ms += MINUTE
    assert len(post.round()) == 1, "one probe"
    post.answers = lambda _: OK
    post.scene.clock.ms += 10 * MINUTE
    assert len(post.round()) == 1, "one probe"
    assert len(post.round()) == 4, "closed"


def test_many_failures_at_once_open_a_circuit_for_seconds_not_for_minutes(post: Post) -> None:
    many = post.sender("many", most_each=16)
    for _ in range(20):
        post.ended()
    taken = many.claim(100, {}, "t")
    assert len(taken) == 16
    for dispatch in taken:
        many.settle([(dispatch, BAD)])
    post.scene.clock.ms += 5 * SECOND
    assert len(many.claim(100, {}, "t")) == 1, "one probe"


def test_a_dead_receiver_takes_no_place_from_the_others(post: Post) -> None:
    for number in range(40):
        post.ended("https://dead.example:443/hook")
        if number < 5:
            post.ended(f"https://well-{number}.example:443/hook")
    taken = post.deliveries.claim(8, {}, "t")
    by_target = Counter(each.delivery.target for each in taken)
    assert by_target == {"https://dead.example:443": 2} | {f"https://well-{n}.example:443": 1 for n in range(5)}


def test_requests_under_way_count_against_their_target(post: Post) -> None:
    for _ in range(10):
        post.ended()
    assert len(post.deliveries.claim(100, {TARGET: 3}, "t")) == 1
    assert post.deliveries.claim(100, {TARGET: 4}, "t") == []


@pytest.mark.parametrize("status", [429, 502, 504])
def test_a_receiver_that_asks_for_time_is_given_it(post: Post, status: int) -> None:
    post.answers = lambda _: Answer(status, None, 5, retry_after_s=600)
    post.ended()
    post.round()
    post.ended()
    post.scene.clock.ms += 599 * SECOND
    assert post.round() == []
    post.scene.clock.ms += 2 * SECOND
    assert len(post.round()) == 1


def test_an_endpoint_that_is_gone_is_disabled_and_can_be_replayed(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    endpoint, _ = post.webhooks.create(URL, TERMINAL, None, "")
    post.answers = lambda _: Answer(410, None, 5)
    jobs = [post.scene.submit() for _ in range(3)]
    for job in jobs:
        post.scene.intake.cancel(job.id)
    with caplog.at_level(logging.WARNING):
        post.deliveries.settle([(post.deliveries.claim(1, {}, "t")[0], Answer(410, None, 5))])
    assert f"{endpoint.id} is disabled, for it answered 410; 2 deliveries are given up" in caplog.text
    assert post.webhooks.endpoint(endpoint.id).disabled is Disabled.GONE
    assert post.states() == [DeliveryState.FAILED] * 3
    late = post.scene.submit()
    post.scene.intake.cancel(late.id)
    assert post.round() == []

    post.webhooks.change(endpoint.id, Changes(enabled=True))
    assert post.webhooks.replay(endpoint.id, jobs[0].created_at) == 4
    post.answers = lambda _: OK
    assert {each.delivery.job_id for each in post.round()} == {job.id for job in [*jobs, late]}


def test_a_job_webhook_that_is_gone_is_not_tried_again(post: Post) -> None:
    post.answers = lambda _: Answer(410, None, 5)
    post.ended()
    post.round()
    assert post.states() == [DeliveryState.FAILED]


def test_an_endpoint_that_fails_for_days_is_disabled(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    endpoint, _ = post.webhooks.create(URL, TERMINAL, None, "")
    post.answers = lambda _: BAD
    disabled_after = None
    for hour in range(7 * 24):
        job = post.scene.submit()
        post.scene.intake.cancel(job.id)
        post.round()
        if post.webhooks.endpoint(endpoint.id).disabled is Disabled.FAILING:
            disabled_after = hour
            break
        post.scene.clock.ms += HOUR
    assert disabled_after == 5 * 24
    assert "it has failed for 5 days" in caplog.text
    assert DeliveryState.PENDING not in post.states()


def test_one_success_within_days_of_failures_keeps_an_endpoint(post: Post) -> None:
    endpoint, _ = post.webhooks.create(URL, TERMINAL, None, "")
    for hour in range(12 * 24):
        job = post.scene.submit()
        post.scene.intake.cancel(job.id)
        answer = OK if hour % 96 == 95 else BAD
        post.answers = lambda _, answer=answer: answer  # type: ignore[misc] # bound now
        post.round()
        post.scene.clock.ms += HOUR
    assert post.webhooks.endpoint(endpoint.id).disabled is None


def test_after_a_rotation_both_secrets_sign_for_a_day(post: Post) -> None:
    endpoint, first = post.webhooks.create(URL, TERMINAL, None, "")
    _, second = post.webhooks.rotate(endpoint.id)

    def secrets() -> list[str]:
        job = post.scene.submit()
        post.scene.intake.cancel(job.id)
        return list(post.round()[0].secrets)

    assert secrets() == [second, first]
    post.scene.clock.ms += DAY
    assert secrets() == [second]


def test_what_a_stopped_or_dead_sender_held_is_sent_by_the_next(post: Post) -> None:
    post.ended()
    post.ended()
    post.deliveries.claim(1, {}, "t")
    other = post.sender("other")
    other.claim(1, {}, "u")
    rung: list[int] = []
    redelivery = Redelivery(post.scene.outbox, is_dead={"other"}.__contains__, ring=lambda: rung.append(1))
    assert redelivery() == 1
    assert rung == [1]
    post.deliveries.leave()
    assert len(post.round()) == 2


def test_the_sweep_rings_only_when_something_is_due(post: Post) -> None:
    post.scene.sweep()
    assert post.scene.rung_for_deliveries == 0
    post.ended()
    rung = post.scene.rung_for_deliveries
    post.scene.sweep()
    assert post.scene.rung_for_deliveries == rung + 1


def test_settling_can_be_repeated_while_the_database_is_away(post: Post) -> None:
    post.ended()
    taken = post.deliveries.claim(5, {}, "t")
    post.scene.sql.go()
    with pytest.raises(StoreUnavailable):
        post.deliveries.settle([(taken[0], OK)])
    post.scene.sql.come_back()
    post.deliveries.settle([(taken[0], OK)])
    post.deliveries.settle([(taken[0], BAD)])
    assert post.states() == [DeliveryState.DELIVERED]


def test_a_secret_that_no_key_opens_keeps_its_deliveries_waiting(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    post.webhooks.create(URL, TERMINAL, None, "")
    post.scene.intake.cancel(post.scene.submit().id)
    stranger = Post(post.scene, Keyring(new_key()))
    assert stranger.round() == []
    assert "no key opens the secret" in caplog.text
    post.scene.clock.ms += LEASE_MS
    assert len(post.round()) == 1


def test_what_a_forgotten_endpoint_was_to_be_told_goes_with_it(post: Post) -> None:
    endpoint, _ = post.webhooks.create(URL, TERMINAL, None, "")
    post.scene.intake.cancel(post.scene.submit().id)
    # As if a transaction that had seen the endpoint was committed after it was deleted.
    del post.scene.true_outbox._endpoints[endpoint.id]
    assert post.round() == []
    assert post.states() == []


@given(st.integers(0, 300), st.dictionaries(st.text(max_size=3), st.integers(-3, 40), max_size=20))
@settings(max_examples=200)
def test_shares_are_fair(room: int, wanted: dict[str, int]) -> None:
    given_ = shares(room, wanted)
    asked = {who: wants for who, wants in wanted.items() if wants > 0}
    assert sum(given_.values()) == min(room, sum(asked.values()))
    assert all(0 < part <= asked[who] for who, part in given_.items())
    unhappy = [given_.get(who, 0) for who, wants in asked.items() if given_.get(who, 0) < wants]
    most = max(given_.values(), default=0)
    assert all(part >= most - 1 for part in unhappy)
