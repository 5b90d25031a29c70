"""Settings from the environment: each is read, checked, handed on, and used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ktqueue.errors import ConfigurationError
from ktqueue.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]


def refusal(**environ: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        Settings.from_env({PREFIX + name.upper(): value for name, value in environ.items()})
    return str(error.value)


def test_an_empty_environment_gives_what_runs_at_home() -> None:
    settings = Settings.from_env({})

    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.home == Path.home() / ".ktqueue"
    assert settings.models == ROOT / "models.toml"
    assert settings.heartbeat_seconds < settings.lease_seconds


def test_only_our_own_variables_are_read() -> None:
    assert Settings.from_env({"PORT": "1", "XKTQ_PORT": "2", "ktq_port": "3"}).port == 8000


def test_each_variable_is_read() -> None:
    settings = Settings.from_env(
        {
            "KTQ_HOME": "~/elsewhere",
            "KTQ_PORT": "80",
            "KTQ_LEASE_SECONDS": "30.5",
            "KTQ_LOG_LEVEL": "debug",
            "KTQ_HOST": "0.0.0.0",
            "KTQ_REQUIRE_KEYS": "true",
        }
    )

    assert settings.home == Path.home() / "elsewhere"
    assert (settings.port, settings.lease_seconds, settings.log_level) == (80, 30.5, "debug")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("home", "~nobody-here/x", "nobody knows whose home"),
        ("models", "~nobody-here/x", "nobody knows whose home"),
        ("port", "0", "greater than or equal to 1"),
        ("port", "65536", "less than or equal to 65535"),
        ("port", "http", "valid integer"),
        ("port", "", "valid integer"),
        ("lease_seconds", "0", "greater than 0"),
        ("lease_seconds", "nan", "less than or equal to 86400"),
        ("lease_seconds", "inf", "less than or equal to 86400"),
        ("api_workers", "-1", "greater than or equal to 1"),
        ("api_workers", "1.5", "valid integer"),
        ("max_queued", "1000000001", "less than or equal to 1000000000"),
        ("log_level", "loud", "should match pattern"),
        ("webhook_allow", "*.example.com", "is neither a host name nor an address nor a network"),
        ("webhook_allow", "10.0.0.1/8", "is neither a host name nor an address nor a network"),
        ("webhook_ports", "80-90", "is not a port"),
        ("webhook_timeout_seconds", "0", "greater than 0"),
        ("webhook_disable_days", "0", "greater than or equal to 1"),
        ("require_keys", "maybe", "should match pattern"),
        ("hosts", "queue.example.com, https://other.example", "is no host name, which has no scheme and no port"),
        ("hosts", "queue.example.com:443", "is no host name"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: str, said: str) -> None:
    message = refusal(**{name: value})

    assert message.startswith(f"KTQ_{name.upper()}: ")
    assert said in message
    assert message.endswith(f"got {value!r}")


def test_an_unknown_variable_is_named_with_those_there_are() -> None:
    message = refusal(prot="8000")

    assert message.startswith("KTQ_PROT: no such setting; there are: KTQ_HOME, ")
    assert all(PREFIX + name.upper() in message for name in Settings.model_fields)


def test_a_heartbeat_that_comes_after_its_lease_is_refused() -> None:
    assert refusal(lease_seconds="2", heartbeat_seconds="2").startswith("KTQ_HEARTBEAT_SECONDS: must be below")
    assert refusal(lease_seconds="1").startswith("KTQ_HEARTBEAT_SECONDS: must be below")


def test_waits_leave_threads_for_others() -> None:
    assert refusal(api_threads="4", max_waits="4").startswith("KTQ_MAX_WAITS: must be below KTQ_API_THREADS")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_on_loopback_keys_are_a_must_only_where_that_is_said(host: str) -> None:
    assert not Settings(host=host).keys_are_a_must
    assert not Settings(host=host, require_keys="false").keys_are_a_must
    assert Settings(host=host, require_keys="true").keys_are_a_must


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_anywhere_else_they_are_unless_that_is_said(host: str) -> None:
    assert Settings(host=host).keys_are_a_must
    assert Settings(host=host, require_keys="true").keys_are_a_must
    assert not Settings(host=host, require_keys="false").keys_are_a_must


def test_a_clients_key_is_no_setting() -> None:
    assert Settings.from_env({"KTQ_API_KEY": "ktq_…"}) == Settings()


def test_settings_stay_as_they_are() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "home": st.sampled_from([Path("/tmp/ktq"), Path("~/a b"), Path("relative")]),
            "port": st.integers(1, 65_535),
            "database_url": st.sampled_from(["", "postgresql://u:p%40ss@h/d", "sqlite:////tmp/x.db"]),
            "redis_url": st.sampled_from(["", "unix:///tmp/s?db=1"]),
            "max_queued": st.integers(1, 1_000_000_000),
            "grace_seconds": st.floats(0, 86_400, exclude_min=True),
            "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
        },
    )
)
def test_a_child_process_gets_the_same_settings(given_: dict[str, object]) -> None:
    settings = Settings.model_validate(given_)

    assert Settings.from_env(settings.as_env()) == settings


@pytest.mark.parametrize(
    ("given_", "url"),
    [
        ("", "sqlite:////srv/ktq/ktqueue.db"),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
        ("postgres://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql://u:p@h:5/d?x=y", "postgresql+psycopg://u:p@h:5/d?x=y"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
    ],
)
def test_a_database_is_named_as_sqlalchemy_wants_it(given_: str, url: str) -> None:
    assert Settings(home=Path("/srv/ktq"), database_url=given_).sql_url == url


@pytest.mark.parametrize("given_", ["mysql://h/d", "h/d", "/tmp/x.db", "postgresql+asyncpg://h/d"])
def test_another_database_is_refused(given_: str) -> None:
    with pytest.raises(ConfigurationError, match="KTQ_DATABASE_URL: must begin with sqlite:// or postgresql://"):
        assert Settings(database_url=given_).sql_url


def test_every_setting_is_used() -> None:
    """One that acts where it is declared has a check of its own there."""
    sources = [path for folder in ("ktqueue", "api", "worker") for path in (ROOT / folder).rglob("*.py")]
    declared = ROOT / "ktqueue" / "settings.py"
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources if path != declared)
    used = set(re.findall(r"\b(?:settings|environment)\.([a-z_]+)\b", code))
    checks = set(re.findall(r'field_validator\("([a-z_]+)"\)', declared.read_text(encoding="utf-8")))

    assert set(Settings.model_fields) - used <= {"require_keys"} - checks
