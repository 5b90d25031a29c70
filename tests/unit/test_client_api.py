"""Both clients and the command line against the real API, over the memory implementations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import httpx
import pytest
from click.testing import CliRunner, Result

from ktqueue.cli import main
from ktqueue.cli.app import App
from ktqueue.client import Conflict, InvalidRequest, JobFailed, JobSpec, NotFound, RateLimited
from ktqueue.control import LaneMode
from ktqueue.job import JobState
from ktqueue.outbox.base import Settlement
from ktqueue.presence.base import Slot, Worker
from ktqueue.room import Room
from ktqueue.webhook import Answer, DeliveryState
from tests.api.wiring import ALLOWED, Api
from tests.support.client import AsyncSubject, Server, Subject, SyncSubject, World


def served(api: Api) -> Server:
    """The API as a handler; it answers whole."""
    transport = httpx.WSGITransport(app=api.app)

    def handle(request: httpx.Request) -> httpx.Response:
        answer = transport.handle_request(request)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.read())

    return Server(handler=handle)


class Working(World):
    """Whenever somebody sleeps, every job that waits is done."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        self._api = api

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._api.succeed()


class Delivering(World):
    """Whenever somebody sleeps, every delivery that is due is attempted, and answered with ``status``."""

    def __init__(self, api: Api, status: int) -> None:
        super().__init__()
        self._outbox = api.scene.true_outbox
        self._status = status

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        wanted = {due.target: 10 for due in self._outbox.due_targets()}
        state = DeliveryState.DELIVERED if self._status < 300 else DeliveryState.FAILED
        answered = Answer(self._status, None, 12)
        claimed = self._outbox.claim(wanted, token="t", sender="s", lease_ms=1_000)
        self._outbox.settle([Settlement(each.id, "t", answered, state) for each in claimed], {})


@pytest.fixture
def api() -> Api:
    return Api(max_queued=3_000)


@pytest.fixture(params=[SyncSubject, AsyncSubject])
def client(request: pytest.FixtureRequest, api: Api) -> Iterator[Subject]:
    subject: Subject = request.param(served(api), Working(api))
    yield subject
    subject.close()


def specs(count: int) -> list[JobSpec]:
    return [{"model": "echo", "input": {"n": n}} for n in range(count)]


def test_a_job_with_every_option_from_submit_to_result(client: Subject, api: Api) -> None:
    run_at = datetime(2025, 1, 1, tzinfo=UTC)
    job = client.call(
        "submit",
        "encoder",
        "Hello",
        task="classify",
        params={"top_k": 1},
        priority=9,
        max_attempts=1,
        metadata={"team": "a"},
        deadline_seconds=60,
        run_at=run_at,
        wait=0,
    )
    assert (job.state, job.task, job.input) == (JobState.QUEUED, "classify", {"text": "Hello"})
    assert (job.priority, job.max_attempts, job.metadata) == (9, 1, {"team": "a"})
    assert job.deadline_at - job.created_at == timedelta(seconds=60)
    assert client.call("get", job).id == job.id
    assert (client.call("receipt", job).id, client.call("receipt", job.id).attempts) == (job.id, [])


def test_one_key_is_one_job(client: Subject) -> None:
    first = client.call("submit", "echo", {"n": 1}, idempotency_key="mine")
    assert client.call("submit", "echo", {"n": 1}, idempotency_key="mine").id == first.id
    with pytest.raises(InvalidRequest) as caught:
        client.call("submit", "echo", {"n": 2}, idempotency_key="mine")
    assert (caught.value.status, caught.value.code) == (422, "idempotency_mismatch")


def test_results_and_failures(client: Subject, api: Api) -> None:
    good = client.call("submit", "echo", {"n": 1})
    api.succeed()
    assert client.call("result", good) == {"n": 1}
    bad = client.call("submit", "echo", {"n": 2})
    api.fail()
    with pytest.raises(JobFailed, match="never"):
        client.call("result", bad.id)
    again = client.call("retry", bad)
    assert again.retry_of == bad.id
    with pytest.raises(Conflict):
        client.call("retry", good)
    with pytest.raises(Conflict):
        client.call("delete", again)
    assert client.call("cancel", again).state is JobState.CANCELLED
    client.call("delete", again)
    with pytest.raises(NotFound):
        client.call("get", again)


def test_refusals_name_the_field(client: Subject) -> None:
    with pytest.raises(NotFound, match="there are: chat, echo, encoder") as unknown:
        client.call("submit", "nope", "x")
    assert (unknown.value.code, unknown.value.field) == ("unknown_model", "model")
    with pytest.raises(InvalidRequest) as wrong:
        client.call("submit", "chat", "x", params={"top_p": 7})
    assert (wrong.value.status, wrong.value.field) == (422, "params.top_p")


