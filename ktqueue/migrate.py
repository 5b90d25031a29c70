"""Make the tables, and bring them up to date. Nothing else in ktqueue ever creates or alters one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError

from ktqueue.controls.sql import SqlControls
from ktqueue.errors import ConfigurationError, KtqueueError
from ktqueue.roster import named
from ktqueue.settings import Settings
from ktqueue.sql.database import Database

SCRIPTS = Path(__file__).resolve().parent.parent / "migrations"
# Any number; it must only be the same wherever migrations of ktqueue run.
ADVISORY_LOCK = 5_847_211_093


def upgrade(sql_url: str, revision: str = "head") -> None:
    """Bring the tables to ``revision``: all of the way or, on an error, none of it.

    Safe to call from several processes at once. Raises StoreUnavailable.
    """
    with _alembic(sql_url) as config:
        command.upgrade(config, revision)


def downgrade(sql_url: str, revision: str) -> None:
    """Go back to ``revision``; ``base`` is an empty database. Raises StoreUnavailable."""
    with _alembic(sql_url) as config:
        command.downgrade(config, revision)


def check(sql_url: str) -> None:
    """Raise ConfigurationError unless the tables are up to date; StoreUnavailable if the database won't say."""
    with _alembic(sql_url) as config:
        try:
            command.check(config)
        except CommandError as error:
            raise ConfigurationError(f"the database needs `ktqueue migrate`: {error}") from error


@contextmanager
def exclusive(sql_url: str) -> Iterator[sa.Connection]:
    """A transaction that no other migration runs beside."""
    database = Database(sql_url)
    try:
        with database.transaction() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # an index may take its time
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
            yield connection
    finally:
        database.close()


@contextmanager
def _alembic(sql_url: str) -> Iterator[Config]:
    with exclusive(sql_url) as connection:
        config = Config()
        config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        yield config


def main() -> None:
    """``python -m ktqueue.migrate``: upgrade the database that the environment names.

    Prints what was ordered of the worker here, as JSON: a supervisor begins with that, and opens no database itself.
    """
    try:
        settings = Settings.from_env(os.environ)
        upgrade(settings.sql_url)
        controls = SqlControls(settings.sql_url)
        orders = controls.serving(named(settings.worker_name))
        controls.close()
    except KtqueueError as error:
        sys.exit(f"ktqueue migrate: {error}")
    sys.stdout.write(json.dumps(orders))


if __name__ == "__main__":
    main()
