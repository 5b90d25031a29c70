"""``python -m api``: serve HTTP until told to stop, its settings read from the environment."""

from __future__ import annotations

import gc
import math
import os
import sys

from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server import Server

from api.app import log_to_stderr
from ktqueue.bootstrap import bootstrap
from ktqueue.errors import ConfigurationError
from ktqueue.process import die_with_parent
from ktqueue.settings import Settings
from ktqueue.supervisor import check_port

EXIT_CONFIGURATION = 2


def main(settings: Settings) -> None:
    """Serve. Raises ConfigurationError before the first worker process is started."""
    # For its complaints, which the workers would only make one by one; it connects to nothing.
    bootstrap(settings)
    check_port(settings.host, settings.port)
    die_with_parent(settings.grace_seconds)
    log_to_stderr(settings)
    # What was imported up to here is the same in every worker: kept out of collections, it stays shared memory.
    gc.freeze()
    Server(
        "api.app:from_environment",
        address="127.0.0.1" if settings.host == "localhost" else settings.host,
        port=settings.port,
        interface=Interfaces.WSGI,
        factory=True,
        workers=settings.api_workers,
        blocking_threads=settings.api_threads,
        workers_kill_timeout=math.ceil(settings.grace_seconds),
        # Its warnings are about the number of threads, most of which only ever wait.
        log_level=LogLevels.error,
    ).serve()


if __name__ == "__main__":
    try:
        main(Settings.from_env(os.environ))
    except ConfigurationError as error:
        print(f"ktqueue api: {error}", file=sys.stderr)  # noqa: T201 - there is no logging yet
        sys.exit(EXIT_CONFIGURATION)
