"""`ktqueue keys`, against a database of its own."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ktqueue.access import KeyAccess
from ktqueue.cli import main
from ktqueue.cli.app import App
from ktqueue.errors import Unauthenticated
from ktqueue.job import Job, Task
from ktqueue.migrate import upgrade
from ktqueue.registry.sql import SqlRegistry
from ktqueue.settings import Settings
from ktqueue.store.sql import SqlStore
from ktqueue.tenant import ALL_SCOPES, CLIENT_SCOPES, Caller, Limits


class Shell:
    """Runs commands on a home of its own."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home)
        upgrade(self.settings.sql_url)

    def run(self, *arguments: str, exit_code: int = 0) -> str:
        app = App(environ={"KTQ_HOME": str(self.settings.home), "KTQ_API_KEY": "ktq_mine"})
        done = CliRunner().invoke(main, list(arguments), obj=app)
        assert done.exit_code == exit_code, done.output
        return done.output

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*arguments, "--json").splitlines()]

    def caller(self, key: str) -> Caller:
        registry = SqlRegistry(self.settings.sql_url)
        try:
            return KeyAccess(registry, lambda _: None).caller(f"Bearer {key}")
        finally:
            registry.close()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_the_first_key_is_made_without_one(shell: Shell) -> None:
    (made,) = shell.json("keys", "create", "--admin")
    caller = shell.caller(made["key"])
    assert (caller.tenant, caller.scopes, caller.key) == ("default", ALL_SCOPES, made["id"])


def test_a_key_is_as_it_was_asked_for(shell: Shell) -> None:
    (made,) = shell.json(
        *("keys", "create", "--tenant", "a", "--scope", "jobs:read", "--scope", "jobs:write"),
        *("--requests-per-minute", "5", "--tokens-per-minute", "7", "--expires-in-days", "2", "--name", "n"),
    )
    caller = shell.caller(made["key"])
    assert (caller.tenant, sorted(caller.scopes), caller.limits) == ("a", ["jobs:read", "jobs:write"], Limits(5, 7))
    assert made["expires_at"] > made["created_at"]
    assert shell.caller(shell.json("keys", "create")[0]["key"]).scopes == CLIENT_SCOPES
    assert "jobs:nope" in shell.run("keys", "create", "--scope", "jobs:nope", exit_code=2)
    assert "must be" in shell.run("keys", "create", "--tenant", "A", exit_code=2)


def test_keys_are_listed_without_what_opens_anything(shell: Shell) -> None:
    made = [shell.json("keys", "create", "--tenant", tenant)[0] for tenant in "ab"]
    shell.run("keys", "revoke", made[0]["id"])
    listed = shell.run("keys", "list")
    assert all(each["id"] in listed and each["key"] not in listed for each in made)
    assert "revoked" in listed
    assert "valid" in listed
    assert [each["id"] for each in shell.json("keys", "list", "--tenant", "b")] == [made[1]["id"]]


def test_a_key_is_revoked_and_another_rotated(shell: Shell) -> None:
    (made,) = shell.json("keys", "create")
    (new,) = shell.json("keys", "rotate", made["id"], "--overlap-seconds", "0")
    assert shell.caller(new["key"]).scopes == CLIENT_SCOPES
    assert "key " in shell.run("keys", "rotate", new["id"])
    assert "revoked" in shell.run("keys", "revoke", new["id"])
    for key in (made["key"], new["key"]):
        with pytest.raises(Unauthenticated):
            shell.caller(key)
    assert "there is no key" in shell.run("keys", "revoke", "key_nobody", exit_code=2)


def test_a_keys_limits_are_set_and_what_it_has_is_told(shell: Shell) -> None:
    (made,) = shell.json("keys", "create", "--tenant", "a", "--queued-jobs", "3", "--stored-bytes", "9")
    assert (made["queued_jobs"], made["stored_bytes"], made["queued_bytes"]) == (3, 9, None)
    (rotated,) = shell.json("keys", "rotate", made["id"])
    (told,) = shell.json("keys", "set", made["id"], "--unfinished-jobs", "4")
    assert (told["id"], told["queued_jobs"], told["unfinished_jobs"]) == (made["id"], None, 4)
    assert "unfinished_jobs" in shell.run("keys", "set", rotated["id"], "--unfinished-jobs", "5")
    for key in (made, rotated):
        assert (shell.caller(key["key"]).key, shell.caller(key["key"]).limits.unfinished_jobs) == (made["id"], 5)
    assert "there is no key" in shell.run("keys", "set", "key_nobody", exit_code=2)

    with closing(SqlStore(shell.settings.sql_url)) as store:
        store.add(
            [Job("job_1", "echo", Task.ECHO, {}, {}, created_at=0, rank=0.0, tenant="a", size=70, key=made["id"])]
        )
    used = {"key": made["id"], "queued_jobs": 1, "unfinished_jobs": 1, "queued_bytes": 70, "stored_bytes": 70}
    assert shell.json("keys", "used") == [used | {"running_jobs": 0}]
    assert made["id"] in shell.run("keys", "used")


def test_tenants_are_set_and_listed(shell: Shell) -> None:
    (made,) = shell.json("tenants", "set", "a", "--weight", "2.5", "--requests-per-minute", "5", "--queued-jobs", "7")
    assert (made["tenant"], made["weight"], made["requests_per_minute"], made["queued_jobs"]) == ("a", 2.5, 5, 7)
    assert made["queued_bytes"] is None
    assert shell.json("tenants", "list") == [made]
    assert "2.5" in shell.run("tenants", "list")
    assert "weight" in shell.run("tenants", "set", "a")
    assert shell.json("tenants", "list")[0]["requests_per_minute"] is None
    assert "must be" in shell.run("tenants", "set", "A", exit_code=2)
    assert "0" in shell.run("tenants", "set", "a", "--weight", "0", exit_code=2)
    assert shell.json("tenants", "set", "a", "--stored-bytes", "9")[0]["stored_bytes"] == 9
    assert shell.json("tenants", "set", "a", "--running-jobs", "3")[0]["running_jobs"] == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "create", "--queued-jobs", "9" * 20),
        ("keys", "list", "--limit", "9" * 20),
        ("keys", "rotate", "key_nobody", "--overlap-seconds", "9" * 20),
        ("tenants", "set", "a", "--running-jobs", "9" * 20),
        ("tenants", "set", "a", "--weight", "1e-300"),
    ],
)
def test_numbers_that_no_database_holds_are_wrong_use(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert "is not in the range" in shell.run(*arguments, exit_code=2)


def test_a_name_that_is_no_text_is_wrong_use(shell: Shell) -> None:
    assert "not UTF-8" in shell.run("keys", "create", "--name", "\udcff", exit_code=2)


def test_what_tenants_have_is_told(shell: Shell) -> None:
    assert shell.json("tenants", "used") == []
    with closing(SqlStore(shell.settings.sql_url)) as store:
        job = Job("job_1", "echo", Task.ECHO, {}, {}, created_at=0, rank=0.0, tenant="a", size=70)
        store.add([job, replace(job, id="job_2")])
        store.cancel("job_2")
    used = {"tenant": "a", "queued_jobs": 1, "unfinished_jobs": 1, "queued_bytes": 70, "stored_bytes": 140}
    used |= {"running_jobs": 0}
    assert shell.json("tenants", "used") == [used]
    assert "140" in shell.run("tenants", "used")
