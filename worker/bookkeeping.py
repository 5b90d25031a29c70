"""Where those who run a worker's tasks count: each in a ledger of its own, which it closes if it ends in good order."""

from __future__ import annotations

import os
from pathlib import Path

from celery.signals import worker_process_init, worker_process_shutdown, worker_shutdown
from prometheus_client import values

from ktqueue.ledgers import FOLDER, Ledger, Role, take


def keep_books(role: Role) -> None:
    """From the start of each child on, or of a worker that has none, before it prepares itself.

    Where nobody reads them, numbers stay in memory.
    """
    ledgers: list[Ledger] = []

    def started(**_: object) -> None:
        if folder := os.environ.get(FOLDER):
            ledger = take(Path(folder), role)
            ledgers.append(ledger)
            # The class of every number that is made from now on.
            values.ValueClass = values.MultiProcessValue(lambda: ledger.number)

    def ended(exitcode: int, **_: object) -> None:
        if exitcode == 0:
            for ledger in ledgers:
                ledger.close()

    worker_process_init.connect(started, weak=False)
    worker_process_shutdown.connect(ended, weak=False)
    # A parent has no ledgers; who has no children tells of its own end by this alone.
    worker_shutdown.connect(lambda sender, **_: ended(sender.exitcode), weak=False)
