"""Controls on SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from ktqueue.control import LaneControl, LaneMode
from ktqueue.controls.base import orders_of
from ktqueue.sql.database import Database
from ktqueue.sql.dialects import insert_new
from ktqueue.sql.tables import lanes, serving

LANES = sa.select(lanes.c.model, lanes.c.mode, lanes.c.concurrency)
ADD_LANE = insert_new(lanes)
_this_lane = lanes.c.model == sa.bindparam("lane")
SET_MODE = sa.update(lanes).where(_this_lane).values(mode=sa.bindparam("new_mode"))
SET_CONCURRENCY = sa.update(lanes).where(_this_lane).values(concurrency=sa.bindparam("most", type_=sa.Integer))

SERVING = sa.select(serving.c.model, serving.c.serves).where(serving.c.worker == sa.bindparam("of_worker"))
ADD_SERVING = insert_new(serving)
SET_SERVING = (
    sa.update(serving)
    .where(serving.c.worker == sa.bindparam("of_worker"), serving.c.model == sa.bindparam("of_model"))
    .values(serves=sa.bindparam("now_serves", type_=sa.Boolean))
)


class SqlControls:
    """Implements `Controls`; see there. The tables must be there. Make it after a fork."""

    def __init__(self, url: str) -> None:
        """``url`` is SQLAlchemy's: ``sqlite:///…`` or ``postgresql+psycopg://…``."""
        self._database = Database(url)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._database.close()

    def lanes(self) -> Mapping[str, LaneControl]:
        """Every lane of which anything was ever ordered."""
        with self._database.reader() as connection:
            rows = connection.execute(LANES).all()
        return {row.model: LaneControl(LaneMode(row.mode), row.concurrency) for row in rows}

    def set_mode(self, model: str, mode: LaneMode) -> None:
        """Order a lane to be open, paused or draining; its concurrency stays."""
        self._order(model, SET_MODE, new_mode=str(mode))

    def set_concurrency(self, model: str, most: int | None) -> None:
        """Let at most so many jobs of a lane run at once, None: any number; its mode stays."""
        self._order(model, SET_CONCURRENCY, most=most)

    def serving(self, worker: str) -> Mapping[str, bool]:
        """Whether a worker is to serve a model, of those models of which that was ever ordered."""
        with self._database.reader() as connection:
            rows = connection.execute(SERVING, {"of_worker": worker}).all()
        return {row.model: row.serves for row in rows}

    def move(self, model: str, *, source: str | None, target: str | None) -> None:
        """Order one worker not to serve a model, and another to serve it: both, or neither."""
        # In one order for all, so that two moves the other way round do not wait for each other.
        orders = sorted(orders_of(source, target).items())
        with self._database.transaction() as connection:
            for worker, serves in orders:
                connection.execute(ADD_SERVING, {"worker": worker, "model": model, "serves": serves})
                connection.execute(SET_SERVING, {"of_worker": worker, "of_model": model, "now_serves": serves})

    def _order(self, model: str, change: sa.Update, **given: Any) -> None:
        with self._database.transaction() as connection:
            connection.execute(ADD_LANE, {"model": model})
            connection.execute(change, {"lane": model, **given})
