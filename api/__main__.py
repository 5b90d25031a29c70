"""``python -m api [DESCRIPTOR…]``: serve HTTP until told to stop, its settings read from the environment.

The descriptors are listening sockets that were inherited and that others may accept from, too. There are no more of
them than processes to serve them.
"""

from __future__ import annotations

import faulthandler
import gc
import math
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from granian.log import LogLevels
from prometheus_client import values

from api.app import create_app, log_to_stderr
from api.edge import Edge
from api.heap import share_heaps
from api.server import Server, stop_accepting
from ktqueue import exposure
from ktqueue.bootstrap import bootstrap
from ktqueue.errors import ConfigurationError
from ktqueue.ledgers import FOLDER, Role, own_folder, take
from ktqueue.process import die_with_parent
from ktqueue.settings import Settings
from ktqueue.supervisor import listen

EXIT_CONFIGURATION = 2


def main(settings: Settings, arguments: Sequence[str]) -> None:
    """Serve. Raises ConfigurationError before the first worker process is started."""
    share_heaps()
    # For their complaints, which the workers would only make one by one. And what runs for the first time writes to the
    # code that it is (since Python 3.11): done here, each worker keeps 6 MB more of it shared.
    create_app(bootstrap(settings))
    exposure.check(settings)
    inherited = [socket.socket(fileno=int(descriptor)) for descriptor in arguments]
    listeners = inherited or listen(settings.host, settings.port, settings.api_workers)
    die_with_parent(settings.grace_seconds)
    log_to_stderr(settings)
    multiprocessing.set_start_method("fork")
    # What was imported up to here is the same in every worker: kept out of collections, it stays shared memory.
    gc.freeze()
    counted = os.environ.get(FOLDER)
    with nullcontext(Path(counted)) if counted else own_folder() as folder:
        _serve(settings, listeners, inherited, folder)


def _serve(
    settings: Settings, listeners: Sequence[socket.socket], inherited: Sequence[socket.socket], counted: Path
) -> None:
    # Without a successor to take them, connections are accepted to the end.
    leave = partial(stop_accepting, [listener.fileno() for listener in inherited])
    Server(
        listeners,
        workers=settings.api_workers,
        workers_kill_timeout=math.ceil(settings.grace_seconds),
        log_level=LogLevels.error,
    ).serve(target_loader=partial(edge, settings, leave, counted), wrap_loader=False)


def edge(settings: Settings, stop_accepting: Callable[[], None], counted: Path) -> Edge:
    """What each worker process of the server calls, once it has been forked. It counts in the folder ``counted``."""
    die_with_parent(settings.grace_seconds)
    # To see what a process is doing that does not answer: `kill -USR1` prints where each of its threads is.
    faulthandler.register(signal.SIGUSR1)
    ledger = take(counted, Role("api"))
    # The class of every number that is made from now on.
    values.ValueClass = values.MultiProcessValue(lambda: ledger.number)

    def leave() -> None:
        stop_accepting()
        ledger.close()

    return Edge(create_app(bootstrap(settings), counted), settings, leave)


if __name__ == "__main__":
    try:
        main(Settings.from_env(os.environ), sys.argv[1:])
    except ConfigurationError as error:
        print(f"ktqueue api: {error}", file=sys.stderr)  # noqa: T201 - there is no logging yet
        sys.exit(EXIT_CONFIGURATION)
