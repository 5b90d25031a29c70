"""``python -m worker lane MODEL | light | deliver | beat``: one Celery process, its settings from the environment."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from celery.exceptions import CPendingDeprecationWarning, SecurityWarning

from ktqueue.celery_settings import DELIVERIES, lane_queue
from ktqueue.errors import KtqueueError
from ktqueue.models import load_catalogue
from ktqueue.process import die_with_parent
from ktqueue.settings import Settings
from worker.app import create_app
from worker.tasks import LIGHT_QUEUE, schedule, serve_deliveries, serve_lane, serve_light

# Neighbours' heartbeats are not our business: the store's leases say who lives.
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING")
USAGE = "usage: python -m worker lane MODEL | light | deliver | beat"


def main(arguments: Sequence[str], settings: Settings) -> None:
    """Become the process that ``arguments`` name; returns when it was told to stop."""
    # Celery warns root because a message could carry a pickle. Ours are JSON and nothing else is taken.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # Celery says at length, whenever a broker is lost, what another major version of it will do.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    app = create_app(settings)
    match arguments:
        case ["lane", model]:
            spec = load_catalogue(settings.models)[model]
            serve_lane(app, settings, model)
            app.worker_main(_worker(f"lane-{model}", lane_queue(model), spec.slots))
        case ["light"]:
            serve_light(app, settings)
            app.worker_main(_worker("light", LIGHT_QUEUE, 1))
        case ["deliver"]:
            serve_deliveries(app, settings)
            app.worker_main(_worker("deliver", DELIVERIES, 1))
        case ["beat"]:
            schedule(app, settings)
            app.start(["--quiet", "beat", "--loglevel=WARNING"])
        case _:
            sys.exit(USAGE)


def _worker(name: str, queue: str, slots: int) -> list[str]:
    return [
        "--quiet",
        "worker",
        f"--concurrency={slots}",
        f"--queues={queue}",
        f"--hostname={name}@%h",
        *QUIET,
    ]


if __name__ == "__main__":
    try:
        environment = Settings.from_env(os.environ)
        die_with_parent(environment.grace_seconds)
        main(sys.argv[1:], environment)
    except KtqueueError as error:
        sys.exit(f"ktqueue worker: {error}")