def test_a_full_lane_turns_jobs_away(api: Api) -> None:
    subject = SyncSubject(served(api), World(), max_retries=0)
    told = list(subject.items("submit_many", specs(3_001)))
    assert [line.line for line in told if line.error is not None] == [3_001]
    assert (told[-1].error.code, told[-1].error.retry_after) == ("queue_full", 60)
    with pytest.raises(RateLimited) as caught:
        subject.call("submit", "echo", {"n": 1})
    assert caught.value.retry_after == 60


def test_many_jobs_from_submit_to_completion(client: Subject) -> None:
    lines = [*specs(1_100), "nonsense", {"model": "nope", "input": {}}, *specs(1)]
    told = list(client.items("submit_many", lines))
    assert [line.line for line in told] == list(range(1, 1_104))
    assert [(line.line, line.error.code) for line in told if line.error] == [
        (1_101, "malformed"),
        (1_102, "unknown_model"),
    ]
    ids = [line.id for line in told if line.id]
    done = list(client.items("as_completed", ids))
    assert {job.id for job in done} == set(ids)
    assert {job.state for job in done} == {JobState.SUCCEEDED}


def test_large_results_come_in_more_than_one_page(client: Subject) -> None:
    jobs = [client.call("submit", "echo", {"text": "x" * 1_900_000}) for _ in range(6)]
    assert len(list(client.items("as_completed", jobs))) == 6


def test_completion_notices_what_was_never_there(client: Subject) -> None:
    with pytest.raises(NotFound):
        list(client.items("as_completed", [f"job_{1:032x}"]))
    with pytest.raises(InvalidRequest):
        list(client.items("as_completed", ["nonsense"]))


def test_lists_are_filtered_and_paged(client: Subject, api: Api) -> None:
    list(client.items("submit_many", specs(120)))
    while api.scene.waiting():
        api.succeed()
    last = client.call("submit", "echo", {"n": 1}, metadata={"team": "a b"})
    every = list(client.items("list"))
    assert len(every) == 121
    assert every[0].id == last.id
    assert [job.id for job in client.items("list", metadata={"team": "a b"})] == [last.id]
    assert [job.id for job in client.items("list", states=["queued", "running"], model="echo")] == [last.id]
    at = last.created_at
    assert len(list(client.items("list", created_from=at, created_to=at + timedelta(seconds=1)))) == 121
    assert list(client.items("list", created_to=at - timedelta(seconds=1))) == []


def test_a_stream_tells_the_whole_history(client: Subject, api: Api) -> None:
    job = client.call("submit", "echo", {"n": 1})
    api.succeed()
    assert [event.state for event in client.items("stream", job)] == ["queued", "running", "succeeded"]


def test_models_and_lanes_are_told(client: Subject) -> None:
    client.call("submit", "echo", {"n": 1})
    assert {model.id: model.tasks[0] for model in client.call("models")} == {
        "chat": "generate",
        "echo": "echo",
        "encoder": "embed",
    }
    assert {lane.model: lane.depth for lane in client.call("lanes")} == {"chat": 0, "echo": 1, "encoder": 0}


def test_usage_is_told(client: Subject, api: Api) -> None:
    client.call("submit", "echo", {"n": 1})
    api.succeed()
    [day] = client.call("operator.usage", model="echo")
    assert (day.day, day.tenant, day.model, day.succeeded) == (date(2025, 6, 15), "default", "echo", 1)
    assert client.call("operator.usage", first=date(2025, 6, 16), last=date(2025, 6, 17), tenant="default") == []
    assert client.call("operator.usage_csv", first=day.day, last=day.day).splitlines()[1].startswith("2025-06-15,")


def test_slots_are_told(client: Subject, api: Api) -> None:
    slot = Slot("host:1:2:3", "echo", "cpu", Room(8), running=2, since=api.scene.clock.now())
    api.scene.presence.tell(slot, for_ms=8_000)
    [worker] = client.call("operator.workers")
    assert (worker.name, worker.host, worker.pid, worker.running) == ("host:1:2:3", "host", 1, 2)
    assert (worker.model, worker.capacity.jobs) == ("echo", 8)


def test_models_are_moved(client: Subject, api: Api) -> None:
    api.scene.presence.tell_worker(Worker("gpu", "host", ("echo",), ("echo",)), for_ms=8_000)
    [roster] = client.call("operator.rosters")
    assert (roster.worker, roster.host, roster.models, roster.offers) == ("gpu", "host", ["echo"], ["echo"])
    assert client.call("operator.move", "echo", source="old", target="gpu").workers == ["gpu"]
    assert (api.scene.controls.serving("old"), api.scene.controls.serving("gpu")) == ({"echo": False}, {"echo": True})
    with pytest.raises(InvalidRequest):
        client.call("operator.move", "echo", target="old")


