"""What only a real database can show: failures, restarts, processes, plans."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from ktqueue.errors import ConfigurationError, StoreUnavailable
from ktqueue.job import Job, JobState, Task, new_job_id
from ktqueue.sql import tables
from ktqueue.sql.bounded import BoundedConnection
from ktqueue.sql.clock import Clock
from ktqueue.store import claiming, counting, journal, statements
from ktqueue.store.base import JobQuery, Queued
from ktqueue.store.rows import row_of
from ktqueue.store.sql import SqlStore
from ktqueue.usage import DAY_MS, UsageQuery
from tests.support.stack import until


def new_job(store: SqlStore) -> Job:
    now = store.now()
    return Job(new_job_id(), "echo", Task.ECHO, input={}, params={}, created_at=now, rank=float(now))


# --- the clock -------------------------------------------------------------------------------------------------


def test_the_clock_is_the_databases_and_never_ahead_of_it(sql_store: SqlStore) -> None:
    for _ in range(50):
        extrapolated = sql_store.now()
        assert extrapolated <= sql_store._read_clock()
    seconds = {"sqlite": "SELECT strftime('%s', 'now')", "postgresql": "SELECT extract(epoch FROM clock_timestamp())"}
    with sql_store._database.reader() as connection:
        told = connection.exec_driver_sql(seconds[connection.dialect.name]).scalar_one()
    assert abs(sql_store._read_clock() - 1000 * float(told)) < 5_000


def test_a_clock_asks_again_after_five_seconds() -> None:
    asked: list[int] = []
    monotonic = 100.0

    def read() -> int:
        asked.append(1)
        return 1_000_000 * len(asked)

    clock = Clock(read, lambda: monotonic)
    assert clock.now() == 1_000_000
    monotonic += 4.5
    assert clock.now() == 1_004_500
    monotonic += 1.0
    assert clock.now() == 2_000_000
    assert len(asked) == 2


# --- the journal -----------------------------------------------------------------------------------------------


def entries(store: SqlStore) -> int:
    with store._database.reader() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(tables.journal)).scalar_one())


def end_one_by_one(store: SqlStore, count: int) -> None:
    jobs = [new_job(store) for _ in range(count)]
    store.add(jobs)
    for job in jobs:
        store.cancel(job.id)


def test_any_number_of_entries_is_posted(sql_store: SqlStore) -> None:
    end_one_by_one(sql_store, journal.ENTRIES + 3)
    assert entries(sql_store) == journal.ENTRIES + 3
    sql_store.post()
    assert entries(sql_store) == 0
    today = sql_store.now() // DAY_MS
    days = sql_store.usage(UsageQuery(today - 1, today))
    assert sum(day.use.cancelled for day in days) == journal.ENTRIES + 3


def test_a_batch_of_many_tenants_jobs_is_one_entry(sql_store: SqlStore) -> None:
    jobs = [replace(new_job(sql_store), tenant=f"tenant-{number}") for number in range(20)]
    sql_store.add(jobs)
    sql_store.cancel_queued(Queued("echo"), 100)
    assert entries(sql_store) == 1
    today = sql_store.now() // DAY_MS
    assert len(sql_store.usage(UsageQuery(today - 1, today))) == 20


def test_what_is_entered_is_undone_with_the_end_it_belongs_to(sql_store: SqlStore) -> None:
    job = new_job(sql_store)
    sql_store.add([job])
    with pytest.raises(RuntimeError), sql_store._noting() as (connection, _):  # noqa: PT012 - in one transaction
        journal.enter(connection, [(job.tenant, None, 7)])
        raise RuntimeError
    assert entries(sql_store) == 0


# --- failures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nowhere/at/all/ktqueue.db",
        "postgresql+psycopg://nobody@/nothing?host=/nowhere",
        "postgresql+psycopg://nobody@127.0.0.1:1/nothing",
    ],
)
def test_a_database_that_is_not_there_is_unavailable(url: str, caplog: pytest.LogCaptureFixture) -> None:
    store = SqlStore(url)
    with caplog.at_level(logging.WARNING, "ktqueue.store"), pytest.raises(StoreUnavailable):
        store.ping()
    with pytest.raises(StoreUnavailable):
        store.cancel("job_1")
    assert "the database failed: OperationalError" in caplog.text
    store.close()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "ktqueue.db"
    path.write_text("nothing that SQLite would know\n" * 100)
    store = SqlStore(f"sqlite:///{path}")
    with pytest.raises(StoreUnavailable):
        store.ping()
    store.close()


def test_a_lock_held_too_long_is_unavailable_to_writers_only(sqlite_url: str) -> None:
    store = SqlStore(sqlite_url)
    job = new_job(store)
    store.add([job])
    with store._database.reader() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(sa.make_url(sqlite_url).database or "", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        store.add([new_job(store)])
    with pytest.raises(StoreUnavailable):
        store.expire(1)
    assert store.get(job.id) == job
    other.execute("ROLLBACK")
    until(lambda: not store._database._breaker.open, "a database that is known to be back")
    assert store.expire(1) == []
    other.close()
    store.close()


def test_while_a_database_is_locked_only_the_first_waits(sqlite_url: str) -> None:
    store = SqlStore(sqlite_url)
    with store._database.reader() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(sa.make_url(sqlite_url).database or "", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="did not answer"):
        store.add([new_job(store)])
    for _ in range(100):
        with pytest.raises(StoreUnavailable, match="is away"):
            store.add([new_job(store)])
    other.close()
    store.close()


def test_a_full_disk_is_unavailable_and_changes_nothing(sqlite_url: str) -> None:
    store = SqlStore(sqlite_url)
    jobs = [new_job(store) for _ in range(5)]
    with store._database.reader() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    big = Job(new_job_id(), "echo", Task.ECHO, input={"x": "y" * 1_000_000}, params={}, created_at=0, rank=0.0)
    with pytest.raises(StoreUnavailable):
        store.add([*jobs, big])
    assert store.search(JobQuery()) == []
    store.close()


def test_other_databases_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="SQLite or PostgreSQL, not mysql"):
        SqlStore("mysql://localhost/jobs")


def test_connections_that_a_restart_cut_are_replaced(empty_postgres_url: str) -> None:
    store, other = SqlStore(empty_postgres_url), SqlStore(empty_postgres_url)
    job = new_job(store)
    store.add([job])
    with other._database.reader() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).all()
    assert store.get(job.id) == job
    store.close()
    other.close()


CANCELED = "DO $$ BEGIN RAISE 'canceling statement due to statement timeout' USING ERRCODE = '57014'; END $$"


def test_what_one_statement_does_wrong_is_held_against_no_other(empty_postgres_url: str) -> None:
    store = SqlStore(empty_postgres_url)
    with pytest.raises(StoreUnavailable), store._database.reader() as connection:
        connection.exec_driver_sql(CANCELED)
    store.ping()
    store.close()


def end_backend_of(connection: sa.Connection, other: SqlStore) -> None:
    backend = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with other._database.reader() as administrator:
        administrator.exec_driver_sql(f"SELECT pg_terminate_backend({backend})")
    connection.exec_driver_sql("SELECT pg_sleep(9)")


def test_a_server_that_shuts_down_is_away_to_all_until_it_answers(empty_postgres_url: str) -> None:
    store, other = SqlStore(empty_postgres_url), SqlStore(empty_postgres_url)
    with pytest.raises(StoreUnavailable), store._database.reader() as connection:
        end_backend_of(connection, other)
    with pytest.raises(StoreUnavailable, match="is away"):
        store.ping()
    until(lambda: not store._database._breaker.open, "a database that is known to be back")
    store.ping()
    store.close()
    other.close()


def test_a_server_that_holds_its_peace_is_given_up_on(empty_postgres_url: str) -> None:
    class Hasty(BoundedConnection):
        answer_s = 0.1

    with Hasty.connect(empty_postgres_url.replace("+psycopg", "")) as connection:
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT pg_sleep(30)")
        assert connection.closed


def test_a_server_that_refuses_a_statement_keeps_its_connection(empty_postgres_url: str) -> None:
    with BoundedConnection.connect(empty_postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        with pytest.raises(psycopg.OperationalError):
            connection.execute(CANCELED)
        assert not connection.closed


def test_postgresql_bounds_every_wait(empty_postgres_url: str) -> None:
    store = SqlStore(empty_postgres_url)
    store.ping()
    with store._database.reader() as connection:
        asked = "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"
        assert connection.exec_driver_sql(asked).one() == ("5s", "10s")
    store.close()


def test_a_failed_transaction_leaves_nothing_behind(sql_store: SqlStore) -> None:
    job = new_job(sql_store)

    def begin_and_fail() -> None:
        with sql_store._database.transaction() as connection:
            statements.ADD(connection, [row_of(job)])
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        begin_and_fail()
    assert sql_store.get(job.id) is None
    sql_store.add([job])
    assert sql_store.get(job.id) == job


# --- processes -------------------------------------------------------------------------------------------------

CLAIM_AND_ADD = """
import sys
from ktqueue.job import Job, Task
from ktqueue.store.base import IdempotencyKey, JobQuery
from ktqueue.store.sql import SqlStore

