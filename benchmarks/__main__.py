"""``python -m benchmarks [SCENARIO …] [--quick]``: measure, and print the figures; fails if a result was wrong."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

import click

from benchmarks import (
    accept,
    backlog,
    bulk,
    drain,
    engines,
    fairness,
    idle,
    keys,
    memory,
    serve,
    upstreams,
    webhook_backlog,
    webhook_idle,
    webhook_isolation,
    webhooks,
)
from benchmarks.figures import Figure, show

SCENARIOS = {
    "drain": drain.measure,
    "accept": accept.measure,
    "keys": keys.measure,
    "bulk": bulk.measure,
    "backlog": backlog.measure,
    "idle": idle.measure,
    "memory": memory.measure,
    "webhooks": webhooks.measure,
    "webhook-idle": webhook_idle.measure,
    "webhook-isolation": webhook_isolation.measure,
    "webhook-backlog": webhook_backlog.measure,
    "engines": engines.measure,
    "serve": serve.measure,
    "upstreams": upstreams.measure,
    "fairness": fairness.measure,
}


@click.command()
@click.argument("scenarios", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option("--quick", is_flag=True, help="Less of everything: to see that it works, not to quote.")
def main(scenarios: Sequence[str], *, quick: bool) -> None:
    """Measure, side by side with plain Flask, Celery and SQLAlchemy. All scenarios, if none is named."""
    # Like Ctrl-C: what is running is ended in good order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    figures: list[Figure] = []
    try:
        for name in scenarios or SCENARIOS:
            began = time.monotonic()
            figures += SCENARIOS[name](quick=quick)
            print(f"{name}: measured in {time.monotonic() - began:.0f} s", flush=True)
    finally:
        show(figures)


if __name__ == "__main__":
    main()