def test_lanes_are_ordered_about(client: Subject, api: Api) -> None:
    assert client.call("operator.pause", "echo").mode is LaneMode.PAUSED
    client.call("submit", "echo", {"n": 1})
    assert client.call("operator.lane", "echo").depth == 1
    assert client.call("operator.purge", "echo", dry_run=True).jobs == 1
    assert client.call("operator.purge", "echo", older_than_seconds=60).jobs == 0
    purged = client.call("operator.purge", "echo")
    assert (purged.jobs, purged.remaining, purged.dry_run) == (1, 0, False)
    assert client.call("operator.drain", "echo").mode is LaneMode.DRAINING
    assert client.call("operator.resume", "echo").mode is LaneMode.OPEN
    assert client.call("operator.bound", "echo", 3).concurrency == 3
    assert client.call("operator.bound", "echo", None).concurrency is None
    with pytest.raises(NotFound):
        client.call("operator.lane", "nobody")


def test_what_a_slot_holds_is_told_for_the_size_asked_for(client: Subject, api: Api) -> None:
    api.scene.execution.tell_room("chat", Room(256, 180_000, 16, "triton"))

    def at_once(**size: int) -> dict[str, int | None]:
        return {lane.model: lane.capacity and lane.capacity.jobs_at_once for lane in client.call("lanes", **size)}

    assert at_once() == {"chat": 150, "echo": None, "encoder": None}
    assert at_once(prompt_tokens=2_000, answer_tokens=500)["chat"] == 71


@pytest.mark.parametrize("kind", [SyncSubject, AsyncSubject])
def test_webhooks_from_an_endpoint_to_its_replay(kind: type[SyncSubject | AsyncSubject], api: Api) -> None:
    client = kind(served(api), Delivering(api, 500))
    hooks = f"https://{ALLOWED}/hook"
    made = client.call("webhooks.create", hooks, events=["job.queued"], model="echo", description="mine")
    assert (made.url, made.events, made.model, made.description) == (hooks, ["job.queued"], "echo", "mine")
    job = client.call("submit", "echo", {"n": 1}, webhook={"url": hooks, "events": ["job.queued", "job.failed"]})
    assert (job.webhook.url, job.webhook.events) == (hooks, ["job.queued", "job.failed"])
    told = list(client.items("webhooks.of_job", job))
    assert {(each.endpoint, each.event.type, each.state.value, each.job) for each in told} == {
        (made.id, "job.queued", "pending", job.id),
        (None, "job.queued", "pending", job.id),
    }
    tried = client.call("webhooks.attempted", client.call("webhooks.test", made), timeout=60)
    assert (tried.event.type, tried.state, tried.attempts_made[-1].status) == ("webhook.test", "failed", 500)
    assert tried.id in [each.id for each in client.items("webhooks.deliveries", endpoint=made, state="failed")]
    assert client.call("webhooks.replay", made, made.created_at) == 2
    again = client.call("webhooks.redeliver", tried)
    assert (again.id, again.state, again.attempts) == (tried.id, "pending", 1)
    assert client.call("webhooks.attempted", again).attempts == 2
    rotated = client.call("webhooks.rotate", made)
    assert len({made.secret, rotated.secret, None}) == 3
    assert client.call("webhooks.get", made).secret is None
    changed = client.call("webhooks.update", made, model=None, events=["job.failed"], enabled=False)
    assert (changed.model, changed.events, changed.disabled_reason) == (None, ["job.failed"], "operator")
    with pytest.raises(Conflict):
        client.call("webhooks.test", made)
    assert [each.id for each in client.call("webhooks.list")] == [made.id]
    client.call("webhooks.delete", made)
    with pytest.raises(NotFound):
        client.call("webhooks.get", made)
    client.close()


def test_what_receivers_verify_with_is_told(client: Subject, api: Api) -> None:
    assert client.call("webhooks.secret") == api.keyring.default_secret()
    assert [key.model_dump() for key in client.call("webhooks.public_keys")] == api.keyring.public_keys()


def test_a_webhook_that_leads_inside_is_refused(client: Subject) -> None:
    with pytest.raises(InvalidRequest) as of_endpoint:
        client.call("webhooks.create", "http://127.0.0.1/")
    with pytest.raises(InvalidRequest) as of_job:
        client.call("submit", "echo", {"n": 1}, webhook={"url": "http://127.0.0.1/"})
    assert (of_endpoint.value.field, of_job.value.field) == ("url", "webhook.url")


def test_the_command_line_from_submit_to_result(api: Api) -> None:
    world = Working(api)

    def run(*arguments: str, stdin: str = "") -> Result:
        app = App(environ={}, transport=httpx.MockTransport(served(api)), sleep=world.sleep)
        return CliRunner().invoke(main, arguments, input=stdin, obj=app, catch_exceptions=False)

    job_id = run("submit", "echo", "Hello", "--metadata", "team=a").stdout.strip()
    assert "state          queued" in run("get", job_id).stdout
    api.succeed()
    assert run("wait", job_id).stdout == f"{job_id}  succeeded\n"
    assert [json.loads(line)["id"] for line in run("list", "--json", "--metadata", "team=a").stdout.splitlines()] == [
        job_id
    ]