url, name = sys.argv[1:]
store = SqlStore(url)
ids = sorted(job.id for job in store.search(JobQuery(limit=1000)))
print("ready", flush=True)
sys.stdin.readline()
for at in range(0, len(ids), 10):
    for job in store.claim(ids[at : at + 10], token=name, worker=name, lease_ms=60_000):
        print("claimed", job.id)
for number in range(20):
    job = Job(f"job_{name}_{number}", "echo", Task.ECHO, input={}, params={}, created_at=0, rank=0.0)
    kept = store.add_once(job, IdempotencyKey(f"key-{number}", "digest"))
    print("kept", number, kept.job_id)
store.close()
"""


def test_processes_share_the_work_without_overlap(sql_url: str, sql_store: SqlStore) -> None:
    jobs = [new_job(sql_store) for _ in range(300)]
    sql_store.add(jobs)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM_AND_ADD, sql_url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two", "three")
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    said = [line.split() for worker in workers for line in _go(worker)]
    claimed = [words[1] for words in said if words[0] == "claimed"]
    kept = {(words[1], words[2]) for words in said if words[0] == "kept"}
    assert sorted(claimed) == sorted(job.id for job in jobs)
    assert len(kept) == 20
    assert len(sql_store.search(JobQuery(limit=1_000))) == 320


def _go(worker: subprocess.Popen[str]) -> list[str]:
    said, _ = worker.communicate("go\n", timeout=60)
    assert worker.returncode == 0
    return said.splitlines()


# --- statements ------------------------------------------------------------------------------------------------

STATEMENTS = {
    name: value
    for name, value in (vars(statements) | vars(counting) | vars(claiming)).items()
    if isinstance(value, sa.ClauseElement)
}
BY_ID = "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id=?)"
PLANS = {
    "GET": BY_ID,
    "JOBS": BY_ID,
    "CLAIM": BY_ID,
    "RENEW": BY_ID,
    "RUNNING": BY_ID,
    "LAPSED_RUNNING": BY_ID,
    "END": BY_ID,
    "WAKE": BY_ID,
    "DELETE": BY_ID,
    "OLDEST": "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id>?)",
    "ENDED": BY_ID,
    "PRUNE": BY_ID.replace("USING", "USING COVERING"),
    "SCHEDULED": "SEARCH jobs USING INDEX jobs_scheduled (run_at>? AND run_at<?)",
    "OVERDUE": "SEARCH jobs USING INDEX jobs_deadline (deadline_at<?)",
    "OWNERS_OF": BY_ID,
    "RUNNING_BY_OWNER": "SCAN jobs USING COVERING INDEX jobs_running",
    "LAPSED": "SCAN jobs USING INDEX jobs_running",
    "WAITING": "SEARCH jobs USING COVERING INDEX jobs_lane (model=?)",
    "WAITING_AFTER": "SEARCH jobs USING COVERING INDEX jobs_lane (model=? AND (rank,id)>(?,?))",
    "FORGET_KEYS": "SEARCH idempotency_keys USING INDEX ix_idempotency_keys_job_id (job_id=?)",
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_sqlalchemy_can_cache_every_statement(name: str) -> None:
    assert STATEMENTS[name]._generate_cache_key() is not None


@pytest.fixture
def plan_of(migrated_file: Path) -> Iterator[Callable[[sa.ClauseElement], list[str]]]:
    connection = sqlite3.connect(migrated_file)

    def explain(statement: sa.ClauseElement) -> list[str]:
        text = str(statement.compile(dialect=sqlite.dialect()))
        rows = connection.execute(f"EXPLAIN QUERY PLAN {text}", [None] * text.count("?")).fetchall()
        return [row[3] for row in rows]

    yield explain
    connection.close()


@pytest.mark.parametrize(("name", "plan"), PLANS.items())
def test_sqlite_answers_from_the_index_meant_for_it(
    plan_of: Callable[[sa.ClauseElement], list[str]], name: str, plan: str
) -> None:
    steps = [step for step in plan_of(STATEMENTS[name]) if " jobs" in step or "keys" in step]
    assert set(steps) == {plan}


@pytest.mark.parametrize(
    ("name", "running"), [("CENSUS", "COVERING INDEX"), ("TENANT_CENSUS", "INDEX"), ("KEY_CENSUS", "INDEX")]
)
def test_sqlite_counts_from_indexes_alone(
    plan_of: Callable[[sa.ClauseElement], list[str]], name: str, running: str
) -> None:
    steps = [step for step in plan_of(STATEMENTS[name]) if " jobs" in step]
    assert steps == [
        "SCAN jobs USING COVERING INDEX jobs_lane",
        "SCAN jobs USING INDEX jobs_suspects",
        f"SCAN jobs USING {running} jobs_running",
    ]


@pytest.mark.parametrize(
    ("query", "plan"),
    [
        (JobQuery(), "SCAN jobs USING INDEX sqlite_autoindex_jobs_1"),
        (JobQuery(before="job_1"), "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id<?)"),
        (JobQuery(tenant="a"), "SEARCH jobs USING INDEX jobs_tenant (tenant=?)"),
        (JobQuery(tenant="a", before="job_1"), "SEARCH jobs USING INDEX jobs_tenant (tenant=? AND id<?)"),
        (JobQuery(tenant="a", model="a"), "SEARCH jobs USING INDEX jobs_tenant (tenant=?)"),
        (
            JobQuery(tenant="a", states=[JobState.FAILED]),
            "SEARCH jobs USING INDEX jobs_unsuccessful (tenant=? AND state=?)",
        ),
        (JobQuery(tenant="a", states=[JobState.SUCCEEDED]), "SEARCH jobs USING INDEX jobs_tenant (tenant=?)"),
        (JobQuery(ids=["job_1"]), BY_ID),
    ],
)
def test_sqlite_lists_without_sorting(
    plan_of: Callable[[sa.ClauseElement], list[str]], query: JobQuery, plan: str
) -> None:
    steps = plan_of(statements.search(query))
    assert plan in steps
    assert not [step for step in steps if "TEMP B-TREE" in step]
