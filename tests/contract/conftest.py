"""The stores that the contract is held against, each with empty tables."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

import pytest
import sqlalchemy as sa

from ktqueue import migrate
from ktqueue.outbox.memory import MemoryOutbox
from ktqueue.sql.tables import metadata
from ktqueue.store.memory import MemoryStore
from ktqueue.store.sql import SqlStore

URLS = {"sqlite": "sqlite_url", "postgres": "empty_postgres_url"}
AnyStore: TypeAlias = MemoryStore | SqlStore


def memory_store() -> MemoryStore:
    """One on this machine's clock."""

    def clock() -> int:
        return time.time_ns() // 1_000_000

    return MemoryStore(clock, MemoryOutbox(clock))


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with empty tables, to be copied: that is much quicker than to migrate one."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'ktqueue.db')}"


@pytest.fixture(scope="session")
def migrated_postgres(new_postgres: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    with new_postgres() as url:
        migrate.upgrade(url)
        yield url


@pytest.fixture
def empty_postgres_url(migrated_postgres: str) -> str:
    """A PostgreSQL database with empty tables; whoever uses it is alone with it."""
    engine = sa.create_engine(migrated_postgres)
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(sa.delete(table))
    engine.dispose()
    return migrated_postgres


@pytest.fixture(params=URLS)
def sql_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database with empty tables, of either kind."""
    url = request.getfixturevalue(URLS[request.param])
    assert isinstance(url, str)
    return url


@pytest.fixture
def sql_store(sql_url: str) -> Iterator[SqlStore]:
    store = SqlStore(sql_url)
    yield store
    store.close()


@pytest.fixture(params=["memory", *URLS])
def store(request: pytest.FixtureRequest) -> Iterator[AnyStore]:
    """Each store in turn, empty."""
    if request.param == "memory":
        yield memory_store()
        return
    made = SqlStore(request.getfixturevalue(URLS[request.param]))
    yield made
    made.close()
