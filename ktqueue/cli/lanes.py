"""Commands about models and their lanes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ktqueue.cli.app import Session, session
from ktqueue.cli.show import compact, console, duration, emit, grid, table

if TYPE_CHECKING:
    from ktqueue.client import Client, Lane

LANE = ("model", "waiting", "running", "jobs/s", "oldest waits")


@click.command()
@click.option("--local", is_flag=True, help="Read models.toml here instead of asking a server.")
@session
def models(session: Session, local: bool) -> None:
    """List the models there are, and what each can do."""
    if local:
        _local_models(session)
        return
    with session.client() as client:
        offered = client.models()
    if session.as_json:
        for model in offered:
            emit(model)
        return
    rows = [(m.id, ", ".join(m.tasks), m.engine, m.limits.context, m.limits.max_batch) for m in offered]
    table(("model", "tasks", "engine", "context", "largest batch"), rows)


def _local_models(session: Session) -> None:
    from ktqueue.models import load_catalogue

    catalogue = load_catalogue(session.app.settings().models)
    if session.as_json:
        for alias, spec in catalogue.items():
            click.echo(compact({"id": alias, **spec.model_dump(mode="json"), "tasks": spec.offers}))
        return
    rows = [(alias, ", ".join(spec.offers), spec.engine, spec.source) for alias, spec in catalogue.items()]
    table(("model", "tasks", "engine", "source"), rows)


@click.command()
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between.")
@session
def lanes(session: Session, watch: bool, interval: float) -> None:
    """Show how much waits and runs for each model."""
    with session.client() as client:
        if not watch:
            _print(client.lanes(), as_json=session.as_json)
            return
        try:
            _watch(session, client, interval)
        except KeyboardInterrupt:
            return


def _watch(session: Session, client: Client, interval: float) -> None:
    from rich.live import Live

    if session.as_json:
        while True:
            _print(client.lanes(), as_json=True)
            session.app.sleep(interval)
    with Live(console=console(), auto_refresh=False) as live:
        while True:
            live.update(grid(LANE, _rows(client.lanes())), refresh=True)
            session.app.sleep(interval)


def _print(seen: Sequence[Lane], *, as_json: bool) -> None:
    if as_json:
        for lane in seen:
            emit(lane)
        return
    table(LANE, _rows(seen))


def _rows(seen: Sequence[Lane]) -> list[tuple[object, ...]]:
    return [
        (
            lane.model,
            lane.depth,
            lane.running,
            None if lane.throughput is None else f"{lane.throughput:.1f}",
            duration(None if lane.oldest_wait_seconds is None else lane.oldest_wait_seconds * 1000),
        )
        for lane in seen
    ]


COMMANDS = (models, lanes)
