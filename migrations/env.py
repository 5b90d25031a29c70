"""How Alembic runs here: on the connection it is handed, inside that connection's transaction.

From the command line (``alembic revision --autogenerate -m …``) there is no such connection, and the settings in the
environment say which database it is.
"""

from __future__ import annotations

import os

import sqlalchemy as sa
from alembic import context

from ktqueue.migrate import exclusive
from ktqueue.settings import Settings
from ktqueue.sql.tables import metadata


def run(connection: sa.Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


given: sa.Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with exclusive(Settings.from_env(os.environ).sql_url) as made:
        run(made)
