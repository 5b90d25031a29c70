"""What clients may do with webhooks, over the memory implementations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from ktqueue.errors import Conflict, Invalid, NotFound, StoreUnavailable
from ktqueue.job import Job
from ktqueue.outbox.base import DeliveryQuery, Endpoint
from ktqueue.webhook import TERMINAL, DeliveryState, Disabled, EventType
from ktqueue.webhook_addresses import AddressRules
from ktqueue.webhook_policy import DAY, Circuit
from ktqueue.webhook_signing import Keyring, new_key
from ktqueue.webhooks import MOST_ENDPOINTS, Changes, CircuitState, Health, Webhooks
from tests.support.scene import Scene

URL = "https://receiver.example/hook"
QUEUED = EventType.JOB_QUEUED
NOBODY = f"whe_{'0' * 32}"
PENDING, FAILED = DeliveryState.PENDING, DeliveryState.FAILED


@dataclass
class Desk:
    """A scene and the use cases on it; ``rung`` counts the calls of ``ring``."""

    scene: Scene = field(default_factory=Scene)
    keyring: Keyring = field(default_factory=lambda: Keyring(new_key()))
    rung: int = 0

    def __post_init__(self) -> None:
        rules = AddressRules("", "443")
        self.webhooks = Webhooks(self.scene.store, self.scene.outbox, self.keyring, rules, self.ring)

    def ring(self) -> None:
        self.rung += 1

    def endpoint(self, events: EventType = QUEUED) -> Endpoint:
        return self.webhooks.create(URL, events, None, "")[0]

    def submit(self) -> Job:
        return self.scene.submit(webhook=self.webhooks.webhook(URL, QUEUED, field="url"))

    def states(self) -> list[DeliveryState]:
        return [each.state for each in self.scene.true_outbox.deliveries(DeliveryQuery())]

    def kept(self, endpoint: Endpoint) -> Endpoint:
        kept = self.scene.true_outbox.endpoint(endpoint.id)
        assert kept is not None
        return kept


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_webhook_goes_to_an_origin_and_tells_of_the_end_unless_more_was_asked_for(desk: Desk) -> None:
    webhook = desk.webhooks.webhook(URL, None, field="webhook.url")

    assert (webhook.url, webhook.target, webhook.events) == (URL, "https://receiver.example:443", TERMINAL)
    assert desk.webhooks.webhook(URL, QUEUED, field="webhook.url").events == QUEUED


def test_a_url_that_may_not_be_called_is_refused_by_the_name_of_its_field(desk: Desk) -> None:
    with pytest.raises(Invalid) as of_job:
        desk.webhooks.webhook("https://10.0.0.1/", None, field="webhook.url")
    assert of_job.value.field == "webhook.url"
    endpoint = desk.endpoint()
    with pytest.raises(Invalid) as of_new:
        desk.webhooks.create("https://receiver.example:22/", QUEUED, None, "")
    with pytest.raises(Invalid) as of_changed:
        desk.webhooks.change(endpoint.id, Changes(url="https://localhost/"))
    assert (of_new.value.field, of_changed.value.field) == ("url", "url")
    assert desk.webhooks.endpoints() == [endpoint]


def test_a_secret_is_sealed_for_its_endpoint_alone(desk: Desk) -> None:
    endpoint, secret = desk.webhooks.create(URL, QUEUED, "echo", "ours")

    assert secret not in endpoint.secret
    assert desk.keyring.open(endpoint.secret, endpoint.id) == secret
    assert desk.webhooks.endpoint(endpoint.id) == endpoint
    assert (endpoint.model, endpoint.description, endpoint.disabled) == ("echo", "ours", None)


def test_only_so_many_endpoints_are_registered(desk: Desk) -> None:
    first = desk.endpoint()
    for number in range(1, MOST_ENDPOINTS):
        desk.scene.true_outbox.add_endpoint(replace(first, id=f"whe_{number}"))

    with pytest.raises(Conflict, match=f"there are {MOST_ENDPOINTS} webhook endpoints"):
        desk.endpoint()

    desk.webhooks.delete(first.id)
    desk.endpoint()


# --- rotation --------------------------------------------------------------------------------------------------


def test_after_a_rotation_the_secret_before_is_kept_for_a_day_and_no_older_one(desk: Desk) -> None:
    endpoint, first = desk.webhooks.create(URL, QUEUED, None, "")
    rotated, second = desk.webhooks.rotate(endpoint.id)

    assert rotated == desk.kept(endpoint)
    assert rotated.old_secret is not None
    assert [desk.keyring.open(each, endpoint.id) for each in (rotated.secret, rotated.old_secret)] == [second, first]
    assert rotated.old_secret_until == desk.scene.clock.ms + DAY
    desk.scene.clock.sleep(60)
    again, third = desk.webhooks.rotate(endpoint.id)
    assert again.old_secret is not None
    assert [desk.keyring.open(each, endpoint.id) for each in (again.secret, again.old_secret)] == [third, second]
    assert again.old_secret_until == desk.scene.clock.ms + DAY


def test_a_change_does_not_bring_back_what_was_changed_meanwhile(desk: Desk) -> None:
    endpoint = desk.endpoint()

    def rotate_first(call: str) -> None:
        if call == "change_endpoint":
            desk.scene.sql.before = lambda _: None
            desk.webhooks.rotate(endpoint.id)
            desk.scene.true_outbox.disable(endpoint.id, Disabled.GONE)

    desk.scene.sql.before = rotate_first
    changed = desk.webhooks.change(endpoint.id, Changes(description="new"))

    assert changed == desk.kept(endpoint)
    assert (changed.description, changed.disabled) == ("new", Disabled.GONE)
    assert changed.old_secret == endpoint.secret


# --- changes ---------------------------------------------------------------------------------------------------


def test_only_what_is_named_changes(desk: Desk) -> None:
    endpoint, _ = desk.webhooks.create(URL, QUEUED, "echo", "ours")
    for changes, expected in [
        (Changes(), {}),
        (Changes(url="https://other.example/"), {"url": "https://other.example/"}),
        (Changes(events=TERMINAL), {"events": TERMINAL}),
        (Changes(model="chat"), {"model": "chat"}),
        (Changes(any_model=True), {"model": None}),
        (Changes(description=""), {"description": ""}),
        (Changes(enabled=False), {"disabled": Disabled.OPERATOR}),
        (Changes(enabled=True), {"disabled": None}),
    ]:
        endpoint = replace(endpoint, **expected)  # type: ignore[arg-type] # fields by their names
        assert desk.webhooks.change(endpoint.id, changes) == desk.kept(endpoint) == endpoint


def test_why_an_endpoint_was_disabled_is_remembered_until_it_is_enabled(desk: Desk) -> None:
    endpoint = desk.endpoint()
    desk.scene.true_outbox.disable(endpoint.id, Disabled.FAILING)

    assert desk.webhooks.change(endpoint.id, Changes(enabled=False)).disabled is Disabled.FAILING
    assert desk.webhooks.change(endpoint.id, Changes(description="x")).disabled is Disabled.FAILING
    assert desk.webhooks.change(endpoint.id, Changes(enabled=True)).disabled is None


# --- health ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "open_for_ms", "state"),
    [
        (1, None, CircuitState.CLOSED),
        (4, None, CircuitState.CLOSED),
        (1, 1, CircuitState.OPEN),
        (1, 0, CircuitState.HALF_OPEN),
        (5, 1, CircuitState.OPEN),
        (5, 0, CircuitState.HALF_OPEN),
    ],
)
def test_health_is_of_the_circuit_as_it_is_now(
    desk: Desk, failures: int, open_for_ms: int | None, state: CircuitState
) -> None:
    well, ill = desk.endpoint(), desk.endpoint()
    now = desk.scene.clock.ms
    until = 0 if open_for_ms is None else now + open_for_ms
    desk.scene.true_outbox.settle([], {ill.id: Circuit(failures, now - 7, until)})

    assert desk.webhooks.health([well.id, ill.id]) == {
        well.id: Health(),
        ill.id: Health(state, failures, until or None, now - 7),
    }


# --- tests, replay, redelivery ---------------------------------------------------------------------------------


def test_a_replay_begins_anew_what_was_missed_since_a_time(desk: Desk) -> None:
    endpoint = desk.endpoint()
    desk.scene.true_outbox.disable(endpoint.id, Disabled.OPERATOR)
    desk.scene.submit()
    desk.scene.clock.sleep(1)
    since = desk.scene.clock.ms
    desk.scene.submit()
    desk.webhooks.change(endpoint.id, Changes(enabled=True))
    desk.scene.submit()

    assert desk.webhooks.replay(endpoint.id, since) == 1
    assert desk.states() == [PENDING, PENDING, FAILED]
    assert desk.webhooks.replay(endpoint.id, 0) == 1
    assert desk.rung == 2


def test_to_a_disabled_endpoint_nothing_is_sent(desk: Desk) -> None:
    endpoint = desk.endpoint()
    told = desk.webhooks.test(endpoint.id)
    desk.webhooks.change(endpoint.id, Changes(enabled=False))

    for refused in (
        lambda: desk.webhooks.test(endpoint.id),
        lambda: desk.webhooks.replay(endpoint.id, 0),
        lambda: desk.webhooks.redeliver(told.delivery.id),
    ):
        with pytest.raises(Conflict, match="is disabled; enable it first"):
            refused()
    assert desk.states() == [FAILED]
    assert desk.rung == 1


def test_what_was_given_up_is_sent_again_when_that_is_asked_for(desk: Desk) -> None:
    endpoint = desk.endpoint()
    desk.scene.submit()
    (told,) = desk.webhooks.deliveries(DeliveryQuery())
    desk.webhooks.change(endpoint.id, Changes(enabled=False))
    desk.webhooks.change(endpoint.id, Changes(enabled=True))
    assert desk.states() == [FAILED]

    again = desk.webhooks.redeliver(told.delivery.id)

    assert (again.delivery.state, again.delivery.next_at, again.url) == (PENDING, desk.scene.clock.ms, URL)
    assert desk.webhooks.delivery(told.delivery.id) == again
    assert desk.rung == 1


def test_of_what_is_deleted_nothing_is_left(desk: Desk) -> None:
    endpoint = desk.endpoint()
    told = desk.webhooks.test(endpoint.id)
    desk.webhooks.delete(endpoint.id)

    for gone in (
        lambda: desk.webhooks.endpoint(endpoint.id),
        lambda: desk.webhooks.change(endpoint.id, Changes(enabled=True)),
        lambda: desk.webhooks.rotate(endpoint.id),
        lambda: desk.webhooks.delete(endpoint.id),
        lambda: desk.webhooks.test(endpoint.id),
        lambda: desk.webhooks.replay(endpoint.id, 0),
        lambda: desk.webhooks.delivery(told.delivery.id),
        lambda: desk.webhooks.redeliver(told.delivery.id),
        lambda: desk.webhooks.of_job(DeliveryQuery(job_id=f"job_{'0' * 32}")),
    ):
        with pytest.raises(NotFound, match="there is no"):
            gone()
    assert desk.rung == 1


@pytest.mark.parametrize("call", ["add_test", "redeliver"])
def test_what_is_deleted_in_between_is_not_found(desk: Desk, call: str) -> None:
    endpoint = desk.endpoint()
    told = desk.webhooks.test(endpoint.id)

    def delete_first(name: str) -> None:
        if name == call:
            desk.scene.true_outbox.delete_endpoint(endpoint.id)

    desk.scene.sql.before = delete_first
    with pytest.raises(NotFound):
        desk.webhooks.test(endpoint.id) if call == "add_test" else desk.webhooks.redeliver(told.delivery.id)


def test_nobody_is_rung_for_what_was_not_committed(desk: Desk) -> None:
    endpoint = desk.endpoint()
    desk.scene.sql.go("add_test", "replay")
    for call in (lambda: desk.webhooks.test(endpoint.id), lambda: desk.webhooks.replay(endpoint.id, 0)):
        with pytest.raises(StoreUnavailable):
            call()
    assert desk.rung == 0


# --- deliveries ------------------------------------------------------------------------------------------------


def test_each_delivery_is_told_with_the_url_it_goes_to(desk: Desk) -> None:
    endpoint = desk.endpoint()
    job = desk.submit()
    desk.webhooks.change(endpoint.id, Changes(url="https://moved.example/"))
    test = desk.webhooks.test(endpoint.id)

    told = desk.webhooks.deliveries(DeliveryQuery())

    assert told[0] == replace(test, url="https://moved.example/")
    urls = {(each.delivery.job_id, each.delivery.endpoint): each.url for each in told}
    assert urls == {
        ("", endpoint.id): "https://moved.example/",
        (job.id, endpoint.id): "https://moved.example/",
        (job.id, ""): URL,
    }
    of_job = desk.webhooks.of_job(DeliveryQuery(job_id=job.id))
    assert [each.delivery for each in of_job] == [each.delivery for each in told[1:]]


def test_the_keys_are_those_of_the_keyring(desk: Desk) -> None:
    assert desk.webhooks.default_secret() == desk.keyring.default_secret()
    assert desk.webhooks.public_keys() == desk.keyring.public_keys()
