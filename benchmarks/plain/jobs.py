"""One row a job."""

from __future__ import annotations

import os
import sqlite3
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

engine = sa.create_engine(os.environ["PLAIN_DATABASE_URL"], pool_size=32)
Session = sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """The tables."""

    type_annotation_map = {dict[str, Any]: sa.JSON}  # noqa: RUF012 - SQLAlchemy's own convention


class Job(Base):
    """A job. The id is a counter, the cheapest key SQLite has, and there is no other index to keep."""

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str]
    input: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(default="queued")
    result: Mapped[dict[str, Any] | None]
    webhook: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=time.time)
    finished_at: Mapped[float | None]


@sa.event.listens_for(engine, "connect")
def _on_connect(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA busy_timeout = 5000")
