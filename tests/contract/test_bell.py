"""The bell that is a Celery message: what is sent, that it can be read, and that it never piles up."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ktqueue.celery_settings import broker_url, celery_app
from ktqueue.errors import LanesUnavailable
from ktqueue.lanes.bell import CeleryBell
from ktqueue.redis_client import connect


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(redis_url) as opened:
        yield opened


@pytest.fixture
def bell(redis_url: str) -> Iterator[CeleryBell]:
    made = CeleryBell(redis_url)
    yield made
    made.close()


def test_a_drain_is_sent_to_the_lanes_own_queue(bell: CeleryBell, client: redis.Redis) -> None:
    bell("smollm2-135m")
    [text] = client.lrange("lane.smollm2-135m", 0, -1)
    message = json.loads(text)
    assert message["headers"]["task"] == "ktqueue.drain"
    assert message["content-type"] == "application/json"
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == (["smollm2-135m"], {})


def test_a_worker_can_read_it(bell: CeleryBell, redis_url: str) -> None:
    bell("echo")
    app = celery_app(redis_url, current=False)
    with app.connection_for_read() as connection, connection.SimpleQueue("lane.echo") as queue:
        message = queue.get(timeout=30)
        message.ack()
    assert message.headers["task"] == "ktqueue.drain"
    assert message.payload[0] == ["echo"]
    app.close()


def test_bells_that_nobody_takes_in_do_not_pile_up(bell: CeleryBell, client: redis.Redis) -> None:
    for _ in range(3):
        bell("m")
    assert client.llen("lane.m") == 1
    client.delete("lane.m")
    bell("m")
    assert client.llen("lane.m") == 1


def test_an_emptied_server_loses_no_later_bell(bell: CeleryBell, client: redis.Redis) -> None:
    bell("m")
    client.flushall()
    client.client_kill_filter(_type="normal", skipme=False)
    bell("m")
    assert client.llen("lane.m") == 1


def test_a_worker_finds_a_broker_that_comes_back_and_tells_once(redis_url: str, tmp_path: Path) -> None:
    hidden = tmp_path / "redis.sock"
    app = celery_app(f"unix://{hidden}", current=False)
    told: list[Exception] = []
    tries = itertools.count()

    def comes_back_late() -> None:
        if next(tries) == 2:
            hidden.symlink_to(redis_url.removeprefix("unix://"))

    with app.connection_for_read() as connection:
        connection.ensure_connection(lambda error, _: told.append(error), callback=comes_back_late)
        assert connection.connected
    assert len(told) == 1
    app.close()


def test_no_server_is_unavailable(tmp_path: Path) -> None:
    bell = CeleryBell(f"unix://{tmp_path}/nobody")
    with pytest.raises(LanesUnavailable):
        bell("m")
    bell.close()


@pytest.mark.parametrize(
    ("given", "kombus"),
    [
        ("redis://localhost:6379/3", "redis://localhost:6379/3"),
        ("redis://localhost?db=3", "redis://localhost/3"),
        ("redis://:p%40ss@host:1", "redis://:p%40ss@host:1/0"),
        ("redis://user:word@[::1]:1/2?socket_timeout=9", "redis://user:word@[::1]:1/2"),
        ("rediss://host:1/0", "rediss://host:1/0?ssl_cert_reqs=required"),
        ("rediss://host/1?ssl_cert_reqs=none", "rediss://host/1?ssl_cert_reqs=none"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock?virtual_host=0"),
        ("unix://:pw@/run/r.sock?db=2", "redis+socket://:pw@/run/r.sock?virtual_host=2"),
        ("unix:///run/r.sock?password=p%2Fw", "redis+socket://:p%2Fw@/run/r.sock?virtual_host=0"),
    ],
)
def test_a_url_in_kombus_spelling(given: str, kombus: str) -> None:
    assert broker_url(given) == kombus


@pytest.mark.parametrize("login", ["unix://:p%40ss%2F@{path}?db=3", "unix://{path}?password=p%40ss%2F&db=3"])
def test_login_and_database_reach_both_clients(login: str, redis_url: str, client: redis.Redis) -> None:
    client.config_set("requirepass", "p@ss/")
    try:
        url = login.format(path=redis_url.removeprefix("unix://"))
        bell = CeleryBell(url)
        bell("m")
        bell.close()
        with connect(url) as reader:
            assert reader.llen("lane.m") == 1
    finally:
        client.config_set("requirepass", "")
    assert not client.exists("lane.m")
