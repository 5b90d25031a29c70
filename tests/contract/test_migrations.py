"""Migrations make exactly the tables that `ktqueue.sql.tables` declares, and are the only thing that makes them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from ktqueue import migrate
from ktqueue.errors import ConfigurationError, StoreUnavailable
from ktqueue.job import Job, Task
from ktqueue.sql.tables import metadata, stored, stored_by_key, usage
from ktqueue.store.sql import SqlStore
from ktqueue.usage import DAY_MS, UsageQuery

SCHEMA = {
    "sqlite": "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'alembic%' AND sql IS NOT NULL",
    "postgresql": """
        SELECT 'column', table_name, column_name || ' ' || data_type || ' ' || is_nullable
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
        UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes
        WHERE schemaname = 'public' AND tablename <> 'alembic_version'
        UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass""",
}


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with nothing in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    url = request.getfixturevalue("postgres_url")
    assert isinstance(url, str)
    return url


def schema(url: str) -> set[tuple[str, ...]]:
    """Every table, index and constraint as the database itself describes it."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(SCHEMA[engine.dialect.name]).all()
    engine.dispose()
    return {tuple(" ".join(str(value).split()) for value in row) for row in rows}


def tables(url: str) -> set[str]:
    engine = sa.create_engine(url)
    names = sa.inspect(engine).get_table_names()
    engine.dispose()
    return set(names)


def test_no_drift(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    migrate.check(empty_url)


def test_migrations_make_what_the_tables_declare_to_the_letter(
    request: pytest.FixtureRequest, empty_url: str, tmp_path: Path
) -> None:
    migrate.upgrade(empty_url)
    if empty_url.startswith("sqlite"):
        compare_to(empty_url, f"sqlite:///{tmp_path / 'declared.db'}")
        return
    new_postgres: Callable[[], AbstractContextManager[str]] = request.getfixturevalue("new_postgres")
    with new_postgres() as other:
        compare_to(empty_url, other)


def compare_to(migrated: str, other: str) -> None:
    engine = sa.create_engine(other)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
    metadata.create_all(engine)
    engine.dispose()
    assert schema(migrated) == schema(other)


def test_down_and_up_again(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    before = schema(empty_url)
    migrate.downgrade(empty_url, "base")
    assert tables(empty_url) == {"alembic_version"}
    migrate.upgrade(empty_url)
    assert schema(empty_url) == before
    migrate.check(empty_url)


def test_an_upgrade_keeps_what_is_there(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    store = SqlStore(empty_url)
    job = Job("job_1", "echo", Task.ECHO, input={}, params={}, created_at=0, rank=0.0)
    store.add([job])
    migrate.upgrade(empty_url)
    assert store.get("job_1") == job
    store.close()


def test_a_downgrade_keeps_what_was_used_and_not_yet_added_up(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    store = SqlStore(empty_url)
    for number in range(3):
        tenant, key = ("a", "key_1") if number else ("b", None)
        job = Job(f"job_{number}", "echo", Task.ECHO, input={}, params={}, created_at=0, rank=0.0)
        store.add([replace(job, tenant=tenant, key=key, size=100)])
        store.cancel(job.id)
        if not number:
            store.post()
    migrate.downgrade(empty_url, "0014")
    engine = sa.create_engine(empty_url)
    with engine.connect() as connection:
        assert connection.execute(sa.select(usage.c.tenant, usage.c.cancelled)).all() == [("b", 1), ("a", 2)]
        assert dict(connection.execute(sa.select(stored)).all()) == {"a": 200, "b": 100}
        assert connection.execute(sa.select(stored_by_key)).all() == [("key_1", 200)]
    engine.dispose()
    migrate.upgrade(empty_url)
    query = UsageQuery(0, store.now() // DAY_MS)
    assert {day.use.tenant: day.use.cancelled for day in store.usage(query)} == {"a": 2, "b": 1}
    store.close()


def test_an_empty_database_is_not_up_to_date(empty_url: str) -> None:
    with pytest.raises(ConfigurationError, match="ktqueue migrate"):
        migrate.check(empty_url)
    assert tables(empty_url) <= {"alembic_version"}


def test_drift_is_found(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    engine = sa.create_engine(empty_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs ADD COLUMN surprise TEXT")
    engine.dispose()
    with pytest.raises(ConfigurationError, match="surprise"):
        migrate.check(empty_url)


def test_the_store_never_makes_tables(empty_url: str) -> None:
    store = SqlStore(empty_url)
    store.now()
    with pytest.raises(StoreUnavailable):
        store.ping()
    with pytest.raises(StoreUnavailable):
        store.expire(1)
    store.close()
    assert tables(empty_url) == set()


def test_several_may_upgrade_at_once(empty_url: str) -> None:
    script = "import sys; from ktqueue import migrate; migrate.upgrade(sys.argv[1])"
    upgrades = [subprocess.Popen([sys.executable, "-c", script, empty_url]) for _ in range(3)]
    assert [upgrade.wait(60) for upgrade in upgrades] == [0, 0, 0]
    migrate.check(empty_url)


def test_an_upgrade_that_fails_leaves_nothing(empty_url: str) -> None:
    engine = sa.create_engine(empty_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE idempotency_keys (key TEXT)")
    engine.dispose()
    with pytest.raises((sa.exc.SQLAlchemyError, StoreUnavailable)):
        migrate.upgrade(empty_url)
    assert tables(empty_url) == {"idempotency_keys"}


def test_an_absent_database_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable):
        migrate.upgrade("sqlite:////nowhere/at/all/ktqueue.db")
