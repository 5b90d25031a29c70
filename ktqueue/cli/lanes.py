"""Commands about models and their lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from ktqueue.cli import lane_orders
from ktqueue.cli.app import Session, session
from ktqueue.cli.numbers import Seconds
from ktqueue.cli.show import compact, console, duration, emit, grid, table

if TYPE_CHECKING:
    from ktqueue.client import Capacity, Lane
    from ktqueue.client.values import Instance

INSTANCE = ("model", "server", "kind", "state", "running", "at once", "tokens there", "of")
LANE = ("model", "mode", "waiting", "running", "jobs/s", "oldest waits", "a slot holds", "served by")


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


@click.group(invoke_without_command=True)
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option("--interval", type=Seconds(min=0.1), default=1.0, show_default=True, help="Seconds between.")
@click.option("--prompt-tokens", type=click.IntRange(min=1), help="How long a prompt is, for what a slot holds.")
@click.option("--answer-tokens", type=click.IntRange(min=1), help="How long an answer is.")
@session
def lanes(session: Session, watch: bool, interval: float, prompt_tokens: int | None, answer_tokens: int | None) -> None:
    """Show how much waits and runs for each model, and how many jobs one slot holds at once; or change that."""
    if click.get_current_context().invoked_subcommand is not None:
        return
    with session.client() as client:
        look = partial(client.lanes, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens)
        if not watch:
            _print(look(), as_json=session.as_json)
            return
        try:
            _watch(session, look, interval)
        except KeyboardInterrupt:
            return


def _watch(session: Session, look: Callable[[], Sequence[Lane]], interval: float) -> None:
    from rich.live import Live

    if session.as_json:
        while True:
            _print(look(), as_json=True)
            session.app.sleep(interval)
    with Live(console=console(), auto_refresh=False) as live:
        while True:
            live.update(grid(LANE, _rows(look())), refresh=True)
            session.app.sleep(interval)


def _print(seen: Sequence[Lane], *, as_json: bool) -> None:
    if as_json:
        for lane in seen:
            emit(lane)
        return
    table(LANE, _rows(seen))
    _print_instances([(lane.model, each) for lane in seen for each in lane.instances])


def _print_instances(seen: Sequence[tuple[str, Instance]]) -> None:
    """A table below, of the servers that jobs are passed on to; none, if there are none."""
    rows = [
        (
            owner,
            each.url,
            each.kind,
            each.state if each.rests_seconds is None else f"{each.state} for {each.rests_seconds:.1f} s",
            f"{each.running} of {each.jobs}",
            each.jobs_at_once,
            each.outstanding_tokens,
            each.cache_tokens,
        )
        for owner, each in seen
    ]
    if rows:
        click.echo()
        table(INSTANCE, rows)


def _rows(seen: Sequence[Lane]) -> list[tuple[object, ...]]:
    return [
        (
            lane.model,
            lane.mode.value,
            lane.depth,
            lane.running if lane.concurrency is None else f"{lane.running} of {lane.concurrency}",
            None if lane.throughput is None else f"{lane.throughput:.1f}",
            duration(None if lane.oldest_wait_seconds is None else lane.oldest_wait_seconds * 1000),
            None if lane.capacity is None else _held(lane.capacity),
            None if lane.workers is None else ", ".join(lane.workers) or "nobody",
        )
        for lane in seen
    ]


def _held(capacity: Capacity) -> str:
    """How many jobs, and of what size where that matters."""
    if capacity.cache_tokens is None:
        return f"{capacity.jobs_at_once} jobs"
    size = f"{capacity.prompt_tokens:,}+{capacity.answer_tokens:,}"
    return f"{capacity.jobs_at_once} jobs of {size} tokens, {capacity.cache_tokens:,} tokens in all"


@click.command()
@session
def workers(session: Session) -> None:
    """List the slots that live: whose and where each is, which model it holds, and how many jobs run in it."""
    with session.client() as client:
        living = client.operator.workers()
    if session.as_json:
        for worker in living:
            emit(worker)
        return
    rows = [
        (
            each.name,
            each.worker,
            each.model,
            each.state.value,
            each.device,
            None if each.capacity is None else f"{each.running} of {each.capacity.jobs}",
            f"{each.heartbeat_at:%Y-%m-%d %H:%M:%S} UTC",
        )
        for each in living
    ]
    table(("name", "worker", "model", "state", "device", "running", "told last"), rows)
    _print_instances([(each.model, instance) for each in living for instance in each.instances])


@click.command()
@session
def rosters(session: Session) -> None:
    """List the workers that live: the models that each serves, and those that could be moved to it."""
    with session.client() as client:
        living = client.operator.rosters()
    if session.as_json:
        for roster in living:
            emit(roster)
        return
    rows = [
        (
            each.worker,
            ", ".join(each.models) or None,
            ", ".join(model for model in each.offers if model not in each.models) or None,
            f"{each.heartbeat_at:%Y-%m-%d %H:%M:%S} UTC",
        )
        for each in living
    ]
    table(("worker", "serves", "could serve", "told last"), rows)


for command in lane_orders.COMMANDS:
    lanes.add_command(command)

COMMANDS = (models, lanes, workers, rosters)
