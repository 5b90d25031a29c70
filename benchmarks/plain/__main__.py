"""``python -m benchmarks.plain [JOBS]``: make the tables, and leave that many jobs waiting."""

from __future__ import annotations

import sys

from benchmarks.plain.jobs import Base, Job, Session, engine
from benchmarks.plain.tasks import celery, run


def main(jobs: int) -> None:
    Base.metadata.create_all(engine)
    rows = [Job(model="echo", input={"n": number}) for number in range(jobs)]
    with Session.begin() as session:
        session.add_all(rows)
    with celery.producer_pool.acquire(block=True) as producer:
        for row in rows:
            run.apply_async((row.id,), producer=producer)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
