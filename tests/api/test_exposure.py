"""Where the API may listen, and how a wrong setting ends it: one clear line and status 2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktqueue import exposure
from ktqueue.errors import ConfigurationError
from ktqueue.keys import KeyRequest, Keys
from ktqueue.migrate import upgrade
from ktqueue.registry.sql import SqlRegistry
from ktqueue.settings import Settings
from ktqueue.tenant import ALL_SCOPES


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_nothing(host: str) -> None:
    assert Settings.from_env({"KTQ_HOST": host}).host == host


@pytest.mark.parametrize("given", [{"host": "0.0.0.0"}, {"host": ""}, {"require_keys": "true"}])
def test_where_keys_are_a_must_there_must_be_one(tmp_path: Path, given: dict[str, str]) -> None:
    settings = Settings(home=tmp_path, **given)  # type: ignore[arg-type] # each by its name
    upgrade(settings.sql_url)
    with pytest.raises(ConfigurationError, match="ktqueue keys create --admin"):
        exposure.check(settings)
    exposure.check(settings.model_copy(update={"require_keys": "false"}))
    registry = SqlRegistry(settings.sql_url)
    Keys(registry).create(KeyRequest("a", "first", ALL_SCOPES))
    registry.close()
    exposure.check(settings)


def test_a_database_that_is_away_keeps_nothing_from_starting_that_asks_for_keys(tmp_path: Path) -> None:
    exposure.check(Settings(home=tmp_path / "nowhere", require_keys="true"))


def test_loopback_asks_no_database(tmp_path: Path) -> None:
    exposure.check(Settings(home=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_waits_leave_threads_for_the_others() -> None:
    with pytest.raises(ConfigurationError, match="KTQ_MAX_WAITS: must be below KTQ_API_THREADS, 16"):
        Settings.from_env({"KTQ_API_THREADS": "16"})
    assert Settings.from_env({"KTQ_API_THREADS": "1", "KTQ_MAX_WAITS": "0"}).max_waits == 0


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def refused(tmp_path: Path, **settings: str) -> str:
    """What ``python -m api`` says when it does not start."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("KTQ_")}
    ended = subprocess.run(
        [sys.executable, "-m", "api"],
        env=env | {"KTQ_HOME": str(tmp_path), "KTQ_REDIS_URL": f"unix://{tmp_path}/redis"} | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    return ended.stderr


def test_a_taken_port_is_said_to_be(tmp_path: Path, taken_port: int) -> None:
    assert f"can't listen on 127.0.0.1:{taken_port}" in refused(tmp_path, KTQ_PORT=str(taken_port))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"KTQ_PORT": "0"}, "KTQ_PORT"),
        ({"KTQ_NOPE": "1"}, "KTQ_NOPE: no such setting"),
        ({"KTQ_MODELS": "/nowhere/models.toml"}, "/nowhere/models.toml: can't be read"),
        ({"KTQ_REDIS_URL": ""}, "KTQ_REDIS_URL"),
        ({"KTQ_DATABASE_URL": "mysql://x"}, "KTQ_DATABASE_URL"),
        ({"KTQ_DATABASE_URL": "postgresql://me:hush@box:hush/x"}, "KTQ_DATABASE_URL"),
        ({"KTQ_REDIS_URL": "redis://:hush#x@box:6379/0"}, "KTQ_REDIS_URL"),
    ],
)
def test_a_wrong_setting_is_said_to_be(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    told = refused(tmp_path, **settings)
    assert said in told
    assert "hush" not in told
