"""``python -m worker lane MODEL | light [DESCRIPTOR MODEL …] | deliver | beat``: one Celery process.

Its settings are from the environment. The light worker keeps a roster too if it is given a pipe to tell it through.
"""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Sequence

from celery import Celery
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning

from ktqueue.celery_settings import DELIVERIES, LIGHT, lane_queue
from ktqueue.errors import KtqueueError
from ktqueue.models import load_catalogue
from ktqueue.process import die_with_parent
from ktqueue.settings import Settings
from worker.app import create_app
from worker.beat import schedule
from worker.places import Places

USAGE = "usage: python -m worker lane MODEL | light [DESCRIPTOR MODEL …] | deliver | beat"


def main(arguments: Sequence[str], settings: Settings) -> None:
    """Become the process that ``arguments`` name; returns when it was told to stop."""
    # Celery warns root because a message could carry a pickle. Ours are JSON and nothing else is taken.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # Celery says at length, whenever a broker is lost, what another major version of it will do.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    app = create_app(settings)
    if arguments == ["beat"]:
        schedule(app, settings)
        app.Beat(quiet=True).run()
    else:
        _serve(app, settings, arguments)


def _serve(app: Celery, settings: Settings, arguments: Sequence[str]) -> None:
    """Each imports what it needs, and stays small: an engine is nothing to a sender, nor a database to beat."""
    match arguments:
        case ["lane", model]:
            from worker.drain import serve_lane  # noqa: PLC0415 - see above

            places = load_catalogue(settings.models)[model].places
            serve_lane(app, settings, model, Places(places))
            _work(app, f"lane-{model}", lane_queue(model), len(places))
        case ["light", *roster]:
            from worker.repair import serve_light  # noqa: PLC0415 - see above

            serve_light(app, settings, (int(roster[0]), roster[1:]) if roster else None)
            _work(app, "light", LIGHT, 1, pool="solo")
        case ["deliver"]:
            from worker.deliver import serve_deliveries  # noqa: PLC0415 - see above

            serve_deliveries(app, settings)
            _work(app, "deliver", DELIVERIES, 1)
        case _:
            sys.exit(USAGE)


def _work(app: Celery, name: str, queue: str, slots: int, *, pool: str = "worker.pool:Pool") -> None:
    """Be a Celery worker until told to stop. Its command line would do the same, and import a shell and much more.

    ``pool`` is where its tasks run: in children that it replaces, or ``solo``, in this very process.
    """
    worker = app.Worker(
        hostname=f"{name}@{socket.gethostname()}",
        queues=[queue],
        concurrency=slots,
        pool=pool,
        quiet=True,
        loglevel="WARNING",
        # Neighbours' heartbeats are not our business: the store's leases say who lives.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    sys.exit(worker.exitcode)


if __name__ == "__main__":
    try:
        environment = Settings.from_env(os.environ)
        die_with_parent(environment.grace_seconds)
        main(sys.argv[1:], environment)
    except KtqueueError as error:
        sys.exit(f"ktqueue worker: {error}")
